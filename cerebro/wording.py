"""Values in messages."""

from __future__ import annotations

from typing import Any


def count(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_line(text: str, limit: int = 400) -> str:
    """The beginning of a message that may have many lines."""
    return text.split("\n", 1)[0][:limit]


def shorten(value: Any, limit: int = 200) -> str:
    """A value's `repr`, cut to `limit` characters; also for values whose `repr` raises."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"
