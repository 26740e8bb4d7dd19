"""What a checkpoint's index says that it holds, looked at before TensorFlow believes it.

TensorFlow allocates what the index declares, follows links, and ends the process for a shape that
is none. The index, `<prefix>.index`, is a sorted table of LevelDB's form: blocks of keys that share
their beginnings, then a block that says where these are, then a footer. The value of the first key,
which is empty, says how many data files there are; every other is a tensor's name, and its value
the tensor's type, its shape and its place in a data file. No name of a file is in it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

from cerebro.backends.checkpoint_files import file_size, read_file
from cerebro.backends.tf.private import bundle_entry, bundle_header
from cerebro.backends.tf.runtime import tf
from cerebro.errors import VersionRefused
from cerebro.formatting import shorten

INDEX_BYTES = 2**28
"""An index at most: it has some hundred bytes for each tensor."""

DATA_FILES = 10_000

DIMENSIONS = 64

_FOOTER, _TRAILER = 48, 5
_MAGIC = 0xDB4775248B80FB57
_REMEDY = "pass the prefix of a checkpoint that tf.compat.v1.train.Saver().save has written"


def check_bundle(prefix: str) -> None:
    """Check the index of a checkpoint, and that its files are files of the size that it says.

    Raises `VersionRefused`, which names the file and the tensor, for what no checkpoint holds,
    `ValueError` for an index that is damaged, and what `read_file` does.
    """
    path = f"{prefix}.index"
    entries = _entries(read_file(path, INDEX_BYTES))
    key, value = next(entries, (None, b""))
    if key != b"":
        raise ValueError("the index does not begin with its header")
    count = bundle_header(value).num_shards
    if not 0 < count <= DATA_FILES:
        raise _refused(path, "", f"it has {count} data files")
    sizes = [file_size(f"{prefix}.data-{n:05}-of-{count:05}") for n in range(count)]
    before = b""
    for key, value in entries:
        name = shorten(key.decode(errors="replace"))
        if key <= before:
            raise _refused(path, name, "it is there twice, or out of order")
        before = key
        why = _fault(bundle_entry(value), sizes)
        if why:
            raise _refused(path, name, why)


def _fault(entry: Any, sizes: list[int]) -> str:
    """Why a tensor cannot be as an entry says; empty if it can. `ValueError` for damage."""
    shape, size = entry.shape, entry.size
    try:
        dtype = tf.as_dtype(entry.dtype)
    except TypeError:
        return "its type is not known"
    is_text = dtype == tf.string
    if not (is_text or dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype.is_complex):
        return f"its type is {dtype.name}, which is none of numbers or texts"
    axes = [axis.size for axis in shape.dim]
    if shape.unknown_rank or len(axes) > DIMENSIONS or min(axes, default=0) < 0:
        return "its shape is none"
    needs = math.prod(axes) * (1 if is_text else dtype.size)
    if entry.slices:  # the parts have entries of their own
        has = sum(sizes)
    elif not 0 <= entry.shard_id < len(sizes):
        return "it lies in a data file that is not there"
    else:
        place, end = entry.offset, sizes[entry.shard_id]
        if min(place, size) < 0 or place + size > end:
            raise ValueError("a data file is shorter than the index says")
        has = size
    if needs > has or max(axes, default=0) > 2**62:
        return f"its shape {tuple(axes)} takes {needs} bytes, and it has {has}"
    return ""


def _entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table, in its order. Raises `ValueError` where it is damaged."""
    if len(content) < _FOOTER or struct.unpack("<Q", content[-8:])[0] != _MAGIC:
        raise ValueError("the index is cut short, or is none")
    footer = content[-_FOOTER:]
    _, at = _number(footer, 0)
    _, at = _number(footer, at)
    start, at = _number(footer, at)
    length, _ = _number(footer, at)
    end = 0
    for _, handle in _block(content, start, length):
        start, at = _number(handle, 0)
        length, _ = _number(handle, at)
        if start < end:
            raise ValueError("blocks of the index overlap")
        end = start + length
        yield from _block(content, start, length)


def _block(content: bytes, start: int, length: int) -> Iterator[tuple[bytes, bytes]]:
    if length < 4 or start + length + _TRAILER > len(content):
        raise ValueError("a block of the index lies beyond its end")
    if content[start + length]:
        raise ValueError("a block of the index is compressed")
    block = content[start : start + length]
    end = length - 4 * (1 + struct.unpack("<I", block[-4:])[0])
    at, key = 0, b""
    while at < end:
        shared, at = _number(block, at)
        own, at = _number(block, at)
        size, at = _number(block, at)
        if shared > len(key) or at + own + size > end:
            raise ValueError("an entry of the index is longer than its block")
        key = key[:shared] + block[at : at + own]
        at += own + size
        yield key, block[at - size : at]


def _number(content: bytes, at: int) -> tuple[int, int]:
    """(an integer of variable length, where what follows it begins)."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(content):
            raise ValueError("the index is cut short")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in the index is too long")


def _refused(path: str, name: str, why: str) -> VersionRefused:
    what = f"{path}: {name}" if name else path
    return VersionRefused(
        f"{what} is not what a checkpoint holds, and is not read: {why}; {_REMEDY}"
    )
