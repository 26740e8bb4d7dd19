"""CSV files that take no other file's place."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path

import pandas as pd


def check_new(paths: Iterable[Path]) -> None:
    """`FileExistsError` that names the first path at which something is."""
    for path in paths:
        if os.path.lexists(path):
            raise FileExistsError(f"{path} exists already: name another folder with --out")


def write_new(table: pd.DataFrame, path: Path) -> None:
    """Write a table to a file that does not exist; it appears whole, or not at all.

    Makes the folder if it is missing. What is not a number becomes an empty cell.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        with open(temporary, "x", encoding="utf-8", newline="") as file:
            table.to_csv(file, index=False, lineterminator="\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a renaming, it replaces nothing
        except FileExistsError:
            check_new([path])
            raise
    finally:
        temporary.unlink(missing_ok=True)
