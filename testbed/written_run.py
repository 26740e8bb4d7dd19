"""A run that never was: its journal, written from a schedule on simulated time.

The scheduler is the real one, and so are journal and format. Metrics come from a formula of the
configuration, times from a generator with a seed.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cerebro.hopper import events as ev
from cerebro.hopper.holdings import FixedHoldings
from cerebro.hopper.placement.registry import POLICIES
from cerebro.hopper.scheduler import Scheduler
from cerebro.hopper.simulator import Simulation
from cerebro.hopper.units import Attempt, Failure, ModelPosition, ModelState, Split
from cerebro.journal.journal import Journal
from cerebro.journal.ledger import LOST
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import (
    CommittedRecord,
    DecisionRecord,
    EndRecord,
    FailedRecord,
    GenerationRecord,
    Header,
    InterruptedRecord,
    ModelFailedRecord,
    PlanRecord,
    Record,
    StartedRecord,
    WorkerStateRecord,
)
from cerebro.journal.run_plan import RunPlan
from cerebro.journal.worker_states import WorkerState

BEGAN = 1_750_000_000.0
JOIN_SECONDS = 1.5
LOAD_SECONDS = 12.0
SAVE_SECONDS = 0.4
AROUND = {"load": 0.0, "build": 0.02, "restore": 0.05, "fetch": 0.03, "wait": 0.01}
"""The worker's seconds of each phase of a unit beside `run`."""

ORDERS = 0.04

RATES = (1e-1, 1e-2, 1e-3, 1e-4)
UNITS = (16, 32, 64, 128)
KINDS = ("relu", "tanh", "elu", "gelu")
DROPOUTS = (0.0, 0.1, 0.2, 0.5)


def grid(models: int) -> list[dict[str, Any]]:
    """The first configurations of a grid of 256."""
    values = itertools.product(RATES, UNITS, KINDS, DROPOUTS)
    names = ("learning_rate", "units", "activation", "dropout")
    cells = [dict(zip(names, cell, strict=True), batch_size=32) for cell in values]
    return [cells[(n * 37) % len(cells)] for n in range(models)]


@dataclass(frozen=True)
class Shape:
    """How large a run is, and what goes wrong.

    The models in `failing` fail in their second epoch. One executor dies in `death_every` units,
    the worker `lost` is gone for a part of the first epoch, and after `stop` records the driver is
    interrupted.
    """

    models: int
    workers: int
    train: int
    valid: int
    epochs: int
    failing: frozenset[int] = frozenset()
    death_every: int = 0
    lost: int | None = None
    stop: int | None = None


@dataclass
class _Writer:
    """Turns what the scheduler does into records."""

    shape: Shape
    plan: RunPlan
    paths: RunPaths
    random: random.Random = field(default_factory=lambda: random.Random(0))
    records: list[Record] = field(default_factory=list)
    asked: int = 0
    units: int = 0
    started: dict[int, float] = field(default_factory=dict)
    ran: dict[int, float] = field(default_factory=dict)
    simulation: Simulation | None = None

    def add(self, kind: type[Record], t: float, **fields: Any) -> None:
        self.records.append(kind(t=t, generation=1, **fields))

    def worker(self, number: int, state: WorkerState, t: float, **fields: Any) -> None:
        url = self.plan.workers[number]
        self.add(WorkerStateRecord, t, worker=number, url=url, state=state, **fields)

    def joins(self, number: int, t: float) -> None:
        facts = {"host": f"node{number}", "threads": 8, "cerebro": "2.0.0"}
        self.worker(number, WorkerState.JOINED, t, facts=facts)
        self.worker(number, WorkerState.READY, t + LOAD_SECONDS, devices=["NVIDIA A100-SXM4-80GB"])

    @property
    def now(self) -> float:
        assert self.simulation is not None
        return self.simulation.now

    def seconds(self, attempt: Attempt) -> float:
        model, speed = attempt.unit.model, 1.0 + 0.15 * (attempt.worker % 3)
        size = UNITS.index(self.plan.configs[model]["units"])
        whole = (2.0 + size) * speed * self.random.uniform(0.9, 1.1)
        return whole if attempt.unit.split is Split.TRAIN else 0.3 * whole

    def outcome(self, attempt: Attempt, event: ev.Event) -> ev.Event:
        if not isinstance(event, ev.UnitRan):
            return event
        self.units += 1
        if attempt.unit.model in self.shape.failing and attempt.unit.epoch == 1:
            return ev.UnitFailed(attempt.number, Failure.USER)
        if self.shape.death_every and self.units % self.shape.death_every == 0:
            return ev.UnitFailed(attempt.number, Failure.EXECUTOR)
        return event

    def decide(self, ask: ev.Ask) -> ev.Decided:
        self.asked += 1
        over = self.asked == self.shape.epochs
        stop = dict.fromkeys(ask.models, ModelState.COMPLETED) if over else {}
        self.add(DecisionRecord, self.now, asked=ask.models, stop=stop, add=())
        return ev.Decided(ask.models, stop)

    def metrics(self, attempt: Attempt) -> tuple[float, float]:
        """Loss and error: one learning rate learns fast, one diverges."""
        unit, config = attempt.unit, self.plan.configs[attempt.unit.model]
        rate, size = RATES.index(config["learning_rate"]), UNITS.index(config["units"])
        floor = 0.08 + 0.05 * abs(rate - 1.3) + 0.02 * (3 - size) + 0.1 * config["dropout"] ** 2
        floor += 0.01 * KINDS.index(config["activation"])
        gap = 0.02 * size if unit.split is Split.VALID else 0.0
        error = floor + gap + 0.4 * math.exp(-(0.25 + 0.2 * (3 - rate)) * (unit.epoch + 0.5))
        error = min(1.0, error * self.random.uniform(0.97, 1.03))
        diverges = rate == 0 and size == 3
        return (40.0 * (unit.epoch + 1) if diverges else 2.5 * error), error

    def observe(self, events: tuple[ev.Event, ...], actions: list[ev.Action]) -> None:
        for event in events:
            if isinstance(event, ev.UnitRan):
                self.ran[event.attempt] = self.now
        for action in actions:
            if isinstance(action, ev.Start):
                attempt, unit = action.attempt, action.attempt.unit
                self.started[attempt.number] = self.now
                place = {"model": unit.model, "epoch": unit.epoch, "split": unit.split}
                self.add(
                    StartedRecord, self.now, attempt=attempt.number, worker=attempt.worker, **place,
                    partition=unit.partition, reads=attempt.reads,
                )  # fmt: skip
            elif isinstance(action, ev.Commit):
                self._committed(action.attempt)
            elif isinstance(action, ev.Retry):
                lost = action.failure is None
                message = "the worker was lost" if lost else "the executor ended: exit status 137"
                self._failed(FailedRecord, action.attempt, action.failure, message)
            elif isinstance(action, ev.ModelFailed):
                message = "train_fn raised ValueError: the loss is NaN & <b>all is lost</b>"
                self._failed(
                    ModelFailedRecord, action.attempt, action.failure, message, model=action.model,
                    error="ValueError", function="train_fn",
                )  # fmt: skip
            elif isinstance(action, ev.End):
                self.add(EndRecord, self.now)

    def _committed(self, attempt: Attempt) -> None:
        loss, error = self.metrics(attempt)
        ran, started = self.ran.pop(attempt.number), self.started.pop(attempt.number)
        phases = {**AROUND, "run": max(0.0, ran - started - ORDERS - sum(AROUND.values()))}
        fields: dict[str, Any] = {}
        if attempt.unit.split is Split.TRAIN:
            phases["save"] = SAVE_SECONDS
            version = self.paths.version(attempt.unit.model, attempt.reads + 1, 1, attempt.number)
            fields["checkpoint"] = str(version.absolute() / "model")
        self.add(
            CommittedRecord, self.now, attempt=attempt.number, loss=loss, error=error,
            examples=1000, phases=phases, output="", ran=ran, **fields,
        )  # fmt: skip

    def _failed(
        self,
        kind: type[Record],
        attempt: Attempt,
        failure: Failure | None,
        message: str,
        **fields: Any,
    ) -> None:
        name = failure.value if failure else LOST
        details = {"message": message, "traceback": "", "output": "", **fields}
        self.add(kind, self.now, attempt=attempt.number, failure=name, **details)


def write_run(run_dir: str | Path, shape: Shape) -> None:
    """Write the journal of a run of a shape into a folder that is made."""
    paths = RunPaths(run_dir)
    paths.root.mkdir(parents=True)
    paths.create()
    plan = _plan(paths.root.name, shape)
    records = list(_records(plan, shape, paths))
    if shape.stop is not None:
        del records[shape.stop :]
        last = records[-1].t
        records.append(InterruptedRecord(t=last, generation=1, reason="interrupted"))
    journal = Journal(paths)
    try:
        versions = {"cerebro": "2.0.0", "python": "3.11", "tensorflow": "2.21.0", "numpy": "2.4.6"}
        header: Header = {"t": 0.0, "generation": 1}
        opening = GenerationRecord(
            **header,
            run=plan.id,
            time=BEGAN,
            driver={"host": "head", "pid": 4711},
            versions=versions,
            git_commit="0123456789abcdef0123456789abcdef01234567",
        )
        journal.begin(opening)
        journal.append([PlanRecord(**header, plan=plan, base=BEGAN), *records])
    finally:
        journal.close()


def _plan(name: str, shape: Shape) -> RunPlan:
    return RunPlan(
        id="0" * 32,
        name=name,
        workers=[f"http://node{n}:7777" for n in range(shape.workers)],
        train_partitions=[f"/shared/train_{n}.txt" for n in range(shape.train)],
        valid_partitions=[f"/shared/valid_{n}.txt" for n in range(shape.valid)],
        train_availability=_matrix(shape.workers, shape.train),
        valid_availability=_matrix(shape.workers, shape.valid),
        configs=grid(shape.models),
        backend="tf",
        seed=7,
        deterministic=True,
        keep_data=True,
        functions={"model_fn": "ab" * 32, "train_fn": "cd" * 32},
    )


def _matrix(workers: int, partitions: int) -> list[list[int]]:
    """Each partition on one worker, and each worker has one where there are enough."""
    return [
        [int(w % max(1, min(workers, partitions)) == p % workers) for p in range(partitions)]
        for w in range(workers)
    ]


def _records(plan: RunPlan, shape: Shape, paths: RunPaths) -> Iterator[Record]:
    writer = _Writer(shape, plan, paths)
    left, valid = frozenset(range(shape.train)), frozenset(range(shape.valid))
    scheduler = Scheduler(
        train=FixedHoldings(plan.train_availability or []),
        valid=FixedHoldings(plan.valid_availability or []),
        placement=POLICIES["randomized"](0),
        positions=[ModelPosition(m, 0, 0, left, valid) for m in range(shape.models)],
    )
    begins = JOIN_SECONDS + LOAD_SECONDS
    simulation = Simulation(
        scheduler,
        run_seconds=writer.seconds,
        decide=writer.decide,
        save_seconds=lambda _: SAVE_SECONDS,
        outcome=writer.outcome,
        observe=writer.observe,
        now=begins,
    )
    writer.simulation = simulation
    for number in range(shape.workers):
        writer.joins(number, JOIN_SECONDS)
    if shape.lost is not None:
        leaves = 1.5 * shape.models * shape.train / shape.workers
        simulation.at(leaves, ev.WorkerLost(shape.lost))
        simulation.at(2 * leaves, ev.WorkerJoined(shape.lost))
        writer.worker(
            shape.lost, WorkerState.LOST, begins + leaves, reason="no sign of life for 30 s"
        )
        writer.joins(shape.lost, begins + 2 * leaves - LOAD_SECONDS)
    simulation.run(range(shape.workers))
    if not scheduler.ended:
        raise RuntimeError("the simulation stopped before the run had ended")
    yield from sorted(writer.records, key=lambda record: record.t)
