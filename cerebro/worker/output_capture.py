"""What user code prints while a unit runs: kept in bounds, and passed on."""

from __future__ import annotations

import codecs
import contextlib
import io
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

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
            # User code may have closed it. What is printed is kept all the same.
            with contextlib.suppress(OSError, ValueError):
                self._through.write(encodable(shown, self._through))
        with self._lock:
            self._parts.append(shown[-CHARACTERS:])
            self._size += len(self._parts[-1])
            while self._size - len(self._parts[0]) >= CHARACTERS:
                self._size -= len(self._parts.popleft())
        return len(text)

    def flush(self) -> None:
        if self._through is not None:
            with contextlib.suppress(OSError, ValueError):
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


class ProcessOutput(io.TextIOBase):
    """Standard output and error of a process that runs one unit after another.

    It is one object for all of them: what keeps it, as handlers of `logging` do, writes to the unit
    that runs at that time. It cannot be closed, and its `buffer` only for who has it.
    """

    def __init__(self, through: io.TextIOBase | None) -> None:
        self._through = through
        self._unit: OutputCapture | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[OutputCapture]:
        """Keep what is written while the block runs."""
        self._unit = capture = OutputCapture(self._through)
        try:
            yield capture
        finally:
            self._unit = None

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._now().encoding

    @property
    def buffer(self) -> io.BufferedIOBase:
        """A binary stream whose bytes are written here as UTF-8."""
        return _Bytes(self)

    def fileno(self) -> int:
        return self._now().fileno()

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        return self._now().write(text)

    def flush(self) -> None:
        self._now().flush()

    def close(self) -> None:
        """Do nothing: other units write here, too."""

    def _now(self) -> OutputCapture:
        return self._unit or OutputCapture(self._through)


class _Bytes(io.BufferedIOBase):
    """The bytes below a text stream."""

    def __init__(self, text: ProcessOutput) -> None:
        self._text = text
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        if self.closed:
            raise ValueError("write to closed file")
        data = bytes(content)
        self._text.write(self._decoder.decode(data))
        return len(data)


@contextlib.contextmanager
def captured_output() -> Iterator[OutputCapture]:
    """Capture what Python code prints, on either stream."""
    stream = sys.stdout
    if not isinstance(stream, ProcessOutput):
        stream = ProcessOutput(stream)  # type: ignore[arg-type]
    with (
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
        stream.kept() as capture,
    ):
        yield capture
