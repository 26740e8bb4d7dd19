"""What lies in a run's folder under names of this library's.

A folder may have been sent by somebody else, or others may be able to write there. So a driver
looks at all of it before it writes or deletes anything there. Files of the user's own, under other
names, are left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from cerebro.errors import UnsafePath
from cerebro.journal.paths import GENERATION, RunPaths
from cerebro.storage import WRITTEN_ASIDE, check_kind, storage_errors

DEPTH_MAX = 8
"""How many folders lie in each other in what this library makes in a run's folder, and more."""

_PROBE = re.compile(rf"(driver|worker[0-9]+)-[0-9a-f]+(-again)?|{WRITTEN_ASIDE.pattern}")
_GENERATION_FILE = re.compile(rf"{GENERATION}\.jsonl|{WRITTEN_ASIDE.pattern}")
_GONE_ON_NFS = ".nfs"
"""How names start that an NFS client gives to files which are deleted while they are open."""


def check_entries(paths: RunPaths) -> None:
    """Raise `UnsafePath`, which names it, where a run's folder holds a link, a pipe or a device.

    Raises `StorageError` if it cannot be read.
    """
    with storage_errors("read", paths.root):
        for file in _files(paths):
            with contextlib.suppress(FileNotFoundError):
                check_kind(file, stat.S_IFREG)
        for folder in (*_loaded(paths), paths.logs, paths.probe, paths.tensorboard):
            for path, status in _walk(folder):
                if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                    check_kind(path, stat.S_IFREG)


def is_leftover(paths: RunPaths) -> bool:
    """Tell whether a folder is empty, or what a driver left that died before its run started.

    A folder of the user's own may have parts that are called like those of a run. Raises
    `OSError`.
    """
    names = {path.name for path in paths.root.iterdir()}
    if not names:
        return True
    claimed = bool(paths.generations())
    results = (paths.history, paths.models_table, paths.units, paths.report, paths.tensorboard)
    once_claimed = (paths.driver, paths.workers, paths.provenance, paths.code)
    foreign = {path.name for path in (*results, *(() if claimed else once_claimed))}
    return (
        not names & foreign
        and paths.journal.is_dir()
        and _holds_only(paths.journal, _GENERATION_FILE)
        and _holds_only(paths.probe, _PROBE)
        and (claimed or not any(_names(paths.logs) + _names(paths.models)))
    )


def probes(paths: RunPaths) -> list[Path]:
    """Return the files with which storage was probed. Raises `UnsafePath` and `OSError`."""
    check_kind(paths.probe, stat.S_IFDIR)
    return [path for path in paths.probe.iterdir() if _PROBE.fullmatch(path.name)]


def _names(folder: Path) -> list[str]:
    """The names in a folder; none if it is not there, or a link, which is not looked through."""
    if os.path.islink(folder):
        return []
    try:
        return [name for name in os.listdir(folder) if not name.startswith(_GONE_ON_NFS)]
    except FileNotFoundError:
        return []


def _holds_only(folder: Path, pattern: re.Pattern[str]) -> bool:
    return all(pattern.fullmatch(name) for name in _names(folder))


def loaded(paths: RunPaths) -> list[str]:
    """Return all paths that a run is resumed from: its folder, journal, versions and code.

    Raises `UnsafePath` and `StorageError`.
    """
    with storage_errors("read", paths.root):
        below = [path for folder in _loaded(paths) for path, _ in _walk(folder)]
    return [str(paths.root), *below]


def _files(paths: RunPaths) -> tuple[Path, ...]:
    tables = paths.history, paths.models_table, paths.units
    return (paths.driver, paths.workers, paths.provenance, *tables, paths.report)


def _loaded(paths: RunPaths) -> tuple[Path, ...]:
    return paths.journal, paths.models, paths.code


def _walk(folder: str | Path, depth: int = 0) -> Iterator[tuple[str, os.stat_result]]:
    """A folder and all below it; nothing if it is not there. What goes meanwhile is left out."""
    if depth > DEPTH_MAX:
        raise UnsafePath(
            f"{folder} lies deeper than anything that a run holds: move it out of the run's folder"
        )
    try:
        status = os.lstat(folder)
        check_kind(folder, stat.S_IFDIR)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    yield str(folder), status
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, depth + 1)
            else:
                yield entry.path, entry.stat(follow_symlinks=False)
