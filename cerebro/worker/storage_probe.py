"""What this worker can do on shared storage with its own files and with those of others."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from cerebro import machine


def probe_storage(write: str, read: list[str]) -> dict[str, Any]:
    """Write a new file, and say which files of others cannot be read here.

    `write` is a name never used before; it is left for the others to read. `error` and `code` (as
    `EACCES`) say why it could not be written, `missing` names files that cannot be read,
    `forbidden` those that this user may not read or not write, and `barred` the first folder on the
    way to `write` that it may not enter. `uid` and `umask` are this process's.
    """
    wrote, code = "", ""
    try:
        with open(write, "x") as file:
            file.write(os.path.basename(write))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        wrote, code = error.strerror or str(error), errno.errorcode.get(error.errno or 0, "")
    missing = [path for path in read if not _is_seen(path)]
    forbidden = [path for path in read if not _may(path, "r") or not _may(path, "r+")]
    return {
        "error": wrote,
        "code": code,
        "missing": missing,
        "forbidden": forbidden,
        "barred": _barred(write),
        "uid": os.geteuid(),
        "umask": machine.umask(),
    }


def _is_seen(path: str) -> bool:
    """Whether a file of another process is there, as that process wrote it."""
    try:
        with open(path) as file:
            return file.read() == os.path.basename(path)
    except OSError:
        return False


def _may(path: str, mode: str) -> bool:
    """Whether this user may open a file so; one that is not there is closed to nobody."""
    try:
        with open(path, mode):
            return True
    except PermissionError:
        return False
    except OSError:
        return True


def _barred(path: str) -> str | None:
    """The first folder on the way to a path that this process may not enter."""
    for folder in reversed(Path(path).parents):
        try:
            os.stat(os.path.join(folder, "."))
        except PermissionError:
            return str(folder)
        except OSError:
            return None
    return None
