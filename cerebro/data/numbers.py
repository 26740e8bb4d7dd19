"""Numbers that a partitioning is asked for with, checked."""

from __future__ import annotations

import operator
from typing import Any

from cerebro.errors import InputError


def whole(name: str, value: Any, least: int) -> int:
    """An integer of `least` or more; `InputError` for anything else."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}; it must be an integer") from None
    if number < least:
        raise InputError(f"{name} is {number}; it must be {least} or more")
    return number


def fraction(name: str, value: Any) -> float:
    """A share of 0 or more and below 1; `InputError` for anything else."""
    if not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise InputError(
            f"the {name} fraction is {value!r}; it must be 0 or more and below 1 (0.2 for 20 %)"
        )
    return float(value)
