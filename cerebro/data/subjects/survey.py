"""Subjects: their directories in pre-processed data, and how many usable windows each has.

A directory for each subject, in it an HDF5 file for each day. A ten-second window is usable where
its label is known and the subject was awake and wore the device. The acceleration of these windows
is read as well, to see whether it can be one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cerebro.data.subjects.acceleration import check_acceleration
from cerebro.errors import InputError, SubjectError
from cerebro.formatting import count, readable

SITTING, NOT_SITTING, UNKNOWN = 0, 1, -1
"""The values of a label."""

FLAGS = ("label", "sleeping", "non_wear")
KNOWN = ((UNKNOWN, SITTING, NOT_SITTING), (0, 1), (0, 1))
"""The values that each may have."""

WINDOWS_AT_ONCE = 4096
"""So many windows of acceleration are read together: some 10 MB."""

DAY_SUFFIX = ".h5"

OnSubject = Callable[[int, int], object]
"""Called with the number of subjects that have been read, and of all."""


@dataclass(frozen=True)
class Subject:
    """A subject's directory, and the number of its usable ten-second windows of each class."""

    name: str
    path: str
    sitting: int
    not_sitting: int

    @property
    def windows(self) -> int:
        """All usable windows."""
        return self.sitting + self.not_sitting


@dataclass(frozen=True)
class SubjectSurvey:
    """What a folder of pre-processed data holds, by the names of its directories, sorted.

    `source` is the folder. `unusable` says of each subject that cannot be used why;
    `without_days` are directories without a day file. `notes` are sentences on what looks odd.
    """

    source: str
    subjects: list[Subject]
    unusable: dict[str, str]
    without_days: list[str]
    notes: list[str]


def survey(
    source: str, *, leave_out: str | None = None, progress: OnSubject | None = None
) -> SubjectSurvey:
    """Look at every directory in `source`, apart from hidden ones and the one at `leave_out`.

    Raises `InputError` if `source` is not a folder that can be listed, and `SubjectError` if it is
    itself a subject's, if it holds no subject, or if two names lead to one directory.
    """
    names = [name for name in _directories(source) if os.path.join(source, name) != leave_out]
    subjects, unusable, without_days = [], {}, []
    notes: list[str] = []
    known: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        path = os.path.join(source, name)
        other = known.setdefault(os.path.realpath(path), name)
        if other != name:
            raise SubjectError(
                f"{path} and {os.path.join(source, other)} are one directory, which would stand "
                "for two subjects: remove the link"
            )
        try:
            days = _days(path)
            if not days:
                without_days.append(name)
            else:
                subjects.append(_subject(name, path, days, notes))
        except _Unusable as error:
            unusable[name] = str(error)
        if progress is not None:
            progress(number, len(names))
    if not subjects and not unusable:
        raise SubjectError(
            f"{source} holds no subject: it should hold a directory for each, and that an "
            f"{DAY_SUFFIX} file for each day, as DeepPostures' pre-processing writes them"
        )
    return SubjectSurvey(source, subjects, unusable, without_days, notes)


class _Unusable(Exception):
    """Why a subject cannot be used."""


def _directories(source: str) -> list[str]:
    try:
        with os.scandir(source) as entries:
            found = list(entries)
    except OSError as error:
        raise InputError(
            f"the pre-processed data {readable(source)} cannot be listed: {error.strerror or error}"
        ) from error
    if any(entry.name.endswith(DAY_SUFFIX) and entry.is_file() for entry in found):
        raise SubjectError(
            f"{source} holds day files itself, so it is one subject's directory: name the folder "
            "in which the subjects' directories lie"
        )
    names = [entry.name for entry in found if entry.is_dir()]
    return sorted(name for name in names if not name.startswith("."))


def _days(path: str) -> list[str]:
    """The day files of a subject's directory, in the order of time."""
    # A definition file holds a path as a line of text, without white space around it.
    if path != path.strip() or "\n" in path or path != readable(path):
        raise _Unusable(
            f"{readable(path)!r} cannot stand in a definition file: a name that is not UTF-8, has "
            "a line break, or ends in white space has to be changed"
        )
    try:
        names = sorted(name for name in os.listdir(path) if name.endswith(DAY_SUFFIX))
    except OSError as error:
        raise _Unusable(f"{path} cannot be listed: {error.strerror or error}") from error
    return [os.path.join(path, name) for name in names]


def _subject(name: str, path: str, days: list[str], notes: list[str]) -> Subject:
    windows = unlabelled = asleep = unworn = sitting = not_sitting = 0
    odd: list[str] = []
    for day in days:
        label, sleeping, non_wear = _flags(day)
        usable = (label != UNKNOWN) & (sleeping != 1) & (non_wear != 1)
        odd += _odd_acceleration(day, usable)
        sitting += int((label[usable] == SITTING).sum())
        not_sitting += int((label[usable] == NOT_SITTING).sum())
        windows += len(label)
        unlabelled += int((label == UNKNOWN).sum())
        asleep += int((sleeping == 1).sum())
        unworn += int((non_wear == 1).sum())
    if not sitting + not_sitting:
        raise _Unusable(
            f"{path} has no usable window: of {count(windows, 'window')}, {unlabelled} have no "
            f"label, {asleep} are asleep and {unworn} without wear"
        )
    notes += odd[:1]  # what it has is most likely the same on each of its days
    return Subject(name, path, sitting, not_sitting)


def _flags(path: str) -> list[np.ndarray]:
    """`label`, `sleeping` and `non_wear` of a day file, each (n,)."""
    file_class = _hdf5()
    try:
        # Nobody writes these files any more, and network file systems often have no locks.
        with file_class(path, "r", locking=False) as file:
            for name in ("data", *FLAGS):
                if _lies_elsewhere(file, name):
                    raise _Unusable(
                        f"{path}: the values of {name!r} lie in another file, which is not "
                        "followed: make a day file that holds its own"
                    )
            for name in FLAGS:
                if not hasattr(file.get(name), "shape"):
                    raise _Unusable(f"{path} has no data set {name!r}")
            flags = [file[name][...] for name in FLAGS]
            shapes = {name: file[name].shape for name in ("data", *FLAGS) if name in file}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _Unusable(f"{path} cannot be read as HDF5; it may be damaged: {error}") from error
    label = flags[0]
    for name, shape in shapes.items():
        if label.ndim != 1 or shape[:1] != label.shape or (name in FLAGS and len(shape) != 1):
            raise _Unusable(
                f"{path}: {name!r} has shape {shape}, while 'label' has {label.shape}: each "
                "should have an entry for each window"
            )
    for name, values, known in zip(FLAGS, flags, KNOWN, strict=True):
        others = np.flatnonzero(~np.isin(values, known))
        if len(others):
            said = f"{', '.join(map(str, known[:-1]))} and {known[-1]}"
            raise _Unusable(
                f"{path}: {name!r} holds other values than {said}, first {values[others[0]]} in "
                f"window {others[0]} (from 0)"
            )
    return flags


def _lies_elsewhere(file: Any, name: str) -> bool:
    """Whether what a file has under a name is in another file: whoever made it chose which."""
    link = file.get(name, getlink=True)
    if link is None:
        return False
    if type(link).__name__ != "HardLink":
        return True
    found = file[name]
    return bool(getattr(found, "external", None) or getattr(found, "is_virtual", False))


def _odd_acceleration(path: str, usable: np.ndarray) -> list[str]:
    """What a day's usable windows have that is odd, if anything; a file may have no acceleration.

    Raises `_Unusable` where it cannot be what a device has measured.
    """
    try:
        with _hdf5()(path, "r", locking=False) as file:
            for first in range(0, len(usable) if "data" in file else 0, WINDOWS_AT_ONCE):
                rows = np.flatnonzero(usable[first : first + WINDOWS_AT_ONCE])
                if not len(rows):
                    continue
                windows = file["data"][first + rows[0] : first + rows[-1] + 1]
                windows[np.delete(np.arange(len(windows)), rows - rows[0])] = 0
                note = check_acceleration(path, windows, first + int(rows[0]))
                if note:
                    return [note]
    except SubjectError as error:
        raise _Unusable(str(error)) from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _Unusable(f"{path}: 'data' cannot be read; it may be damaged: {error}") from error
    return []


def _hdf5() -> Any:
    try:
        from h5py import File
    except ImportError as error:
        raise InputError(
            "day files are HDF5, which needs h5py; it comes with TensorFlow: install one of them"
        ) from error
    return File
