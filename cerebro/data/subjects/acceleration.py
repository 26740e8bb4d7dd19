"""Whether acceleration can be what a worn device measured."""

from __future__ import annotations

import numpy as np

from cerebro.errors import SubjectError

WORN = 20.0
"""In g. Activity monitors measure up to 16 g (the secondary accelerometer of ActiGraph's GT9X Link,
the widest range of theirs); a quarter more is left for calibration."""

ABSURD = 400.0
"""In g: the range of accelerometers that are made to record impacts (ST's H3LIS331DL)."""


def check_acceleration(path: str, windows: np.ndarray, first: int = 0) -> str:
    """Check acceleration that has been read from a file, before anything learns from it.

    `windows` is an array (n, ...) in g, with a row for each window, of which the first is window
    `first` of the file at `path`.

    Returns a note for people if a value is beyond 20 g, which no activity monitor measures: it may
    be in another unit. Empty if there is none. Raises `SubjectError`, which names file, window and
    value, for one that is not finite, or beyond 400 g, which no accelerometer on a body measures.
    """
    if not windows.size or max(-float(windows.min()), float(windows.max())) <= WORN:
        return ""  # NaN is not, and continues
    values = windows.astype(np.float64).reshape(len(windows), -1)
    absurd = ~(np.abs(values) <= ABSURD)
    if absurd.any():
        row, place = np.argwhere(absurd)[0]
        inside = ", ".join(map(str, np.unravel_index(place, windows.shape[1:])))
        raise SubjectError(
            f"{path}: 'data' holds {values[row, place]:g} in window {first + row} (at [{inside}] "
            f"in it; all from 0), and such values in {np.count_nonzero(absurd.any(axis=1))} of the "
            f"{len(values)} windows read: acceleration in g is a finite number, and within "
            f"{ABSURD:g} on any body; mark these windows as non_wear, or make the file again"
        )
    beyond = np.abs(values) > WORN
    row, place = np.argwhere(beyond)[0]
    return (
        f"{path}: {np.count_nonzero(beyond)} values of 'data' are beyond {WORN:g} g, which no "
        f"activity monitor measures, the first {values[row, place]:g} in window {first + row}: is "
        "it in g?"
    )
