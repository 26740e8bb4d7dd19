"""What this worker can do on shared storage with its own files and with those of others."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from cerebro import machine
from cerebro.errors import UnsafePath
from cerebro.storage import open_file, read_bytes


def probe_storage(write: str, read: list[str]) -> dict[str, Any]:
    """Write a new file, and say which files of others cannot be read here.

    `write` is a name never used before; it is left for the others to read. `error` and `code` (as
    `EACCES`) say why it could not be written, `missing` names files that cannot be read,
    `forbidden` those that this user may not read or not write, and `barred` the first folder on the
    way to `write` that it may not enter. `uid` and `umask` are this process's.
    """
    wrote, code = "", ""
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open_file(write, flags, inside=_run_of(write)) as file:
            file.write(os.path.basename(write).encode())
            file.flush()
            os.fsync(file.fileno())
    except UnsafePath as error:
        wrote = str(error)
    except OSError as error:
        wrote, code = error.strerror or str(error), errno.errorcode.get(error.errno or 0, "")
    missing = [path for path in read if not _is_seen(path)]
    forbidden = [path for path in read if not _may(path, os.O_RDONLY) or not _may(path, os.O_RDWR)]
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
        return read_bytes(path, inside=_run_of(path)) == os.path.basename(path).encode()
    except (OSError, UnsafePath):
        return False


def _may(path: str, flags: int) -> bool:
    """Whether this user may open a file so; one that is not there is closed to nobody."""
    try:
        with open_file(path, flags, inside=_run_of(path)):
            return True
    except PermissionError:
        return False
    except (OSError, UnsafePath):
        return True


def _run_of(probe: str) -> str:
    """The folder of the run in which storage is probed, in a folder of its own."""
    return os.path.dirname(os.path.dirname(probe))


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
