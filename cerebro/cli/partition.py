"""Cut pre-processed data into partitions by subject. Writes definition files (one directory per
line) and manifest.json into a folder, and prints what is in each partition. No subject is on two
sides, and partitions are even in usable windows: ten-second windows whose label is known, of a
subject who is awake and wears the device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from cerebro.cli import output
from cerebro.data import Partition, Partitioning, partition_subjects
from cerebro.formatting import count

SUMMARY = "cut pre-processed data into partitions by subject"

SUBJECTS_A_LINE = 25
WINDOWS_AN_HOUR = 360
HEAD = ("file", "subjects", "windows", "sitting", "not sitting", "share", "to the mean")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("source", metavar="DATA", help="folder with one directory per subject")
    add(
        "--partitions",
        type=int,
        required=True,
        metavar="N",
        help="number of training partitions, and of validation partitions: at least one per worker",
    )
    add(
        "--valid-fraction",
        type=float,
        metavar="F",
        help="share of the usable windows to validate with, such as 0.2; not needed with --folds, "
        "or if --assign gives every subject a split",
    )
    add(
        "--test-fraction",
        type=float,
        default=0.0,
        metavar="T",
        help="share of the usable windows to keep for a test (default: none)",
    )
    add(
        "--assign",
        metavar="CSV",
        help="table subject,split,group: fixed splits (train, valid, test), and groups "
        "of subjects that stay together",
    )
    add(
        "--folds",
        type=int,
        default=1,
        metavar="K",
        help="make K folds for cross-validation, each with its train and valid partitions",
    )
    add(
        "--replicas",
        type=int,
        default=1,
        metavar="R",
        help="how many workers hold each partition, for the availability matrices (default: 1)",
    )
    add("--seed", type=int, default=0, metavar="S", help="which random split (default: 0)")
    add("--out", required=True, metavar="DIR", help="folder to write into")
    add(
        "--force",
        action="store_true",
        help="replace the partitions in DIR; other files, and changed ones, are never overwritten",
    )
    add(
        "--skip-unusable",
        action="store_true",
        help="leave out subjects with a damaged file or without usable windows, with a warning",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the partitions and print them."""
    partitioning = partition_subjects(
        arguments.source,
        arguments.out,
        partitions=arguments.partitions,
        valid_fraction=arguments.valid_fraction,
        test_fraction=arguments.test_fraction,
        assign=arguments.assign,
        folds=arguments.folds,
        replicas=arguments.replicas,
        seed=arguments.seed,
        force=arguments.force,
        skip_unusable=arguments.skip_unusable,
        progress=_say_progress if sys.stderr.isatty() else None,
    )
    output.say("\n".join(lines(partitioning)))
    return 0


def _say_progress(done: int, subjects: int) -> None:
    if done % SUBJECTS_A_LINE == 0 or done == subjects:
        output.remark(f"read {done} of {count(subjects, 'subject')}")


def lines(partitioning: Partitioning) -> Iterator[str]:
    """Format the partitions as a table for the terminal, followed by notes."""
    first = partitioning.folds[0]
    once = [*first.train.partitions, *first.valid.partitions]
    if partitioning.test is not None:
        once.append(partitioning.test)
    subjects = sum(len(partition.subjects) for partition in once)
    windows = sum(partition.windows for partition in once)
    yield (
        f"{count(subjects, 'subject')} in {partitioning.source}: {windows:,} usable windows "
        f"({windows / WINDOWS_AN_HOUR:,.1f} h)"
    )
    yield ""
    rows: list[tuple[str, ...]] = [HEAD]
    for fold in partitioning.folds:
        for side in (fold.train, fold.valid):
            mean = side.windows / max(1, len(side.partitions))
            for partition in side.partitions:
                beside = f"{round(100 * (partition.windows / mean - 1), 1) + 0.0:+.1f} %"
                rows.append(_row(partition, windows, beside))
    if partitioning.test is not None:
        rows.append(_row(partitioning.test, windows, ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([f"{row[0]:<{widths[0]}}", *cells]).rstrip()
    yield ""
    for note in partitioning.notes:
        yield f"Note: {note}"
    if partitioning.skipped:
        yield f"Note: {count(len(partitioning.skipped), 'subject')} left out, see manifest.json."
    yield f"Written to {partitioning.folder}"


def _row(partition: Partition, windows: int, beside: str) -> tuple[str, ...]:
    return (
        partition.file,
        str(len(partition.subjects)),
        f"{partition.windows:,}",
        f"{partition.sitting:,}",
        f"{partition.not_sitting:,}",
        f"{100 * partition.windows / windows:.1f} %",
        beside,
    )
