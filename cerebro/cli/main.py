"""`cerebro`: find the subcommand and run it; report an error in one sentence.

A subcommand is a module with `SUMMARY` (a line for `cerebro --help`), `configure`, which adds its
arguments to a parser, and `run`, which takes what was parsed and returns the exit status.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

from cerebro.cli import output, partition, report, status, workers
from cerebro.cli.parser import USAGE_ERROR, Parser
from cerebro.errors import CerebroError
from cerebro.version import __version__

SUBCOMMANDS: dict[str, ModuleType] = {
    "partition": partition,
    "status": status,
    "workers": workers,
    "report": report,
}


def parser() -> Parser:
    """Build the command line's parser."""
    parse = Parser(prog="cerebro", description="Prepare, watch and report model selection runs.")
    parse.add_argument("--version", action="version", version=f"cerebro-dl {__version__}")
    subparsers = parse.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name, module in SUBCOMMANDS.items():
        own = subparsers.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        module.configure(own)
        own.set_defaults(run=module.run)
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except CerebroError as error:
        output.remark(f"cerebro: {error}")
        return USAGE_ERROR
    except BrokenPipeError:
        # The reader of the output has seen enough (`cerebro status RUN | head`).
        sys.stderr.close()
        return 0
