"""What the view is made from: the journal's records, and what the driver hears of its workers.

All times are the driver's, in seconds since the run began.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from cerebro.formatting import count, first_line
from cerebro.hopper.units import ModelState, Split, Unit
from cerebro.journal.ledger import EndOfAttempt, EpochRecord, Ledger, ModelRecord
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
from cerebro.journal.run_plan import RunPlan, hyperparameters
from cerebro.journal.worker_states import WorkerState
from cerebro.progress.time_left import Seconds, Work, seconds_left
from cerebro.progress.view import (
    TROUBLES,
    BestView,
    EpochView,
    TimeLeft,
    View,
    WorkerActivity,
    WorkerView,
)

Totals = Mapping[int, tuple[int, int]]
"""Train and valid units of each model in a whole run, where that is known."""


ACTIVITIES = {
    WorkerState.ADDED: WorkerActivity.CONNECTING,
    WorkerState.JOINED: WorkerActivity.IDLE,
    WorkerState.LEFT: WorkerActivity.ABSENT,
    WorkerState.LOST: WorkerActivity.LOST,
}
"""What a worker does once it is in a state; in it, it has nothing of what it had before."""

WAITING = "waiting for a decision"
"""Of models that a search procedure holds back."""


@dataclass
class Worker:
    """One worker. `saves` are attempts whose versions it writes, `loads` partitions to come."""

    url: str
    state: WorkerActivity
    since: float
    detail: str = ""
    attempt: int | None = None
    saves: dict[int, int] = field(default_factory=dict)
    loading: bool = False
    loads: int = 0
    loaded: int = 0


@dataclass
class Model:
    """One model: where it stands, and what its units have taken."""

    state: ModelState = ModelState.RUNNING
    epoch: int = 0
    left: dict[Split, frozenset[int]] = field(default_factory=dict)
    done: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(Split, 0))
    seconds: dict[Split, Seconds] = field(default_factory=lambda: {s: Seconds() for s in Split})

    @property
    def waits(self) -> bool:
        """Whether it has ended its epoch, and waits for a decision."""
        return self.state is ModelState.RUNNING and not any(self.left.values())


@dataclass(frozen=True)
class Running:
    """An attempt under way."""

    unit: Unit
    worker: int
    start: float


class Tally:
    """The sum of what has happened, so that a view of it costs little, and so does each record.

    `absent` workers did not answer at the start. `together`: the procedure is asked when all models
    have ended the epoch. `totals` are the units of the whole run, where its end is known.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        now: float,
        *,
        absent: Iterable[int] = (),
        together: bool = True,
        totals: Totals | None = None,
    ) -> None:
        self._name = name
        self._began = now
        self._together = together
        self._totals = totals
        self._plan: RunPlan = ledger.the_plan
        self._partitions = {split: len(self._plan.partitions(split)) for split in Split}
        self._workers = {
            number: Worker(url, WorkerActivity.CONNECTING, now)
            for number, url in enumerate(self._plan.workers)
        }
        for number in absent:
            self._workers[number].state = WorkerActivity.ABSENT
        self._models: dict[int, Model] = {}
        self._attempts: dict[int, Running] = {}
        self._kind_seconds = {split: Seconds() for split in Split}
        self._partition_seconds: dict[tuple[Split, int], Seconds] = {}
        self._units = 0
        self._epochs = 0
        self._best: BestView | None = None
        self._values: dict[str, set[str]] = {}
        self._waits: dict[str, str] = {}
        self._outcome = ""
        for model in ledger.models.values():
            self._begin_model(model)

    def _begin_model(self, record: ModelRecord) -> None:
        model = self._models[record.id] = Model()
        for key, value in hyperparameters(record.mst).items():
            values = self._values.setdefault(key, set())
            if len(values) < 2:  # enough to tell what models differ in
                values.add(repr(value))
        own = [epoch for epoch in record.epochs if not epoch.inherited]
        # The units of an epoch that has ended stay in `train` and `valid` until the decision.
        over = len(own) - (record.has_ended_epoch() and bool(record.train))
        for split, units in ((Split.TRAIN, record.train), (Split.VALID, record.valid)):
            model.done[split] = over * self._partitions[split] + len(units)
            self._units += model.done[split]
        self._epochs += len(own)
        for epoch in own:
            self._compare(record, epoch)
        self._set(record)

    # --- what happens ----------------------------------------------------------------------------

    def add(self, record: Record, ledger: Ledger) -> None:
        """A record has been added to the ledger."""
        add = self._ADD.get(type(record))
        if add is not None:
            add(self, record, ledger)

    def loading(self, worker: int, partitions: int) -> None:
        """A worker is being told to load so many partitions."""
        self._workers[worker].loading = True
        self._workers[worker].loads += partitions

    def loaded(self, worker: int) -> None:
        """A worker has loaded a partition."""
        self._workers[worker].loaded += 1

    def ran(self, attempt: int, now: float) -> None:
        """An attempt's `train_fn` has returned: the worker is free, a new version is being saved.

        What a validation unit gave is committed at once.
        """
        running = self._attempts.get(attempt)
        if running is None or running.unit.split is Split.VALID:
            return
        worker = self._workers[running.worker]
        worker.saves[attempt] = running.unit.model
        self._free(worker, attempt, now)

    def wait_for(self, waits: Mapping[str, str]) -> None:
        """What is being waited for now, by matter, in place of what was."""
        self._waits = dict(waits)

    def end(self, outcome: str) -> None:
        """The run is over for this driver."""
        self._outcome = outcome

    # --- one method a kind of record -------------------------------------------------------------

    def _add_worker(self, record: WorkerStateRecord, ledger: Ledger) -> None:
        t, state = record.t, record.state
        worker = self._workers.setdefault(
            record.worker, Worker(record.url, WorkerActivity.CONNECTING, t)
        )
        if state in ACTIVITIES:
            worker.attempt, worker.loading, worker.loads, worker.loaded = None, False, 0, 0
            worker.saves.clear()
            self._turn(worker, ACTIVITIES[state], t, first_line(record.reason or ""))
        elif state is WorkerState.ASIDE:
            self._turn(worker, WorkerActivity.ASIDE, t, first_line(record.reason or ""))
        elif state is WorkerState.READY:
            worker.loading, worker.loads, worker.loaded = False, 0, 0
            if worker.attempt is None and ledger.workers[record.worker].condition.may_get_units:
                worker.since = t

    def _add_started(self, record: StartedRecord, ledger: Ledger) -> None:
        unit = ledger.attempts[record.attempt].unit
        self._attempts[record.attempt] = Running(unit, record.worker, record.t)
        worker = self._workers[record.worker]
        worker.attempt = record.attempt
        training = unit.split is Split.TRAIN
        self._turn(
            worker, WorkerActivity.TRAINING if training else WorkerActivity.VALIDATING, record.t
        )

    def _add_committed(self, record: CommittedRecord, ledger: Ledger) -> None:
        running = self._over(record)
        if running is None:
            return
        unit = running.unit
        seconds = (record.t if record.ran is None else record.ran) - running.start
        self._kind_seconds[unit.split].add(seconds)
        key = (unit.split, unit.partition)
        self._partition_seconds.setdefault(key, Seconds()).add(seconds)
        model = self._models[unit.model]
        model.seconds[unit.split].add(seconds)
        self._units += 1
        model.done[unit.split] += 1
        entry = ledger.models[unit.model]
        if entry.has_ended_epoch() and not model.waits:
            self._epochs += 1
            self._compare(entry, entry.epochs[-1])
        self._set(entry)

    def _add_failed(self, record: FailedRecord, ledger: Ledger) -> None:
        self._over(record)

    def _add_model_failed(self, record: ModelFailedRecord, ledger: Ledger) -> None:
        self._over(record)
        self._set(ledger.models[record.model])

    def _add_void(self, record: VoidRecord, ledger: Ledger) -> None:
        self._set(ledger.models[record.model])

    def _add_decision(self, record: DecisionRecord, ledger: Ledger) -> None:
        for new in record.add:
            self._begin_model(ledger.models[new.model])
        for number in (*record.asked, *record.stop):
            self._set(ledger.models[number])

    def _add_reopened(self, record: ReopenedRecord, ledger: Ledger) -> None:
        for number in record.models:
            self._set(ledger.models[number])

    _ADD: ClassVar[Mapping[type[Record], Callable[[Tally, Any, Ledger], None]]] = {
        WorkerStateRecord: _add_worker,
        StartedRecord: _add_started,
        CommittedRecord: _add_committed,
        FailedRecord: _add_failed,
        ModelFailedRecord: _add_model_failed,
        VoidRecord: _add_void,
        DecisionRecord: _add_decision,
        ReopenedRecord: _add_reopened,
    }

    def _over(self, record: EndOfAttempt) -> Running | None:
        """An attempt is over, however it went."""
        running = self._attempts.pop(record.attempt, None)
        if running is not None:
            worker = self._workers[running.worker]
            worker.saves.pop(record.attempt, None)
            self._free(worker, record.attempt, record.t)
        return running

    def _free(self, worker: Worker, attempt: int, now: float) -> None:
        if worker.attempt == attempt:
            worker.attempt = None
            if worker.state is not WorkerActivity.ASIDE:
                self._turn(worker, WorkerActivity.IDLE, now)

    def _turn(self, worker: Worker, state: WorkerActivity, now: float, detail: str = "") -> None:
        worker.state, worker.since, worker.detail = state, now, detail

    def _set(self, record: ModelRecord) -> None:
        """Where a model stands now."""
        model = self._models[record.id]
        model.state, model.epoch = record.state, record.epoch
        running = record.state is ModelState.RUNNING
        for split, units in ((Split.TRAIN, record.train), (Split.VALID, record.valid)):
            left = record.left(self._partitions[split], units) if running else frozenset()
            if split is Split.TRAIN and running and record.repair is not None:
                left |= {record.repair.partition}
            model.left[split] = left

    def _compare(self, record: ModelRecord, epoch: EpochRecord) -> None:
        error = epoch.valid_error
        if not math.isnan(error) and (self._best is None or error < self._best.valid_error):
            config = hyperparameters(record.mst)
            self._best = BestView(record.id, epoch.epoch, error, config)

    # --- the view --------------------------------------------------------------------------------

    def view(self, now: float, doing: tuple[tuple[str, float], ...] = (), disk: str = "") -> View:
        """What is to be seen now; `doing` and `disk` are not known from records."""
        workers = tuple(self._worker_view(n, w, now) for n, w in self._workers.items())
        running = [m for m in self._models.values() if m.state is ModelState.RUNNING]
        states = [state.value for state in ModelState]
        counts = Counter(model.state.value for model in self._models.values())
        if not self._together:
            counts[WAITING] = sum(model.waits for model in running)
            counts[ModelState.RUNNING.value] -= counts[WAITING]
        return View(
            name=self._name,
            outcome=self._outcome,
            seconds=now - self._began,
            units=self._units,
            epochs=self._epochs,
            epoch=self._epoch_view(running),
            time_left=None if self._outcome else self._time_left(workers, now),
            models=tuple((name, counts[name]) for name in (*states, WAITING) if counts[name]),
            best=self._best_view(),
            disk=disk,
            doing=doing,
            waits=() if self._outcome else (*self._waits.values(), *self._others(running, doing)),
            workers=workers,
        )

    def _worker_view(self, number: int, worker: Worker, now: float) -> WorkerView:
        running = self._attempts.get(worker.attempt) if worker.attempt is not None else None
        state, detail = worker.state, worker.detail
        saves = tuple(worker.saves.values())
        if state is WorkerActivity.IDLE and worker.loading:
            state = WorkerActivity.LOADING
        elif state is WorkerActivity.IDLE and saves:
            state = WorkerActivity.SAVING
        if worker.loading and worker.loads:
            detail = f"{worker.loaded} of {count(worker.loads, 'partition')} loaded"
        return WorkerView(
            number,
            worker.url,
            state,
            now - worker.since,
            running.unit if running else None,
            saves,
            detail,
        )

    def _best_view(self) -> BestView | None:
        """The best model with the hyperparameters in which models differ."""
        if self._best is None:
            return None
        config = {k: v for k, v in self._best.config.items() if len(self._values[k]) > 1}
        return replace(self._best, config=config)

    def _epoch_view(self, running: list[Model]) -> EpochView | None:
        if not running:
            return None
        units = len(running) * sum(self._partitions.values())
        left = sum(len(part) for model in running for part in model.left.values())
        epochs = [model.epoch for model in running]
        return EpochView(min(epochs), max(epochs), max(0, units - left), units)

    def _others(self, running: list[Model], doing: tuple[tuple[str, float], ...]) -> list[str]:
        """What models wait for that have ended their epoch."""
        waiting = sum(model.waits for model in running)
        if not self._together or not 0 < waiting < len(running):
            return []
        return [
            f"{count(waiting, 'model')} {'has' if waiting == 1 else 'have'} ended the epoch: "
            f"{'mst_eval_fn' if self._plan.search is None else 'the search procedure'} is asked "
            f"when all have, {len(running) - waiting} not yet"
        ]

    # --- time ------------------------------------------------------------------------------------

    def _time_left(self, workers: tuple[WorkerView, ...], now: float) -> TimeLeft | None:
        """An estimate, once a unit has been measured."""
        if all(seconds.mean is None for seconds in self._kind_seconds.values()):
            return None
        at_work = [
            w.number for w in workers if w.state not in (*TROUBLES, WorkerActivity.CONNECTING)
        ]
        begun: dict[int, float] = {}
        for attempt in self._attempts.values():
            expected = self._expected(self._models[attempt.unit.model], attempt.unit.split)
            taken = min(now - attempt.start, expected)
            begun[attempt.unit.model] = begun.get(attempt.unit.model, 0.0) + taken
        work = list(self._work(begun))
        left = seconds_left(work, len(at_work), self._loads(at_work))
        if left is None or not any(w.train or w.valid for w in work):
            return None
        unmeasured = any(
            self._kind_seconds[split].mean is None and any(getattr(w, split.value) for w in work)
            for split in Split
        )
        return TimeLeft(left, whole_run=self._totals is not None, at_least=unmeasured)

    def _work(self, begun: Mapping[int, float]) -> Iterable[Work]:
        """What models have left: in the run where its end is known, else in their epoch."""
        for number, model in self._models.items():
            if model.state is ModelState.RUNNING:
                left = [len(model.left[split]) for split in Split]
                if self._totals is not None and number in self._totals:
                    left = [
                        max(0, total - model.done[split])
                        for split, total in zip(Split, self._totals[number], strict=True)
                    ]
                yield self._work_of(model, left, begun.get(number, 0.0))
        if self._totals is not None:  # models that a decision has yet to add
            for number, totals in self._totals.items():
                if number not in self._models:
                    yield self._work_of(Model(), list(totals), 0.0)

    def _work_of(self, model: Model, left: list[int], begun: float) -> Work:
        train, valid = left
        return Work(
            train,
            self._expected(model, Split.TRAIN),
            valid,
            self._expected(model, Split.VALID),
            begun,
        )

    def _expected(self, model: Model, split: Split) -> float:
        """Seconds of a model's unit: by its own, else by all models' so far."""
        own = model.seconds[split].mean
        return own if own is not None else self._kind_seconds[split].mean or 0.0

    def _loads(self, at_work: list[int]) -> list[float]:
        """Seconds of work for each worker, where a matrix says who may read what."""
        matrices = {split: self._plan.availability(split) for split in Split}
        loads = dict.fromkeys(at_work, 0.0)
        for split, matrix in matrices.items():
            if matrix is None or self._totals is not None:
                continue
            left = Counter(
                p
                for model in self._models.values()
                if model.state is ModelState.RUNNING
                for p in model.left[split]
            )
            for partition, units in left.items():
                holders = [w for w in at_work if w < len(matrix) and matrix[w][partition]]
                measured = self._partition_seconds.get((split, partition))
                mean = measured.mean if measured else self._kind_seconds[split].mean
                for worker in holders:
                    loads[worker] += units * (mean or 0.0) / len(holders)
        return list(loads.values())
