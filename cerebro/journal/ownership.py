"""Who drives a run now: `driver.json`, renewed as long as the driver lives.

No lock is involved: a lock on NFS can outlive the host that holds it. The holder changes a
counter every few seconds. Another driver takes over at once if the holder's process is gone on
this very host, or has let go, and is refused at once if it lives there, unless it is to wait. A
process that is stopped (SIGSTOP), on another host, or cannot be looked at (another user's) is taken
over from when its counter has stood still for a minute of the other driver's clock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cerebro.errors import RunHeld, StorageError, Superseded
from cerebro.formatting import duration, shorten
from cerebro.journal.identity import is_copied
from cerebro.journal.paths import RunPaths
from cerebro.journal.processes import (
    PID_MAX,
    here,
    is_stopped,
    process_start,
    tells_others_apart,
)
from cerebro.storage import FolderIdentity, read_bytes, storage_errors, write_file

logger = logging.getLogger(__name__)

RENEW_SECONDS = 5.0
STALE_SECONDS = 60.0
SILENT_SECONDS = 20.0
"""Without a sign for so long, nobody takes the driver of another host for alive."""
HOST_MAX = 255
"""The characters of the longest name of a host."""
SAY_SECONDS = 60.0
SAY_OFTEN = 20
"""While a driver is waited for, that is said so often, or every minute if that is less."""


def read_holder(paths: RunPaths) -> dict[str, Any] | None:
    """What `driver.json` says: None if it is not there, nothing if it cannot be understood.

    Raises `StorageError`.
    """
    try:
        with storage_errors("read", paths.driver):
            holder = json.loads(read_bytes(paths.driver, inside=paths.root))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_of_original(paths: RunPaths, holder: dict[str, Any], *, look_only: bool = False) -> bool:
    """Tell whether a holder drives the original of a copy, with which `driver.json` came.

    Not where an older sign of the same driver lies in the folder that it names: on this host that
    is the copy, and the driver is at work here. Raises as `is_copied`.
    """
    if not is_copied(paths, holder, look_only=look_only):
        return False
    folder = holder.get("folder")
    if not isinstance(folder, str):  # as earlier versions write it
        return True
    try:
        there = read_holder(RunPaths(folder)) or {}
    except StorageError:
        return True
    same = all(there.get(name) == holder.get(name) for name in ("here", "pid", "process_start"))
    return not same or _beats(holder) <= _beats(there)


def _beats(holder: dict[str, Any]) -> tuple[int, int]:
    """What grows with each sign of life."""
    generation, counter = (
        value if type(value) is int else 0
        for value in (holder.get("generation"), holder.get("counter"))
    )
    return generation, counter


class Presence(Enum):
    """What can be told from here of the process that a holder names."""

    RUNS = "runs"
    STOPPED = "stopped"
    GONE = "gone"
    UNSEEN = "unseen"


def presence(holder: dict[str, Any]) -> Presence:
    """Look at a holder's process, which is `UNSEEN` unless this host knows it.

    What is not there is `GONE` only where that is certain. A number may have been given to another
    process, which has another start.
    """
    pid, known = holder.get("pid"), holder.get("process_start")
    if holder.get("here") != here() or type(pid) is not int or not 0 < pid <= PID_MAX:
        return Presence.UNSEEN
    start = process_start(pid)
    if start is None:
        return Presence.GONE
    if not start or not isinstance(known, str) or not known:
        return Presence.UNSEEN
    if start != known:
        return Presence.GONE if tells_others_apart(start) else Presence.UNSEEN
    return Presence.STOPPED if is_stopped(pid) else Presence.RUNS


def _name(holder: dict[str, Any]) -> str:
    """A holder's process, for people."""
    if not holder:
        return "a driver that driver.json does not name"
    pid, host = holder.get("pid"), holder.get("host")
    number = shorten(pid, 20) if type(pid) is int else "?"
    is_name = isinstance(host, str) and host.isprintable() and len(host) <= HOST_MAX
    return f"process {number} on {host if is_name else shorten(host, HOST_MAX)}"


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

    A driver that cannot be looked at is judged by the time of the file, so clocks that differ by
    more than a few seconds deceive. Raises `StorageError`.
    """
    holder = read_holder(paths)
    if not holder:
        return Sign("nobody", None, "driver.json is not there, or cannot be understood")
    who = _name(holder)
    if _is_of_original(paths, holder, look_only=True):
        return Sign(who, False, "drove the original, nobody drives this copy")
    if holder.get("released") is True:
        return Sign(who, False, "has let the run go")
    found = presence(holder)
    if found is Presence.GONE:
        return Sign(who, False, "is gone: it was killed, or crashed")
    if found is Presence.STOPPED:
        return Sign(who, None, "is stopped (SIGSTOP or Ctrl-Z)")
    if found is Presence.RUNS:
        return Sign(who, True, "is alive")
    with storage_errors("read", paths.driver):
        silence = time.time() - paths.driver.stat().st_mtime
    if silence < -SILENT_SECONDS:
        return Sign(who, None, f"wrote driver.json {duration(-silence)} ahead of this clock")
    if silence < SILENT_SECONDS:
        return Sign(who, True, f"gave a sign of life {max(0.0, silence):.0f} s ago")
    where = "cannot be looked at" if holder.get("here") == here() else "runs elsewhere"
    return Sign(who, None, f"has given no sign of life for {silence:.0f} s, and {where}")


def check_free(
    paths: RunPaths,
    *,
    say: Callable[[str], None],
    takeover_wait: float = 0.0,
    stale_seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] | None = None,
) -> None:
    """Return when nobody drives the run; raises `RunHeld` at a sign of somebody who does.

    For the first `takeover_wait` seconds such a sign is no reason to give up. `stale_seconds` is
    how long a counter must stand still (None: `STALE_SECONDS`). Raises `StorageError`.
    """
    stale = STALE_SECONDS if stale_seconds is None else stale_seconds
    pause = wait or threading.Event().wait
    holder = read_holder(paths)
    if holder is None or _is_of_original(paths, holder):
        return
    began = clock()
    watch = _Watch(paths, say, began, takeover_wait, stale)
    while not watch.is_free(holder, clock()):
        left = watch.left(clock())
        pause(min(left, RENEW_SECONDS) if left > 0 else RENEW_SECONDS)
        try:
            holder = read_holder(paths) or holder
        except StorageError:
            # For a moment nobody can tell; a counter that is not seen does not stand still.
            if clock() >= began + takeover_wait + stale:
                raise
            watch.sees_nothing(clock())


class _Watch:
    """Looks at a run's holder time and again, until it is known to be gone, or may not be waited
    for any longer.

    Signs of life are waited out for `patience` seconds from `began`, on the clock whose readings
    are passed.
    """

    def __init__(
        self,
        paths: RunPaths,
        say: Callable[[str], None],
        began: float,
        patience: float,
        stale: float,
    ) -> None:
        self._paths = paths
        self._say = say
        self._patience = patience
        self._until = began + patience
        self._stale = stale
        self._beat: tuple[Any, ...] | None = None
        self._still_since = 0.0
        self._lives = False
        self._said: tuple[str, bool] | None = None
        self._say_next = 0.0

    def left(self, now: float) -> float:
        """Return the seconds until something else than a sign of life decides."""
        return (self._until if self._lives else self._still_since + self._stale) - now

    def sees_nothing(self, now: float) -> None:
        """Storage does not say who holds the run."""
        self._still_since = now

    def is_free(self, holder: dict[str, Any], now: float) -> bool:
        """Judge what `driver.json` says now. Raises `RunHeld`."""
        if holder.get("released") is True:
            return True
        found = presence(holder)
        if found is Presence.GONE:
            return True
        names = ("here", "pid", "process_start", "generation", "counter")
        beat = tuple(holder.get(name) for name in names)
        first, moved = self._beat is None, self._beat != beat
        self._beat = beat
        if first or moved or found is Presence.RUNS:
            self._still_since = now
            self._lives = found is Presence.RUNS or not first
            if self._lives and now >= self._until:
                raise self._held(_name(holder))
        elif now - self._still_since >= self._stale:
            return True
        self._tell(_name(holder), now)
        return False

    def _held(self, who: str) -> RunHeld:
        if not self._patience:
            return RunHeld(
                f"the run in {self._paths.root} is driven by {who}: wait until it ends, or end "
                "that process; takeover_wait= waits for it"
            )
        return RunHeld(
            f"the run in {self._paths.root} is still driven by {who} after takeover_wait="
            f"{self._patience:g} seconds: wait longer, or end that process"
        )

    def _tell(self, who: str, now: float) -> None:
        """Say what is waited for, and how long still: when that changes, and now and then."""
        left = max(0.0, self._until - now)
        if (who, self._lives) == self._said and (not self._lives or now < self._say_next):
            return
        self._said = who, self._lives
        self._say_next = now + max(SAY_SECONDS, left / SAY_OFTEN)
        if self._lives:
            self._say(
                f"{self._paths.root} is driven by {who}: waiting for it to end, for "
                f"{duration(left)} at most"
            )
        else:
            self._say(
                f"{self._paths.root} was last driven by {who}: waiting for a sign of it, at most "
                f"{self._stale:.0f} s"
            )


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
    generation = present.get("generation")
    if type(generation) is int and generation > own and not _is_of_original(paths, present):
        return _name(present)
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
                    logger.warning("%s; this is tried again", error)

    def replaced(self) -> bool:
        """Tell whether this driver has the run's folder no more. Raises `StorageError`."""
        return self._moved_away() or replaced(self._paths, self._reach)

    def _moved_away(self) -> bool:
        root = self._paths.root
        try:
            with storage_errors("read", root):
                return self._folder.is_another(FolderIdentity.of(root))
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            # Not the end: a share that is not mounted for a while looks like this.
            raise StorageError(
                f"{root} is not there any more: mount it, or move it back; or end this driver, and "
                "resume the run where it lies now"
            ) from error

    def _moved(self) -> str:
        root = self._paths.root
        return f"the run in {root} was moved away while it was driven, and another folder is there"

    def _write(self) -> None:
        content = json.dumps(self._entry).encode()
        write_file(self._paths.driver, content, inside=self._paths.root)
