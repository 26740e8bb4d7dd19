"""What a process holds at this moment, read from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Gauges:
    """Resident memory in KiB, the others are numbers; `files` counts sockets too."""

    resident: float
    files: float
    sockets: float
    threads: float
    children: float


NAMES = tuple(field.name for field in fields(Gauges))


def read_gauges(pid: int) -> Gauges:
    """What process `pid` holds. Raises `FileNotFoundError` if it has ended."""
    status = dict(
        line.split(":", 1) for line in (PROC / str(pid) / "status").read_text().splitlines()
    )
    files = _open_files(pid)
    return Gauges(
        resident=int(status["VmRSS"].split()[0]),
        files=len(files),
        sockets=sum(target.startswith("socket:") for target in files),
        threads=int(status["Threads"]),
        children=len(children(pid)),
    )


def children(pid: int) -> list[int]:
    """The child processes of `pid`."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            # Others end at any moment, and their files with them.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The name, in parentheses, may hold anything.
                fields_after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields_after_name[1]) == pid:
                    found.append(int(entry.name))
    return sorted(found)


def _open_files(pid: int) -> list[str]:
    targets = []
    for entry in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(entry))
    return targets


def median(samples: Sequence[Gauges]) -> Gauges:
    """The median of each gauge by itself."""
    return Gauges(*(statistics.median(getattr(s, name) for s in samples) for name in NAMES))


def growth(before: float, after: float) -> float:
    """Growth in per cent; what grows from nothing has grown by 100."""
    if before == 0:
        return 100.0 if after > 0 else 0.0
    return 100.0 * (after - before) / before


def rows(name: str, before: Gauges, after: Gauges) -> list[tuple[str, str, float, float, float]]:
    """(process, gauge, before, after, growth) of every gauge of one process."""
    return [
        (name, gauge, old, new, growth(old, new))
        for gauge in NAMES
        for old, new in [(getattr(before, gauge), getattr(after, gauge))]
    ]
