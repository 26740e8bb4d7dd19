"""What user code prints while a unit runs: kept in bounds, and passed on."""

from __future__ import annotations

import contextlib
import io
import sys
from collections import deque
from collections.abc import Iterator

LINES = 20
"""Lines of output that an error shows."""

CHARACTERS = 8_000
"""Characters of one unit's output that are kept; the last ones."""


class Recorder(io.TextIOBase):
    """A text stream that remembers its end and passes everything on."""

    def __init__(self, through: io.TextIOBase | None) -> None:
        self._through = through
        self._parts: deque[str] = deque()
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._parts.append(text[-CHARACTERS:])
        self._size += len(self._parts[-1])
        while self._size - len(self._parts[0]) >= CHARACTERS:
            self._size -= len(self._parts.popleft())
        if self._through is not None:
            self._through.write(text)
        return len(text)

    def flush(self) -> None:
        if self._through is not None:
            self._through.flush()

    def text(self) -> str:
        """What was written, the last `CHARACTERS` of it."""
        return "".join(self._parts)[-CHARACTERS:]


def last_lines(text: str, count: int = LINES) -> str:
    """The last lines of a text."""
    return "\n".join(text.splitlines()[-count:])


@contextlib.contextmanager
def recorded() -> Iterator[Recorder]:
    """Record what Python code prints, on either stream."""
    recorder = Recorder(sys.stdout)  # type: ignore[arg-type]
    with contextlib.redirect_stdout(recorder), contextlib.redirect_stderr(recorder):
        yield recorder
