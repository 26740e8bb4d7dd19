"""How values, durations and sizes stand in messages."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any


def count(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_line(text: str, limit: int = 400) -> str:
    """The beginning of a message that may have many lines."""
    return text.split("\n", 1)[0][:limit]


def duration(seconds: float) -> str:
    """`8 s`, `3 min`, `1 h 05 min`, `2 d 3 h`: as exact as an estimate deserves."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def size(count: float) -> str:
    """`980 B`, `5.9 MB`, `1.2 TB`; a MB is a million bytes."""
    units = ("B", "kB", "MB", "GB", "TB")
    for unit in units:
        if count < 999.5 or unit == units[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"


def readable(text: str) -> str:
    """A text that can be encoded: lone surrogates, as in names that are no UTF-8, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def message_of(error: BaseException) -> str:
    """What an error says, also where its own `__str__` raises."""
    try:
        return readable(str(error))
    except Exception as another:
        return f"(its message cannot be had: __str__ raised {type(another).__name__})"


def shorten(value: Any, limit: int = 200) -> str:
    """A value's `repr`, cut to `limit` characters; also for values whose `repr` raises."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def metric_name(metric: str) -> str:
    """A metric's name in a sentence: `valid error` for the column `valid_error`."""
    return metric.replace("_", " ", 1) if metric.startswith(("train_", "valid_")) else metric


def shown(value: Any) -> str:
    """A hyperparameter's value for people: strings as they are, all else as JSON.

    Six digits of a number that was drawn from a range tell it from the others.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)


def some(names: Iterable[str], most: int) -> str:
    """Join names by commas: the first `most` of them, and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
