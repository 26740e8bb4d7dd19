"""A driver process that is started again until its run has ended."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from testbed.processes import wait_gone

FIRST_PAUSE_SECONDS = 0.2
LAST_PAUSE_SECONDS = 1.0
STOP_SECONDS = 20.0
UNEXPECTED_MAX = 20
"""So many unexplained failures of the driver, and it is not started again."""

EXPECTED_ERRORS = {
    "StorageError",
    "StorageNotShared",
    "WorkerUnreachable",
    "AvailabilityError",
}
"""What a driver may end with while storage is broken or workers cannot be reached."""


class SupervisedDriver:
    """Runs `command` until it exits with 0, again and again, on a thread of its own.

    `over` is set at its end, which is the run's if `ended`; otherwise too many of its processes
    failed as no fault explains. `expected` are errors that a fault explains. `exits` counts how its
    processes ended, `unexpected` has the errors that no fault explains, and `stop_seconds` how long
    each took from SIGTERM to its end. Its messages go to the file `log`.
    """

    def __init__(self, command: Sequence[str], cwd: Path, log: Path) -> None:
        self.exits: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.stop_seconds: list[float] = []
        self.starts = 0
        self.over = threading.Event()
        self.ended = False
        self.expected = set(EXPECTED_ERRORS)
        self._between: Callable[[], None] | None = None
        self._command = [sys.executable, *command]
        self._cwd = cwd
        self._log = log
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._signals: dict[int, float] = {}
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def __enter__(self) -> SupervisedDriver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with self._lock:
            process = self._process
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                    process.send_signal(signal.SIGCONT)
        if process is not None and wait_gone([process.pid], STOP_SECONDS):
            with self._lock:
                if self._process is process:
                    process.kill()
        self._thread.join(STOP_SECONDS)

    def signal(self, number: int) -> int | None:
        """Send the driver a signal. Returns its process id; None if there is no driver now."""
        with self._lock:
            if self._process is None:
                return None
            self._process.send_signal(number)
            self._signals.setdefault(number, time.monotonic())
            return self._process.pid

    def kill_then(self, action: Callable[[], None]) -> int | None:
        """Kill the driver, and do something before the next one starts. Returns its process id;
        None if there is no driver now, or if something else is to be done already.
        """
        with self._lock:
            if self._process is None or self._between is not None:
                return None
            self._between = action
        return self.signal(signal.SIGKILL)

    def resume(self, pid: int) -> None:
        """Let the process that was stopped go on, if it is still there."""
        with self._lock:
            if self._process is not None and self._process.pid == pid:
                self._process.send_signal(signal.SIGCONT)

    def _supervise(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        with open(self._log, "wb") as log:
            while not self._closing.is_set():
                begun = time.monotonic()
                with self._lock:
                    if self._closing.is_set():
                        return
                    self._signals = {}
                    self.starts += 1
                    self._process = subprocess.Popen(
                        self._command,
                        cwd=self._cwd,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        start_new_session=True,
                    )
                assert self._process.stdout is not None
                with self._process.stdout as stream:
                    said = stream.read()
                code = self._process.wait()
                with self._lock:
                    self._process = None
                if code == 0:
                    self.exits["ended"] += 1
                    self.ended = True
                    self.over.set()
                    return
                if not self._closing.is_set():
                    self._note(code, said)
                with self._lock:
                    action, self._between = self._between, None
                if action is not None:
                    action()
                if len(self.unexpected) >= UNEXPECTED_MAX:
                    self.over.set()
                    return
                short = time.monotonic() - begun < 2 * LAST_PAUSE_SECONDS
                pause = min(2 * pause, LAST_PAUSE_SECONDS) if short else FIRST_PAUSE_SECONDS
                self._closing.wait(pause)

    def _note(self, code: int, said: bytes) -> None:
        """Sort an exit that was not the run's end."""
        terminated = self._signals.get(signal.SIGTERM)
        if terminated is not None:
            self.stop_seconds.append(time.monotonic() - terminated)
        if code < 0:
            self.exits[signal.Signals(-code).name] += 1
            if -code not in self._signals:
                self.unexpected.append(f"the driver was ended by signal {-code}")
            return
        error, message = _last_error(said)
        self.exits[error] += 1
        interrupted = error == "RunInterrupted" and terminated is not None
        if error not in self.expected and not interrupted:
            self.unexpected.append(f"the driver ended with exit status {code}, {error}: {message}")


def _last_error(said: bytes) -> tuple[str, str]:
    """(class, message) of the error that a driver printed."""
    for line in reversed(said.decode(errors="replace").splitlines()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            content = json.loads(line)
            return str(content["error"]), str(content["message"])
    return "no error named", "see its log"
