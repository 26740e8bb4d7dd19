"""Subjects: their directories in pre-processed data, and how many usable windows each has.

A directory for each subject, in it an HDF5 file for each day. A ten-second window is usable where
its label is known and the subject was awake and wore the device; of the files only the data sets
`label`, `sleeping` and `non_wear` are read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cerebro.errors import InputError, SubjectError
from cerebro.formatting import count, readable

SITTING, NOT_SITTING, UNKNOWN = 0, 1, -1
"""The values of a label."""

FLAGS = ("label", "sleeping", "non_wear")
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
    `without_days` are directories without a day file.
    """

    source: str
    subjects: list[Subject]
    unusable: dict[str, str]
    without_days: list[str]


def survey(
    source: str, *, leave_out: str | None = None, progress: OnSubject | None = None
) -> SubjectSurvey:
    """Look at every directory in `source`, apart from hidden ones and the one at `leave_out`.

    Raises `InputError` if `source` is not a folder that can be listed, and `SubjectError` if it is
    itself a subject's, if it holds no subject, or if two names lead to one directory.
    """
    names = [name for name in _directories(source) if os.path.join(source, name) != leave_out]
    subjects, unusable, without_days = [], {}, []
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
                subjects.append(_subject(name, path, days))
        except _Unusable as error:
            unusable[name] = str(error)
        if progress is not None:
            progress(number, len(names))
    if not subjects and not unusable:
        raise SubjectError(
            f"{source} holds no subject: it should hold a directory for each, and that an "
            f"{DAY_SUFFIX} file for each day, as DeepPostures' pre-processing writes them"
        )
    return SubjectSurvey(source, subjects, unusable, without_days)


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


def _subject(name: str, path: str, days: list[str]) -> Subject:
    windows = unlabelled = asleep = unworn = sitting = not_sitting = 0
    for day in days:
        label, sleeping, non_wear = _flags(day)
        usable = (label != UNKNOWN) & (sleeping != 1) & (non_wear != 1)
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
    return Subject(name, path, sitting, not_sitting)


def _flags(path: str) -> list[np.ndarray]:
    """`label`, `sleeping` and `non_wear` of a day file, each (n,)."""
    file_class = _hdf5()
    try:
        # Nobody writes these files any more, and network file systems often have no locks.
        with file_class(path, "r", locking=False) as file:
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
    if not np.isin(label, (UNKNOWN, SITTING, NOT_SITTING)).all():
        raise _Unusable(f"{path}: 'label' holds other values than -1, 0 and 1")
    return flags


def _hdf5() -> Any:
    try:
        from h5py import File
    except ImportError as error:
        raise InputError(
            "day files are HDF5, which needs h5py; it comes with TensorFlow: install one of them"
        ) from error
    return File
