"""What an argument must be: the one rule for integers, numbers, fractions and choices.

An integer is whatever `operator.index` takes, NumPy's integers among them, and no boolean: `True`
where a number belongs is a mistake. What is returned is a plain `int` or `float`, which JSON can
hold. Each mistake is one sentence that names the value and the constraint.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any

from cerebro.errors import InputError
from cerebro.formatting import shorten

Refusal = type[InputError]
"""The class of the error for what cannot be."""

LONGEST = 366 * 24 * 3600.0
"""Seconds of the longest time span: threads cannot wait for much longer than a few decades."""


def plain_integer(value: Any) -> int | None:
    """Return an integer as a plain one; None for anything else, booleans included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def plain_number(value: Any) -> float | None:
    """Return a finite real number as a float; None for anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # of an integer
        return None
    return number if math.isfinite(number) else None


def integer(
    name: str, value: Any, *, at_least: int | None = None, refusal: Refusal = InputError
) -> int:
    """Return an integer argument, which may have a least value; `refusal` for anything else."""
    number = plain_integer(value)
    if number is None or (at_least is not None and number < at_least):
        bound = "" if at_least is None else f" of {at_least} or more"
        raise refusal(f"{name}={shorten(value)} must be an integer{bound}")
    return number


def positive(name: str, value: Any, *, refusal: Refusal = InputError) -> float:
    """Return a finite number above 0; `refusal` for anything else."""
    number = plain_number(value)
    if number is None or number <= 0:
        raise refusal(f"{name}={shorten(value)} must be a number above 0")
    return number


def seconds(name: str, value: Any, *, at_least: float, refusal: Refusal = InputError) -> float:
    """Return a time span of `at_least` seconds or more; `refusal` for anything else."""
    number = plain_number(value)
    if number is None or not at_least <= number <= LONGEST:
        raise refusal(
            f"{name}={shorten(value)} must be a number of seconds, {at_least:g} or more, and "
            f"at most {LONGEST:.0f} (a year)"
        )
    return number


def fraction(name: str, value: Any, *, refusal: Refusal = InputError) -> float:
    """Return a share of 0 or more and below 1; `refusal` for anything else."""
    number = plain_number(value)
    if number is None or not 0 <= number < 1:
        raise refusal(f"{name}={shorten(value)} must be 0 or more and below 1 (0.2 for 20 %)")
    return number


def choice(name: str, value: Any, allowed: Iterable[str], *, refusal: Refusal = InputError) -> str:
    """Return one of the names that are allowed; `refusal` for anything else."""
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        raise refusal(f"{name}={shorten(value)}: choose one of {', '.join(map(repr, names))}")
    return value
