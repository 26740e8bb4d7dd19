"""Whether a run's folder is itself, was moved or renamed, or is a copy of another one.

The journal says at which path each driver had the folder. If that path exists, is another folder,
and holds this run's id, this folder is a copy of that one; else it is the run's own, wherever it
lies now. Both paths are looked at from one host and at one time: device numbers differ between NFS
clients, and inode numbers are used again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from cerebro.errors import StorageError
from cerebro.journal.journal import committed_at, first_records
from cerebro.journal.paths import RunPaths, same_folder
from cerebro.storage import temporary_beside


def original_of(
    paths: RunPaths, folder: str | None = None, *, look_only: bool = False
) -> Path | None:
    """Find the folder that a run's folder is a copy of; None where it is none.

    `folder` is where the run was driven (None: as the journal says). With `look_only` nothing is
    written to find out. Raises `StorageError` and `JournalDamaged` where the run's own journal
    cannot be read.
    """
    openings = first_records(paths)
    if folder is None:
        known = [opening.folder for opening in openings if opening.folder is not None]
        folder = known[-1] if known else committed_at(paths)
    if not openings or folder is None or not os.path.isabs(folder) or not os.path.isdir(folder):
        return None
    if same_folder(paths.root, folder) or (not look_only and _shows(paths.root, folder)):
        return None
    try:
        others = first_records(RunPaths(folder))
    except StorageError:
        return None
    return Path(folder) if openings[-1].run in {other.run for other in others} else None


def _shows(one: str | Path, other: str | Path) -> bool:
    """Whether a name that is made in `one` is in `other`: a share may be mounted twice."""
    trace = temporary_beside(Path(one) / "here")
    try:
        with open(trace, "xb"):
            pass
        return os.path.lexists(Path(other) / trace.name)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            trace.unlink()


def is_copied(paths: RunPaths, holder: dict[str, Any], *, look_only: bool = False) -> bool:
    """Tell whether what `driver.json` says came with a copy: it is of the original's driver.

    Raises as `original_of`.
    """
    folder = holder.get("folder")
    at = folder if isinstance(folder, str) else None
    return original_of(paths, at, look_only=look_only) is not None
