"""The daemon: the remote methods of a worker, and which run it holds.

It answers within milliseconds at all times, because nothing here trains, loads or imports a
training tool; and it holds one run at a time, for as long as that run's driver is heard of.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cerebro import machine
from cerebro.errors import RunNotHeld, Superseded, WorkerBusy, WorkerLeaving
from cerebro.formatting import shorten
from cerebro.protocol.messages import (
    DriverInfo,
    ExecutorSetup,
    Leaving,
    Method,
    RunOptions,
    Ticket,
)
from cerebro.protocol.types import checked
from cerebro.rpc import decode_bytes
from cerebro.worker import storage_probe
from cerebro.worker.run_folder import RunFolder
from cerebro.worker.session import DRAINING_MESSAGE, WorkerSession

logger = logging.getLogger(__name__)

RUNS_REMEMBERED = 1_000
"""Runs whose highest rank is kept, so that a driver which was replaced stays refused."""

WAIT_SECONDS_MAX = 60.0

LEAVING_MESSAGE = "this worker is stopping"

ANSWER_SECONDS = 0.5
"""A daemon that is told to drain, and has nothing to end, lives so long, to answer."""


@dataclass(frozen=True)
class Resources:
    """What this worker may take of its machine."""

    threads: int
    gpu: int | None = None
    gpu_memory_gb: float | None = None

    def environment(self) -> dict[str, str]:
        """The environment of an executor: fixed threads and hashes, for reproducible results."""
        threads = str(self.threads)
        return {
            "PYTHONHASHSEED": "0",
            machine.INSIDE_EXECUTOR: "1",
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        }


class Daemon:
    """The remote methods. Thread-safe; each call comes on a thread of its own.

    `drained` is called, on a thread of the daemon's own, when it was told to drain and holds
    nothing any more: its process can end.
    """

    def __init__(
        self,
        resources: Resources,
        log_level: int = logging.INFO,
        drained: Callable[[], object] = lambda: None,
    ) -> None:
        self.devices: list[str] = []
        """The GPUs that were found at the start; for whoever asks."""
        self._resources = resources
        self._drained = drained
        self._log_level = log_level
        # Held while one run ends and the next starts, which may take as long as an executor's
        # end. Always taken before `_lock`, which is held for moments only: `describe` needs it.
        self._turnover = threading.Lock()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._held: WorkerSession | None = None
        self._ranks: dict[str, tuple[int, int]] = {}
        self._folders: dict[str, RunFolder] = {}
        self._leaving = False
        self._draining = False
        self._orders: dict[str, Callable[..., Any]] = {
            Method.PRELOAD.value: checked(self.preload),
            Method.STAGE.value: checked(self.stage),
            Method.UNSTAGE.value: checked(self.unstage),
            Method.START.value: checked(self.start),
            Method.FORGET.value: checked(self.forget),
        }
        self._warden = threading.Thread(target=self._watch_lease, name="lease", daemon=True)
        self._warden.start()

    def methods(self) -> dict[str, Any]:
        """What the server offers, by name."""
        methods: dict[str, Callable[..., Any]] = {
            Method.DESCRIBE.value: self.describe,
            Method.INSPECT.value: self.inspect,
            Method.DRAIN.value: self.drain,
            Method.PROBE_STORAGE.value: self.probe_storage,
            Method.OPEN_RUN.value: self.open_run,
            Method.CLOSE_RUN.value: self.close_run,
            Method.ORDERS.value: self.orders,
            Method.EVENTS.value: self.events,
        }
        return {name: checked(method) for name, method in methods.items()} | self._orders

    # --- about this worker -----------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Versions, machine, and who holds this worker."""
        with self._lock:
            held = self._held.describe().to_json() if self._held else None
        return {
            **machine.versions(),
            **machine.host(),
            "threads": self._resources.threads,
            "gpu": self._resources.gpu,
            "held": held,
        }

    def inspect(self) -> dict[str, Any]:
        """What `describe` says, and what this worker is at. Changes nothing."""
        with self._lock:
            held, draining = self._held, self._draining
        return {
            **self.describe(),
            "devices": self.devices,
            "draining": draining,
            "memory": machine.resident_bytes(os.getpid()),
            "work": held.inspect() if held else None,
        }

    def probe_storage(self, write: str, read: list[str]) -> dict[str, Any]:
        """Write a new file, and say which of other hosts' files cannot be read here."""
        return storage_probe.probe_storage(write, read)

    # --- holding a run ---------------------------------------------------------------------------

    def open_run(
        self,
        ticket: dict[str, Any],
        driver: dict[str, Any],
        options: dict[str, Any],
        functions: str,
    ) -> dict[str, Any]:
        """Hold this worker for a run, with a new executor. Idempotent for one ticket of one driver.

        `driver` is the content of a `DriverInfo`, `options` that of a `RunOptions`. Raises
        `WorkerBusy` while it is held for another run, or for the same id in another folder, and
        `Superseded` where a later driver has taken the run up.
        """
        asked, info = Ticket.from_json(ticket), DriverInfo.from_json(driver)
        blob = decode_bytes(functions)
        setup = ExecutorSetup(
            options=RunOptions.from_json(options),
            threads=self._resources.threads,
            gpu=self._resources.gpu,
            gpu_memory_gb=self._resources.gpu_memory_gb,
            log_level=self._log_level,
        )
        folder = RunFolder.look(info.run_dir)
        with self._turnover:
            known = self._folders.get(asked.run)
            same = known is None or known.is_same(folder)
            # Which of two folders with one id is in which generation, says nothing; nor does what
            # a folder held before it was put back from a backup.
            ranked = same and not self._was_put_back(asked, folder)
            with self._lock:
                self._check_rank(asked if ranked else None)
                if self._draining:
                    raise WorkerLeaving(DRAINING_MESSAGE)
                before = self._held
                if before is not None and (before.ticket, before.driver) == (asked, info) and same:
                    before.heard()
                    return {}
                if before is not None and not (before.ticket.run == asked.run and ranked):
                    _check_lease(before, info)
                self._remember(asked, folder)
                self._held = None
            if before is not None:
                before.close()
            run = WorkerSession(asked, info, setup, self._resources.environment(), blob)
            with self._lock:
                leaving = self._leaving or self._draining
                if not leaving:
                    self._held = run
                    self._changed.notify_all()
            if leaving:
                run.close()
                raise WorkerLeaving(LEAVING_MESSAGE)
        logger.info("holding run %s of process %s on %s", info.run_dir, info.pid, info.host)
        return {}

    def close_run(self, ticket: dict[str, Any]) -> dict[str, Any]:
        """Let a run go: its executor ends. A run that is not held is let go already."""
        asked = Ticket.from_json(ticket)
        with self._turnover:
            with self._lock:
                if self._held is None or self._held.ticket != asked:
                    return {}
                held, self._held = self._held, None
                self._changed.notify_all()
            held.close()
        logger.info("let go of run %s", held.driver.run_dir)
        return {}

    def _check_rank(self, asked: Ticket | None) -> None:
        if self._leaving:
            raise WorkerLeaving(LEAVING_MESSAGE)
        if asked is not None and asked.rank < self._ranks.get(asked.run, (0, 0)):
            raise Superseded(
                f"another driver has taken this run up: it is in generation "
                f"{self._ranks[asked.run][0]} now, and this driver's was {asked.generation}",
            )

    def _was_put_back(self, asked: Ticket, folder: RunFolder) -> bool:
        """Whether this worker knows later generations that the folder does not hold any more."""
        known, _ = self._ranks.get(asked.run, asked.rank)
        return asked.generation < known and folder.was_put_back(known)

    def _remember(self, asked: Ticket, folder: RunFolder) -> None:
        self._ranks.pop(asked.run, None)
        self._ranks[asked.run] = asked.rank
        self._folders[asked.run] = folder
        while len(self._ranks) > RUNS_REMEMBERED:
            oldest = next(iter(self._ranks))
            del self._ranks[oldest], self._folders[oldest]

    def _run(self, ticket: dict[str, Any]) -> WorkerSession:
        """The run that a call is for; hearing of its driver renews the lease."""
        asked = Ticket.from_json(ticket)
        with self._lock:
            self._check_rank(asked)
            if self._held is None or self._held.ticket != asked:
                raise RunNotHeld(f"this worker does not hold run {asked.run!r}")
            self._held.heard()
            return self._held

    def _watch_lease(self) -> None:
        """Give up a run whose driver is not heard of any more. Returns when leaving."""
        while self._lease_runs_out():
            with self._turnover:
                with self._lock:
                    held = self._held
                    if held is None or held.lease_left() > 0:
                        continue
                    self._held = None
                    self._changed.notify_all()
                name = held.driver.run_dir
                logger.warning("nothing heard of the driver of run %s: given up", name)
                held.close()

    def _lease_runs_out(self) -> bool:
        """Wait until a lease is over; False when leaving."""
        with self._lock:
            while not self._leaving:
                left = self._held.lease_left() if self._held else None
                if left is not None and left <= 0:
                    return True
                self._changed.wait(left)
            return False

    # --- orders and events -----------------------------------------------------------------------

    def preload(self, ticket: dict[str, Any], items: list[dict[str, Any]]) -> dict[str, Any]:
        """Load partitions: `items` have `split`, `partition` and `path`."""
        self._run(ticket).preload(items)
        return {}

    def stage(self, ticket: dict[str, Any], order: dict[str, Any]) -> dict[str, Any]:
        """Prepare an attempt."""
        self._run(ticket).stage(order)
        return {}

    def unstage(self, ticket: dict[str, Any], attempt: int) -> dict[str, Any]:
        """Forget a prepared attempt."""
        self._run(ticket).unstage(attempt)
        return {}

    def start(self, ticket: dict[str, Any], order: dict[str, Any]) -> dict[str, Any]:
        """Run an attempt."""
        self._run(ticket).start(order)
        return {}

    def forget(self, ticket: dict[str, Any], models: list[int]) -> dict[str, Any]:
        """Drop what is kept for models that have ended."""
        self._run(ticket).forget(models)
        return {}

    def orders(self, ticket: dict[str, Any], orders: list[dict[str, Any]]) -> dict[str, Any]:
        """Several of the above, in turn: each is a `method` with its `params`, but the ticket."""
        for order in orders:
            name, params = str(order.get("method")), order.get("params")
            if name not in self._orders or not isinstance(params, dict):
                raise ValueError(f"orders: {shorten(order)} is not an order")
            self._orders[name](ticket=ticket, **params)
        return {}

    def events(self, ticket: dict[str, Any], after: int, wait: float) -> dict[str, Any]:
        """Events above `after`, waiting up to `wait` seconds for one."""
        run = self._run(ticket)
        events = run.events.after(after, min(wait, WAIT_SECONDS_MAX))
        return {"events": events}

    # --- the end ---------------------------------------------------------------------------------

    def drain(self) -> dict[str, Any]:
        """End what was started, take no more, and then end. A second call changes nothing.

        The run is held until its driver, which is told, lets it go, or is not heard of any more.
        """
        with self._lock:
            first = not self._draining
            self._draining = True
            held = self._held
        if held is not None:
            held.drain()
        if first:
            logger.info("draining: finishing what was started, taking no more")
            threading.Thread(target=self._end_drained, name="drain", daemon=True).start()
        return {}

    def _end_drained(self) -> None:
        """Wait until nothing is held, then say so."""
        time.sleep(ANSWER_SECONDS)
        with self._lock:
            while self._held is not None:
                self._changed.wait()
        with self._turnover:  # whoever has let the run go is done with it
            self._drained()

    def leave(self) -> None:
        """Take no more units, tell the driver, end the executor."""
        with self._lock:
            self._leaving = True
            held, self._held = self._held, None
            self._changed.notify_all()
        if held is not None:
            held.events.append(Leaving())
            held.close()
        self._warden.join(1.0)


def _check_lease(held: WorkerSession, asked: DriverInfo) -> None:
    """`WorkerBusy` while a run's driver may still be at work."""
    if held.lease_left() > 0:
        raise WorkerBusy(
            f"this worker holds {held.describe()}, and {asked.run_dir} is another: wait for its "
            "end, or end it"
        )
