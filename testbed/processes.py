"""Which processes are there, and when they are gone (Linux)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


def with_environment(entry: str) -> list[int]:
    """The processes that were started with `entry`, such as `NAME=value`, in their environment."""
    wanted = entry.encode()
    found = []
    for folder in PROC.iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            # Others end at any moment, and their files with them.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def wait_gone(pids: Iterable[int], seconds: float) -> list[int]:
    """Wait until processes have ended, `seconds` at most. Returns those that have not."""
    deadline = time.monotonic() + seconds
    left = []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            wait = max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], wait)[0]:
                left.append(pid)
        finally:
            os.close(descriptor)
    return left


def kill(pids: Iterable[int]) -> None:
    """Kill processes; those that have ended already are fine."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
