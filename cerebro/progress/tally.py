"""What the view is made from: the journal's records, and what the driver hears of its workers.

All times are the driver's, in seconds since the run started.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cerebro.formatting import count, first_line
from cerebro.hopper.units import ModelState, Split
from cerebro.journal import time_left
from cerebro.journal.best import best_of, best_so_far
from cerebro.journal.ledger import EndOfAttempt, Ledger, ModelRecord
from cerebro.journal.records import (
    CommittedRecord,
    DecisionRecord,
    Record,
    StartedRecord,
    WorkerStateRecord,
)
from cerebro.journal.run_plan import RunPlan, hyperparameters
from cerebro.journal.run_progress import ModelProgress, RunningAttempt, RunProgress
from cerebro.journal.worker_states import WorkerState
from cerebro.progress.view import BestView, View, WorkerActivity, WorkerView

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
class WorkerTally:
    """What one worker is doing. `saves` are models by attempts whose versions it writes, `loads`
    partitions to come.
    """

    url: str
    state: WorkerActivity
    since: float
    detail: str = ""
    attempt: int | None = None
    saves: dict[int, int] = field(default_factory=dict)
    loading: bool = False
    loads: int = 0
    loaded: int = 0


class Tally:
    """The sum of what has happened, so that a view of it costs little, and so does each record.

    `absent` workers did not answer at the start. `together`: the procedure is asked when all models
    have ended the epoch.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        now: float,
        *,
        absent: Iterable[int] = (),
        together: bool = True,
    ) -> None:
        self._name = name
        self._began = now
        self._together = together
        self._plan: RunPlan = ledger.the_plan
        self._workers = {
            number: WorkerTally(url, WorkerActivity.CONNECTING, now)
            for number, url in enumerate(self._plan.workers)
        }
        for number in absent:
            self._workers[number].state = WorkerActivity.ABSENT
        self._progress = RunProgress(ledger)
        self._best = best_so_far(ledger)
        self._measured = ledger.measured
        self._ruined = sum(m.epochs[-1].ruined for m in ledger.models.values() if m.epochs)
        self._values: dict[str, set[str]] = {}
        self._waits: dict[str, str] = {}
        self._outcome = ""
        for model in ledger.models.values():
            self._add_values(model)

    def _add_values(self, record: ModelRecord) -> None:
        for key, value in hyperparameters(record.mst).items():
            values = self._values.setdefault(key, set())
            if len(values) < 2:  # enough to tell what models differ in
                values.add(repr(value))

    # --- what happens ----------------------------------------------------------------------------

    def add(self, record: Record, ledger: Ledger) -> None:
        """Take in a record that has been added to the ledger."""
        ended = self._end_attempt(record) if isinstance(record, EndOfAttempt) else None
        self._progress.add(record, ledger)
        if ended is not None and isinstance(record, CommittedRecord):
            self._compare(ledger.models[ended.unit.model], ledger)
        elif isinstance(record, WorkerStateRecord):
            self._add_worker(record, ledger)
        elif isinstance(record, StartedRecord):
            self._add_started(record)
        elif isinstance(record, DecisionRecord):
            for new in record.add:
                self._add_values(ledger.models[new.model])

    def loading(self, worker: int, partitions: int) -> None:
        """Take in that a worker is told to load so many partitions."""
        self._workers[worker].loading = True
        self._workers[worker].loads += partitions

    def loaded(self, worker: int) -> None:
        """Take in that a worker has loaded a partition."""
        self._workers[worker].loaded += 1

    def ran(self, attempt: int, now: float) -> None:
        """Take in that an attempt's `train_fn` has returned: the worker is free, and saves.

        What a validation unit gave is committed at once.
        """
        running = self._progress.attempts.get(attempt)
        if running is None or running.unit.split is Split.VALID:
            return
        worker = self._workers[running.worker]
        worker.saves[attempt] = running.unit.model
        self._free(worker, attempt, now)

    def wait_for(self, waits: Mapping[str, str]) -> None:
        """Set what is being waited for now, by key, in place of what was."""
        self._waits = dict(waits)

    def end(self, outcome: str) -> None:
        """Take in that the run is over for this driver."""
        self._outcome = outcome

    # --- one method a kind of record -------------------------------------------------------------

    def _add_worker(self, record: WorkerStateRecord, ledger: Ledger) -> None:
        t, state = record.t, record.state
        worker = self._workers.setdefault(
            record.worker, WorkerTally(record.url, WorkerActivity.CONNECTING, t)
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

    def _add_started(self, record: StartedRecord) -> None:
        worker = self._workers[record.worker]
        worker.attempt = record.attempt
        training = record.split is Split.TRAIN
        self._turn(
            worker, WorkerActivity.TRAINING if training else WorkerActivity.VALIDATING, record.t
        )

    def _end_attempt(self, record: EndOfAttempt) -> RunningAttempt | None:
        """Free the worker of an attempt that is over, however it went."""
        running = self._progress.attempts.get(record.attempt)
        if running is not None:
            worker = self._workers[running.worker]
            worker.saves.pop(record.attempt, None)
            self._free(worker, record.attempt, record.t)
        return running

    def _free(self, worker: WorkerTally, attempt: int, now: float) -> None:
        if worker.attempt == attempt:
            worker.attempt = None
            if worker.state is not WorkerActivity.ASIDE:
                self._turn(worker, WorkerActivity.IDLE, now)

    def _turn(
        self, worker: WorkerTally, state: WorkerActivity, now: float, detail: str = ""
    ) -> None:
        worker.state, worker.since, worker.detail = state, now, detail

    def _compare(self, model: ModelRecord, ledger: Ledger) -> None:
        """See whether the epoch that a model has ended is the best one."""
        if not model.has_ended_epoch():
            return
        if ledger.measured == self._measured:
            before = [] if self._best is None else [self._best]
            pairs = [*before, (model, model.epochs[-1])]
            self._best = best_of(pairs, self._plan.metric, self._plan.mode)
        else:  # what was the best may be ruined, as its training loss counts from now on
            self._best = best_so_far(ledger)
        self._measured = ledger.measured
        self._ruined = sum(m.epochs[-1].ruined for m in ledger.models.values() if m.epochs)

    # --- the view --------------------------------------------------------------------------------

    def view(self, now: float, doing: tuple[tuple[str, float], ...] = (), disk: str = "") -> View:
        """Return what is to be seen now; `doing` and `disk` are not known from records."""
        workers = tuple(self._worker_view(n, w, now) for n, w in self._workers.items())
        running = self._progress.running()
        states = [state.value for state in ModelState]
        counts = Counter(model.state.value for model in self._progress.models.values())
        if not self._together:
            counts[WAITING] = sum(model.waits for model in running)
            counts[ModelState.RUNNING.value] -= counts[WAITING]
        return View(
            name=self._name,
            outcome=self._outcome,
            seconds=now - self._began,
            units=self._progress.units,
            epochs=self._progress.epochs,
            epoch=self._progress.epoch(),
            time_left=None if self._outcome else time_left.estimate(self._progress, now),
            models=tuple((name, counts[name]) for name in (*states, WAITING) if counts[name]),
            ruined=self._ruined,
            best=self._best_view(),
            disk=disk,
            doing=doing,
            waits=() if self._outcome else (*self._waits.values(), *self._others(running, doing)),
            workers=workers,
        )

    def _worker_view(self, number: int, worker: WorkerTally, now: float) -> WorkerView:
        running = (
            self._progress.attempts.get(worker.attempt) if worker.attempt is not None else None
        )
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
        """Return the best model with the hyperparameters in which models differ."""
        if self._best is None:
            return None
        model, epoch = self._best
        config = hyperparameters(model.mst)
        config = {key: value for key, value in config.items() if len(self._values[key]) > 1}
        metric = self._plan.metric
        return BestView(model.id, epoch.epoch, metric, epoch.metric(metric), config)

    def _others(
        self, running: list[ModelProgress], doing: tuple[tuple[str, float], ...]
    ) -> list[str]:
        """Say what models wait for that have ended their epoch."""
        waiting = sum(model.waits for model in running)
        if not self._together or not 0 < waiting < len(running):
            return []
        return [
            f"{count(waiting, 'model')} {'has' if waiting == 1 else 'have'} ended the epoch: "
            f"{'mst_eval_fn' if self._plan.search is None else 'the search procedure'} is asked "
            f"when all have, {len(running) - waiting} not yet"
        ]
