"""Write what a run did as one HTML file: learning curves, models, schedule, provenance. The run may
have ended, have been interrupted, or still be in progress.
"""

from __future__ import annotations

import argparse

from cerebro.cli import output, run_folder
from cerebro.results.result import load

SUMMARY = "write what a run did as one HTML file"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help=run_folder.HELP)
    parser.add_argument(
        "--out", metavar="FILE", help="file to write (default: report.html in the run's folder)"
    )
    parser.add_argument(
        "--methods", action="store_true", help="add a paragraph for a paper's methods section"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the report; print where it is, and notes for its reader. Raises a `CerebroError`."""
    result = load(run_folder.chosen_run(arguments.run_dir))
    output.say(result.report(arguments.out, methods=arguments.methods))
    for note in result.notes:
        output.remark(note)
    return 0
