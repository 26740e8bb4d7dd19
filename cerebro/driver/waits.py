"""What a run is waiting for, told to its user when that takes long."""

from __future__ import annotations

from collections.abc import Callable

from cerebro.driver.attempt_results import AttemptResults
from cerebro.driver.workers import Workers
from cerebro.formatting import count
from cerebro.hopper.scheduler import Scheduler
from cerebro.hopper.units import Attempt, Split
from cerebro.journal.ledger import Ledger
from cerebro.progress import Reporter

NOTICE_SECONDS = 5.0
"""So often it is seen what is waited for."""

SLOW_FACTOR = 10.0
SLOW_SECONDS = 60.0
"""A unit that takes so many times the median of its split, and longer than that, is announced."""


class Waits:
    """Says every `NOTICE_SECONDS` what is being waited for. `path_of` is where a partition lies."""

    def __init__(
        self,
        *,
        workers: Workers,
        scheduler: Scheduler,
        ledger: Ledger,
        attempt_results: AttemptResults,
        progress: Reporter,
        path_of: Callable[[Split, int], str],
        clock: Callable[[], float],
    ) -> None:
        self._workers = workers
        self._scheduler = scheduler
        self._ledger = ledger
        self._attempt_results = attempt_results
        self._progress = progress
        self._path_of = path_of
        self._clock = clock
        self._explained = clock()

    @property
    def due(self) -> float:
        """When it is next to be said, by the clock."""
        return self._explained + NOTICE_SECONDS

    def explain_if_due(self) -> None:
        """Say what is being waited for, unless that was said a moment ago."""
        if self._clock() >= self.due:
            self._explained = self._clock()
            self._explain()

    def _explain(self) -> None:
        waits = self._workers.waits()
        if not self._workers.is_deserted():
            for (split, partition), units in self._scheduler.stranded().items():
                path = self._path_of(split, partition)
                waits[f"{split.value} partition {partition}"] = (
                    f"{count(units, 'unit')} wait{'s' * (units == 1)} for a worker that may read "
                    f"{split.value} partition {partition} ({path})"
                )
            for attempt, _ in self._scheduler.live_attempts():
                if not self._progress.is_open(f"save {attempt.worker}"):
                    self._warn_if_slow(attempt)
        self._progress.wait_for(waits)

    def _warn_if_slow(self, attempt: Attempt) -> None:
        record = self._ledger.attempts.get(attempt.number)
        if record is None:
            return
        median = self._attempt_results.median_seconds(attempt.unit.split)
        limit = max(SLOW_FACTOR * median, SLOW_SECONDS)
        if self._clock() - record.start > limit:
            self._progress.say_once(
                f"{attempt.unit} on {self._workers.url(attempt.worker)} has been running for more "
                f"than {limit:.0f} s (the median is {median:.1f} s); unit_timeout= would end one "
                "that never returns",
                key=f"slow attempt {attempt.number}",
            )
