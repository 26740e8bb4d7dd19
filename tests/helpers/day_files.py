"""Pre-processed data as small as a test needs it: day files without acceleration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="day files are HDF5, which TensorFlow brings")


def write_day(path: Path, label, *, sleeping=(), non_wear=(), replaced=()) -> Path:
    """A day with these labels; `replaced` data sets come last, and None leaves one out."""
    windows = np.arange(len(label))
    sets = {
        "label": np.array(label),
        "sleeping": np.isin(windows, sleeping).astype(int),
        "non_wear": np.isin(windows, non_wear).astype(int),
        **dict(replaced),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in sets.items():
            if values is not None:
                file.create_dataset(name, data=values)
    return path


def write_subjects(root: Path, windows) -> Path:
    """Subjects S00, S01 and so on with so many usable windows, one in three of them sitting."""
    for number, count in enumerate(windows):
        write_day(root / f"S{number:02}" / "2024-01-01.h5", [int(i % 3 > 0) for i in range(count)])
    return root
