"""A subject's pre-processed data as one recording, across days, also where labels are missing.

`behavior_classification.input_fn` reads what a model learns from; this reads what a model is
applied to. Labels do not matter here, and a day's end does not either.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from behavior_classification import day_columns, day_file

from cerebro.data import check_acceleration

WINDOW_SECONDS = 10
TOLERANCE_SECONDS = 0.5  # by which two windows may be more or less than 10 s apart

_SAID: set[Path] = set()  # day files of which it has been said that they look odd


def subject_folders(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The subjects' folders among `paths` and in them: those that hold .h5 files.

    Raises `ValueError` for a path without any, and for two subjects of one name.
    """
    found: dict[str, Path] = {}
    for given in map(Path, paths):
        if not given.is_dir():
            raise ValueError(f"{given} is not a folder: name a subject's folder, or the one above")
        folders = [f for f in [given, *sorted(given.iterdir())] if f.is_dir() and _day_paths(f)]
        if not folders:
            raise ValueError(
                f"{given} holds no .h5 file, and no folder that does; a subject is a folder with "
                "one file a day, named YYYY-MM-DD.h5, as DeepPostures' pre-processing writes them"
            )
        for folder in folders:
            name = folder.resolve().name
            if name in found:
                raise ValueError(f"{found[name]} and {folder} are both called {name}: rename one")
            found[name] = folder
    return list(found.values())


def _day_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.h5"))


@dataclass(frozen=True)
class Recording:
    """A subject's n ten-second windows in the order of time; acceleration stays on disk.

    - `days`: the day files; `firsts`: int (days + 1,): day d is the windows firsts[d] to
      firsts[d + 1];
    - `time`: float (n,), Unix time of each window's start, s;
    - `usable`: bool (n,): awake, and the device worn;
    - `label`: int (n,), 0 sitting, 1 not sitting, -1 unknown; None if a day has none.
    """

    subject: str
    days: list[Path]
    firsts: np.ndarray
    time: np.ndarray
    usable: np.ndarray
    label: np.ndarray | None

    def segments(self) -> tuple[np.ndarray, np.ndarray]:
        """First windows, and last windows + 1, of the stretches of usable windows.

        A stretch ends where a window follows that is not usable, or does not begin 10 s later. It
        goes on over midnight.
        """
        in_time = np.abs(np.diff(self.time) - WINDOW_SECONDS) <= TOLERANCE_SECONDS
        joined = self.usable[1:] & self.usable[:-1] & in_time
        starts = self.usable & ~np.concatenate([[False], joined])
        last = self.usable & ~np.concatenate([joined, [False]])
        return np.flatnonzero(starts), np.flatnonzero(last) + 1

    def acceleration(self, start: int, end: int) -> np.ndarray:
        """float32 (end - start, 100, 3), in g. One day at a time is kept in memory.

        Raises `SubjectError` for values that no device can have measured.
        """
        pieces = []
        while start < end:
            day = int(np.searchsorted(self.firsts, start, side="right")) - 1
            first, stop = self.firsts[day], min(end, self.firsts[day + 1])
            piece = _day_acceleration(self.days[day])[start - first : stop - first]
            note = check_acceleration(str(self.days[day]), piece, int(start - first))
            if note and self.days[day] not in _SAID:
                _SAID.add(self.days[day])
                print(note, file=sys.stderr)
            pieces.append(piece)
            start = stop
        return np.concatenate(pieces)


@functools.lru_cache(maxsize=1)
def _day_acceleration(day: Path) -> np.ndarray:
    with day_file(str(day)) as file:
        with np.errstate(over="ignore"):  # infinity is refused where it is used
            return file["data"][...].astype(np.float32, copy=False)


def read_recording(folder: Path) -> Recording:
    """All of a subject's days but the acceleration.

    Raises `ValueError`, naming the file, for one that is damaged, or lacks a data set.
    """
    days = _day_paths(folder)
    columns = [day_columns(str(day), ("time", "sleeping", "non_wear")) for day in days]
    time, sleeping, non_wear = (np.concatenate(values) for values in zip(*columns, strict=True))
    lengths = [len(values[0]) for values in columns]
    label = None
    if all(_has_labels(day) for day in days):
        label = np.concatenate([day_columns(str(day), ("label",))[0] for day in days])
    return Recording(
        folder.resolve().name,
        days,
        np.concatenate([[0], np.cumsum(lengths)]),
        time,
        (sleeping != 1) & (non_wear != 1),
        label,
    )


def _has_labels(day: Path) -> bool:
    with day_file(str(day)) as file:
        return "label" in file
