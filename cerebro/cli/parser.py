"""Argument parsers as all commands have them."""

from __future__ import annotations

import argparse
from typing import NoReturn

from cerebro.formatting import printable

USAGE_ERROR = 2
"""The exit status for a request that cannot be carried out."""


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, printable(f"{self.prog}: {message}: see --help\n"))
