"""`workers.json`: the workers of a run, read again during the run, so that new ones can join.

A JSON list. An entry is a worker's URL, or, where availability matrices are in use, an object
with `url` and the worker's rows of them:

    ["http://node1:7777", {"url": "http://node9:7777", "train": [1, 0, 1], "valid": [1, 1]}]

Entries are only ever added. A worker leaves by being stopped.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebro.driver import argument_checks
from cerebro.errors import CerebroError, InputError
from cerebro.formatting import shorten
from cerebro.hopper.units import Split
from cerebro.journal.run_plan import RunPlan
from cerebro.storage import read_bytes, write_file

Row = tuple[int, ...]


@dataclass(frozen=True)
class Listed:
    """An entry. Rows are None where storage is shared: every worker may read all partitions."""

    url: str
    train: Row | None = None
    valid: Row | None = None


def read_workers(path: Path, plan: RunPlan) -> tuple[list[Listed], list[str]]:
    """The entries of the file, and what is wrong with others.

    Raises `InputError` for a file of which nothing can be read, and `UnsafePath` for what is none.
    """
    entries, wrong = list[Listed](), list[str]()
    for value in _content(path):
        try:
            entries.append(_entry(path, value, plan))
        except InputError as error:
            wrong.append(str(error))
    return entries, wrong


def _content(path: Path) -> list[Any]:
    try:
        content = json.loads(read_bytes(path, inside=path.parent))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, list):
        raise InputError(f"{path} holds {shorten(content)}: it must be a list of URLs")
    return content


def _entry(path: Path, value: Any, plan: RunPlan) -> Listed:
    fields = {"url": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(fields.get("url"), str):
        raise InputError(f"{path}: {shorten(value)} is neither a URL nor an object with a url")
    try:
        (url,) = argument_checks.check_workers([fields["url"]])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if url in plan.workers:
        return Listed(url)
    rows: dict[Split, Row | None] = {}
    for split in Split:
        shared = plan.availability(split) is None
        length = len(plan.partitions(split))
        rows[split] = None if shared else _row(path, url, split.value, fields, length)
    return Listed(url, rows[Split.TRAIN], rows[Split.VALID])


def _row(path: Path, url: str, split: str, fields: dict[str, Any], length: int) -> Row:
    row = fields.get(split)
    if not isinstance(row, list) or len(row) != length or not all(v in (0, 1) for v in row):
        raise InputError(
            f"{path}: the entry of {url} has {split}={shorten(row)}: this run has availability "
            f"matrices, so say which of the {length} {split} partitions the worker may read, "
            f'as {{"url": "{url}", "{split}": [1, 0, ...]}}'
        )
    return tuple(int(v) for v in row)


def write_workers(path: Path, urls: Sequence[str], before: RunPlan | None) -> None:
    """Let the file start with `urls`, and keep what was added to it since the plan `before`.

    Raises `StorageError`, and `InputError` for a file of which nobody knows what was added.
    """
    added = _added(path, before) if before is not None and path.exists() else []
    write_file(path, json.dumps([*urls, *added], indent=2).encode(), inside=path.parent)


def _added(path: Path, before: RunPlan) -> list[Any]:
    entries = _content(path)
    url = [e.get("url") if isinstance(e, dict) else e for e in entries]
    return [e for e, u in zip(entries, url, strict=True) if u not in before.workers]


class Watch:
    """Reads the file again, every so many seconds, on a thread of its own."""

    def __init__(
        self,
        path: Path,
        plan: RunPlan,
        seconds: float,
        tell: Callable[[list[Listed]], None],
        say: Callable[[str], None],
    ) -> None:
        self._path = path
        self._plan = plan
        self._seconds = seconds
        self._tell = tell
        self._say = say
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="workers.json", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._closing.set()
        self._thread.join(1.0)  # a file system that hangs must not hold up the end

    def _serve(self) -> None:
        told: list[Listed] = []
        troubles: list[str] = []
        while True:
            listed, wrong = told, list[str]()
            try:
                listed, wrong = read_workers(self._path, self._plan)
            except CerebroError as error:
                wrong = [str(error)]
            if listed != told:
                told = listed
                self._tell(listed)
            for trouble in wrong:
                if trouble not in troubles:
                    self._say(f"{trouble}; it is read again in {self._seconds:.0f} s")
            troubles = wrong
            if self._closing.wait(self._seconds):
                return
