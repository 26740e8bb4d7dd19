"""How far a run's models have come.

The driver's live view and `cerebro status` both ask here, so that they say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cerebro.hopper.units import ModelState, Split, Unit
from cerebro.journal.ledger import Ledger, ModelRecord
from cerebro.journal.records import (
    CommittedRecord,
    DecisionRecord,
    FailedRecord,
    ModelFailedRecord,
    Record,
    ReopenedRecord,
    StartedRecord,
    VoidRecord,
    WorkerStateRecord,
)
from cerebro.journal.run_plan import RunPlan


@dataclass(frozen=True)
class EpochProgress:
    """The epochs under way of all running models together.

    `first` and `last` are the lowest and the highest epoch; `done` of their `units` are committed.
    """

    first: int
    last: int
    done: int
    units: int


@dataclass
class ModelProgress:
    """One model: the partitions that its epoch has yet to visit, and how many epochs of its own
    have `ended`.
    """

    state: ModelState = ModelState.RUNNING
    epoch: int = 0
    ended: int = 0
    left: dict[Split, frozenset[int]] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """Whether it has ended its epoch, and waits for a decision."""
        return self.state is ModelState.RUNNING and not any(self.left.values())


@dataclass(frozen=True)
class RunningAttempt:
    """An attempt under way."""

    unit: Unit
    worker: int
    start: float


class RunProgress:
    """A copy of what a ledger says of progress, which is brought up to date record by record.

    So it may be read, under a lock of the caller's, by another thread than the ledger's, and costs
    little each time. `units` and `epochs` count what all models have done themselves; `workers` are
    those that take units.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.plan: RunPlan = ledger.the_plan
        self.partitions = {split: len(self.plan.partitions(split)) for split in Split}
        self.workers = ledger.available_workers
        self.units = 0
        self.models: dict[int, ModelProgress] = {}
        self.attempts: dict[int, RunningAttempt] = {
            attempt.number: RunningAttempt(attempt.unit, attempt.worker, attempt.start)
            for attempt in ledger.attempts.values()
            if attempt.outcome == "running"
        }
        for model in ledger.models.values():
            self._begin_model(model)

    @property
    def epochs(self) -> int:
        """Epochs that models have ended themselves."""
        return sum(model.ended for model in self.models.values())

    # --- what happens ----------------------------------------------------------------------------

    def add(self, record: Record, ledger: Ledger) -> None:
        """Take in a record that has been added to the ledger."""
        add = self._ADD.get(type(record))
        if add is not None:
            add(self, record, ledger)

    def _add_worker(self, record: WorkerStateRecord, ledger: Ledger) -> None:
        self.workers = ledger.available_workers

    def _add_started(self, record: StartedRecord, ledger: Ledger) -> None:
        if record.worker not in self.workers:  # it was set aside, and is not any more
            self.workers = ledger.available_workers
        unit = ledger.attempts[record.attempt].unit
        self.attempts[record.attempt] = RunningAttempt(unit, record.worker, record.t)

    def _add_committed(self, record: CommittedRecord, ledger: Ledger) -> None:
        attempt = self.attempts.pop(record.attempt, None)
        if attempt is not None:
            self.units += 1
            self._update(ledger.models[attempt.unit.model])

    def _add_failed(self, record: FailedRecord, ledger: Ledger) -> None:
        self.attempts.pop(record.attempt, None)

    def _add_model_failed(self, record: ModelFailedRecord, ledger: Ledger) -> None:
        self.attempts.pop(record.attempt, None)
        self._update(ledger.models[record.model])

    def _add_void(self, record: VoidRecord, ledger: Ledger) -> None:
        self._update(ledger.models[record.model])

    def _add_decision(self, record: DecisionRecord, ledger: Ledger) -> None:
        for new in record.add:
            self._begin_model(ledger.models[new.model])
        for number in (*record.asked, *record.stop):
            self._update(ledger.models[number])

    def _add_reopened(self, record: ReopenedRecord, ledger: Ledger) -> None:
        for number in record.models:
            self._update(ledger.models[number])

    _ADD: ClassVar[Mapping[type[Record], Callable[[RunProgress, Any, Ledger], None]]] = {
        WorkerStateRecord: _add_worker,
        StartedRecord: _add_started,
        CommittedRecord: _add_committed,
        FailedRecord: _add_failed,
        ModelFailedRecord: _add_model_failed,
        VoidRecord: _add_void,
        DecisionRecord: _add_decision,
        ReopenedRecord: _add_reopened,
    }

    def _begin_model(self, record: ModelRecord) -> None:
        self.models[record.id] = ModelProgress()
        self._update(record)
        own = self.models[record.id].ended
        # The units of an epoch that has ended stay in `train` and `valid` until the decision.
        over = own - (record.has_ended_epoch() and bool(record.train))
        for split, units in ((Split.TRAIN, record.train), (Split.VALID, record.valid)):
            self.units += over * self.partitions[split] + len(units)

    def _update(self, record: ModelRecord) -> None:
        """Read where a model is now."""
        model = self.models[record.id]
        model.state, model.epoch = record.state, record.epoch
        model.ended = sum(not epoch.inherited for epoch in record.epochs)
        running = record.state is ModelState.RUNNING
        for split, units in ((Split.TRAIN, record.train), (Split.VALID, record.valid)):
            left = record.left(self.partitions[split], units) if running else frozenset()
            if split is Split.TRAIN and running and record.repair is not None:
                left |= {record.repair.partition}
            model.left[split] = left

    # --- what it comes to ------------------------------------------------------------------------

    def running(self) -> list[ModelProgress]:
        """The models that have not ended."""
        return [m for m in self.models.values() if m.state is ModelState.RUNNING]

    def epoch(self) -> EpochProgress | None:
        """How much of the epochs under way is done; None if no model is running."""
        running = self.running()
        if not running:
            return None
        units = len(running) * sum(self.partitions.values())
        left = sum(len(part) for model in running for part in model.left.values())
        epochs = [model.epoch for model in running]
        return EpochProgress(min(epochs), max(epochs), max(0, units - left), units)
