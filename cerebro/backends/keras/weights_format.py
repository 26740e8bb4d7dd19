"""A version as the bytes of an HDF5 file, which plain Keras reads as `.weights.h5`.

A state is the file itself, in one buffer. HDF5's own part of it is made once for a layout. After
that the values of variables are copied to their places, and the buffer is written as it is: no
library is asked, which could fail half way. The arrays of a state are views of its buffer.

An attribute of the root, `cerebro`, holds JSON: `hyperparameters`, the optimizer's scalars as
`model_fn` had set them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from cerebro.backends import finite
from cerebro.backends.buffers import ALIGNMENT, BufferPool, aligned
from cerebro.backends.checksum import CHECKSUM, MAGIC, damaged, is_whole
from cerebro.backends.keras.hdf5_structure import stored_arrays, text_attribute
from cerebro.backends.keras.private import SparseFile, reserve
from cerebro.backends.probe import Probe
from cerebro.errors import VersionDamaged, VersionRefused

ATTRIBUTE = "cerebro"
NOTES = "hyperparameters"

_MARK = json.dumps({NOTES: {}})[:-2].encode()
"""How the attribute's text starts. Its name alone may be part of a layer's, such as
`cerebrospinal`."""

Form = tuple[tuple[int, ...], np.dtype]
"""(shape, type) of an array."""


@dataclass
class State:
    """A model's values by their names in the file, on the host.

    `hyperparameters` are None for a file that Keras itself has written. `buffer` is the memory to
    be used again, None for a state that was read. `probe` is what the model computes, where that
    is still to be proven. `trained` are the names of weights that are trained, and `others` those
    of the other weights, both of a state that was fetched.
    """

    file: memoryview
    arrays: dict[str, np.ndarray]
    hyperparameters: dict[str, float] | None
    buffer: np.ndarray | None = None
    probe: Probe | None = None
    trained: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()

    def weights_are_finite(self) -> bool:
        """Tell whether the weights are finite (`cerebro.backends.finite`)."""
        return finite.weights_are_finite(
            (self.arrays[name] for name in self.trained),
            (self.arrays[name] for name in self.others),
        )


class Template:
    """What the files of one layout have in common: all but the values.

    `forms` are the arrays in it by name, `names` Keras' names of the groups, and `hyperparameters`
    those of the model.
    """

    def __init__(
        self,
        forms: Mapping[str, Form],
        names: Mapping[str, str],
        hyperparameters: Mapping[str, float],
    ) -> None:
        self.forms = dict(forms)
        self._hyperparameters = dict(hyperparameters)
        sparse = SparseFile()
        with h5py.File(
            sparse, "w", alignment_threshold=ALIGNMENT, alignment_interval=ALIGNMENT
        ) as file:
            file.attrs[ATTRIBUTE] = json.dumps({NOTES: self._hyperparameters})
            self._places = {name: reserve(file, name, *form) for name, form in forms.items()}
            for group, name in names.items():
                file.require_group(group).attrs["name"] = name
        self._size = sparse.end
        self._pieces = sparse.pieces
        self._gaps = list(self._unused())

    def state(self, values: Mapping[str, Any], buffers: BufferPool) -> State:
        """A file with these values, each an array or a variable of the form known."""
        buffer = buffers.take(self._size + ALIGNMENT)
        file = aligned(buffer)[: self._size]
        for start, end in self._gaps:
            file[start:end] = 0
        for place, piece in self._pieces:
            file[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
        arrays = {}
        for name, (shape, dtype) in self.forms.items():
            arrays[name] = np.ndarray(shape, dtype, file, self._places[name])
            arrays[name][...] = values[name]
        return State(file.data, arrays, self._hyperparameters, buffer)

    def _unused(self) -> Iterator[tuple[int, int]]:
        """The parts of the file that nothing is written to: its bytes depend on nothing else."""
        taken = [(place, place + len(piece)) for place, piece in self._pieces]
        for name, (shape, dtype) in self.forms.items():
            taken.append((self._places[name], self._places[name] + nbytes(shape, dtype)))
        end = 0
        for start, stop in sorted(taken):
            if start > end:
                yield end, start
            end = max(end, stop)
        if end < self._size:
            yield end, self._size


def parse(content: bytes, path: str, deadline: float | None = None) -> State:
    """The state in a file's content.

    HDF5 may never come back from a file that was made for that, nor let another thread run: where a
    `deadline` is given, in seconds, this process ends then.

    Raises `VersionDamaged` for a wrong checksum, unless the file is one of Keras' own, which have
    none; and `VersionRefused` for a file that holds something else than a weights file does.
    """
    whole = is_whole(content)
    if not whole and (content[-CHECKSUM.size :][:4] == MAGIC or _MARK in content):
        # A version, by one of its two marks. HDF5 may never come back from a damaged file.
        raise damaged(path, content)
    if content[:2] == b"PK":
        raise VersionRefused(
            f"{path} is not a weights file but an archive, as model.save makes it: load it and "
            "write its weights with model.save_weights('name.weights.h5')"
        )
    try:
        with _ending(deadline):
            arrays, attribute = _read(content, path)
    except VersionRefused:
        raise
    except Exception as error:
        # h5py raises OSError, KeyError, RuntimeError and others, all for bad files.
        if whole:
            raise VersionRefused(f"{path} is not a weights file of Keras ({error})") from error
        raise VersionDamaged(
            f"{path} is not a weights file of Keras, as model.save_weights('name.weights.h5') "
            f"writes it, or its {len(content)} bytes are damaged ({error})"
        ) from error
    hyperparameters = None if attribute is None else _hyperparameters(attribute, path)
    end = len(content) - (CHECKSUM.size if whole else 0)
    return State(memoryview(content)[:end], arrays, hyperparameters)


@contextlib.contextmanager
def _ending(deadline: float | None) -> Iterator[None]:
    if deadline is None:
        yield
        return
    faulthandler.dump_traceback_later(deadline, exit=True, file=2)  # of standard error
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _read(content: bytes, path: str) -> tuple[dict[str, np.ndarray], str | None]:
    with h5py.File(io.BytesIO(content), "r") as file:
        found = stored_arrays(file, len(content), path)
        attribute = text_attribute(file, ATTRIBUTE, path)
    arrays = {
        name: np.frombuffer(content, array.dtype, math.prod(array.shape), array.place).reshape(
            array.shape
        )
        if array.nbytes
        else np.empty(array.shape, array.dtype)
        for name, array in found.items()
    }
    return arrays, attribute


def _hyperparameters(text: str, path: str) -> dict[str, float]:
    try:
        found = json.loads(text)[NOTES]
        numbers = {str(name): value for name, value in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VersionRefused(f"{path}: {ATTRIBUTE!r} cannot be read: {error}") from error
    for name, value in numbers.items():
        if not isinstance(value, (int, float)):
            raise VersionRefused(f"{path}: {ATTRIBUTE!r} has {name}, which is no number")
    return numbers


def nbytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Return how many bytes an array of this form takes."""
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
