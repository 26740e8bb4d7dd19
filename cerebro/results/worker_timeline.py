"""When workers were there: a listener of the ledger that remembers what the ledger does not."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cerebro.journal.records import (
    EndRecord,
    GenerationRecord,
    InterruptedRecord,
    Record,
    StartedRecord,
    WorkerStateRecord,
)
from cerebro.journal.worker_states import TROUBLES, WorkerCondition, WorkerState

if TYPE_CHECKING:
    from cerebro.journal.ledger import Ledger

Interval = tuple[float, float]

AWAY, LOADING, PRESENT, ASIDE = "away", "loading", "present", WorkerState.ASIDE.value


@dataclass
class WorkerTimeline:
    """Where each worker was at which time, in seconds since the run started.

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
        seconds = record.t
        if isinstance(record, GenerationRecord):
            self._driver(seconds, len(ledger.generations))
        elif isinstance(record, WorkerStateRecord):
            worker, state = record.worker, record.state
            self._enter(worker, _place(ledger.workers[worker].condition), seconds)
            if state in TROUBLES:
                self.troubles.append((seconds, worker, state.value, record.reason or ""))
        elif isinstance(record, StartedRecord):
            worker = record.worker
            self._enter(worker, _place(ledger.workers[worker].condition), seconds)
        elif isinstance(record, InterruptedRecord):
            self.interrupted = record.reason
        elif isinstance(record, EndRecord):
            self.interrupted = None

    def away(self, worker: int, until: float) -> list[Interval]:
        """Return when a worker was away or set aside."""
        return self._intervals(worker, (AWAY, ASIDE), until)

    def loading(self, worker: int, until: float) -> list[Interval]:
        """Return when a worker was there and had not loaded its partitions yet."""
        return self._intervals(worker, (LOADING,), until)

    def _driver(self, seconds: float, drivers: int) -> None:
        if drivers == self._drivers:
            return  # the same driver continues in another file
        self._drivers, self.interrupted = drivers, None
        if drivers > 1:
            self.restarts.append(seconds)
        for worker in self._now:
            self._enter(worker, AWAY, seconds)

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


def _place(condition: WorkerCondition) -> str:
    if condition.is_aside:
        return ASIDE
    if not condition.is_present:
        return AWAY
    return LOADING if condition.state is WorkerState.JOINED else PRESENT


Presence = WorkerTimeline
"""The name in pickles of results that older versions made."""
