"""What a checkpoint's index says that it holds, looked at before TensorFlow believes it.

TensorFlow allocates what the index declares, and what texts in the data say of their lengths; it
follows links, and ends the process for a shape that is none. In what a Saver writes each value has
a place of its own, so that all of them need no more memory than the data files have bytes.

The index, `<prefix>.index`, is a sorted table of LevelDB's form: blocks of keys that share their
beginnings, then a block that says where these are, then a footer. The value of the first key, which
is empty, says how many data files there are; every other is a tensor's name, and its value the
tensor's type, its shape and its place in a data file. No name of a file is in it.
"""

from __future__ import annotations

import functools
import math
import os
import struct
from collections.abc import Iterator
from typing import Any

from cerebro.backends.checkpoint_files import file_size, read_file, read_part
from cerebro.backends.tf.private import bundle_entry, bundle_header
from cerebro.backends.tf.runtime import tf
from cerebro.errors import VersionRefused
from cerebro.formatting import shorten

INDEX_BYTES = 2**28
"""An index at most: it has some hundred bytes for each tensor."""

DATA_FILES = 10_000

DIMENSIONS = 64

MOST_ALONG_AXIS = 2**48

_FOOTER, _TRAILER = 48, 5
_LENGTH_BYTES, _CHECKSUM_BYTES = 10, 4
_MAGIC = 0xDB4775248B80FB57
_REMEDY = "pass the prefix of a checkpoint that tf.compat.v1.train.Saver().save has written"


def check_bundle(prefix: str) -> None:
    """Check the index of a checkpoint, and that its files are files of the size that it says.

    Raises `VersionRefused`, which names the file and the tensor, for what no checkpoint holds,
    `ValueError` for an index that is damaged, and what `read_file` does.
    """
    path = f"{prefix}.index"
    if os.path.isfile(prefix) and not os.path.lexists(path):
        raise VersionRefused(
            f"{prefix} is a file, and a checkpoint is named by its prefix, the path of its .index "
            "file without that ending: files of the older format V1 have none, and are to be "
            "restored and saved again with a Saver, which writes V2"
        )
    entries = _entries(read_file(path, INDEX_BYTES))
    key, value = next(entries, (None, b""))
    if key != b"":
        raise ValueError("the index does not begin with its header")
    count = bundle_header(value).num_shards
    if not 0 < count <= DATA_FILES:
        raise _refused(path, "", f"it has {count} data files")
    files = [f"{prefix}.data-{n:05}-of-{count:05}" for n in range(count)]
    sizes = [file_size(file) for file in files]
    before, total, in_parts = b"", 0, 0
    for key, value in entries:
        entry = bundle_entry(value)
        why = _fault(entry, sizes) if key > before else "it is out of order, or twice"
        if not why and not entry.slices and tf.as_dtype(entry.dtype) == tf.string:
            why = _text_fault(entry, files)
        if why:
            raise _refused(path, shorten(key.decode(errors="replace")), why)
        before = key
        total += entry.size
        in_parts += _needs(entry) if entry.slices else 0
    if max(total, in_parts) > sum(sizes):
        raise _refused(
            path,
            "",
            f"its tensors take {max(total, in_parts)} bytes, and its data files have {sum(sizes)}: "
            "some of them are the same",
        )


def _needs(entry: Any) -> int:
    """Bytes that a tensor takes at least."""
    return _type(entry.dtype)[0] * math.prod(int(axis.size) for axis in entry.shape.dim)


def _text_fault(entry: Any, files: list[str]) -> str:
    """Why texts cannot be as their data say: lengths, four bytes for a checksum, characters."""
    count = _needs(entry)
    lengths = read_part(files[entry.shard_id], entry.offset, min(entry.size, count * _LENGTH_BYTES))
    at = characters = 0
    for _ in range(count):
        length, at = _number(lengths, at)
        characters += length
    if count and at + _CHECKSUM_BYTES + characters > entry.size:
        return f"its texts have {characters} characters, and it has {entry.size} bytes"
    return ""


def _fault(entry: Any, sizes: list[int]) -> str:
    """Why a tensor cannot be as an entry says; empty if it can. `ValueError` for damage."""
    needs, why = _type(entry.dtype)
    if why:
        return why
    shape = entry.shape
    axes = [axis.size for axis in shape.dim]
    for size in axes:
        if not 0 <= size <= MOST_ALONG_AXIS:
            return f"its shape {tuple(axes)} is none"
        needs *= size
    if len(axes) > DIMENSIONS or shape.unknown_rank:
        return "its shape is none"
    size, shard = entry.size, entry.shard_id
    if not 0 <= shard < len(sizes):
        return "it lies in a data file that is not there"
    if size < 0 or not 0 <= entry.offset <= sizes[shard] - size:
        raise ValueError("a data file is shorter than the index says")
    if needs > size and (not entry.slices or needs > sum(sizes)):
        # With slices it is the parts that have bytes, and entries of their own.
        return f"its shape {tuple(axes)} takes {needs} bytes, and it has {size}"
    return ""


@functools.cache
def _type(number: int) -> tuple[int, str]:
    """(bytes of a value, why no checkpoint holds this type); a text takes one byte at least."""
    try:
        dtype = tf.as_dtype(number)
    except TypeError:
        return 0, "its type is not known"
    if dtype == tf.string:
        return 1, ""
    if dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype.is_complex:
        return dtype.size, ""
    return 0, f"its type is {dtype.name}, which is none of numbers or texts"


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
    """(an integer of variable length, where what follows it starts)."""
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
