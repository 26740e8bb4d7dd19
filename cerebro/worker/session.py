"""One run as a worker sees it: its ticket, its lease, its events, and its executor."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from cerebro import machine
from cerebro.errors import WorkerLeaving
from cerebro.hopper.units import Failure
from cerebro.protocol.messages import (
    RESTART_STATUS,
    AttemptEvent,
    AttemptFailed,
    AttemptRan,
    AttemptRunning,
    AttemptTimed,
    AttemptUntimed,
    DrainStarted,
    DriverInfo,
    ExecutorCannotStart,
    ExecutorDied,
    ExecutorSetup,
    ExecutorStarted,
    HeldRun,
    Item,
    Leaving,
    LoadFailed,
    LoadsDone,
    Method,
    PartitionLoaded,
    Ticket,
    UnitOrder,
    VersionPublished,
    WorkerEvent,
)
from cerebro.worker.executor_process import ExecutorProcess, describe_exit
from cerebro.worker.unit_timeout import UnitTimeout

logger = logging.getLogger(__name__)

STARTS_ALLOWED = 3
"""Executors in a row that may die before they could start."""

LOADS_ALLOWED = 3
"""Executors in a row that may die while they load one and the same partition."""

DRAINING_MESSAGE = "this worker finishes what it has started, and takes no more"

CLOSE_SECONDS = 2.0
"""An executor that was killed and has not ended by then (stuck in the kernel) is left behind."""


class EventLog:
    """Numbered events that wait for the driver to fetch them."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque()
        self._last = 0
        self._changed = threading.Condition()
        self._closed = False

    def append(self, event: WorkerEvent) -> None:
        """Add an event; whoever waits gets it."""
        content = event.to_json()
        with self._changed:
            self._last += 1
            self._events.append({"number": self._last, **content})
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will come: nobody waits any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def after(self, number: int, wait: float) -> list[dict[str, Any]]:
        """The events above `number`, waiting up to `wait` seconds for the first of them.

        Those up to `number` have arrived at the driver and are let go.
        """
        with self._changed:
            while self._events and self._events[0]["number"] <= number:
                self._events.popleft()
            self._changed.wait_for(lambda: bool(self._events) or self._closed, wait)
            return list(self._events)


@dataclass
class TakenUnit:
    """An attempt that was taken and has not ended; `content` is its order as it came.

    It runs, or its version is `saving`, since the moment `since` of `time.monotonic`; None where
    the executor has not come to it yet.
    """

    order: UnitOrder
    content: dict[str, Any]
    since: float | None = None
    saving: bool = False

    def inspect(self) -> dict[str, Any]:
        """Say what it is and does, for people."""
        state = "waits" if self.since is None else "saves" if self.saving else "runs"
        return {
            "model": self.order.model,
            "epoch": self.order.epoch,
            "split": self.order.split.value,
            "partition": self.order.partition,
            "state": state,
            "seconds": None if self.since is None else time.monotonic() - self.since,
        }


class WorkerSession:
    """A run that this worker holds for a driver, as long as the driver is heard of.

    The executor lives and dies with it. One that dies is reported, with the units that were under
    way, and replaced at once; its successor loads what is still to be loaded, and runs what the
    one before had not started. One that ends itself to give memory back is replaced without a word.
    """

    def __init__(
        self,
        ticket: Ticket,
        driver: DriverInfo,
        setup: ExecutorSetup,
        environment: dict[str, str],
        functions: bytes,
    ) -> None:
        self.ticket = ticket
        self.driver = driver
        self.events = EventLog()
        self._options = setup.options
        self._heard = time.monotonic()
        self._setup = setup
        self._environment = environment
        self._functions = functions
        self._lock = threading.Lock()
        self._units: dict[int, TakenUnit] = {}
        self._cached: set[tuple[str, int]] = set()
        self._draining = False
        self._has_left = False
        self._newest = -1
        self._timeout = UnitTimeout(self._options.unit_timeout, self._timed_out)
        self._timed: int | None = None
        self._overdue: int | None = None
        self._closed = False
        self._started = False
        self._failed_starts = 0
        self._to_load: deque[deque[Item]] = deque()
        self._failed_loads = 0
        with self._lock:
            self._executor = self._spawn()

    def describe(self) -> HeldRun:
        """Who holds the worker, for people."""
        return HeldRun(
            run=self.ticket.run,
            generation=self.ticket.generation,
            lease_left=max(0.0, self.lease_left()),
            **vars(self.driver),
        )

    def inspect(self) -> dict[str, Any]:
        """What the executor is at, what it holds, and the memory that it takes, for people."""
        with self._lock:
            units = [unit.inspect() for unit in self._units.values()]
            loading, cached = sum(map(len, self._to_load)), sorted(self._cached)
            pid = self._executor.pid
        return {
            "units": units,
            "loading": loading,
            "cached": cached,
            "executor_pid": pid,
            "executor_memory": machine.resident_bytes(pid),
        }

    # --- lease -----------------------------------------------------------------------------------

    def heard(self) -> None:
        """The driver has called."""
        self._heard = time.monotonic()

    def lease_left(self) -> float:
        """Seconds until this worker gives the run up, unless the driver calls."""
        return self._heard + self._options.lease - time.monotonic()

    # --- orders ----------------------------------------------------------------------------------

    # They go to the executor as they came, parsed here only to see that they are well formed.

    def preload(self, content: list[dict[str, Any]]) -> None:
        """Load partitions: the `content` of an `Item` for each."""
        items = deque(Item.from_json(item) for item in content)
        with self._lock:
            self._check_taking()
            self._to_load.append(items)
            self._executor.send(Method.PRELOAD, items=content)

    def stage(self, content: dict[str, Any]) -> None:
        """Prepare an attempt; for one that has been started it changes nothing.

        `content` is that of a `UnitOrder`.
        """
        order = UnitOrder.from_json(content)
        with self._lock:
            if order.attempt > self._newest:
                self._check_taking()
                self._executor.send(Method.STAGE, order=content)

    def unstage(self, attempt: int) -> None:
        """Forget a prepared attempt."""
        with self._lock:
            self._executor.send(Method.UNSTAGE, attempt=attempt)

    def start(self, content: dict[str, Any]) -> None:
        """Run an attempt; a second call for the same one changes nothing.

        `content` is that of a `UnitOrder`. The driver gives one incarnation of a worker its
        attempts in the order of their numbers.
        """
        order = UnitOrder.from_json(content)
        with self._lock:
            if order.attempt <= self._newest:
                return
            self._check_taking()
            self._newest = order.attempt
            self._units[order.attempt] = TakenUnit(order, content)
            self._executor.send(Method.START, order=content)

    def forget(self, models: list[int]) -> None:
        """Drop what is kept for models."""
        with self._lock:
            self._executor.send(Method.FORGET, models=models)

    def _check_taking(self) -> None:
        if self._draining:
            raise WorkerLeaving(DRAINING_MESSAGE)

    def drain(self) -> None:
        """Take no more work, and tell the driver: now, and when all that was taken is over.

        What is told first names the attempts that were taken. Every other one will never run here,
        so that its unit may go elsewhere at once.
        """
        with self._lock:
            if not self._draining:
                self._draining = True
                self.events.append(DrainStarted(attempts=list(self._units)))
                self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        """Say that this worker leaves, once there is nothing of this run that it has yet to end."""
        if self._draining and not self._units and not self._has_left:
            self._has_left = True
            self.events.append(Leaving(drained=True))

    def close(self) -> None:
        """Give the run up: the executor ends, with all it holds."""
        with self._lock:
            self._closed = True
            executor = self._executor
        self._timeout.stop()
        executor.kill()
        executor.join(CLOSE_SECONDS)
        self.events.close()

    # --- the executor ----------------------------------------------------------------------------

    def _spawn(self) -> ExecutorProcess:
        self._started = False
        return ExecutorProcess(
            self._setup,
            self._functions,
            self._environment,
            self._on_event,
            self._on_exit,
        )

    def _on_event(self, event: WorkerEvent) -> None:
        if isinstance(event, ExecutorStarted):
            self._started = True
            self._failed_starts = 0
        elif isinstance(event, ExecutorCannotStart):
            self._failed_starts = STARTS_ALLOWED
        with self._lock:
            if self._closed:
                return
            if isinstance(event, (AttemptRunning, AttemptTimed, AttemptUntimed)):
                self._time(event)
                return
            if isinstance(event, (PartitionLoaded, LoadFailed, LoadsDone)):
                self._follow_loading(event)
            elif isinstance(event, AttemptEvent) and event.attempt in self._units:
                self._follow_unit(self._units[event.attempt], event)
            # Not after the lock is free: what tells of the draining must not overtake it.
            self.events.append(event)
            self._leave_if_idle()

    def _time(self, event: AttemptRunning | AttemptTimed | AttemptUntimed) -> None:
        """An attempt starts to run, or its `train_fn` starts or ends."""
        if isinstance(event, AttemptRunning):
            self._units[event.attempt].since = time.monotonic()
        elif isinstance(event, AttemptTimed):
            self._timed = event.attempt
            self._timeout.start(event.attempt)
        else:
            self._timeout.stop()
            self._timed = self._overdue = None

    def _follow_loading(self, event: PartitionLoaded | LoadFailed | LoadsDone) -> None:
        """A partition was loaded or could not be, or all that was asked for at once was."""
        if isinstance(event, LoadsDone):
            self._to_load.popleft()
            return
        item = self._to_load[0].popleft()
        self._failed_loads = 0
        if isinstance(event, PartitionLoaded):
            self._cached.add((item.split.value, item.partition))

    def _follow_unit(self, unit: TakenUnit, event: AttemptEvent) -> None:
        """An attempt has come further, or to its end."""
        order, has_run = unit.order, isinstance(event, AttemptRan)
        if has_run and self._options.keep_data:
            self._cached.add((order.split.value, order.partition))
        if has_run and order.writes is not None:
            unit.since, unit.saving = time.monotonic(), True
        elif has_run or isinstance(event, (AttemptFailed, VersionPublished)):
            del self._units[order.attempt]

    def _timed_out(self, attempt: int) -> None:
        """An attempt has run for too long: with it goes the executor, which is replaced.

        Unless it has ended while the clock went off.
        """
        with self._lock:
            if attempt == self._timed and not self._closed:
                self._overdue = attempt
                self._executor.kill()

    def _on_exit(self, code: int, tail: str) -> None:
        self._timeout.stop()
        with self._lock:
            if self._closed:
                return
            overdue, self._timed, self._overdue = self._overdue, None, None
            under_way = [n for n, unit in self._units.items() if unit.since is not None]
            attempts = sorted(set(under_way) - {overdue})
            for attempt in under_way:
                del self._units[attempt]
            self._cached.clear()
            cause = describe_exit(code)
            if not self._started:
                self._failed_starts += 1
            if code == RESTART_STATUS and not attempts:
                logger.warning("the executor is started again: memory or a device gave out")
                self._blame_partition("memory gave out", tail)
                self._replace()
            elif self._failed_starts < STARTS_ALLOWED:
                logger.warning("run %s: the executor ended: %s", self.ticket.run, cause)
                self.events.append(ExecutorDied(attempts=attempts, cause=cause, output=tail))
                if overdue is not None:
                    self.events.append(self._overrun(overdue, tail))
                elif self._started and not attempts:
                    self._blame_partition(cause, tail)
                self._replace()
            elif self._failed_starts == STARTS_ALLOWED and not self._started:
                message = f"the executor ends before it can begin: {cause}"
                self.events.append(ExecutorCannotStart(message=message, output=tail))

    def _overrun(self, attempt: int, tail: str) -> AttemptFailed:
        return AttemptFailed(
            attempt=attempt,
            failure=Failure.TIMEOUT,
            message=f"it ran for more than unit_timeout={self._options.unit_timeout:g} s",
            function="train_fn",
            output=tail,
        )

    def _replace(self) -> None:
        """Start another executor, with what is left to be done; none where that is nothing."""
        self._leave_if_idle()
        if self._has_left:
            return
        self._executor = self._spawn()
        for items in self._to_load:
            self._executor.send(Method.PRELOAD, items=[item.to_json() for item in items])
        for unit in self._units.values():
            self._executor.send(Method.START, order=unit.content)

    def _blame_partition(self, cause: str, tail: str) -> None:
        """Give up a partition whose loading has ended one executor after another."""
        if not self._to_load or not self._to_load[0]:
            return
        self._failed_loads += 1
        if self._failed_loads < LOADS_ALLOWED:
            return
        self._failed_loads = 0
        item = self._to_load[0].popleft()
        message = f"loading it ended the executor {LOADS_ALLOWED} times: {cause}"
        self.events.append(
            LoadFailed(**vars(item), message=message, function="input_fn", output=tail)
        )
