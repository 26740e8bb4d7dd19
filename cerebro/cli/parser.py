"""What the command lines of this library have in common."""

from __future__ import annotations

import argparse
from typing import NoReturn

USAGE_ERROR = 2
"""The exit status of a command that was asked for what cannot be."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, without the usage around it."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message}: see --help\n")
