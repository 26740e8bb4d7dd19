"""How far a run's models have come, and how long what is left will take.

The driver's live view and `cerebro status` both ask here, so that they say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
)
from cerebro.journal.run_plan import RunPlan
from cerebro.journal.time_left import SplitWork, TimeLeft, WorkLeft, seconds_left


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
    little each time. `units` and `epochs` count what all models have done themselves.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._plan: RunPlan = ledger.the_plan
        self.partitions = {split: len(self._plan.partitions(split)) for split in Split}
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

    def _add_started(self, record: StartedRecord, ledger: Ledger) -> None:
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

    def time_left(self, now: float) -> TimeLeft | None:
        """Estimate the time left, from a moment in seconds since the run began.

        It goes to the end of the run where that is known beforehand (`Ledger.totals`), else until
        all running models have ended the epochs that they are in. None where nothing is left, no
        unit has been measured yet, or no worker takes units.

        It assumes that units take what they took of late (see `UnitTimes`), by whichever driver and
        worker, that exactly the workers that take units now continue to do so, and that models end
        when the search procedure planned. Workers are taken to be alike, and never to idle but for
        the reasons in `seconds_left`, so that it is rather too low than too high.
        """
        times, workers = self._ledger.unit_times, self._ledger.available_workers
        if not any(times.measured(split) for split in Split):
            return None
        work = dict(self._work(now, len(workers)))
        loads, stranded = self._loads(workers, now)
        left = seconds_left(list(work.values()), len(workers), loads)
        units = {
            Split.TRAIN: sum(model.train.units for model in work.values()),
            Split.VALID: sum(model.valid.units for model in work.values()),
        }
        if left is None or not any(units.values()):
            return None
        unmeasured = any(units[split] and not times.measured(split) for split in Split)
        return TimeLeft(left, self._ledger.totals is not None, unmeasured or stranded)

    def _units_left(self) -> Iterator[tuple[int, dict[Split, int]]]:
        """Yield each model with its units left: in the run where its end is known, else in its
        epoch.
        """
        totals = self._ledger.totals
        for number, model in self.models.items():
            if model.state is not ModelState.RUNNING:
                continue
            left = {split: len(model.left[split]) for split in Split}
            if totals is not None and number in totals:
                for split, total in zip(Split, totals[number], strict=True):
                    parts = self.partitions[split]
                    under_way = 0 if model.waits else parts - left[split]
                    left[split] = max(0, total - model.ended * parts - under_way)
            yield number, left
        for number, total_units in (totals or {}).items():
            if number not in self.models:  # a decision has yet to add it
                yield number, dict(zip(Split, total_units, strict=True))

    def _work(self, now: float, workers: int) -> Iterator[tuple[int, WorkLeft]]:
        """Yield each model with the work that it has left."""
        started: dict[tuple[int, Split], list[float]] = {}
        for attempt in self.attempts.values():
            key = attempt.unit.model, attempt.unit.split
            started.setdefault(key, []).append(attempt.start)
        for number, left in self._units_left():
            split_work = {
                split: self._split_work(
                    number, split, left[split], [now - s for s in started.get((number, split), [])],
                    workers,
                )
                for split in Split
            }  # fmt: skip
            yield (
                number,
                WorkLeft(
                    split_work[Split.TRAIN], split_work[Split.VALID], self.partitions[Split.VALID]
                ),
            )

    def _split_work(
        self, model: int, split: Split, units: int, elapsed: list[float], workers: int
    ) -> SplitWork:
        times = self._ledger.unit_times
        busy, held = times.busy(model, split), times.held(model, split)
        # A turn of valid units that have not all been started ends no sooner for those that were.
        side_by_side = 1 if split is Split.TRAIN else workers
        all_started = len(elapsed) >= min(units, side_by_side)
        return SplitWork(
            units,
            busy,
            held,
            sum(min(seconds, busy) for seconds in elapsed),
            min((*elapsed, held)) if elapsed and all_started else 0.0,
        )

    def _loads(self, workers: frozenset[int], now: float) -> tuple[list[float], bool]:
        """Seconds of work that only given workers may do, where a matrix says who may read what,
        and whether there is work that no present worker may do.

        What the matrix leaves open is shared out evenly among those who may. Nothing is said where
        workers are present that were added while the run went on: `workers.json` has their rows.
        """
        times, loads = self._ledger.unit_times, dict.fromkeys(workers, 0.0)
        stranded = False
        if any(worker >= len(self._plan.workers) for worker in workers):
            return [], False
        for split in Split:
            matrix = self._plan.availability(split)
            if matrix is None:
                continue
            for partition, units in self._units_by_partition(split).items():
                holders = [worker for worker in workers if matrix[worker][partition]]
                stranded = stranded or not holders
                seconds = units * times.busy_on(partition, split)
                for worker in holders:
                    loads[worker] += seconds / len(holders)
            for attempt in self.attempts.values():
                if attempt.unit.split is split and attempt.worker in loads:
                    expected = times.busy_on(attempt.unit.partition, split)
                    loads[attempt.worker] -= min(now - attempt.start, expected)
        return list(loads.values()), stranded

    def _units_by_partition(self, split: Split) -> Counter[int]:
        """Count the units left on each partition; those of epochs to come visit each one once."""
        counts: Counter[int] = Counter()
        to_come = 0
        for number, units in self._units_left():
            model = self.models.get(number)
            now = model.left[split] if model is not None else frozenset()
            counts.update(now)
            to_come += max(0, units[split] - len(now))
        each, rest = divmod(to_come, max(1, self.partitions[split]))
        for partition in range(self.partitions[split]):
            if each + (partition < rest):
                counts[partition] += each + (partition < rest)
        return counts
