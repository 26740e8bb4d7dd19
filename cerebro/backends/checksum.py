"""The checksum at the end of a version's file.

Eight bytes: the magic `CRB1` and the CRC-32 of all before them, big endian. Readers of pickles and
of HDF5 files pass over what follows the end that they know.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any

from cerebro.errors import VersionDamaged
from cerebro.storage import open_file

CHECKSUM = struct.Struct(">4sI")
MAGIC = b"CRB1"


def write_with_checksum(path: str, body: Any) -> None:
    """Write bytes, or what has a buffer of them, and their checksum into a new file."""
    with open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
        file.write(body)
        file.write(CHECKSUM.pack(MAGIC, zlib.crc32(body)))


def with_checksum(body: bytes) -> bytes:
    """Bytes with their checksum behind them."""
    return body + CHECKSUM.pack(MAGIC, zlib.crc32(body))


def is_whole(content: bytes) -> bool:
    """Return whether a file's content ends with the checksum of what is before it."""
    if len(content) < CHECKSUM.size:
        return False
    magic, checksum = CHECKSUM.unpack(content[-CHECKSUM.size :])
    expected = MAGIC, zlib.crc32(memoryview(content)[: -CHECKSUM.size])
    return (magic, checksum) == expected


def damaged(path: str, content: bytes) -> VersionDamaged:
    """Return the error for a file whose checksum is wrong."""
    return VersionDamaged(f"{path}: the checksum of its {len(content)} bytes is wrong")
