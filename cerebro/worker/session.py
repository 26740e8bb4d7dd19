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
from cerebro.protocol.messages import RESTART_STATUS, Happened, Order, Ticket
from cerebro.worker.executor_process import ExecutorProcess, describe_exit
from cerebro.worker.unit_timeout import UnitClock

logger = logging.getLogger(__name__)

STARTS_ALLOWED = 3
"""Executors in a row that may die before they could begin."""

LOADS_ALLOWED = 3
"""Executors in a row that may die while they load one and the same partition."""

DRAINING_MESSAGE = "this worker ends what it has begun, and takes no more"

CLOSE_SECONDS = 2.0
"""An executor that was killed and has not ended by then (stuck in the kernel) is left behind."""


class EventLog:
    """Numbered events that wait for the driver to fetch them."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque()
        self._last = 0
        self._changed = threading.Condition()
        self._closed = False

    def append(self, event: dict[str, Any]) -> None:
        """Add an event; whoever waits gets it."""
        with self._changed:
            self._last += 1
            self._events.append({"number": self._last, **event})
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


@dataclass(frozen=True)
class RunSettings:
    """What an executor needs to begin, apart from the functions."""

    backend: str
    options: dict[str, Any]
    seed: int
    keep_data: bool
    unit_timeout: float | None
    log_level: int
    environment: dict[str, str]

    def begin_message(self) -> dict[str, Any]:
        """The executor's first message."""
        return {
            "backend": self.backend,
            "options": self.options,
            "seed": self.seed,
            "keep_data": self.keep_data,
            "log_level": self.log_level,
        }


@dataclass
class UnderWay:
    """An attempt that the executor has begun, at a moment of `time.monotonic`."""

    since: float
    saving: bool = False


class HeldRun:
    """A run that this worker holds for a driver, as long as the driver is heard of.

    The executor lives and dies with it. One that dies is reported, with the units that were under
    way, and replaced at once; its successor loads what is still to be loaded, and runs what the
    one before had not begun. One that ends itself to give memory back is replaced without a word.
    """

    def __init__(
        self,
        ticket: Ticket,
        driver: dict[str, Any],
        lease: float,
        settings: RunSettings,
        functions: bytes,
    ) -> None:
        self.ticket = ticket
        self.driver = driver
        self.events = EventLog()
        self._lease = lease
        self._heard = time.monotonic()
        self._settings = settings
        self._functions = functions
        self._lock = threading.Lock()
        self._orders: dict[int, Order] = {}
        self._under_way: dict[int, UnderWay] = {}
        self._cached: set[tuple[str, int]] = set()
        self._draining = False
        self._has_left = False
        self._newest = -1
        self._clock = UnitClock(settings.unit_timeout, self._timed_out)
        self._timed: int | None = None
        self._overdue: int | None = None
        self._closed = False
        self._begun = False
        self._failed_starts = 0
        self._to_load: deque[deque[dict[str, Any]]] = deque()
        self._failed_loads = 0
        with self._lock:
            self._executor = self._spawn()

    def describe(self) -> dict[str, Any]:
        """Who holds the worker, for people."""
        return {
            "run": self.ticket.run,
            "generation": self.ticket.generation,
            "lease_left": max(0.0, self.lease_left()),
            **self.driver,
        }

    def inspect(self) -> dict[str, Any]:
        """What the executor is at, what it holds, and the memory that it takes, for people."""
        with self._lock:
            now = time.monotonic()
            units = []
            for attempt, order in self._orders.items():
                begun = self._under_way.get(attempt)
                state = "waits" if begun is None else "saves" if begun.saving else "runs"
                units.append(
                    {
                        "model": order.model,
                        "epoch": order.epoch,
                        "split": order.split,
                        "partition": order.partition,
                        "state": state,
                        "seconds": None if begun is None else now - begun.since,
                    }
                )
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
        return self._heard + self._lease - time.monotonic()

    # --- orders ----------------------------------------------------------------------------------

    def preload(self, items: list[dict[str, Any]]) -> None:
        """Load partitions."""
        with self._lock:
            self._check_taking()
            self._to_load.append(deque(items))
            self._executor.send("preload", items=items)

    def stage(self, order: Order) -> None:
        """Prepare an attempt; for one that has been started it changes nothing."""
        with self._lock:
            if order.attempt > self._newest:
                self._check_taking()
                self._executor.send("stage", order=order.to_json())

    def unstage(self, attempt: int) -> None:
        """Forget a prepared attempt."""
        with self._lock:
            self._executor.send("unstage", attempt=attempt)

    def start(self, order: Order) -> None:
        """Run an attempt; a second call for the same one changes nothing.

        The driver gives one incarnation of a worker its attempts in the order of their numbers.
        """
        with self._lock:
            if order.attempt <= self._newest:
                return
            self._check_taking()
            self._newest = order.attempt
            self._orders[order.attempt] = order
            self._executor.send("start", order=order.to_json())

    def forget(self, models: list[int]) -> None:
        """Drop what is kept for models."""
        with self._lock:
            for model in models:
                self._executor.send("forget", model=model)

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
                self.events.append({"kind": Happened.DRAINING, "attempts": list(self._orders)})
                self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        """Say that this worker leaves, once there is nothing of this run that it has yet to end."""
        if self._draining and not self._orders and not self._has_left:
            self._has_left = True
            self.events.append({"kind": Happened.LEAVING, "drained": True})

    def close(self) -> None:
        """Give the run up: the executor ends, with all it holds."""
        with self._lock:
            self._closed = True
            executor = self._executor
        self._clock.stop()
        executor.kill()
        executor.join(CLOSE_SECONDS)
        self.events.close()

    # --- the executor ----------------------------------------------------------------------------

    def _spawn(self) -> ExecutorProcess:
        self._begun = False
        return ExecutorProcess(
            self._settings.begin_message(),
            self._functions,
            self._settings.environment,
            self._on_event,
            self._on_exit,
        )

    def _on_event(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == Happened.BEGUN:
            self._begun = True
            self._failed_starts = 0
        elif kind == Happened.CANNOT_BEGIN:
            self._failed_starts = STARTS_ALLOWED
        with self._lock:
            if self._closed:
                return
            if kind in (Happened.LOADED, Happened.UNREADABLE):
                item = self._to_load[0].popleft()
                self._failed_loads = 0
                if kind == Happened.LOADED:
                    self._cached.add((item["split"], item["partition"]))
            elif kind == Happened.READY:
                self._to_load.popleft()
            if kind == Happened.RUNNING:
                self._under_way[event["attempt"]] = UnderWay(time.monotonic())
            elif kind == Happened.TIMED:
                self._timed = event["attempt"]
                self._clock.start(event["attempt"])
            elif kind == Happened.UNTIMED:
                self._clock.stop()
                self._timed = self._overdue = None
            if kind in (Happened.RUNNING, Happened.TIMED, Happened.UNTIMED):
                return
            order = self._orders.get(event.get("attempt", -1))
            if order is not None:
                self._follow(order, kind)
            # Not after the lock is free: what tells of the draining must not overtake it.
            self.events.append(event)
            self._leave_if_idle()

    def _follow(self, order: Order, kind: str) -> None:
        """An attempt has come further, or to its end."""
        if kind == Happened.RAN and self._settings.keep_data:
            self._cached.add((order.split, order.partition))
        if kind == Happened.RAN and order.writes is not None:
            self._under_way[order.attempt] = UnderWay(time.monotonic(), saving=True)
        elif kind in (Happened.FAILED, Happened.COMMITTED, Happened.RAN):
            del self._orders[order.attempt]
            self._under_way.pop(order.attempt, None)

    def _timed_out(self, attempt: int) -> None:
        """An attempt has run for too long: with it goes the executor, which is replaced.

        Unless it has ended while the clock went off.
        """
        with self._lock:
            if attempt == self._timed and not self._closed:
                self._overdue = attempt
                self._executor.kill()

    def _on_exit(self, code: int, tail: str) -> None:
        self._clock.stop()
        with self._lock:
            if self._closed:
                return
            overdue, self._timed, self._overdue = self._overdue, None, None
            attempts = sorted(self._under_way.keys() - {overdue})
            for attempt in self._under_way:
                del self._orders[attempt]
            self._under_way.clear()
            self._cached.clear()
            cause = describe_exit(code)
            if not self._begun:
                self._failed_starts += 1
            if code == RESTART_STATUS and not attempts:
                logger.warning("the executor is started again: memory or a device gave out")
                self._blame_partition("memory gave out", tail)
                self._replace()
            elif self._failed_starts < STARTS_ALLOWED:
                logger.warning("run %s: the executor ended: %s", self.ticket.run, cause)
                self.events.append(
                    {
                        "kind": Happened.EXECUTOR_DIED,
                        "attempts": attempts,
                        "cause": cause,
                        "output": tail,
                    }
                )
                if overdue is not None:
                    self.events.append(self._overrun(overdue, tail))
                elif self._begun and not attempts:
                    self._blame_partition(cause, tail)
                self._replace()
            elif self._failed_starts == STARTS_ALLOWED and not self._begun:
                self.events.append(
                    {
                        "kind": Happened.CANNOT_BEGIN,
                        "message": f"the executor ends before it can begin: {cause}",
                        "function": "",
                        "traceback": "",
                        "output": tail,
                    }
                )

    def _overrun(self, attempt: int, tail: str) -> dict[str, Any]:
        return {
            "kind": Happened.FAILED,
            "attempt": attempt,
            "failure": Failure.TIMEOUT.value,
            "error": "",
            "message": f"it ran for more than unit_timeout={self._settings.unit_timeout:g} s",
            "function": "train_fn",
            "traceback": "",
            "output": tail,
        }

    def _replace(self) -> None:
        """Start another executor, with what is left to be done; none where that is nothing."""
        self._leave_if_idle()
        if self._has_left:
            return
        self._executor = self._spawn()
        for items in self._to_load:
            self._executor.send("preload", items=list(items))
        for order in self._orders.values():
            self._executor.send("start", order=order.to_json())

    def _blame_partition(self, cause: str, tail: str) -> None:
        """Give up a partition whose loading has ended one executor after another."""
        if not self._to_load or not self._to_load[0]:
            return
        self._failed_loads += 1
        if self._failed_loads < LOADS_ALLOWED:
            return
        self._failed_loads = 0
        item = self._to_load[0].popleft()
        self.events.append(
            {
                "kind": Happened.UNREADABLE,
                **item,
                "error": "",
                "message": f"loading it ended the executor {LOADS_ALLOWED} times: {cause}",
                "function": "input_fn",
                "traceback": "",
                "output": tail,
            }
        )
