"""What the user's functions may return, as far as backends have it in common."""

from __future__ import annotations

import math
from typing import Any

from cerebro.errors import BadReturn
from cerebro.formatting import shorten

EXPECTED = "expected (loss, error) or (loss, error, examples), each a number"


def train_result(value: Any) -> tuple[float, float, float | None]:
    """(loss, error, examples or None) of what `train_fn` returned.

    NumPy scalars and arrays without dimensions count as numbers; NaN is a number. Raises
    `BadReturn`, saying what came.
    """
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise _bad(value)
    numbers = [_number(item) for item in value]
    if any(number is None for number in numbers):
        raise _bad(value)
    loss, error, *rest = numbers
    assert loss is not None
    assert error is not None
    examples = rest[0] if rest else None
    if examples is not None and not 0 < examples < math.inf:
        raise BadReturn(
            f"train_fn returned {examples!r} examples: a number above 0 is needed, or none",
            function="train_fn",
        )
    return loss, error, examples


def _number(value: Any) -> float | None:
    if isinstance(value, (str, bytes, bool)) or value is None:
        return None
    if getattr(value, "shape", ()) != ():
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _bad(value: Any) -> BadReturn:
    return BadReturn(f"train_fn returned {shorten(value)}: {EXPECTED}", function="train_fn")


def is_keras(value: Any, kind: str) -> bool:
    """Whether one of the classes that `value` inherits from is Keras's `...{kind}`."""
    return any(
        cls.__name__.endswith(kind)
        and (
            cls.__module__.split(".")[0] in ("keras", "tf_keras")
            or cls.__module__.startswith("tensorflow.python.keras")
        )
        for cls in type(value).__mro__
    )
