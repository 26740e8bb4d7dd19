"""Buffers on the host that are used again.

The first touch of fresh memory costs as much as the copy into it: a page fault for every 4 kB, or
zeroing for huge pages. So a state is one buffer, and the buffer of a state that has been saved
serves the next one.
"""

from __future__ import annotations

from collections import deque

import numpy as np

ALIGNMENT = 64
"""Bytes. TensorFlow takes an array whose memory is aligned so as it is, and copies any other."""

ROOMY = 2
"""A buffer that is larger than what is needed by more than this factor is not used for it."""


class BufferPool:
    """Hands out buffers of bytes, and keeps one that was given back.

    Taking is for one thread, giving back may be another's.
    """

    def __init__(self) -> None:
        self._spare: deque[np.ndarray] = deque(maxlen=1)

    def take(self, size: int) -> np.ndarray:
        """Return a buffer of at least `size` bytes, whose content is anything."""
        try:
            spare = self._spare.pop()
        except IndexError:
            spare = np.empty(0, np.uint8)
        if size <= spare.nbytes <= ROOMY * size:
            return spare
        del spare  # before there are two
        return np.empty(size, np.uint8)

    def give_back(self, buffer: np.ndarray) -> None:
        """Take back a buffer that nobody will read any more."""
        self._spare.append(buffer)


def aligned(buffer: np.ndarray) -> np.ndarray:
    """Return a buffer from its first aligned byte on."""
    return buffer[-buffer.ctypes.data % ALIGNMENT :]
