"""A plain model's file: its pickle, what names the code of its classes, and a checksum.

The classes of a script stand in a pickle by name. Their code is stored once for a run, in a file
whose name is a digest, and a version that needs code ends with that digest (`CRBC` and 32 bytes),
before the checksum. A file that is self-contained has the code in it: its pickle calls
`cerebro.shipping.restore`, which makes the model in any program. Who loads the pickle of an open
file need not know of what follows it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Mapping
from typing import Any

from cerebro import shipping
from cerebro.backends.checkpoint_files import read_file
from cerebro.backends.checksum import CHECKSUM, damaged, is_whole

FILE = "model.pickle"

_CODE = struct.Struct(">4s32s")
_MAGIC = b"CRBC"
_FUNCTIONS = ("input_fn", "model_fn", "train_fn")


def code_digest(fingerprints: Mapping[str, str]) -> str:
    """The name of the code of functions, from their fingerprints by role."""
    text = json.dumps([fingerprints[role] for role in _FUNCTIONS])
    return hashlib.sha256(text.encode()).hexdigest()


def naming_code(pickled: bytes, digest: str) -> bytes:
    """A pickle, with the name of the code that it needs behind it."""
    return pickled + _CODE.pack(_MAGIC, bytes.fromhex(digest))


def code_named(state: bytes) -> str | None:
    """The name of the code that a model needs, if it names any."""
    if len(state) < _CODE.size:
        return None
    magic, digest = _CODE.unpack(state[-_CODE.size :])
    return digest.hex() if magic == _MAGIC else None


def read_whole(path: str) -> bytes:
    """What a file holds before its checksum.

    Raises `VersionDamaged` if that is wrong or the file is gone, `StorageError` where storage
    refuses.
    """
    content = read_file(path)
    if not is_whole(content):
        raise damaged(path, content)
    return content[: -CHECKSUM.size]


def self_contained(state: bytes, code: bytes) -> bytes:
    """The pickle of a model that has its code in it."""
    return pickle.dumps(_SelfContained(code, state), protocol=4)


class _SelfContained:
    def __init__(self, code: bytes, state: bytes) -> None:
        self._arguments = code, state

    def __reduce__(self) -> Any:
        return shipping.restore, self._arguments
