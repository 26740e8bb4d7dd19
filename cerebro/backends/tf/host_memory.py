"""Memory on the host for states, which is used again.

The first touch of fresh memory costs as much as the copy into it: a page fault for every 4 kB, or
zeroing for huge pages. So a state is one block, and the block of a state that has been saved serves
the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

State = dict[str, np.ndarray]
"""A model's state: an array on the host by variable name (`variable.op.name`)."""

ALIGNMENT = 64
"""Bytes. TensorFlow takes an array whose memory is aligned so as it is, and copies any other."""

ROOMY = 2
"""A block that is larger than what is needed by more than this factor is not used for it."""


class _Copy(State):
    """A state whose arrays lie in one block."""

    block: np.ndarray


class HostMemory:
    """Copies states; one block that was given back is kept.

    Copying is for one thread, giving back may be another's.
    """

    def __init__(self) -> None:
        self._spare: deque[np.ndarray] = deque(maxlen=1)

    def copy(self, values: Mapping[str, Any]) -> State:
        """Copies of what a session gave for variables, each aligned.

        The copy matters: a session may hand out a view of a variable's own memory, which later
        steps change.
        """
        arrays = {name: as_array(value) for name, value in values.items()}
        places = dict(_places(arrays))
        end = max((place + arrays[name].nbytes for name, place in places.items()), default=0)
        copy = _Copy()
        copy.block = self._block(end + ALIGNMENT)
        begin = -copy.block.ctypes.data % ALIGNMENT
        for name, array in arrays.items():
            if name not in places:
                copy[name] = array.copy()
                continue
            place = begin + places[name]
            memory = copy.block[place : place + array.nbytes]
            copy[name] = memory.view(array.dtype).reshape(array.shape)
            copy[name][...] = array
        return copy

    def give_back(self, state: Any) -> None:
        """Nobody will read a state, or its arrays, any more."""
        if isinstance(state, _Copy):
            self._spare.append(state.block)

    def _block(self, size: int) -> np.ndarray:
        try:
            spare = self._spare.pop()
        except IndexError:
            spare = np.empty(0, np.uint8)
        if size <= spare.nbytes <= ROOMY * size:
            return spare
        del spare  # before there are two
        return np.empty(size, np.uint8)


def as_array(value: Any) -> np.ndarray:
    """What TensorFlow gave for one variable, as an array.

    Strings become arrays of `bytes` objects, as NumPy's own strings lose trailing zero bytes.
    """
    if isinstance(value, (bytes, str)):
        array = np.empty((), object)
        array[()] = value
        return array
    return np.asarray(value)


def _places(arrays: State) -> Iterator[tuple[str, int]]:
    """Where arrays begin in a block; those of objects are not in it."""
    end = 0
    for name, array in arrays.items():
        if array.dtype != object:
            yield name, end
            end += array.nbytes + -array.nbytes % ALIGNMENT
