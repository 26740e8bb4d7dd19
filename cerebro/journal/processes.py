"""What this host tells about a process: whether it is there, since when, and whether it is stopped.

A process of another user may be hidden (`hidepid` of /proc), /proc may be missing, or be that of
another container. Then only `kill(pid, 0)` tells whether there is one of this number, and nothing
tells whether it is the one that was meant.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess

PS_SECONDS = 10.0
PID_MAX = 2**31 - 1
"""The largest number that a process can have anywhere."""


def here() -> str:
    """What process ids count in: this host since its start, and this container."""
    return " ".join([socket.gethostname(), *_kernel()])


def process_start(pid: int) -> str | None:
    """When a process of this host started, as text to compare.

    None if it is not there. Empty if there may be one, and nothing tells when it started.
    """
    fields = _stat(pid)
    if fields is None:
        state, began = _ps(pid, "state"), _ps(pid, "lstart")
    else:
        state, began = (fields[0], fields[19]) if len(fields) > 19 else ("", "")
    # One that has ended, and nobody has waited for, drives nothing.
    if state.startswith("Z"):
        return None
    return began if began or _may_be_there(pid) else None


def is_stopped(pid: int) -> bool:
    """Whether a process of this host is stopped (SIGSTOP, Ctrl-Z)."""
    fields = _stat(pid)
    state = _ps(pid, "state") if fields is None else "".join(fields[:1])
    return state.startswith("T")


def tells_others_apart(began: str) -> bool:
    """Whether a process with another start is another process.

    Linux counts ticks since the host's start. Elsewhere the text is a date, which `ps` writes by
    the locale and time zone of whoever asks.
    """
    return began.isdigit()


def _kernel() -> list[str]:
    """This host's start, and this container; empty where Linux does not tell both."""
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return [boot, os.readlink("/proc/self/ns/pid")]
    return []


def _stat(pid: int) -> list[str] | None:
    """What Linux says of a process, from its state on; None elsewhere, empty if it says nothing."""
    if platform.system() != "Linux":
        return None
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return []  # this /proc counts the processes of another container
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _ps(pid: int, what: str) -> str:
    """What `ps` says of a process; empty if it says nothing, or does not work here."""
    command = ["ps", "-o", f"{what}=", "-p", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PS_SECONDS)
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return done.stdout.strip()


def _may_be_there(pid: int) -> bool:
    """Whether there is a process of this number, or nobody can tell: signal 0 reaches it, or may
    not.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        # Of a container that is not known, the number may mean a process of another one.
        return platform.system() == "Linux" and not _kernel()
    except OSError:
        return True
    return True
