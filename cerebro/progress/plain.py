"""Lines on standard error, for files, pipes and terminals without more."""

from __future__ import annotations

import contextlib
import sys
from typing import Protocol, TextIO

from cerebro.formatting import for_stream
from cerebro.progress.view import View


class Display(Protocol):
    """What shows a run. `start` and `end` are called once, `draw` on one thread.

    `has_view`: it shows views; what is shown there needs no line.
    """

    has_view: bool

    def start(self) -> None:
        """Get ready."""

    def line(self, text: str) -> None:
        """Show a line that stays. Any thread."""

    def draw(self, view: View) -> None:
        """Show a view in place of the one before."""

    def end(self, view: View | None) -> None:
        """Leave this last view to be read (None: there never was a run), and clean up."""


class Plain:
    """Every line as it comes, on `stream`, or on what standard error is then."""

    has_view = False

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def start(self) -> None:
        """Do nothing: nothing needs to be made ready."""

    def line(self, text: str) -> None:
        """Print it, in one piece. No run ends because nobody listens any more."""
        stream = self._stream or sys.stderr
        with contextlib.suppress(OSError, ValueError):  # a stream that was closed raises the latter
            print(f"{for_stream(text, stream)}\n", end="", file=stream, flush=True)

    def draw(self, view: View) -> None:
        """Do nothing: there are lines only."""

    def end(self, view: View | None) -> None:
        """Do nothing: the last line stays the last."""


class Silent(Plain):
    """Nothing at all."""

    def line(self, text: str) -> None:
        """Do nothing: nothing is said."""
