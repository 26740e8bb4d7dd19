"""Log lines of a worker: a terminal only shows them, and one cannot look like two."""

from __future__ import annotations

import logging
import sys

from cerebro.formatting import printable


class PrintableFormatter(logging.Formatter):
    """Escapes control characters, which requests and run folders may hold; further lines of a
    record, as those of a traceback, are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's text."""
        return printable(super().format(record)).replace("\n", "\n    ")


def log_to_stderr(level: int | str, layout: str) -> None:
    """Have all loggers of this process write to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter(layout))
    logging.basicConfig(level=level, handlers=[handler])
