"""Partitions of any size for the example: random signals, as fast to train on as real ones."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

SAMPLES, AXES = 100, 3
LABEL_WINDOWS = 60
"""Ten-second windows between two changes of the label."""


def write_partition(folder: Path, name: str, windows: int, seed: int) -> str:
    """One subject with one day of `windows` usable ten-second windows in one segment.

    Returns the path of the partition's definition file.
    """
    rng = np.random.default_rng(seed)
    subject = folder / name
    subject.mkdir(parents=True)
    labels = np.repeat(rng.integers(0, 2, windows // LABEL_WINDOWS + 1), LABEL_WINDOWS)[:windows]
    with h5py.File(subject / "2024-03-04.h5", "x") as file:
        file["time"] = np.arange(windows) * 10.0
        file["data"] = rng.normal(size=(windows, SAMPLES, AXES)).astype(np.float32)
        file["sleeping"] = file["non_wear"] = np.zeros(windows, np.int64)
        file["label"] = labels
    definition = folder / f"{name}.txt"
    definition.write_text(f"{name}\n")
    return str(definition)
