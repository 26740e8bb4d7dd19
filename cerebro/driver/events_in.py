"""From what workers say to events for the scheduler: one method for each kind of message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from cerebro.driver.attempt_results import AttemptResults
from cerebro.driver.worker_connection import (
    Connected,
    Disconnected,
    DriverReplaced,
    JoinRefused,
    Notice,
)
from cerebro.driver.workers import Workers
from cerebro.driver.workers_file import Listed
from cerebro.errors import CerebroError, ClusterError, Superseded
from cerebro.formatting import shorten
from cerebro.hopper import events as ev
from cerebro.hopper.attempt_states import Slot
from cerebro.hopper.scheduler import Scheduler
from cerebro.hopper.units import Failure, Split
from cerebro.journal.ledger import Ledger
from cerebro.journal.records import Record
from cerebro.progress import Reporter
from cerebro.protocol.messages import (
    AttemptEvent,
    AttemptFailed,
    AttemptRan,
    DrainStarted,
    ExecutorCannotStart,
    ExecutorDied,
    ExecutorStarted,
    LoadFailed,
    LoadsDone,
    LoadWaits,
    PartitionLoaded,
    Problem,
    SaveWaits,
    VersionPublished,
)


@dataclass(frozen=True)
class WorkersListed:
    """`workers.json` has been read."""

    workers: list[Listed]


@dataclass(frozen=True)
class LookUp:
    """Nothing has happened, but the loop must look up from waiting."""


Heard: TypeAlias = "Notice | WorkersListed | DriverReplaced | LookUp"
"""What waits in the driver's queue."""


class EventsIn:
    """Turns what is heard into events, and into records, which are added to the list passed.

    `has_started` says whether an attempt was ever started. `fatal` is the error with which the
    run has to end, if something was heard that says so.
    """

    def __init__(
        self,
        *,
        workers: Workers,
        scheduler: Scheduler,
        ledger: Ledger,
        attempt_results: AttemptResults,
        progress: Reporter,
        clock: Callable[[], float],
        has_started: Callable[[], bool],
    ) -> None:
        self.fatal: CerebroError | None = None
        self._workers = workers
        self._scheduler = scheduler
        self._ledger = ledger
        self._attempt_results = attempt_results
        self._progress = progress
        self._clock = clock
        self._has_started = has_started
        # Of attempts whose slot the scheduler has yet to change: they fell together with others.
        self._ran: set[int] = set()
        self._over: set[int] = set()
        self._input_problems: dict[tuple[Split, int], Problem] = {}
        self._methods: dict[type, Callable[[int, Any, list[Record]], list[ev.Event]]] = {
            Connected: self._connected,
            Disconnected: self._disconnected,
            JoinRefused: self._join_refused,
            DriverReplaced: self._driver_replaced,
            ExecutorStarted: self._executor_started,
            ExecutorCannotStart: self._executor_cannot_start,
            LoadWaits: self._load_waits,
            PartitionLoaded: self._partition_loaded,
            LoadFailed: self._load_failed,
            LoadsDone: self._loads_done,
            AttemptRan: self._attempt_ran,
            SaveWaits: self._save_waits,
            VersionPublished: self._version_published,
            AttemptFailed: self._attempt_failed,
            ExecutorDied: self._executor_died,
            DrainStarted: self._drain_started,
        }

    def understand(self, heard: Heard, records: list[Record]) -> list[ev.Event]:
        """The events that follow from one thing heard; its records are added to `records`."""
        if isinstance(heard, WorkersListed):
            self._workers.add(heard.workers, records)
        elif isinstance(heard, DriverReplaced):
            self._driver_replaced(-1, heard, records)
        elif isinstance(heard, Notice):
            method = self._methods.get(type(heard.message))
            impossible = self._impossible(heard.worker, heard.message)
            if impossible:
                self._workers.reject(heard.worker, f"it reports what cannot be: {impossible}")
            elif method is not None:  # the others are for the worker's daemon, or its link
                return method(heard.worker, heard.message, records)
        return []

    def input_problem(self, split: Split, partition: int) -> Problem:
        """Why a worker could not read a partition, when that was last heard of."""
        return self._input_problems.get((split, partition), Problem(message="unknown"))

    def _impossible(self, worker: int, message: Any) -> str:
        """Say what is wrong with a report that no worker of this library gives; empty if nothing.

        Each is of the types and ranges that a message has, but not of what this worker was told.
        """
        if isinstance(message, LoadFailed):
            partitions = len(self._ledger.the_plan.partitions(message.split))
            if message.partition >= partitions:
                return f"{message.split.value} partition {message.partition} of {partitions}"
        numbers: list[int] = []
        if isinstance(message, AttemptEvent):
            numbers = [message.attempt]
        elif isinstance(message, (ExecutorDied, DrainStarted)):
            numbers = message.attempts
        for number in numbers:
            known = self._ledger.attempts.get(number)
            if known is not None and known.worker != worker:
                return f"attempt {number}, which is another worker's"
        if isinstance(message, AttemptRan):
            if self._scheduler.slot(message.attempt) is Slot.STAGED:
                return f"attempt {message.attempt} has run, and was not to start yet"
            saving = self._scheduler.saving_on(worker)
            if saving not in (None, message.attempt, *self._over):
                return f"attempt {message.attempt} has run, and {saving} is not saved yet"
            self._ran = {n for n in self._ran if self._scheduler.slot(n) is Slot.RUNNING}
            self._ran.add(message.attempt)
        elif isinstance(message, VersionPublished):
            slot = self._scheduler.slot(message.attempt)
            if slot in (Slot.STAGED, Slot.RUNNING) and message.attempt not in self._ran:
                return f"attempt {message.attempt} is published, and has not run"
        if isinstance(message, (VersionPublished, AttemptFailed, ExecutorDied)):
            self._over = {n for n in self._over if self._scheduler.slot(n) is not None}
            self._over.update(numbers)
        return ""

    # --- links -----------------------------------------------------------------------------------

    def _connected(self, worker: int, message: Connected, records: list[Record]) -> list[ev.Event]:
        return self._workers.joined(worker, message, records)

    def _disconnected(
        self, worker: int, message: Disconnected, records: list[Record]
    ) -> list[ev.Event]:
        self._progress.close(f"save {worker}")
        return self._workers.lost(worker, message.reason, records)

    def _join_refused(
        self, worker: int, message: JoinRefused, records: list[Record]
    ) -> list[ev.Event]:
        return self._workers.refused(worker, message.reason)

    def _driver_replaced(
        self, worker: int, message: DriverReplaced, records: list[Record]
    ) -> list[ev.Event]:
        self.fatal = Superseded(message.reason)
        return []

    def _drain_started(
        self, worker: int, message: DrainStarted, records: list[Record]
    ) -> list[ev.Event]:
        """A worker takes no more: what else was started on it never reached it."""
        problem = Problem(message="the worker was told to drain before it was given this")
        for attempt, _ in self._scheduler.live_attempts():
            if attempt.worker == worker and attempt.number not in message.attempts:
                self._attempt_results.failed(attempt.number, problem)
        return self._workers.draining(worker, message.attempts, records)

    # --- executors -------------------------------------------------------------------------------

    def _executor_started(
        self, worker: int, message: ExecutorStarted, records: list[Record]
    ) -> list[ev.Event]:
        self._workers.executor_started(worker, message.devices)
        return []

    def _executor_cannot_start(
        self, worker: int, message: ExecutorCannotStart, records: list[Record]
    ) -> list[ev.Event]:
        """An executor cannot use the functions or the tool.

        Before anything has been trained that is an error of this run; later it is a worker's.
        """
        reason = f"cannot begin: {message.message}"
        if self._has_started():
            self._workers.reject(worker, reason)
        else:
            details = message.traceback or message.output
            url = self._workers.url(worker)
            self.fatal = ClusterError(f"the worker {url} {reason}\n{details}")
        return []

    def _executor_died(
        self, worker: int, message: ExecutorDied, records: list[Record]
    ) -> list[ev.Event]:
        text = f"the executor on {self._workers.url(worker)} ended: {message.cause}"
        if "SIGKILL" in message.cause:
            text += "; if nobody killed it, the kernel did, for want of memory"
        self._progress.close(f"save {worker}")
        problem = Problem(message=text, output=message.output)
        for number in message.attempts:
            self._attempt_results.failed(number, problem)
        return [ev.UnitFailed(number, Failure.EXECUTOR) for number in message.attempts]

    # --- loading ---------------------------------------------------------------------------------

    def _load_waits(self, worker: int, message: LoadWaits, records: list[Record]) -> list[ev.Event]:
        self._progress.say_once(
            f"loading waits: {message.path} cannot be read by "
            f"{self._workers.url(worker)}: {message.cause}; it is tried again"
        )
        return []

    def _partition_loaded(
        self, worker: int, message: PartitionLoaded, records: list[Record]
    ) -> list[ev.Event]:
        self._progress.loaded(worker)
        return []

    def _load_failed(
        self, worker: int, message: LoadFailed, records: list[Record]
    ) -> list[ev.Event]:
        self._input_problems[message.split, message.partition] = message
        return [self._workers.unreadable(worker, message, records)]

    def _loads_done(self, worker: int, message: LoadsDone, records: list[Record]) -> list[ev.Event]:
        return self._workers.ready(worker, records)

    # --- attempts --------------------------------------------------------------------------------

    def _attempt_ran(
        self, worker: int, message: AttemptRan, records: list[Record]
    ) -> list[ev.Event]:
        if self._scheduler.is_live(message.attempt):
            self._attempt_results.ran(message, self._clock())
            self._progress.ran(message.attempt)
        return [ev.UnitRan(message.attempt, message.phases["run"])]

    def _save_waits(self, worker: int, message: SaveWaits, records: list[Record]) -> list[ev.Event]:
        self._progress.open(
            f"save {worker}",
            f"saving waits: {message.path} cannot be written by "
            f"{self._workers.url(worker)}: {message.cause}; it is tried again",
        )
        return []

    def _version_published(
        self, worker: int, message: VersionPublished, records: list[Record]
    ) -> list[ev.Event]:
        said = f"{self._workers.url(worker)} has saved what waited"
        self._progress.close(f"save {worker}", said)
        if not self._attempt_results.published(message):
            problem = Problem(
                message=f"{self._workers.url(worker)} has published the version in "
                f"{shorten(message.checkpoint)}, which is not where it was told to"
            )
            self._attempt_results.failed(message.attempt, problem)
            return [ev.UnitFailed(message.attempt, Failure.EXECUTOR)]
        return [ev.UnitCommitted(message.attempt)]

    def _attempt_failed(
        self, worker: int, message: AttemptFailed, records: list[Record]
    ) -> list[ev.Event]:
        self._attempt_results.failed(message.attempt, message)
        if message.failure is Failure.INPUT and self._scheduler.is_live(message.attempt):
            unit = self._ledger.attempts[message.attempt].unit
            self._input_problems[unit.split, unit.partition] = message
        events: list[ev.Event] = [ev.UnitFailed(message.attempt, message.failure)]
        if message.failure is Failure.TIMEOUT:  # which has ended its executor
            events.append(ev.UnitFailed(message.attempt, Failure.EXECUTOR))
        return events
