"""Digests of values that are in no variable, to tell whether they are still the same.

The same value has the same digest in every process.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np

LENGTH = 8
"""Bytes of a digest. Values are compared with earlier ones of their own, not searched for."""

_SCALARS = (bool, int, float, complex, str, bytes, type(None), np.generic, enum.Enum)


def is_plain(value: Any) -> bool:
    """Whether a value holds nothing but itself: a number, a text, an array, None."""
    return isinstance(value, (*_SCALARS, np.ndarray)) or is_tensor(value)


def is_number(value: Any) -> bool:
    """Whether a plain value is a number, or an array of NumPy's."""
    if isinstance(value, (int, float, complex)):
        return not isinstance(value, bool)
    return isinstance(value, (np.ndarray, np.generic))


def digest(value: Any) -> str:
    """The digest of a plain value, or of a structure; of anything else, that of its type."""
    found = hashlib.blake2b(digest_size=LENGTH)
    for piece in _pieces(value):
        found.update(piece)
    return found.hexdigest()


def is_tensor(value: Any) -> bool:
    """Whether this is one of TensorFlow's tensors that has a value."""
    return type(value).__name__ == "EagerTensor" and hasattr(value, "numpy")


def _pieces(value: Any) -> Iterator[bytes | memoryview]:
    if is_tensor(value):
        value = value.numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        yield f"array {array.dtype.name} {array.shape}:".encode()
        if array.dtype.hasobject:
            yield from _pieces(array.tolist())
        else:
            yield np.ascontiguousarray(array).tobytes()
    elif isinstance(value, enum.Enum):
        yield f"enum {value!s}:".encode()
    elif isinstance(value, (str, bytes)):
        content = value.encode(errors="surrogatepass") if isinstance(value, str) else value
        yield f"{type(value).__name__} {len(content)}:".encode()
        yield content
    elif isinstance(value, _SCALARS):
        yield f"{value!r};".encode()
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}:".encode()
        for key, item in value.items():
            yield from _pieces(key)
            yield from _pieces(item)
    elif isinstance(value, Set):
        yield f"set {len(value)}:".encode()
        yield from (part.encode() for part in sorted(digest(item) for item in value))
    elif isinstance(value, (list, tuple)):
        yield f"sequence {len(value)}:".encode()
        for item in value:
            yield from _pieces(item)
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__};".encode()
