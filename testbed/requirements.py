"""What a benchmark needs of its machine: refused in one sentence where it is not there.

Each function says what is missing, or nothing ("") if nothing is. A command asks them before it
starts anything, and hands the answers to `require`:

    require(cores(2), memory(4.0), disk(1.0, folder), packages("torch"))
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from cerebro.machine import available_threads

REFUSED = 2
"""The exit status of a command that cannot run here."""

GIB = 1 << 30
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def cores(least: int) -> str:
    """Processor cores that this process may use."""
    there = available_threads()
    return "" if there >= least else f"{least} cores are needed, and this process has {there}"


def memory(least_gib: float) -> str:
    """Memory, in GiB, that is available now: to the machine, and to this process's group."""
    there = _available_memory()
    if there is None or there >= least_gib * GIB:
        return ""
    return f"{least_gib:g} GiB of memory are needed, and {there / GIB:.1f} GiB are available"


def disk(least_gib: float, folder: str | os.PathLike[str] | None = None) -> str:
    """Free space, in GiB, below a folder that exists; without one where temporary files go."""
    try:
        where = os.fspath(folder) if folder is not None else tempfile.gettempdir()
        there = shutil.disk_usage(where).free
    except OSError as error:
        return f"no file can be written here ({error.strerror or error})"
    if there >= least_gib * GIB:
        return ""
    return f"{least_gib:g} GiB of disk are needed, and {where} has {there / GIB:.1f} GiB free"


def packages(*names: str) -> str:
    """Packages, by the names that they are imported by; none of them is imported here."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return f"{' and '.join(missing)} cannot be imported: pip install {' '.join(missing)}"


def linux() -> str:
    """The /proc file system, and what else only Linux has."""
    return "" if sys.platform == "linux" else "this reads /proc, and needs Linux"


def root() -> str:
    """The rights of the administrator."""
    return "" if os.geteuid() == 0 else "this needs root"


def descriptors(least: int) -> str:
    """Open files that this process may have; raises its limit as far as it may first."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < least and hard != soft:
        soft = least if hard == resource.RLIM_INFINITY else min(least, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= least:
        return ""
    return f"{least} open files are needed, and {soft} are allowed (ulimit -n)"


def require(*missing: str) -> None:
    """End the command with exit status `REFUSED` and one sentence if anything is missing."""
    sentences = [text for text in missing if text]
    if sentences:
        print(f"{Path(sys.argv[0]).name}: {'; '.join(sentences)}", file=sys.stderr)
        sys.exit(REFUSED)


def _available_memory() -> int | None:
    """Bytes; None where nobody says."""
    found = []
    if MEMINFO.exists():
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    limit = CGROUP / "memory.max"
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        used = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        # The cache of files counts as the group's, and is given up where memory is wanted.
        cached = int(used["inactive_file"])
        found.append(int(text) - int((CGROUP / "memory.current").read_text()) + cached)
    return min(found, default=None)
