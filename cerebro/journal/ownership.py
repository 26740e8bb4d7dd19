"""Who drives a run now: `driver.json`, renewed as long as the driver lives.

No lock is involved: a lock on NFS can outlive the host that holds it. The holder changes a
counter every few seconds. Another driver takes over at once if the holder's process is gone on
this very host, or has let go, and is refused at once if it lives there; a process that is stopped
(SIGSTOP) or on another host is taken over from when its counter has stood still for a minute of
the other driver's clock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cerebro.errors import RunHeld, StorageError, Superseded
from cerebro.journal.identity import is_copied
from cerebro.journal.paths import RunPaths
from cerebro.storage import FolderIdentity, storage_errors, write_file

logger = logging.getLogger(__name__)

RENEW_SECONDS = 5.0
STALE_SECONDS = 60.0
SILENT_SECONDS = 20.0
"""Without a sign for so long, nobody takes the driver of another host for alive."""


def process_start(pid: int) -> str | None:
    """When a process of this host began, as text to compare; None if it is not there."""
    fields = _stat(pid)
    if fields is None:
        return _ps(pid, "lstart") or None
    # One that has ended, and nobody has waited for, drives nothing.
    return fields[19] if fields and fields[0] != "Z" else None


def is_stopped(pid: int) -> bool:
    """Whether a process of this host is stopped (SIGSTOP, Ctrl-Z)."""
    fields = _stat(pid)
    state = _ps(pid, "state") if fields is None else "".join(fields[:1])
    return state.startswith("T")


def _stat(pid: int) -> list[str] | None:
    """What Linux says of a process, from its state on; None elsewhere, empty if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return [] if platform.system() == "Linux" else None


def _ps(pid: int, what: str) -> str:
    command = ["ps", "-o", f"{what}=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()


def here() -> str:
    """What process ids count in: this host since its start, and this container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def read_holder(paths: RunPaths) -> dict[str, Any] | None:
    """What `driver.json` says; None if it is not there. Raises `StorageError`."""
    try:
        with storage_errors("read", paths.driver):
            holder = json.loads(paths.driver.read_text())
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except ValueError:
        return None
    return holder if isinstance(holder, dict) else None


@dataclass(frozen=True)
class Sign:
    """Whether a run is driven now, as far as can be told from here.

    `who` is the process that drove it last, `alive` None where nobody here can tell, `how` what
    is known of it, for people.
    """

    who: str
    alive: bool | None
    how: str


def sign_of_life(paths: RunPaths) -> Sign:
    """Look at `driver.json`, and at the process if it is one of this host. Changes nothing.

    The driver of another host is judged by the time of the file, so clocks that differ by more
    than a few seconds deceive. Raises `StorageError`.
    """
    holder = read_holder(paths)
    if holder is None:
        return Sign("nobody", None, "driver.json is not there, or cannot be understood")
    if is_copied(paths, holder, look_only=True):
        who = f"process {holder.get('pid')} on {holder.get('host')}"
        return Sign(who, False, "drove the original, nobody drives this copy")
    who = f"process {holder.get('pid')} on {holder.get('host')}"
    if holder.get("released"):
        return Sign(who, False, "has let the run go")
    if holder.get("here") == here():
        pid = int(holder.get("pid", 0))
        start = process_start(pid)
        if start is None or start != holder.get("process_start"):
            return Sign(who, False, "is gone: it was killed, or crashed")
        if is_stopped(pid):
            return Sign(who, None, "is stopped (SIGSTOP or Ctrl-Z)")
        return Sign(who, True, "is alive")
    with storage_errors("read", paths.driver):
        silence = max(0.0, time.time() - paths.driver.stat().st_mtime)
    if silence < SILENT_SECONDS:
        return Sign(who, True, f"gave a sign of life {silence:.0f} s ago")
    return Sign(who, None, f"has given no sign of life for {silence:.0f} s, and runs elsewhere")


def check_free(
    paths: RunPaths,
    *,
    say: Callable[[str], None],
    stale_seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] | None = None,
) -> None:
    """Return when nobody drives the run; raises `RunHeld` if somebody does.

    `stale_seconds` is how long a counter must stand still (None: `STALE_SECONDS`).
    """
    stale_seconds = STALE_SECONDS if stale_seconds is None else stale_seconds
    holder = read_holder(paths)
    if holder is None or holder.get("released") or is_copied(paths, holder):
        return
    who = f"process {holder.get('pid')} on {holder.get('host')}"
    held = RunHeld(
        f"the run in {paths.root} is driven by {who}: wait until it ends, or end that process"
    )
    if holder.get("here") == here():
        pid = int(holder.get("pid", 0))
        start = process_start(pid)
        if start is None or start != holder.get("process_start"):
            return
        if not is_stopped(pid):
            raise held
    say(
        f"{paths.root} was last driven by {who}: waiting for a sign of it, at most "
        f"{stale_seconds:.0f} s"
    )
    pause = wait or threading.Event().wait
    deadline = clock() + stale_seconds
    while (left := deadline - clock()) > 0:
        pause(min(left, RENEW_SECONDS))
        now = read_holder(paths)
        if now is not None and now.get("released"):
            return
        if now is not None and now.get("counter") != holder.get("counter"):
            raise held


def successor(paths: RunPaths, reach: Callable[[], int]) -> str | None:
    """Name the driver of a generation beyond `reach`, which has taken the run up; None for none.

    Raises `StorageError`. Its claim shows it first, where storage is local. An NFS client that has
    looked for a name before may not see it for a while, but does see the new content of a file
    that it knows.
    """
    with storage_errors("read", paths.journal):
        claimed = max(paths.generations(), default=0)
    present = read_holder(paths) or {}
    # What is compared with comes last: this driver may claim another generation meanwhile.
    own = reach()
    if present.get("generation", 0) > own and not is_copied(paths, present):
        return f"process {present.get('pid')} on {present.get('host')}"
    return f"the driver of generation {claimed}" if claimed > own else None


def replaced(paths: RunPaths, reach: Callable[[], int]) -> bool:
    """Tell whether a driver of a generation beyond `reach` has taken the run up.

    Raises `StorageError`.
    """
    return successor(paths, reach) is not None


class Ownership:
    """Renews `driver.json` until it is released, or another driver has taken the run up.

    `reach` gives the last generation that this driver has claimed. Raises `RunHeld` if the run is
    another's already.
    """

    def __init__(self, paths: RunPaths, reach: Callable[[], int]) -> None:
        self._paths = paths
        self._reach = reach
        self._tell: Callable[[str], None] = logger.debug
        with storage_errors("read", paths.root):
            self._folder = FolderIdentity.of(paths.root)
        self._entry: dict[str, Any] = {
            "host": socket.gethostname(),
            "here": here(),
            "pid": os.getpid(),
            "process_start": process_start(os.getpid()),
            "folder": str(paths.root.absolute()),
            "generation": reach(),
            "counter": 0,
            "released": False,
        }
        self._stop = threading.Event()
        if self.replaced():
            raise RunHeld(f"another driver has just taken up the run in {paths.root}")
        self._write()
        self._thread = threading.Thread(target=self._renew, name="holder", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise `Superseded`, which names the driver, if another one has taken the run up.

        So it does where the run's folder was moved away while this driver had it, and another one
        is in its place. Raises `StorageError` where nobody can tell.
        """
        if self._moved_away():
            raise Superseded(f"{self._moved()}: resume it where it lies now")
        other = successor(self._paths, self._reach)
        if other is not None:
            raise Superseded(
                f"another driver has taken up the run in {self._paths.root}: {other}; what this "
                "one did since does not count"
            )

    def tell(self, replaced: Callable[[str], None]) -> None:
        """Have `replaced` called, with a reason, when another driver has taken the run up."""
        self._tell = replaced

    def release(self) -> None:
        """Let the run go, unless another driver has taken it up."""
        self._stop.set()
        self._thread.join(RENEW_SECONDS)
        self._entry["released"] = True
        with contextlib.suppress(StorageError):
            if not self.replaced():
                self._write()

    def _renew(self) -> None:
        trouble = ""
        while not self._stop.wait(RENEW_SECONDS):
            try:
                if self.replaced():
                    # Again and again: at first there may be nobody yet to be told.
                    other = f"another driver has taken up the run in {self._paths.root}"
                    self._tell(self._moved() if self._moved_away() else other)
                    continue
                self._entry["counter"] += 1
                self._entry["generation"] = self._reach()
                self._write()
                trouble = ""
            except StorageError as error:
                if str(error) != trouble:
                    trouble = str(error)
                    logger.warning("%s: it is tried again", error)

    def replaced(self) -> bool:
        """Tell whether this driver has the run's folder no more. Raises `StorageError`."""
        return self._moved_away() or replaced(self._paths, self._reach)

    def _moved_away(self) -> bool:
        with storage_errors("read", self._paths.root):
            return self._folder.is_another(FolderIdentity.of(self._paths.root))

    def _moved(self) -> str:
        root = self._paths.root
        return f"the run in {root} was moved away while it was driven, and another folder is there"

    def _write(self) -> None:
        write_file(self._paths.driver, json.dumps(self._entry).encode())
