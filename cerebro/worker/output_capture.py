"""What user code prints while a unit runs: kept in bounds, and passed on."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections import deque
from collections.abc import Iterator

from cerebro.formatting import encodable, readable
from cerebro.shipping import with_users_files

LINES = 20
"""Lines of output that an error shows."""

CHARACTERS = 8_000
"""Characters of one unit's output that are kept; the last ones."""


class OutputCapture(io.TextIOBase):
    """A text stream that remembers its end and passes everything on."""

    def __init__(self, through: io.TextIOBase | None) -> None:
        self._through = through
        self._parts: deque[str] = deque()
        self._size = 0
        self._lock = threading.Lock()  # user code may print from several threads

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._through, "encoding", None) or "utf-8"

    def fileno(self) -> int:
        """The descriptor that child processes may write to; what they do is not remembered."""
        return super().fileno() if self._through is None else self._through.fileno()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        shown = with_users_files(text)
        if self._through is not None:
            self._through.write(encodable(shown, self._through))
        with self._lock:
            self._parts.append(shown[-CHARACTERS:])
            self._size += len(self._parts[-1])
            while self._size - len(self._parts[0]) >= CHARACTERS:
                self._size -= len(self._parts.popleft())
        return len(text)

    def flush(self) -> None:
        if self._through is not None:
            self._through.flush()

    def text(self) -> str:
        """What was written, the last `CHARACTERS` of it."""
        with self._lock:
            return readable("".join(self._parts)[-CHARACTERS:])


def last_lines(text: str, count: int = LINES) -> str:
    """The last lines of a text."""
    return "\n".join(text.splitlines()[-count:])


def clip(text: str, characters: int) -> str:
    """A text, without its middle if it is longer than so many characters."""
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


@contextlib.contextmanager
def captured_output() -> Iterator[OutputCapture]:
    """Capture what Python code prints, on either stream."""
    capture = OutputCapture(sys.stdout)  # type: ignore[arg-type]
    with contextlib.redirect_stdout(capture), contextlib.redirect_stderr(capture):
        yield capture
