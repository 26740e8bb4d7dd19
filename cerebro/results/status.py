"""A run's status, from its journal and `driver.json` alone: also while its driver writes them, and
after that was killed. Nothing is changed.
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
from cerebro.journal.best import best_so_far
from cerebro.journal.journal import naming_the_line, read_journal
from cerebro.journal.ledger import AttemptRecord, EpochRecord, Ledger, ModelRecord
from cerebro.journal.ownership import Sign, sign_of_life
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import CommittedRecord, InterruptedRecord, PlanRecord, Record
from cerebro.journal.run_progress import EpochProgress, RunProgress
from cerebro.journal.time_left import TimeLeft, estimate
from cerebro.journal.worker_states import PRESENT, WorkerState

WINDOW = 200
"""Units, those committed last, that the rate is taken from."""


@dataclass(frozen=True)
class WorkerStatus:
    """One worker in the present driver's time.

    `state` is None where it has not joined; `since` is when it started, in seconds since the run
    started. `notes` are what was said of the worker since it joined last. `units` are under way
    there, the newest last; all but that one are being saved.
    """

    url: str
    state: WorkerState | None
    since: float = 0.0
    reason: str = ""
    notes: tuple[str, ...] = ()
    units: tuple[AttemptRecord, ...] = ()


@dataclass(frozen=True)
class RunStatus:
    """A run at a moment, `now`, in seconds since it started.

    `interrupted` is why its last driver stopped, empty if it did not say so or is at work. `epoch`
    and `time_left` are None for a run that has ended. `rate` is in units a second over the last
    `WINDOW` units of this driver, None before the first. `waits` are sentences about what is waited
    for.
    """

    paths: RunPaths
    ledger: Ledger
    driver: Sign
    now: float
    interrupted: str
    workers: dict[int, WorkerStatus]
    progress: RunProgress
    epoch: EpochProgress | None
    rate: float | None
    time_left: TimeLeft | None
    waits: tuple[str, ...]

    def unix_time(self, t: float) -> float:
        """Return the Unix time of a moment in the present driver's time."""
        began = self.ledger.generations[-1]
        return began.time + t - began.t

    def best(self) -> tuple[ModelRecord, EpochRecord] | None:
        """Return the best model and epoch so far."""
        return best_so_far(self.ledger)


def run_status(run_dir: str | Path, clock: Callable[[], float] = time.time) -> RunStatus:
    """Read the status of the run in a folder. `clock` gives the Unix time.

    Raises `NotARun` for a folder that holds none, or one that has not started, `JournalDamaged`,
    `RunTooNew` and `StorageError`.
    """
    paths = RunPaths(run_dir)
    # Before the journal: what a driver wrote that ends in between is then read with its end.
    driver = sign_of_life(paths) if paths.generations() else None
    records, _ = read_journal(paths)
    present = _Present()
    ledger = Ledger()
    ledger.listeners.append(present)
    with naming_the_line(paths):
        for record in records:
            ledger.add(record)
    if ledger.plan is None or driver is None:
        raise NotARun(f"{run_dir} holds a run that never started: its journal has no plan")
    began = ledger.generations[-1]
    now = ledger.last_t
    if driver.alive and not ledger.ended:
        now = max(now, began.t + clock() - began.time)
    workers = _workers(ledger)
    progress = RunProgress(ledger)
    epoch = None if ledger.ended else progress.epoch()
    elapsed = now - min(present.starts, default=now)
    waits = [] if ledger.ended or driver.alive is False else _waits(ledger, workers, epoch)
    return RunStatus(
        paths=paths,
        ledger=ledger,
        driver=driver,
        now=now,
        interrupted=present.interrupted,
        workers=workers,
        progress=progress,
        epoch=epoch,
        rate=len(present.starts) / elapsed if elapsed > 0 else None,
        time_left=None if ledger.ended else estimate(progress, now),
        waits=tuple(waits),
    )


@dataclass
class _Present:
    """A listener of the ledger that keeps what the present driver has seen.

    `starts` are when the units that were committed last had started.
    """

    starts: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    interrupted: str = ""

    def __call__(self, record: Record, ledger: Ledger) -> None:
        if isinstance(record, PlanRecord):
            self.starts.clear()
            self.interrupted = ""
        elif isinstance(record, CommittedRecord):
            self.starts.append(ledger.attempts[record.attempt].start)
        elif isinstance(record, InterruptedRecord):
            self.interrupted = record.reason


_REMARKS = {WorkerState.ASIDE: "set aside", WorkerState.UNREADABLE: "cannot read"}


def _workers(ledger: Ledger) -> dict[int, WorkerStatus]:
    """Workers of the plan, and others that the present driver has heard of, by number."""
    urls = dict(enumerate(ledger.the_plan.workers))
    found = {number: WorkerStatus(url, None) for number, url in urls.items()}
    for number, worker in ledger.workers.items():
        now = worker.condition
        if now.state is not None:
            notes = tuple(f"{_REMARKS[state]}: {reason}" for state, reason in now.remarks)
            units = _units_on(ledger, number)
            found[number] = WorkerStatus(worker.url, now.state, now.since, now.reason, notes, units)
    return dict(sorted(found.items()))


def _units_on(ledger: Ledger, worker: int) -> tuple[AttemptRecord, ...]:
    """Return the attempts under way on a worker, by number."""
    own = [a for a in ledger.attempts.values() if a.worker == worker and a.outcome == "running"]
    return tuple(sorted(own, key=lambda attempt: attempt.number))


def _waits(
    ledger: Ledger, workers: dict[int, WorkerStatus], epoch: EpochProgress | None
) -> list[str]:
    """Say what the journal shows to be waited for."""
    there = {number: worker for number, worker in workers.items() if worker.state in PRESENT}
    waits = []
    if not there:
        urls = ", ".join(worker.url for worker in workers.values())
        waits.append(
            f"a worker, as none is connected ({urls}): start one with "
            "cerebro-standalone-worker, or add the URL of another one to workers.json"
        )
    waits += [
        f"{worker.url} to load its partitions"
        for worker in there.values()
        if worker.state is WorkerState.JOINED
    ]
    waits += _stranded(ledger, set(workers), set(there)) if there else []
    if epoch is not None and epoch.done == epoch.units:
        asked = "eval_fn" if ledger.the_plan.search is None else "the search procedure"
        waits.append(f"{asked}, which is asked which models stop and which are added")
    return waits


def _stranded(ledger: Ledger, known: set[int], there: set[int]) -> list[str]:
    """Say which partitions models have yet to visit that no present worker may read."""
    plan = ledger.the_plan
    if not known <= set(range(len(plan.workers))):
        return []  # what an added worker may read is in workers.json
    waits = []
    for split in Split:
        matrix = plan.availability(split)
        for partition, path in enumerate(plan.partitions(split) if matrix is not None else []):
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
