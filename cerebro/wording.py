"""Values in messages."""

from __future__ import annotations

from typing import Any


def shorten(value: Any, limit: int = 200) -> str:
    """A value's `repr`, cut to `limit` characters; also for values whose `repr` raises."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"
