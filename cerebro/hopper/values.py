"""When two values of a configuration are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def same(one: Any, other: Any) -> bool:
    """Tell whether two values that JSON can hold are the same: NaN is NaN, and True is not 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    return bool(one == other or (one != one and other != other))


def position(values: Sequence[Any], value: Any) -> int:
    """Return where a value is among others; `ValueError` if it is not."""
    for number, found in enumerate(values):
        if same(found, value):
            return number
    raise ValueError(f"{value!r} is not among {list(values)!r}")
