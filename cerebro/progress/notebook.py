"""A view in a notebook: one output of the cell, updated in place."""

from __future__ import annotations

import html
import sys
import threading
from collections import deque
from typing import Any

from cerebro.formatting import printable
from cerebro.progress.layout import Line, lay_out, text_of
from cerebro.progress.view import View

WIDTH = 120
ROWS = 24
LINES_KEPT = 12
STYLES = {
    "title": "font-weight:bold",
    "dim": "opacity:0.65",
    "good": "color:#2e9e5b",
    "busy": "color:#2a8fb8",
    "bad": "color:#d64545;font-weight:bold",
}
"""Colours that can be read on white and on black."""

BLOCK = "margin:0;padding:0.3em 0;line-height:1.35;overflow-x:auto;background:none"


def can_display() -> str:
    """Say what is missing for a notebook's view; empty in the kernel of a notebook."""
    shell = _shell()
    if shell is None:
        return "this is no notebook"
    return "" if getattr(shell, "kernel", None) is not None else "this is a terminal's IPython"


def _shell() -> Any:
    """Return IPython's shell, if it runs; it is never imported for that."""
    core = sys.modules.get("IPython")
    return None if core is None else core.get_ipython()


class Notebook:
    """The view, and under it the last lines."""

    has_view = True

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._view = View()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Make the output."""
        from IPython.display import display

        self._handle = display(  # type: ignore[no-untyped-call]
            self._bundle(), raw=True, display_id=True
        )

    def line(self, text: str) -> None:
        """Add a line; the next view has it."""
        with self._lock:
            self._lines.append(printable(text))

    def draw(self, view: View) -> None:
        """Show a view in place of the one before."""
        self._view = view
        self._handle.update(self._bundle(), raw=True)

    def end(self, view: View | None) -> None:
        """Leave the last view."""
        self.draw(view or View(outcome="not started"))

    def _bundle(self) -> dict[str, str]:
        with self._lock:
            said = list(self._lines)
        lines = lay_out(self._view, WIDTH, ROWS)
        text = "\n".join([*map(text_of, lines), *said])
        return {"text/plain": text, "text/html": _page(lines, said)}


def _page(lines: list[Line], said: list[str]) -> str:
    view = "\n".join(_html(line) for line in lines)
    below = html.escape("\n".join(said))
    below = f'<pre style="{BLOCK};opacity:0.8;white-space:pre-wrap">{below}</pre>' if said else ""
    return f'<pre style="{BLOCK}">{view}</pre>{below}'


def _html(line: Line) -> str:
    return "".join(
        f'<span style="{STYLES[style]}">{html.escape(text)}</span>' if style else html.escape(text)
        for text, style in line
    )
