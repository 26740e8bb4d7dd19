"""Tables for a terminal: plain text, no colours."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from cerebro.formatting import one_line, printable

GAP = "  "
LAST_WIDTH_MIN = 20


def width() -> int:
    """Return how many columns there are to write in; 80 if the output is not a terminal."""
    return shutil.get_terminal_size((80, 24)).columns


def table(rows: Sequence[Sequence[str]], columns: int) -> str:
    """Format rows below each other, the last column wrapped to what is left of `columns`.

    Cells are escaped first: those of the last column may have several lines, the others have one.
    """
    rows = [[*map(one_line, row[:-1]), printable(row[-1])] for row in rows]
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
    """Wrap a line, except for paths, URLs and code, which must stay whole to be copied."""
    return textwrap.wrap(line, columns, break_long_words=False, break_on_hyphens=False) or [""]
