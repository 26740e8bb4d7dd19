"""A partition in batches of sequences: what the example's models read, whatever they are made with.

A sequence is so many ten-second windows that follow each other without a gap (a BiLSTM window).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SAMPLES = 100  # of one ten-second window, at 10 Hz
AXES = 3


def sequence_starts(offsets: np.ndarray, length: int) -> np.ndarray:
    """Where the sequences begin when each segment is cut into sequences of `length` windows.

    Segment i is the windows offsets[i] to offsets[i + 1]. What is left at its end is dropped.
    """
    counts = np.diff(offsets) // length
    # The k-th sequence of a segment begins k * length after it: count through all segments, and
    # subtract the number of sequences before the segment.
    before = np.cumsum(counts) - counts
    return np.repeat(offsets[:-1] - before * length, counts) + np.arange(counts.sum()) * length


def shuffled_batches(data: Mapping[str, Any], length: int, batch_size: int) -> list[np.ndarray]:
    """For each batch the windows at which its sequences begin, int64 (batch_size,).

    `data` is what `input_fn` returns. The order follows from its `shuffle_seed`, and is the same in
    each pass; the last batch may be smaller. Raises `ValueError` if no segment is long enough.
    """
    starts = sequence_starts(data["offsets"], length)
    if not len(starts):
        longest = np.diff(data["offsets"]).max()
        raise ValueError(
            f"the partition {data['path']} has no segment of {length} ten-second windows "
            f"(win_size_mins = {length / 6:g}); its longest segment has {longest}: choose a "
            f"win_size_mins of at most {longest // 6}, or put more data into the partition"
        )
    starts = np.random.default_rng(data["shuffle_seed"]).permutation(starts)
    return [starts[first : first + batch_size] for first in range(0, len(starts), batch_size)]


def read_batch(
    data: Mapping[str, Any], starts: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The acceleration (batch, length, 100, 3) and the labels (batch, length) of a batch."""
    rows = starts[:, None] + np.arange(length)
    return data["acceleration"][rows], data["labels"][rows]
