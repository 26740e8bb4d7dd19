"""CPU time of processes, by groups, as time goes on (Linux)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process, with all its threads, has used; 0 if it has ended."""
    try:
        # The command's name, in parentheses, may hold blanks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


class CpuTimes:
    """Samples of the CPU seconds of groups of processes, by `time.monotonic()`."""

    def __init__(self, groups: Mapping[str, Iterable[int]]) -> None:
        self._groups = {name: list(pids) for name, pids in groups.items()}
        self._samples: list[tuple[float, dict[str, float]]] = []

    def sample(self) -> None:
        """Read them all, now."""
        used = {name: sum(map(cpu_seconds, pids)) for name, pids in self._groups.items()}
        self._samples.append((time.monotonic(), used))

    def cores(self, begin: float, end: float) -> dict[str, float]:
        """CPU seconds a second between the outermost samples of a span of time.

        Raises `ValueError` if fewer than two samples lie in it.
        """
        inside = [sample for sample in self._samples if begin <= sample[0] <= end]
        if len(inside) < 2:
            raise ValueError(f"{len(inside)} samples of CPU time in {end - begin:.1f} s")
        (t0, first), (t1, last) = inside[0], inside[-1]
        return {name: (last[name] - first[name]) / (t1 - t0) for name in first}


def children_of(pids: Iterable[int]) -> list[int]:
    """The child processes of some processes, found in one pass."""
    parents = set(pids)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # Others end at any moment.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) in parents:
                    found.append(int(entry.name))
    return found
