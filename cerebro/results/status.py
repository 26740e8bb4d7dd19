"""How a run stands, from its journal and `driver.json` alone: also while its driver writes them,
and after that was killed. Nothing is changed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cerebro.errors import NotARun
from cerebro.formatting import count
from cerebro.hopper.units import ModelState, Split
from cerebro.journal.journal import read_journal
from cerebro.journal.ledger import AttemptRecord, EpochRecord, Ledger, ModelRecord
from cerebro.journal.ownership import Sign, sign_of_life
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import (
    CommittedRecord,
    InterruptedRecord,
    PlanRecord,
    Record,
)
from cerebro.journal.worker_states import PRESENT, WorkerState

WINDOW = 200
"""Units, those committed last, that the pace is taken from."""


@dataclass(frozen=True)
class WorkerStanding:
    """One worker in the present driver's time.

    `state` is None where it has not joined; `since` is when it began, in seconds since the run
    began. `notes` are what was said of the worker since it joined last. `units` are under way
    there, the newest last; all but that one are being saved.
    """

    url: str
    state: WorkerState | None
    since: float = 0.0
    reason: str = ""
    notes: tuple[str, ...] = ()
    units: tuple[AttemptRecord, ...] = ()


@dataclass(frozen=True)
class Progress:
    """The epochs under way of all running models together: how many of their units are done.

    `epochs` are the lowest and the highest epoch. `rate` is in units a second over the last
    `WINDOW` units of this driver; `seconds_left` is what is left at that pace, and at least what
    the model that is furthest behind needs, one train unit after another. None where too little
    has been measured.
    """

    epochs: tuple[int, int]
    done: int
    units: int
    rate: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class Standing:
    """A run at a moment, `now`, in seconds since it began.

    `interrupted` is why its last driver stopped, empty if it did not say so or goes on. `waits`
    are sentences about what is waited for.
    """

    paths: RunPaths
    ledger: Ledger
    driver: Sign
    now: float
    interrupted: str
    workers: dict[int, WorkerStanding]
    progress: Progress | None
    waits: tuple[str, ...]

    def unix_time(self, t: float) -> float:
        """The Unix time of a moment in the present driver's time."""
        began = self.ledger.generations[-1]
        return began.time + t - began.t

    def best(self) -> tuple[ModelRecord, EpochRecord] | None:
        """The model and epoch with the lowest validation error so far."""
        found = [(e, m) for m in self.ledger.models.values() if (e := m.best_epoch()) is not None]
        epoch, model = min(found, key=lambda f: (f[0].valid_error, f[1].id), default=(None, None))
        return None if epoch is None or model is None else (model, epoch)


def standing(run_dir: str | Path, clock: Callable[[], float] = time.time) -> Standing:
    """How the run in a folder stands. `clock` gives the Unix time.

    Raises `NotARun` for a folder that holds none, or one that has not begun, `JournalDamaged`,
    `RunTooNew` and `StorageError`.
    """
    paths = RunPaths(run_dir)
    # Before the journal: what a driver wrote that ends in between is then read with its end.
    driver = sign_of_life(paths) if paths.generations() else None
    records, _ = read_journal(paths)
    present = _Present()
    ledger = Ledger()
    ledger.listeners.append(present)
    for record in records:
        ledger.add(record)
    if ledger.plan is None or driver is None:
        raise NotARun(f"{run_dir} holds a run that has not begun: its journal has no plan")
    began = ledger.generations[-1]
    now = ledger.last_t
    if driver.alive and not ledger.ended:
        now = max(now, began.t + clock() - began.time)
    workers = _workers(ledger)
    progress = None if ledger.ended else _progress(ledger, present.committed, now)
    waits = [] if ledger.ended or driver.alive is False else _waits(ledger, workers, progress)
    return Standing(
        paths, ledger, driver, now, present.interrupted, workers, progress, tuple(waits)
    )


@dataclass(frozen=True)
class _Ran:
    """A unit that is committed: when it was started, and when it had run."""

    split: Split
    start: float
    ran: float


@dataclass
class _Present:
    """A listener of the ledger that keeps what the present driver has seen."""

    committed: deque[_Ran] = field(default_factory=lambda: deque(maxlen=WINDOW))
    interrupted: str = ""

    def __call__(self, record: Record, ledger: Ledger) -> None:
        if isinstance(record, PlanRecord):
            self.committed.clear()
            self.interrupted = ""
        elif isinstance(record, CommittedRecord):
            attempt = ledger.attempts[record.attempt]
            ran = record.t if record.ran is None else record.ran
            self.committed.append(_Ran(attempt.unit.split, attempt.start, ran))
        elif isinstance(record, InterruptedRecord):
            self.interrupted = record.reason


_REMARKS = {WorkerState.ASIDE: "set aside", WorkerState.UNREADABLE: "cannot read"}


def _workers(ledger: Ledger) -> dict[int, WorkerStanding]:
    """Workers of the plan, and others that the present driver has heard of, by number."""
    urls = dict(enumerate(ledger.the_plan.workers))
    found = {number: WorkerStanding(url, None) for number, url in urls.items()}
    for number, worker in ledger.workers.items():
        now = worker.condition
        if now.state is not None:
            notes = tuple(f"{_REMARKS[state]}: {reason}" for state, reason in now.remarks)
            units = _units_on(ledger, number)
            found[number] = WorkerStanding(
                worker.url, now.state, now.since, now.reason, notes, units
            )
    return dict(sorted(found.items()))


def _units_on(ledger: Ledger, worker: int) -> tuple[AttemptRecord, ...]:
    """The attempts under way on a worker, by number."""
    own = [a for a in ledger.attempts.values() if a.worker == worker and a.outcome == "running"]
    return tuple(sorted(own, key=lambda attempt: attempt.number))


def _progress(ledger: Ledger, committed: deque[_Ran], now: float) -> Progress | None:
    positions = [p for p in ledger.positions() if p.state is ModelState.RUNNING]
    if not positions:
        return None
    plan = ledger.the_plan
    units = len(positions) * (len(plan.train_partitions) + len(plan.valid_partitions))
    left = {Split.TRAIN: 0, Split.VALID: 0}
    longest = 0
    for position in positions:
        train = len(position.train_left) + (position.repair is not None)
        left[Split.TRAIN] += train
        left[Split.VALID] += len(position.valid_left)
        longest = max(longest, train)
    epochs = [p.epoch for p in positions]
    done = max(0, units - sum(left.values()))
    seconds = {split: [r.ran - r.start for r in committed if r.split is split] for split in Split}
    mean = {split: sum(own) / len(own) for split, own in seconds.items() if own}
    elapsed = now - min((r.start for r in committed), default=now)
    rate = len(committed) / elapsed if elapsed > 0 else None
    seconds_left = None
    if rate and all(split in mean for split, number in left.items() if number):
        # So many seconds of units get done in one second, by all workers together.
        speed = sum(map(sum, seconds.values())) / elapsed
        work = sum(number * mean[split] for split, number in left.items() if number)
        for attempt in ledger.attempts.values():
            split = attempt.unit.split
            if attempt.outcome == "running" and split in mean:
                work -= min(now - attempt.start, mean[split])
        chain = longest * mean.get(Split.TRAIN, 0.0)
        chain += mean[Split.VALID] if left[Split.VALID] else 0.0
        seconds_left = max(work / speed if speed else 0.0, chain if longest else 0.0, 0.0)
    return Progress((min(epochs), max(epochs)), done, units, rate, seconds_left)


def _waits(
    ledger: Ledger, workers: dict[int, WorkerStanding], progress: Progress | None
) -> list[str]:
    """What the journal shows to be waited for."""
    there = {number: worker for number, worker in workers.items() if worker.state in PRESENT}
    waits = []
    if not there:
        urls = ", ".join(worker.url for worker in workers.values())
        waits.append(
            f"a worker, none is there ({urls}): start one with cerebro-standalone-worker, or add "
            "the URL of another one to workers.json"
        )
    waits += [
        f"{worker.url} to load its partitions"
        for worker in there.values()
        if worker.state is WorkerState.JOINED
    ]
    waits += _stranded(ledger, set(workers), set(there)) if there else []
    if progress is not None and progress.done == progress.units:
        asked = "eval_fn" if ledger.the_plan.search is None else "the search procedure"
        waits.append(f"{asked}, which is asked which models stop and which are added")
    return waits


def _stranded(ledger: Ledger, known: set[int], there: set[int]) -> list[str]:
    """Partitions that models have yet to visit and no worker that is there may read."""
    plan = ledger.the_plan
    if not known <= set(range(len(plan.workers))):
        return []  # what a worker may read that was added stands in workers.json
    waits = []
    for split in Split:
        matrix = plan.availability(split)
        paths = plan.partitions(split)
        for partition, path in enumerate(paths if matrix is not None else []):
            holders = [n for n, row in enumerate(matrix or []) if row[partition]]
            units = sum(
                partition in (p.train_left if split is Split.TRAIN else p.valid_left)
                for p in ledger.positions()
                if p.state is ModelState.RUNNING
            )
            if units and not there.intersection(holders):
                urls = " or ".join(plan.workers[number] for number in holders)
                waits.append(
                    f"{urls}, for {count(units, 'unit')} on {split.value} partition {partition} "
                    f"({path})"
                )
    return waits
