"""What workers have told of attempts, and what the scheduler makes of it, as records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cerebro.driver.versions import Version, Versions
from cerebro.driver.workers import Workers
from cerebro.hopper import events as ev
from cerebro.hopper.units import Attempt, ModelState, Split, Unit
from cerebro.journal.ledger import DISCARDED, LOST, Ledger
from cerebro.journal.records import (
    CommittedRecord,
    DroppedRecord,
    EndRecord,
    FailedRecord,
    Header,
    ModelFailedRecord,
    Record,
    StartedRecord,
    VoidRecord,
)
from cerebro.protocol.messages import AttemptRan, Problem, VersionPublished

SECONDS_KEPT = 100
"""Units of a split over whose seconds the median is taken."""


@dataclass
class AttemptResult:
    """What an attempt has given, `at` which time by the driver's clock, and its version."""

    ran: AttemptRan
    at: float
    published: VersionPublished | None = None


class AttemptResults:
    """Keeps what attempts have given until they count or do not, and makes the records.

    `header` gives what every record has now.
    """

    def __init__(
        self, ledger: Ledger, versions: Versions, workers: Workers, header: Callable[[], Header]
    ) -> None:
        self._ledger = ledger
        self._versions = versions
        self._workers = workers
        self._header = header
        self._results: dict[int, AttemptResult] = {}
        self._failures: dict[int, Problem] = {}
        self._run_seconds: dict[Split, list[float]] = {split: [] for split in Split}

    # --- what workers tell -----------------------------------------------------------------------

    def ran(self, message: AttemptRan, at: float) -> None:
        """An attempt has run, and when."""
        self._results[message.attempt] = AttemptResult(message, at)

    def published(self, message: VersionPublished) -> bool:
        """The version that an attempt made is published; False if it is not where it should be."""
        attempt = self._ledger.attempts.get(message.attempt)
        if message.attempt not in self._results or attempt is None:
            return True  # it does not count
        if not self._versions.is_of(message.checkpoint, attempt):
            return False
        self._results[message.attempt].published = message
        return True

    def failed(self, attempt: int, problem: Problem) -> None:
        """An attempt has failed, and why; kept until `forget_failures`."""
        self._failures[attempt] = problem

    def forget_failures(self) -> None:
        """What is to be said of failures has been said."""
        self._failures.clear()

    def median_seconds(self, split: Split) -> float:
        """The median of the seconds inside `train_fn`, over the last units of a split."""
        seconds = sorted(self._run_seconds[split])
        return seconds[len(seconds) // 2] if seconds else 0.0

    def measured(self) -> Iterator[tuple[Unit, int | None, float]]:
        """Units with the worker (None: no particular one) and the seconds that they took.

        They are those that the ledger still has: each model's mean over the last epoch that it
        ended, and what is committed of the present one.
        """
        for model in self._ledger.models.values():
            if model.state is not ModelState.RUNNING:
                continue
            own = [epoch for epoch in model.epochs if not epoch.inherited]
            plan = self._ledger.the_plan
            for split in Split:
                partitions = len(plan.partitions(split))
                if own and partitions:
                    last = own[-1].train_seconds if split is Split.TRAIN else own[-1].valid_seconds
                    yield Unit(model.id, own[-1].epoch, split, 0), None, last / partitions
            for attempt in (*model.train.values(), *model.valid.values()):
                if attempt.committed is not None:
                    yield attempt.unit, attempt.worker, attempt.committed.run_seconds

    # --- records ---------------------------------------------------------------------------------

    def records_of(self, action: ev.Action) -> list[Record]:
        """The records of one of the scheduler's actions; none of most."""
        if isinstance(action, ev.Start):
            attempt, unit = action.attempt, action.attempt.unit
            return [
                StartedRecord(
                    **self._header(),
                    attempt=attempt.number,
                    worker=attempt.worker,
                    model=unit.model,
                    epoch=unit.epoch,
                    split=unit.split,
                    partition=unit.partition,
                    reads=attempt.reads,
                )
            ]
        if isinstance(action, ev.Commit):
            return self._committed(action.attempt)
        if isinstance(action, ev.Retry):
            failure = action.failure.value if action.failure else LOST
            lost = Problem(message="the worker was lost")
            problem = self._failures.get(action.attempt.number, lost)
            self._results.pop(action.attempt.number, None)
            return [self._failed(action.attempt, failure, problem)]
        if isinstance(action, ev.Discard):
            self._results.pop(action.attempt.number, None)
            unwanted = Problem(message="its outcome no longer mattered")
            return [self._failed(action.attempt, DISCARDED, unwanted)]
        if isinstance(action, ev.ModelFailed):
            number = action.attempt.number
            self._results.pop(number, None)
            failure = action.failure.value
            problem = self._failures.get(number, Problem(message=failure))
            return [self.model_failed(action.model, failure, problem, number)]
        if isinstance(action, ev.Void):
            self._versions.voided(action.model, action.version)
            return [VoidRecord(**self._header(), model=action.model, version=action.version)]
        if isinstance(action, ev.EpochEnded):
            return self.dropped(self._versions.epoch_ended(action.model, action.version))
        if isinstance(action, ev.SetAside):
            return [self._workers.set_aside(action.worker, action.seconds)]
        if isinstance(action, ev.End):
            return [EndRecord(**self._header())]
        return []

    def _failed(self, attempt: Attempt, failure: str, problem: Problem) -> FailedRecord:
        return FailedRecord(
            **self._header(),
            attempt=attempt.number,
            failure=failure,
            message=problem.message,
            traceback=problem.traceback,
            output=problem.output,
        )

    def model_failed(
        self, model: int, failure: str, problem: Problem, attempt: int = -1
    ) -> ModelFailedRecord:
        """A model ends; `attempt` is the one that did it, -1 if none did."""
        return ModelFailedRecord(
            **self._header(),
            model=model,
            attempt=attempt,
            failure=failure,
            error=problem.error,
            message=problem.message,
            function=problem.function,
            traceback=problem.traceback,
            output=problem.output,
        )

    def _committed(self, attempt: Attempt) -> list[Record]:
        result = self._results.pop(attempt.number)
        unit = attempt.unit
        ran, published = result.ran, result.published
        phases = dict(ran.phases)
        if published is not None:
            phases["save"] = published.save
        self._run_seconds[unit.split].append(phases["run"])
        del self._run_seconds[unit.split][:-SECONDS_KEPT]
        record = CommittedRecord(
            **self._header(),
            attempt=attempt.number,
            loss=ran.loss,
            error=ran.error,
            examples=ran.examples,
            metrics=ran.metrics,
            states=ran.states,
            phases=phases,
            output=ran.output,
            ran=result.at,
            checkpoint=None if published is None else published.checkpoint,
            finite=None if published is None else published.finite,
        )
        if unit.split is Split.VALID or published is None:
            return [record]
        return [record, *self.dropped(self._versions.committed(unit.model, attempt.reads + 1))]

    def dropped(self, versions: list[Version]) -> list[Record]:
        """Versions will be deleted."""
        header = self._header()
        return [DroppedRecord(**header, model=m, version=version) for m, version in versions]
