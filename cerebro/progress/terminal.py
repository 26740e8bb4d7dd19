"""A live view in a terminal, drawn by rich, which comes with Keras."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

from cerebro.formatting import for_stream
from cerebro.progress.layout import Line, Span, lay_out
from cerebro.progress.view import View

STYLES = {"title": "bold", "dim": "dim", "good": "green", "busy": "cyan", "bad": "bold red"}
ROWS_FOR_LINES = 4
"""Rows of the terminal that the view leaves to the lines above it."""

ROWS_AT_LEAST = 3
ASCII = str.maketrans({"\u2501": "=", "\u2500": "-", "\u2026": "~"})


def can_live() -> str:
    """Say what is missing for a live view; empty if it can be drawn."""
    if sys.stderr is None or not sys.stderr.isatty():
        return "standard error is not a terminal"
    if os.environ.get("TERM", "").lower() in ("dumb", "unknown", ""):
        return f"the terminal (TERM={os.environ.get('TERM', '')}) cannot move its cursor"
    try:
        import rich.live  # noqa: F401
    except ImportError:
        return "the package rich is not installed"
    return ""


class Terminal:
    """The view at the bottom of a terminal, on standard error; lines scroll away above it.

    Until its end, what Python code prints (with `print`, `logging` or `warnings`) goes above the
    view, too. What C code writes to the descriptors does not pass here.
    """

    has_view = True

    def start(self) -> None:
        """Take the bottom of the terminal."""
        from rich.live import Live

        stream = sys.stderr
        self._console = _console(stream)
        self._stream = stream
        self._utf8 = (stream.encoding or "").lower().replace("-", "").startswith("utf8")
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )
        self._stack = contextlib.ExitStack()
        before = {id(sys.stdout): "stdout", id(stream): "stderr"}
        self._live.start()
        self._stack.callback(self._stop)
        self._stack.enter_context(handlers_follow(before))
        # A driver that is killed cannot show the cursor again, so it is never hidden.
        self._console.show_cursor(True)

    def line(self, text: str) -> None:
        """Show a line above the view."""
        from rich.text import Text

        self._console.print(Text(for_stream(text, self._stream)), soft_wrap=True)

    def draw(self, view: View) -> None:
        """Show a view in place of the one before."""
        # Keys that are pressed, such as ^C, show in a row of their own, and break no other.
        self._show([*self._lines(view), (Span(" "),)])

    def _lines(self, view: View) -> list[Line]:
        size = self._console.size
        rows = max(ROWS_AT_LEAST, size.height - ROWS_FOR_LINES)
        return lay_out(view, size.width - 1, rows)

    def _show(self, lines: list[Line]) -> None:
        from rich.text import Text

        text = Text(no_wrap=True, overflow="crop", end="")
        for number, line in enumerate(lines):
            text.append("\n" if number else "")
            for span in line:
                spelt = for_stream(self._spell(span.text), self._stream)
                text.append(spelt, STYLES.get(span.style))
        with self._console:  # before the lock of `Live`, as what prints takes them
            self._live.update(text, refresh=True)

    def _stop(self) -> None:
        with self._console:
            self._live.stop()

    def _spell(self, text: str) -> str:
        return text if self._utf8 else text.translate(ASCII)

    def end(self, view: View | None) -> None:
        """Leave the last view, and give the terminal back."""
        with self._stack:
            if view is None:
                self._live.transient = True
            else:
                self._show(self._lines(view))


def _console(stream: TextIO) -> Any:
    """Make a console that one thread uses at a time, from reading the cursor to writing there.

    rich works out how far the cursor has to go before it writes, without a lock around both: what
    another thread printed between would be drawn over.
    """
    from rich.console import Console

    lock = threading.RLock()

    class OneAtATime(Console):
        def __enter__(self) -> Console:
            lock.acquire()
            return super().__enter__()

        def __exit__(self, *error: Any) -> None:
            try:
                super().__exit__(*error)
            finally:
                lock.release()

    return OneAtATime(file=stream, force_terminal=True, highlight=False)


@contextlib.contextmanager
def handlers_follow(streams: dict[int, str]) -> Iterator[None]:
    """Have log handlers that write to what was standard output or error write to what is now.

    `streams` has the names ("stdout", "stderr") by the identity of what they were. A handler keeps
    the stream that it was made with, and would write into the view.
    """
    moved: list[tuple[logging.StreamHandler[TextIO], TextIO, TextIO]] = []
    for handler in list(_stream_handlers()):
        name = streams.get(id(handler.stream))
        if name is not None:
            before, now = handler.stream, getattr(sys, name)
            handler.setStream(now)
            moved.append((handler, before, now))
    try:
        yield
    finally:
        for handler, before, now in moved:
            if handler.stream is now:
                handler.setStream(before)


def _stream_handlers() -> Iterator[logging.StreamHandler[TextIO]]:
    """Yield the handlers of all loggers that write to a stream, also those that other handlers hold
    in an attribute, as absl's do. The handler of last resort looks up standard error each time.
    """
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    waiting: list[object] = [
        handler
        for logger in loggers
        if isinstance(logger, logging.Logger)  # and no placeholder for a logger's parent
        for handler in logger.handlers
    ]
    seen = {id(logging.lastResort)}
    while waiting:
        handler = waiting.pop()
        if not isinstance(handler, logging.Handler) or id(handler) in seen:
            continue
        seen.add(id(handler))
        waiting += vars(handler).values()
        if isinstance(handler, logging.StreamHandler) and not isinstance(
            handler, logging.FileHandler
        ):
            yield handler
