"""Copies of states, each in one buffer of memory that is used again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cerebro.backends.buffers import ALIGNMENT, BufferPool, aligned
from cerebro.backends.probe import Probe


class State(dict[str, np.ndarray]):
    """A model's state: an array on the host by variable name (`variable.op.name`).

    `probe` is what the model computes, where that is still to be proven.
    """

    probe: Probe | None = None


class _Copy(State):
    """A state whose arrays lie in one buffer."""

    buffer: np.ndarray


class HostMemory:
    """Copies states. Copying is for one thread, giving back may be another's."""

    def __init__(self) -> None:
        self._buffers = BufferPool()

    def copy(self, values: Mapping[str, Any]) -> State:
        """Copies of what a session gave for variables, each aligned.

        The copy matters: a session may hand out a view of a variable's own memory, which later
        steps change.
        """
        arrays = {name: as_array(value) for name, value in values.items()}
        places = dict(_places(arrays))
        end = max((place + arrays[name].nbytes for name, place in places.items()), default=0)
        copy = _Copy()
        copy.buffer = self._buffers.take(end + ALIGNMENT)
        buffer = aligned(copy.buffer)
        for name, array in arrays.items():
            if name not in places:
                copy[name] = array.copy()
                continue
            memory = buffer[places[name] : places[name] + array.nbytes]
            copy[name] = memory.view(array.dtype).reshape(array.shape)
            copy[name][...] = array
        return copy

    def give_back(self, state: Any) -> None:
        """Nobody will read a state, or its arrays, any more."""
        if isinstance(state, _Copy):
            self._buffers.give_back(state.buffer)


def as_array(value: Any) -> np.ndarray:
    """What TensorFlow gave for one variable, as an array.

    Strings become arrays of `bytes` objects, as NumPy's own strings lose trailing zero bytes.
    """
    if isinstance(value, (bytes, str)):
        array = np.empty((), object)
        array[()] = value
        return array
    return np.asarray(value)


def _places(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, int]]:
    """Where arrays start in a buffer; those of objects are not in it."""
    end = 0
    for name, array in arrays.items():
        if array.dtype != object:
            yield name, end
            end += array.nbytes + -array.nbytes % ALIGNMENT
