"""What an HDF5 file says that it holds, looked at before any of it is believed.

HDF5 follows what a file names: values in other files (external storage, virtual data sets), groups
in other files (external links), filters that are loaded as plug-ins, shapes of any size. A weights
file has none of that, neither one of Keras' own nor a version. So a file is walked over link by
link, and what is not a group, or an array of numbers within the file in one piece, is refused.
Nothing is read but by its place in the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from cerebro.errors import VersionRefused

OBJECTS = 200_000
"""Groups and arrays in a file at most. Large language models have some thousands of arrays."""

DEPTH = 100
"""Groups within groups at most."""

NAME_BYTES = 4096
"""The name of a group or an array, with those of the groups that it is in, at most."""

TEXT_CHARACTERS = 2**20
"""An attribute at most."""

SLACK, SLACK_OF_OBJECT = 2**20, 2**14
"""Bytes of a file that are no values, at most: once, and for each object in it."""

_REMEDY = "pass a file that model.save_weights('name.weights.h5') has written"

_LINKS = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}

_LAYOUTS = {
    h5py.h5d.CHUNKED: "stored in chunks, to which filters may be applied",
    h5py.h5d.COMPACT: "stored in its header",
    h5py.h5d.VIRTUAL: "a virtual data set, whose values lie in other files",
}

_NUMBERS = [
    np.dtype(order + code)
    for code in ("f4", "f2", "f8", "i4", "i8", "u4", "u8", "i1", "u1", "i2", "u2", "c8", "c16")
    for order in "<>"
]

_TYPES = [(dtype, h5py.h5t.py_create(dtype, logical=True)) for dtype in (*_NUMBERS, np.dtype(bool))]
"""Types of arrays, and what HDF5 calls them."""

_NAMED = {
    np.dtype(kind).name: np.dtype(kind)
    for kind in vars(ml_dtypes).values()
    if isinstance(kind, type) and issubclass(kind, np.generic)
}
"""Types that HDF5 has no name for: their arrays have an attribute `dtype`."""


@dataclass(frozen=True)
class StoredArray:
    """An array in a file: its form, and where its values start."""

    shape: tuple[int, ...]
    dtype: np.dtype
    place: int

    @property
    def nbytes(self) -> int:
        """How many bytes its values take."""
        return math.prod(self.shape) * self.dtype.itemsize


def stored_arrays(file: h5py.File, size: int, path: str) -> dict[str, StoredArray]:
    """Find the arrays in an open file of `size` bytes, by name, without reading any.

    Raises `VersionRefused`, naming the file at `path` and the part of it, for anything else than
    arrays of numbers in groups.
    """
    found: dict[str, StoredArray] = {}
    objects = total = 0
    for name, group, own in _objects(file, path):
        objects += 1
        if own is not None:
            found[name] = array = _array(group, own, size, _Part(path, name))
            total += array.nbytes
    if total > size:
        raise _Part(path).refused(
            f"its arrays take {total} bytes, and the file has {size}: some of them are the same"
        )
    if size > 2 * total + SLACK + objects * SLACK_OF_OBJECT:
        raise _Part(path).refused(
            f"it has {size} bytes, and its {len(found)} arrays take {total} of them"
        )
    return found


def text_attribute(thing: h5py.File | h5py.Dataset, name: str, path: str) -> str | None:
    """Return a text that a file or an array has as an attribute; None if it has none.

    Raises `VersionRefused` where it is no text, or too long.
    """
    part = _Part(path, f"{thing.name.strip('/')}@{name}")
    if not h5py.h5a.exists(thing.id, name.encode()):
        return None
    attribute = h5py.h5a.open(thing.id, name.encode())
    kind = attribute.get_type()
    is_text = kind.get_class() == h5py.h5t.STRING and not kind.committed()
    if not is_text or attribute.get_space().get_simple_extent_type() != h5py.h5s.SCALAR:
        raise part.refused("it is not one text")
    if attribute.get_storage_size() > TEXT_CHARACTERS:
        raise part.refused(f"it has more than {TEXT_CHARACTERS} characters")
    value: Any = thing.attrs[name]
    text = value.decode() if isinstance(value, bytes) else str(value)
    if len(text) > TEXT_CHARACTERS:
        raise part.refused(f"it has more than {TEXT_CHARACTERS} characters")
    return text


@dataclass(frozen=True)
class _Part:
    """A part of a file, for messages; the file itself without a name."""

    path: str
    name: str = ""

    def refused(self, why: str) -> VersionRefused:
        what = f"{self.path}: {self.name!r}" if self.name else self.path
        return VersionRefused(
            f"{what} is not what a weights file holds, and is not read: {why}; {_REMEDY}"
        )


def _objects(file: h5py.File, path: str) -> Iterator[tuple[str, Any, bytes | None]]:
    """Each group and array, in the order of their names, as (name, group above, own name).

    The own name is None for a group. Every object has one name, so there is no way round.
    """
    root = h5py.h5g.open(file.id, b"/")
    seen = {h5py.h5o.get_info(root).addr}
    waiting: list[tuple[str, int, Any, bytes | None]] = [("", 0, root, None)]
    while waiting:
        name, depth, above, own = waiting.pop()
        if own is not None and h5py.h5o.get_info(above, own).type == h5py.h5o.TYPE_DATASET:
            yield name, above, own
            continue
        group = above if own is None else h5py.h5g.open(above, own)
        yield name, above, None
        part = _Part(path, name)
        if depth > DEPTH:
            raise part.refused(f"there are more than {DEPTH} groups within groups")
        if len(seen) + len(group) > OBJECTS:
            raise part.refused(f"there are more than {OBJECTS} groups and arrays")
        inside = []
        for key in group:
            part = _Part(path, f"{name}/{key.decode(errors='replace')}".lstrip("/"))
            _check_link(group, key, part, seen)
            inside.append((part.name, depth + 1, group, key))
        waiting.extend(reversed(inside))


def _check_link(group: Any, key: bytes, part: _Part, seen: set[int]) -> None:
    if len(part.name) > NAME_BYTES:
        raise _Part(part.path, part.name[:100]).refused("its name is too long")
    link = group.links.get_info(key).type
    if link != h5py.h5l.TYPE_HARD:
        raise part.refused(f"it is {_LINKS.get(link, 'a link of another kind')}")
    found = h5py.h5o.get_info(group, key)
    if found.type not in (h5py.h5o.TYPE_GROUP, h5py.h5o.TYPE_DATASET):
        raise part.refused("it is neither a group nor an array")
    if found.addr in seen:
        raise part.refused("it is a second name of something in the same file")
    seen.add(found.addr)


def _array(group: Any, own: bytes, size: int, part: _Part) -> StoredArray:
    data_set = h5py.h5d.open(group, own)
    how = data_set.get_create_plist()
    # Before its shape is asked for: with a virtual one HDF5 opens the other files then.
    if how.get_external_count():
        raise part.refused("it has external storage: its values lie in other files")
    if how.get_layout() != h5py.h5d.CONTIGUOUS:
        raise part.refused(f"it is {_LAYOUTS.get(how.get_layout(), 'stored in another way')}")
    if how.get_nfilters():
        raise part.refused("filters are applied to it")
    space = data_set.get_space()
    if space.get_simple_extent_type() not in (h5py.h5s.SIMPLE, h5py.h5s.SCALAR):
        raise part.refused("it has no shape")
    dtype = _type(data_set, part)
    shape = tuple(map(int, space.get_simple_extent_dims()))
    array = StoredArray(shape, dtype, data_set.get_offset() or 0)
    if not array.nbytes:
        return array
    if array.nbytes > size or data_set.get_storage_size() != array.nbytes:
        raise part.refused(
            f"an array {array.shape} of {dtype.name} takes {array.nbytes} bytes, and the file has "
            f"{min(size, data_set.get_storage_size())} of it"
        )
    if not 0 < array.place <= size - array.nbytes:
        raise part.refused("its values lie beyond the end of the file")
    return array


def _type(data_set: Any, part: _Part) -> np.dtype:
    kind = data_set.get_type()
    if kind.committed():
        raise part.refused("its type is named, and lies elsewhere")
    name = text_attribute(h5py.Dataset(data_set), "dtype", part.path)
    if name is not None:
        named = _NAMED.get(name)
        numbers = (h5py.h5t.OPAQUE, h5py.h5t.FLOAT, h5py.h5t.INTEGER)
        if named is None or kind.get_class() not in numbers or kind.get_size() != named.itemsize:
            raise part.refused(f"its type {name[:100]!r} is not one of numbers")
        return named
    for dtype, known in _TYPES:
        if known == kind:
            return dtype
    raise part.refused("its type is not one of numbers (but of texts, references or parts, say)")
