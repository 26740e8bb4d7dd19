"""What the journal adds up to: models, their versions and metrics, attempts, workers.

The same object serves the run while it is in progress (each record is added as it is written) and
everything made from a journal later: resume, results, logs. It holds no truth of its own.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from cerebro.hopper.metrics import epoch_mean
from cerebro.hopper.units import ModelPosition, ModelState, Split, Unit
from cerebro.journal.flaws import flaw, is_ruined
from cerebro.journal.records import (
    CommittedRecord,
    DecisionRecord,
    DoesNotFit,
    DroppedRecord,
    EndRecord,
    FailedRecord,
    GenerationRecord,
    ModelFailedRecord,
    PlanRecord,
    Record,
    ReopenedRecord,
    StartedRecord,
    VoidRecord,
    WorkerStateRecord,
    parse,
)
from cerebro.journal.run_plan import START, RunPlan
from cerebro.journal.unit_times import UnitTimes
from cerebro.journal.worker_states import TROUBLES, WorkerCondition, WorkerState
from cerebro.metrics.direction import direction_of_kind
from cerebro.metrics.states import joint_values, kinds

EndOfAttempt = CommittedRecord | FailedRecord | ModelFailedRecord
"""Records after which an attempt is over."""

METRICS = ("train_loss", "train_error", "valid_loss", "valid_error")
"""The metrics of every epoch, whichever backend."""

LOST = "lost"
"""How an attempt ends whose worker, or driver, is gone."""

DISCARDED = "discarded"
"""How an attempt ends whose outcome no longer mattered: that is nobody's failure."""


@dataclass
class EpochRecord:
    """One epoch of one model. Seconds are those inside `train_fn`, summed over partitions; `ended`
    is the Unix time at which the last of its units was committed. `metrics` are those that the
    backend gives beside loss and error, called as in the history: `train_accuracy`. Those in
    `exact` are over all examples together; any other is the mean of its values on the partitions.

    `finite` says whether the weights at its end are (None: not known), `flaw` what is wrong with
    its numbers, and `ruined` whether that keeps it from ever being best (`cerebro.journal.flaws`).
    """

    epoch: int
    train_loss: float
    train_error: float
    valid_loss: float
    valid_error: float
    train_seconds: float
    valid_seconds: float
    ended: float
    version: int | None
    inherited: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    exact: tuple[str, ...] = ()
    finite: bool | None = None
    ruined: bool = False
    flaw: str = ""

    def metric(self, name: str) -> float:
        """A metric by its name in the history; NaN where this epoch has none of that name."""
        if name in METRICS:
            return float(getattr(self, name))
        return self.metrics.get(name, math.nan)

    @property
    def warning(self) -> str:
        """What is wrong with its numbers, and what follows from it; empty if nothing is."""
        return f"{self.flaw}; this epoch is never best" if self.ruined else self.flaw


@dataclass
class AttemptRecord:
    """One attempt to run a unit. Times are the driver's, in seconds since the run started.

    `result` is the record of its end; None while it runs, and where its driver ended before it.
    """

    number: int
    unit: Unit
    worker: int
    reads: int
    generation: int
    start: float
    end: float | None = None
    outcome: str = "running"
    result: EndOfAttempt | None = None

    @property
    def committed(self) -> CommittedRecord | None:
        """What it gave, if it was committed; its version may have been found damaged since."""
        return self.result if isinstance(self.result, CommittedRecord) else None

    @property
    def message(self) -> str:
        """Why it failed; empty if it did not, or nobody said so."""
        if isinstance(self.result, FailedRecord | ModelFailedRecord):
            return self.result.message
        return ""

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In pickles of version 2.0 the record is a dictionary, empty where there is none.
        self.__dict__.update(state, result=_unpickled(state["result"]))


@dataclass
class ModelRecord:
    """One model as far as the journal tells.

    `finite` says of versions whether their weights are; those that are missing, nobody knows of.
    """

    id: int
    mst: dict[str, Any]
    epoch: int
    parent: int | None = None
    start_checkpoint: str | None = None
    state: ModelState = ModelState.RUNNING
    version: int = 0
    checkpoints: dict[int, str] = field(default_factory=dict)
    epochs: list[EpochRecord] = field(default_factory=list)
    train: dict[int, AttemptRecord] = field(default_factory=dict)
    valid: dict[int, AttemptRecord] = field(default_factory=dict)
    last_unit: Unit | None = None
    repair: Unit | None = None
    failure: ModelFailedRecord | None = None
    finite: dict[int, bool] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In pickles of version 2.0 the record is a dictionary, and nothing says what is finite.
        state.setdefault("finite", {})
        self.__dict__.update(state, failure=_unpickled(state["failure"]))

    def checkpoint(self, version: int | None = None) -> str | None:
        """The checkpoint of a version (the newest); version 0 is where the model started."""
        number = self.version if version is None else version
        return self.start_checkpoint if number == 0 else self.checkpoints.get(number)

    def has_ended_epoch(self) -> bool:
        """Whether its epoch is summed up."""
        last = self.epochs[-1] if self.epochs else None
        return last is not None and not last.inherited and last.epoch == self.epoch

    def left(self, partitions: int, done: Iterable[int]) -> frozenset[int]:
        """The partitions that its epoch has yet to visit; none once that has ended."""
        if self.has_ended_epoch():
            return frozenset()
        return frozenset(range(partitions)).difference(done)


@dataclass
class WorkerRecord:
    """One worker as far as the journal tells."""

    url: str
    condition: WorkerCondition = field(default_factory=WorkerCondition)
    facts: dict[str, Any] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "condition" not in state:
            # In pickles of version 2.0 there is only the last state that was recorded.
            last = self.__dict__.pop("state")
            self.condition = WorkerCondition()
            if last in set(WorkerState):
                self.condition = self.condition.after(WorkerState(last), 0.0)


def _unpickled(record: Any) -> Any:
    """A record of a pickle, which may be a dictionary as stored on disk."""
    return parse(record, record["generation"]) if record and isinstance(record, dict) else record


Listener = Callable[[Record, "Ledger"], None]


class Ledger:
    """The sum of a journal's records.

    With `keep_attempts` every attempt stays in `attempts`; without, only those under way do, so
    that a long run's driver does not grow. `listeners` are called with each record once it is
    added. `generations` has the opening record of each driver, `plans` what each was to do, None
    where it ended before it said so. `totals` are the train and valid units of each model in the
    whole run, where its end is known. `metric_kinds` are the kinds of metrics that workers have
    reported, by name; None where those of models differ in whether low or high values are better.
    `configs` are the configurations that were given, those that were appended later among them;
    `finished` the finishers when the run last ended. `run` is the id by which workers know the run,
    `folders` are the absolute paths at which its drivers have had its folder, the last one last.
    `measured` are the `METRICS` that some epoch has a value for.
    """

    def __init__(self, *, keep_attempts: bool = False) -> None:
        self._keep_attempts = keep_attempts
        self._last_attempt = -1
        self._driver: object = None
        self.listeners: list[Listener] = []
        self.plan: RunPlan | None = None
        self.base_time = 0.0
        self.last_t = 0.0
        self.models: dict[int, ModelRecord] = {}
        self.attempts: dict[int, AttemptRecord] = {}
        self.workers: dict[int, WorkerRecord] = {}
        self.generations: list[GenerationRecord] = []
        self.run = ""
        self.folders: tuple[str, ...] = ()
        self.plans: list[RunPlan | None] = []
        self.unit_times = UnitTimes()
        self.totals: dict[int, tuple[int, int]] | None = None
        self.decisions = 0
        self.last_asked: tuple[int, ...] = ()
        self.faults: dict[str, int] = {}
        self.failures = 0
        self.ended = False
        self.configs: list[dict[str, Any]] = []
        self.finished: tuple[int, ...] = ()
        self.measured: frozenset[str] = frozenset()
        self._voided: dict[tuple[int, int], str] = {}
        self.metric_kinds: dict[str, str | None] = {}

    @classmethod
    def from_records(
        cls,
        records: Iterable[Record],
        *,
        keep_attempts: bool = False,
        listeners: Iterable[Listener] = (),
    ) -> Ledger:
        """The sum of a whole journal. Raises as `add`."""
        ledger = cls(keep_attempts=keep_attempts)
        ledger.listeners.extend(listeners)
        for record in records:
            ledger.add(record)
        return ledger

    def add(self, record: Record) -> None:
        """Add one record. Kinds that a later version introduced are passed over.

        Raises `DoesNotFit` for one that cannot follow those before it, such as the commit of an
        attempt that was never started; the ledger is of no use then.
        """
        self.last_t = max(self.last_t, record.t)
        add = self._ADD.get(type(record))
        if add is not None:
            add(self, record)
        for listener in self.listeners:
            listener(record, self)
        if not self._keep_attempts and isinstance(record, EndOfAttempt):
            self.attempts.pop(record.attempt, None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"metric_kinds": {}, "run": "", "folders": (), **state})
        if "measured" not in state:
            self.measured = frozenset()
            for model in self.models.values():
                for epoch in model.epochs:
                    self._judge(epoch)
        if "plans" not in state:
            # In pickles of version 2.0 the records are dictionaries, with a part of the plan.
            given = ("functions", "workers")
            self.plans = [
                replace(self.the_plan, **{name: record[name] for name in given})
                if given[0] in record
                else None
                for record in state["generations"]
            ]
            self.generations = [
                _unpickled({n: v for n, v in record.items() if n not in given})
                for record in state["generations"]
            ]
            self.last_asked = tuple(self.last_asked)
        if "configs" not in state:
            self.configs = [] if self.plan is None else list(self.plan.configs)
            self.finished = ()

    # --- what others ask -------------------------------------------------------------------------

    @property
    def the_plan(self) -> RunPlan:
        """The plan; the first records of every journal hold one."""
        assert self.plan is not None
        return self.plan

    @property
    def available_workers(self) -> frozenset[int]:
        """The workers that take units: they have joined the present driver, and do not drain."""
        return frozenset(
            number for number, worker in self.workers.items() if worker.condition.takes_units
        )

    def flawed_models(self) -> list[tuple[ModelRecord, EpochRecord]]:
        """List the models with a flaw, each with the first epoch of its own that has its worst."""
        found = []
        for model in self.models.values():
            own = [epoch for epoch in model.epochs if epoch.flaw and not epoch.inherited]
            if own:
                found.append((model, next((e for e in own if e.ruined), own[0])))
        return found

    def next_attempt(self) -> int:
        """A number that no attempt has had."""
        return self._last_attempt + 1

    def next_model(self) -> int:
        """An id that no model has had."""
        return max(self.models, default=-1) + 1

    def finishers(self) -> tuple[int, ...]:
        """The completed models that no other has left behind: those that the last decision was
        about, and those with as many epochs as any.
        """
        furthest = max((len(m.epochs) for m in self.models.values()), default=0)
        return tuple(
            m.id
            for m in self.models.values()
            if m.state is ModelState.COMPLETED
            and (m.id in self.last_asked or len(m.epochs) == furthest)
        )

    def positions(self) -> list[ModelPosition]:
        """How far every model has come, for a scheduler that continues from here."""
        plan = self.the_plan
        return [
            ModelPosition(
                model.id,
                model.epoch,
                model.version,
                model.left(len(plan.train_partitions), model.train),
                model.left(len(plan.valid_partitions), model.valid),
                model.state,
                model.last_unit,
                model.repair,
            )
            for model in self.models.values()
        ]

    def state(self) -> dict[int, dict[str, Any]]:
        """The original's dictionary for `eval_fn`; a deep copy, the caller's own."""
        return {
            model.id: {
                "state": model.state.value,
                "epoch": model.epochs[-1].epoch if model.epochs else -1,
                "train_loss": [e.train_loss for e in model.epochs],
                "train_error": [e.train_error for e in model.epochs],
                "valid_loss": [e.valid_loss for e in model.epochs],
                "valid_error": [e.valid_error for e in model.epochs],
                "ckpt_path": model.checkpoint(),
                "mst": copy.deepcopy(model.mst),
            }
            for model in self.models.values()
        }

    # --- one method a kind -----------------------------------------------------------------------

    def _add_generation(self, record: GenerationRecord) -> None:
        """A driver takes the run up: what the one before had under way no longer counts."""
        self.run = record.run
        if record.folder is not None:
            # As a path in a configuration is, whatever `ckpt_root` was relative to.
            place = os.path.normpath(record.folder)
            self.folders = (*(folder for folder in self.folders if folder != place), place)
        driver = (record.driver, record.time)
        if driver == self._driver:
            return  # the same driver continues in another file
        self._driver = driver
        self.generations.append(record)
        self.plans.append(None)
        for worker in self.workers.values():
            worker.condition = WorkerCondition(since=record.t)
        for attempt in list(self.attempts.values()):
            if attempt.outcome == "running":
                attempt.end, attempt.outcome = record.t, LOST
                if not self._keep_attempts:
                    del self.attempts[attempt.number]

    def _add_plan(self, record: PlanRecord) -> None:
        first = self.plan is None
        for split in Split if self.plan is not None else ():
            before, now = len(self.the_plan.partitions(split)), len(record.plan.partitions(split))
            if before != now:
                raise DoesNotFit(
                    record,
                    f"has {now} {split.value} partitions, and the plan before it {before}: their "
                    "number cannot change",
                )
        self.plan = record.plan
        if self.plans:
            self.plans[-1] = record.plan
        self.totals = record.totals
        if first:
            self.base_time = record.base or 0.0
            self.configs = list(self.plan.configs)
            for number, mst in enumerate(self.plan.configs):
                checkpoint = mst.get(START)
                self.models[number] = ModelRecord(number, mst, 0, start_checkpoint=checkpoint)

    def _add_worker(self, record: WorkerStateRecord) -> None:
        worker = self.workers.setdefault(record.worker, WorkerRecord(record.url))
        worker.url = record.url
        worker.condition = worker.condition.after(record.state, record.t, record.reason or "")
        if record.state is WorkerState.JOINED:
            worker.facts = record.facts or {}
        elif record.state is WorkerState.READY:
            worker.facts = {**worker.facts, "devices": record.devices or []}
        elif record.state in TROUBLES:
            self._fault(f"worker {record.state.value}")

    def _fault(self, kind: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1

    def _add_started(self, record: StartedRecord) -> None:
        unit = Unit(record.model, record.epoch, record.split, record.partition)
        model, plan = self.models.get(record.model), self.plan
        if (
            model is None
            or plan is None
            or record.reads != model.version
            or not _is_due(model, unit)
            or record.partition
            >= len(plan.train_partitions if record.split is _TRAIN else plan.valid_partitions)
            or record.attempt in self.attempts
            or (record.worker not in self.workers and record.worker >= len(plan.workers))
        ):
            raise self._cannot_start(record, unit)
        self.attempts[record.attempt] = AttemptRecord(
            record.attempt, unit, record.worker, record.reads, record.generation, record.t
        )
        self._last_attempt = max(self._last_attempt, record.attempt)
        worker = self.workers.get(record.worker)
        if worker is None:
            worker = self.workers[record.worker] = WorkerRecord(self._url(record.worker))
        worker.condition = worker.condition.given_unit(record.t)

    def _cannot_start(self, record: StartedRecord, unit: Unit) -> DoesNotFit:
        """Say why no driver can have started an attempt now."""
        model = self._model(record, record.model)
        partitions, workers = len(self.the_plan.partitions(record.split)), self.the_plan.workers
        if record.partition >= partitions:
            why = (
                f"has partition {record.partition}: the plan has {partitions} "
                f"{record.split.value} partitions, from 0"
            )
        elif record.attempt in self.attempts:
            why = f"has attempt {record.attempt}, a number that has been used"
        elif record.worker not in self.workers and record.worker >= len(workers):
            why = (
                f"has worker {record.worker}: the plan has {len(workers)} workers, from 0, and "
                "none of this number was added"
            )
        elif record.reads != model.version:
            why = f"reads version {record.reads} of model {model.id}: its newest is {model.version}"
        else:
            why = _not_due(model, unit)
        return DoesNotFit(record, why)

    def _model(self, record: Record, number: int) -> ModelRecord:
        """A model that a record names."""
        model = self.models.get(number)
        if model is None or self.plan is None:
            known = f"the models' ids are 0 to {len(self.models) - 1}" if self.models else ""
            raise DoesNotFit(record, f"names model {number}: {known or 'there is none yet'}")
        return model

    def _url(self, worker: int) -> str:
        """The URL of a worker of the plan."""
        urls = self.the_plan.workers
        return urls[worker] if worker < len(urls) else ""

    def _close(self, record: EndOfAttempt, outcome: str) -> AttemptRecord | None:
        attempt = self.attempts.get(record.attempt)
        if attempt is not None and attempt.outcome in ("committed", "void"):
            raise DoesNotFit(record, f"ends attempt {attempt.number}, which is {attempt.outcome}")
        if attempt is not None:
            attempt.end = record.t
            attempt.outcome = outcome
            attempt.result = record
        return attempt

    def _add_committed(self, record: CommittedRecord) -> None:
        attempt = self.attempts.get(record.attempt)
        if attempt is None or attempt.outcome != "running":
            raise DoesNotFit(
                record,
                f"has attempt {record.attempt}: none of this number is under way"
                + ("" if attempt is None else f", and that one is {attempt.outcome}"),
            )
        unit, model = attempt.unit, self.models[attempt.unit.model]
        if not _is_due(model, unit):
            raise DoesNotFit(record, _not_due(model, unit))
        checkpoint = record.checkpoint
        if unit.split is _TRAIN and (checkpoint is None or attempt.reads != model.version):
            raise DoesNotFit(
                record,
                f"is of {unit}, which has read version {attempt.reads}: it must make the version "
                f"behind the newest, {model.version}, and name its checkpoint",
            )
        attempt.end, attempt.outcome, attempt.result = record.t, "committed", record
        ran = record.t if record.ran is None else record.ran
        self.unit_times.add(unit, ran - attempt.start, record.t - attempt.start)
        if unit.split is Split.VALID:
            model.valid[unit.partition] = attempt
        else:
            assert checkpoint is not None  # as was checked
            model.version = attempt.reads + 1
            model.checkpoints[model.version] = checkpoint
            self._made_again(model, checkpoint)
            finite = model.finite.get(attempt.reads) if record.finite is None else record.finite
            model.finite.pop(model.version, None)
            if finite is not None:
                model.finite[model.version] = finite
            model.last_unit = unit
            if unit == model.repair:
                model.repair = None
                if unit.epoch == model.epoch:
                    model.train[unit.partition] = attempt
                return
            model.train[unit.partition] = attempt
        plan = self.the_plan
        trained = len(model.train) == len(plan.train_partitions)
        if trained and len(model.valid) == len(plan.valid_partitions):
            self._end_epoch(model, record.t)

    def _made_again(self, model: ModelRecord, checkpoint: str) -> None:
        """A version that was voided has another name now: tell the models that start with it."""
        before = self._voided.pop((model.id, model.version), None)
        if before is None:
            return
        for child in self.models.values():
            if child.start_checkpoint == before:
                child.start_checkpoint = checkpoint

    def _unix_time(self, t: float) -> float:
        """When it was `t` by the clock of the driver at work, which leaves out the time between
        two drivers.
        """
        if not self.generations:
            return self.base_time + t
        opening = self.generations[-1]
        return opening.time + t - opening.t

    def _end_epoch(self, model: ModelRecord, t: float) -> None:
        values: dict[str, Any] = {"ended": self._unix_time(t)}
        metrics: dict[str, float] = {}
        for split, units in (("train", model.train), ("valid", model.valid)):
            results = {p: a.committed for p, a in units.items() if a.committed is not None}
            examples = {p: r.examples for p, r in results.items()}
            losses = {p: r.loss for p, r in results.items()}
            errors = {p: r.error for p, r in results.items()}
            values[f"{split}_loss"] = epoch_mean(losses, examples)
            values[f"{split}_error"] = epoch_mean(errors, examples)
            values[f"{split}_seconds"] = sum(r.run_seconds for r in results.values())
            for metric in _common(r.metrics for r in results.values()):
                numbers = {p: r.metrics[metric] for p, r in results.items()}
                metrics[f"{split}_{metric}"] = epoch_mean(numbers, examples)
        states = [model.valid[p].committed for p in sorted(model.valid)]
        joint, error = joint_values([None if r is None else r.states for r in states])
        exact = {f"valid_{n}": v for n, v in joint.items() if f"valid_{n}" in metrics}
        metrics.update(exact)
        if error is not None:
            values["valid_error"] = error
            exact["valid_error"] = error
        for result in filter(None, states):
            self._note_kinds(kinds(result.states or {}))
        names = ("valid_loss", "valid_error", *(n for n in metrics if n.startswith("valid_")))
        values["metrics"] = metrics
        values["exact"] = names if len(states) == 1 else tuple(n for n in names if n in exact)
        values["finite"] = model.finite.get(model.version)
        epoch = EpochRecord(epoch=model.epoch, version=model.version, **values)
        model.epochs.append(epoch)
        self._judge(epoch)
        for attempt in model.valid.values():
            # They are large, and have served.
            if attempt.committed is not None and attempt.committed.states is not None:
                attempt.result = replace(attempt.committed, states=None)

    def _judge(self, epoch: EpochRecord) -> None:
        """Say what is wrong with an epoch, and with those before it if a metric counts from now."""
        validates = bool(self.the_plan.valid_partitions)
        new = {name for name in METRICS if not math.isnan(epoch.metric(name))} - self.measured
        self.measured |= new
        epochs = [e for m in self.models.values() for e in m.epochs] if new else [epoch]
        for judged in epochs:
            values = {name: judged.metric(name) for name in METRICS}
            judged.ruined = is_ruined(judged.finite, judged.train_loss, self.measured)
            judged.flaw = flaw(judged.finite, values, self.measured, validates=validates)

    def _note_kinds(self, found: Mapping[str, str]) -> None:
        """Of one name, models may have metrics that are not better in the same direction."""
        for name, kind in found.items():
            known = self.metric_kinds.setdefault(name, kind)
            if known is not None and direction_of_kind(known) != direction_of_kind(kind):
                self.metric_kinds[name] = None

    def _add_failed(self, record: FailedRecord) -> None:
        self._close(record, record.failure)
        if record.failure != DISCARDED:
            self._fault(record.failure)

    def _add_model_failed(self, record: ModelFailedRecord) -> None:
        model = self._model(record, record.model)
        self._close(record, record.failure)
        self._fault(record.failure)
        model.state, model.failure = ModelState.FAILED, record
        self.failures += 1

    def _add_void(self, record: VoidRecord) -> None:
        model = self._model(record, record.model)
        if record.version != model.version or model.version == 0 or model.last_unit is None:
            raise DoesNotFit(
                record,
                f"has version {record.version} of model {model.id}: only its newest can be void, "
                f"which is {model.version}",
            )
        checkpoint = model.checkpoints.pop(record.version, None)
        if checkpoint is not None:
            self._voided[(model.id, record.version)] = checkpoint
        model.version = record.version - 1
        model.repair = model.last_unit
        for attempt in self.attempts.values():
            if attempt.unit == model.repair and attempt.outcome == "committed":
                attempt.outcome = "void"
        if len(model.valid) < len(self.the_plan.valid_partitions):
            for attempt in model.valid.values():
                attempt.outcome = "void"
            model.valid.clear()

    def _add_dropped(self, record: DroppedRecord) -> None:
        model = self._model(record, record.model)
        model.checkpoints.pop(record.version, None)
        if record.version != model.version:
            model.finite.pop(record.version, None)

    def _add_decision(self, record: DecisionRecord) -> None:
        self._check_decision(record)
        self.decisions += 1
        self.last_asked = record.asked
        for number, state in record.stop.items():
            model = self.models[number]
            if model.state is ModelState.RUNNING:
                model.state = state
                if model.has_ended_epoch():
                    # The driver of a long run must not grow with its units.
                    model.train, model.valid = {}, {}
        for new in record.add:
            model = ModelRecord(new.model, new.mst, new.epoch, new.parent, new.checkpoint)
            parent = self.models.get(new.parent) if new.parent is not None else None
            if parent is not None:
                model.epochs = [
                    EpochRecord(**{**vars(e), "version": None, "inherited": True})
                    for e in parent.epochs
                    if e.epoch < model.epoch
                ]
            source = owner(new.checkpoint, self) if new.checkpoint else None
            finite = self.models[source[0]].finite.get(source[1]) if source else None
            if finite is not None:
                model.finite[0] = finite
            self.models[model.id] = model
            if new.place is not None:
                self.configs.append(new.mst)
        for number in record.asked:
            model = self.models[number]
            if model.state is ModelState.RUNNING:
                model.epoch += 1
                model.train, model.valid = {}, {}

    def _check_decision(self, record: DecisionRecord) -> None:
        """Refuse a decision that no procedure can have been asked for, or that adds what cannot be
        told apart from other models.
        """
        if self.plan is None:
            raise DoesNotFit(record, "comes before the run's plan")
        for number in record.stop:
            self._model(record, number)
        asked = set[int]()
        for number in record.asked:
            model = self._model(record, number)
            going_on = model.state is ModelState.RUNNING and number not in record.stop
            if (going_on and not model.has_ended_epoch()) or number in asked:
                raise DoesNotFit(
                    record,
                    f"asks about model {number}: only a model that has ended its epoch can be "
                    f"asked about, and once; this one is in epoch {model.epoch}",
                )
            asked.add(number)
        places = len(self.configs)
        for number, new in enumerate(record.add, len(self.models)):
            if new.model != number:
                raise DoesNotFit(record, f"adds model {new.model}: the next id is {number}")
            history = 0 if new.parent is None else len(self._model(record, new.parent).epochs)
            if new.epoch > history:
                raise DoesNotFit(
                    record,
                    f"adds model {new.model}, which starts with epoch {new.epoch}: it has a "
                    f"history of {history} epochs before it",
                )
            if new.place is not None and new.place != places:
                raise DoesNotFit(
                    record,
                    f"adds model {new.model} with configuration {new.place}: the next place is "
                    f"{places}",
                )
            places += new.place is not None

    def _add_reopened(self, record: ReopenedRecord) -> None:
        """Models continue where they stopped: one that was stopped waits for a decision again."""
        models = [self._model(record, number) for number in record.models]
        self.ended = False
        self.finished = tuple(m for m in self.finished if m not in record.models)
        for model in models:
            model.state, model.failure = ModelState.RUNNING, None

    def _add_end(self, record: EndRecord) -> None:
        self.ended = True
        self.finished = self.finishers()

    _ADD: ClassVar[Mapping[type[Record], Callable[[Ledger, Any], None]]] = {
        GenerationRecord: _add_generation,
        PlanRecord: _add_plan,
        WorkerStateRecord: _add_worker,
        StartedRecord: _add_started,
        CommittedRecord: _add_committed,
        FailedRecord: _add_failed,
        ModelFailedRecord: _add_model_failed,
        VoidRecord: _add_void,
        DroppedRecord: _add_dropped,
        DecisionRecord: _add_decision,
        ReopenedRecord: _add_reopened,
        EndRecord: _add_end,
    }


# An enum's members are looked up by its metaclass, which takes longer than what is done with them.
_TRAIN, _RUNNING = Split.TRAIN, ModelState.RUNNING


def _is_due(model: ModelRecord, unit: Unit) -> bool:
    """Whether a unit is one of those that its model has yet to do."""
    if model.state is not _RUNNING:
        return False
    _, epoch, split, partition = unit
    if epoch != model.epoch or partition in (model.train if split is _TRAIN else model.valid):
        return unit == model.repair
    # Where its epoch has ended, its units are done, or forgotten.
    return bool(model.train) or unit == model.repair or not model.has_ended_epoch()


def _not_due(model: ModelRecord, unit: Unit) -> str:
    done = model.train if unit.split is Split.TRAIN else model.valid
    return (
        f"is of {unit}: the model is {model.state.value}, in epoch {model.epoch}, and has done "
        f"{sorted(done)} of the {unit.split.value} partitions"
    )


def _common(metrics: Iterable[dict[str, float]]) -> list[str]:
    """The names that all units of a split have given, in the order of the first."""
    first, *others = list(metrics) or [{}]
    return [name for name in first if all(name in other for other in others)]


def owner(path: str, ledger: Ledger) -> tuple[int, int] | None:
    """(model, version) of a checkpoint of this run that is still kept, or None."""
    for model in ledger.models.values():
        for version, checkpoint in model.checkpoints.items():
            if checkpoint == path:
                return model.id, version
    return None
