"""Pre-processed data of one subject for one week, as DeepPostures' pre-processing writes it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

DAYS = 7
DAY_WINDOWS = 8_640
"""Ten-second windows of a day."""
NIGHT_WINDOWS = 2_880
NON_WEAR = 6
"""Times a day that the device is taken off, for five minutes each."""
NON_WEAR_WINDOWS = 30
LABEL_WINDOWS = 60


def write_week(folder: Path, *, worn_always: bool, seed: int = 0) -> str:
    """Write seven day files of random signals; returns the path of a definition file.

    With `worn_always` every window can be used. Otherwise the subject sleeps for eight hours,
    takes the device off now and then, and some windows are not labelled.
    """
    rng = np.random.default_rng(seed)
    subject = folder / "subject"
    subject.mkdir(parents=True)
    for day in range(DAYS):
        sleeping, non_wear = (np.zeros(DAY_WINDOWS, np.int64) for _ in range(2))
        changes = rng.integers(0, 2, DAY_WINDOWS // LABEL_WINDOWS)
        label = np.repeat(changes, LABEL_WINDOWS)
        if not worn_always:
            sleeping[:NIGHT_WINDOWS] = 1
            for start in rng.integers(NIGHT_WINDOWS, DAY_WINDOWS, NON_WEAR):
                non_wear[start : start + NON_WEAR_WINDOWS] = 1
            label[rng.integers(0, DAY_WINDOWS, NON_WEAR)] = -1
        with h5py.File(subject / f"2024-03-{day + 4:02}.h5", "x") as file:
            file["time"] = (day * DAY_WINDOWS + np.arange(DAY_WINDOWS)) * 10.0
            file["data"] = rng.normal(size=(DAY_WINDOWS, 100, 3)).astype(np.float32)
            file["sleeping"], file["non_wear"], file["label"] = sleeping, non_wear, label
    definition = folder / "week.txt"
    definition.write_text("subject\n")
    return str(definition)
