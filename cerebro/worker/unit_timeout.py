"""A timer that ends a unit which runs for too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

GRACE_SECONDS = 1.0
"""If the timer fires this late, the process was suspended or starved: the end of the unit may have
been told meanwhile, and is read first."""


class UnitTimeout:
    """Calls `expired(attempt)` when an attempt has run for `seconds`; never, where that is None.

    One attempt is timed at a time. `expired` is called on a thread of its own, and may come in the
    moment in which the timer is stopped: it has to look whether the attempt still runs.
    """

    def __init__(self, seconds: float | None, expired: Callable[[int], None]) -> None:
        self._seconds = seconds
        self._expired = expired
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def start(self, attempt: int) -> None:
        """Start to time an attempt."""
        if self._seconds is not None:
            with self._lock:
                self._arm(attempt, self._seconds)

    def stop(self) -> None:
        """Stop timing: the attempt has ended."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _arm(self, attempt: int, seconds: float) -> None:
        due = time.monotonic() + seconds
        timer = threading.Timer(seconds, lambda: self._go_off(timer, attempt, due))
        timer.daemon = True
        self._timer = timer
        timer.start()

    def _go_off(self, timer: threading.Timer, attempt: int, due: float) -> None:
        with self._lock:
            if self._timer is not timer:
                return
            if time.monotonic() - due > GRACE_SECONDS:
                self._arm(attempt, GRACE_SECONDS)
                return
        self._expired(attempt)
