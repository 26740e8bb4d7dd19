"""When workers were there: a listener of the ledger that remembers what the ledger does not."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cerebro.journal.journal import Record

if TYPE_CHECKING:
    from cerebro.journal.ledger import Ledger

Interval = tuple[float, float]

AWAY, LOADING, PRESENT, ASIDE = "away", "loading", "present", "aside"
STATES = {
    "added": AWAY,
    "joined": LOADING,
    "ready": PRESENT,
    "lost": AWAY,
    "left": AWAY,
    "aside": ASIDE,
}
"""What a worker is after a `worker` record of a state; other states change nothing."""

TROUBLES = ("lost", "aside", "unreadable")


@dataclass
class WorkerTimeline:
    """Where each worker was at which time, in seconds since the run began.

    `restarts` are the times when further drivers took the run up, which find every worker away.
    `interrupted` says why the last driver stopped before the end, None if it did not say so.
    `troubles` are (seconds, worker, state, reason).
    """

    restarts: list[float] = field(default_factory=list)
    interrupted: str | None = None
    troubles: list[tuple[float, int, str, str]] = field(default_factory=list)
    _past: dict[int, list[tuple[str, float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _now: dict[int, tuple[str, float]] = field(default_factory=dict)
    _drivers: int = 0

    def __call__(self, record: Record, ledger: Ledger) -> None:
        """Take note of a record that the ledger has added."""
        kind, seconds = record["kind"], record.get("t", 0.0)
        if kind == "generation":
            self._driver(seconds, len(ledger.generations))
        elif kind == "worker":
            worker, state = record["worker"], record["state"]
            if state in STATES:
                self._enter(worker, STATES[state], seconds)
            if state in TROUBLES:
                self.troubles.append((seconds, worker, state, record.get("reason", "")))
        elif kind == "started" and self._state(record["worker"]) != PRESENT:
            self._enter(record["worker"], PRESENT, seconds)
        elif kind == "interrupted":
            self.interrupted = record["reason"]
        elif kind == "end":
            self.interrupted = None

    def away(self, worker: int, until: float) -> list[Interval]:
        """Return when a worker was away or set aside."""
        return self._intervals(worker, (AWAY, ASIDE), until)

    def loading(self, worker: int, until: float) -> list[Interval]:
        """Return when a worker was there and had not loaded its partitions yet."""
        return self._intervals(worker, (LOADING,), until)

    def _driver(self, seconds: float, drivers: int) -> None:
        if drivers == self._drivers:
            return  # the same driver goes on in another file
        self._drivers, self.interrupted = drivers, None
        if drivers > 1:
            self.restarts.append(seconds)
        for worker in self._now:
            self._enter(worker, AWAY, seconds)

    def _state(self, worker: int) -> str:
        return self._now.get(worker, (AWAY, 0.0))[0]

    def _enter(self, worker: int, state: str, seconds: float) -> None:
        before, since = self._now.get(worker, (AWAY, 0.0))
        if state == before:
            self._now.setdefault(worker, (state, since))
            return
        self._past[worker].append((before, since, seconds))
        self._now[worker] = state, seconds

    def _intervals(self, worker: int, states: tuple[str, ...], until: float) -> list[Interval]:
        state, since = self._now.get(worker, (AWAY, 0.0))
        spans = [*self._past[worker], (state, since, until)]
        return [(begin, end) for name, begin, end in spans if name in states and begin < end]


Presence = WorkerTimeline
"""The name in pickles of results that older versions made."""
