"""What commands print: everything passes here, so that a terminal only shows it."""

from __future__ import annotations

import sys

from cerebro.formatting import for_stream


def say(text: str) -> None:
    """Print a text on standard output."""
    print(for_stream(text, sys.stdout))


def remark(text: str) -> None:
    """Print on standard error what is not the command's result."""
    print(for_stream(text, sys.stderr), file=sys.stderr)
