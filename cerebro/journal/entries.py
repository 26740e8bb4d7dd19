"""What lies in a run's folder under names of this library's.

A folder may have been sent by somebody else, or others may be able to write there. So a driver
looks at all of it before it writes or deletes anything there. Files of the user's own, under other
names, are left alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cerebro.journal.paths import RunPaths
from cerebro.storage import check_kind, storage_errors


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


def _walk(folder: str | Path) -> Iterator[tuple[str, os.stat_result]]:
    """A folder and all below it; nothing if it is not there. What goes meanwhile is left out."""
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
                yield from _walk(entry.path)
            else:
                yield entry.path, entry.stat(follow_symlinks=False)
