"""Tables, times and sizes for a terminal: plain text, no colours."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

GAP = "  "
LAST_WIDTH_MIN = 20


def width() -> int:
    """How many columns there are to write in; 80 where the output is no terminal."""
    return shutil.get_terminal_size((80, 24)).columns


def duration(seconds: float) -> str:
    """`12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def size(number: int | None) -> str:
    """Bytes as `48 MB` or `1.3 GB`; `?` where they are not known."""
    if number is None:
        return "?"
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def table(rows: Sequence[Sequence[str]], columns: int) -> str:
    """Rows below each other, the last column wrapped to what is left of the `columns`."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]) - 1)]
    before = sum(widths) + len(GAP) * len(widths)
    left = max(columns - before, LAST_WIDTH_MIN)
    lines: list[str] = []
    for *cells, last in rows:
        start = "".join(cell.ljust(wide) + GAP for cell, wide in zip(cells, widths, strict=True))
        parts = [part for line in last.splitlines() or [""] for part in _wrapped(line, left)]
        lines.append((start + parts[0]).rstrip())
        lines += [" " * before + part for part in parts[1:]]
    return "\n".join(lines)


def _wrapped(line: str, columns: int) -> list[str]:
    """Paths, URLs and code are there to be copied: one that is too long stands out."""
    return textwrap.wrap(line, columns, break_long_words=False, break_on_hyphens=False) or [""]
