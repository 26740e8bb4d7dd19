"""What this machine has, found out without loading TensorFlow."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib.metadata
import json
import os
import platform
import socket
import stat
import subprocess
import sys
from typing import Any

from cerebro.protocol.messages import PROTOCOL
from cerebro.version import __version__

PROBE_SECONDS = 120

M_ARENA_MAX = -8
"""glibc's name for the number of heaps, in malloc.h."""


def python_command(code: str) -> list[str]:
    """Return the command that runs Python code in a process of its own.

    Such a process looks for modules in the working folder first. Where everybody may write, as in
    `/tmp`, anybody may have put some there: then it looks there only if this process does, too.
    """
    here = os.path.realpath(os.curdir)
    looks_here = any(os.path.realpath(path or os.curdir) == here for path in sys.path)
    if not looks_here and _is_open_to_all(here):
        code = f"import sys; sys.path[:] = filter(None, sys.path); {code}"
    return [sys.executable, "-c", code]


def _is_open_to_all(folder: str) -> bool:
    try:
        return bool(os.stat(folder).st_mode & stat.S_IWOTH)
    except OSError:
        return False


def package_version(*names: str) -> str | None:
    """The version of the first of these distributions that is installed."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def tensorflow_version() -> str | None:
    """TensorFlow's version, under any of the names that it is distributed by."""
    return package_version(
        "tensorflow", "tensorflow-cpu", "tensorflow-macos", "tensorflow-intel", "tf-nightly"
    )


def versions() -> dict[str, Any]:
    """What driver and workers must have in common."""
    return {
        "cerebro": __version__,
        "protocol": PROTOCOL,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "tensorflow": tensorflow_version(),
        "keras": package_version("keras"),
        "numpy": package_version("numpy"),
    }


def host() -> dict[str, Any]:
    """This host and process, for people."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def umask() -> int | None:
    """Which permissions are withheld from what this process makes; None where nobody tells.

    Only Linux does. Elsewhere it can only be read by changing it for a moment, for all threads.
    """
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except (OSError, ValueError, IndexError):
        pass
    return None


INSIDE_EXECUTOR = "CEREBRO_EXECUTOR"
"""Set in the environment of executors, and so of what user code starts there."""


def bound_heap() -> None:
    """Keep the memory of a process with many short-lived threads together.

    glibc gives threads heaps of their own (arenas), eight per core, which fragment one by one. A
    daemon needs no speed there. Elsewhere than with glibc nothing is changed.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def inside_executor() -> bool:
    """Whether this process trains for a search, and must not start one."""
    return INSIDE_EXECUTOR in os.environ


def available_threads() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident_bytes(pid: int) -> int | None:
    """The memory of a process of this host that is not swapped out; None if it cannot be told."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        pass
    try:
        command = ["ps", "-o", "rss=", "-p", str(pid)]
        return int(subprocess.run(command, capture_output=True, timeout=5).stdout) * 1024
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def has_nvidia_gpu() -> bool:
    """Whether the operating system shows an NVIDIA device."""
    return bool(glob.glob("/dev/nvidia[0-9]*"))


def tensorflow_devices(environment: dict[str, str]) -> list[str]:
    """The GPUs that TensorFlow can use, asked of a process of its own; empty if it sees none."""
    code = (
        "import json; import tensorflow as tf\n"
        "print(json.dumps([tf.config.experimental.get_device_details(d).get('device_name', d.name)"
        " for d in tf.config.list_physical_devices('GPU')]))"
    )
    try:
        done = subprocess.run(
            python_command(code),
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env={**os.environ, **environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
            check=True,
        )
        return list(json.loads(done.stdout.splitlines()[-1]))
    except (subprocess.SubprocessError, ValueError, IndexError):
        return []
