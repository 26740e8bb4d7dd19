"""Which transmissions have been accepted before: the guard against replays.

A client numbers its transmissions. Of each client the highest number and a bit for each of the
`WINDOW` numbers up to it are remembered: what lies below the window, or has its bit set, is a
replay. (The scheme of RFC 4303, section 3.4.3.)

Memory is bounded by forgetting clients, and a forgotten client must not become replayable. So a
client is known by its id *and* by an admission number that the server gives out, which changes
whenever somebody is forgotten: a client that is not remembered is taken for new only under the
present number. What was sent by one that has been forgotten carries an older number for ever.
"""

from __future__ import annotations

import enum
import threading
from collections import OrderedDict

WINDOW = 1024
_ALL = (1 << WINDOW) - 1


class Verdict(enum.Enum):
    """What the guard says of a transmission."""

    NEW = "new"
    REPLAYED = "replayed"
    UNKNOWN_CLIENT = "unknown client"


class CounterWindow:
    """The counters (1 and up) that were accepted from one client."""

    __slots__ = ("_highest", "_seen")  # there are thousands

    def __init__(self) -> None:
        self._highest = 0
        self._seen = 0  # bit i stands for the counter `_highest - i`

    def accept(self, counter: int) -> bool:
        """True the first time, if `counter` is not below the window."""
        ahead = counter - self._highest
        if ahead > 0:
            # A far jump must not shift by its own (64-bit) distance.
            self._seen = ((self._seen << ahead) | 1) & _ALL if ahead < WINDOW else 1
            self._highest = counter
            return True
        if -ahead >= WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


class ReplayGuard:
    """The windows of all clients. May be used by several threads."""

    def __init__(self, max_clients: int) -> None:
        self._max_clients = max_clients
        self._windows: OrderedDict[tuple[str, int], CounterWindow] = OrderedDict()
        self._admission = 0
        self._lock = threading.Lock()

    @property
    def admission(self) -> int:
        """The number under which clients are admitted at present."""
        return self._admission

    def check(self, client: str, admission: int, counter: int) -> Verdict:
        """Judge a transmission whose signature holds, and remember it."""
        with self._lock:
            key = (client, admission)
            window = self._windows.get(key)
            if window is None:
                if admission != self._admission:
                    return Verdict.UNKNOWN_CLIENT
                if len(self._windows) >= self._max_clients:
                    self._forget_older_half()
                window = self._windows[key] = CounterWindow()
            self._windows.move_to_end(key)
            return Verdict.NEW if window.accept(counter) else Verdict.REPLAYED

    def _forget_older_half(self) -> None:
        """Half of them at once, so that admissions seldom change while new clients say hello."""
        for _ in range((len(self._windows) + 1) // 2):
            self._windows.popitem(last=False)
        self._admission += 1
