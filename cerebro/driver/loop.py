"""The driver's loop: what happens becomes events, the scheduler's actions become deeds.

Every round takes all notices that have come, hands them to the scheduler together, writes what
follows into the journal, and only then carries it out. So whatever has taken effect stands in
the journal, and a driver that dies loses nothing but attempts under way.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from cerebro.driver.attempt_results import Chronicle
from cerebro.driver.decisions import Decision, Procedure
from cerebro.driver.remote_errors import user_error
from cerebro.driver.versions import Version, Versions
from cerebro.driver.worker_connection import Notice, Signal
from cerebro.driver.workers import MakeLink, Roster
from cerebro.driver.workers_file import Listed
from cerebro.errors import (
    CerebroError,
    ClusterError,
    StorageError,
    Superseded,
)
from cerebro.formatting import count
from cerebro.hopper import events as ev
from cerebro.hopper.holdings import FixedHoldings, Holdings, SharedHoldings
from cerebro.hopper.placement.policies import POLICIES
from cerebro.hopper.scheduler import Scheduler
from cerebro.hopper.units import Attempt, Failure, ModelState, Split
from cerebro.journal.journal import Journal, Record
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths
from cerebro.journal.run_plan import Matrix, hyperparameters
from cerebro.progress import Reporter
from cerebro.protocol.messages import Happened, Method, Order
from cerebro.seeding import derive

STALL_NOTICE_SECONDS = 5.0
SLOW_FACTOR = 10.0
SLOW_SECONDS = 60.0
"""A unit that takes so many times the median of its split, and longer than that, is announced."""

REPLAYED = "replayed"
"""The failure of a model that ends because it did so in the run that is replayed."""


class Driver:
    """Drives one run from where its ledger stands to its end.

    `procedure` answers an `Ask`. The workers in `absent` did not answer at the start: nothing
    waits for them, and they join when they do. `clock` gives seconds since the run began.
    """

    def __init__(
        self,
        *,
        paths: RunPaths,
        ledger: Ledger,
        journal: Journal,
        make_link: MakeLink,
        absent: set[int],
        procedure: Procedure,
        progress: Reporter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._ledger = ledger
        self._journal = journal
        self._procedure = procedure
        self._progress = progress
        self._clock = clock
        self._plan = ledger.the_plan
        self._generation = journal.generation
        self._notices: queue.SimpleQueue[Notice] = queue.SimpleQueue()
        self._roster = Roster(
            dict(enumerate(self._plan.workers)),
            absent,
            make_link,
            self._notices.put,
            self._record,
            progress,
            str(paths.workers),
        )
        self._errors: dict[tuple[str, int], dict[str, Any]] = {}
        self._calendar: list[tuple[float, str]] = []
        self._pending: list[ev.Event] = []
        self._interrupted = False
        self._asking = False
        self._woken = threading.Event()
        self._explained = self._clock()
        self._fatal: CerebroError | None = None
        self._has_started = False
        self._versions = Versions(
            paths, ledger, journal.reach, procedure.pinned, keep_epoch_ends=procedure.copies
        )
        self._chronicle = Chronicle(ledger, self._versions, self._roster, self._record)
        policy = POLICIES[self._plan.placement]
        placement = policy(derive(self._plan.seed, "placement", journal.generation))
        for unit, worker, seconds in self._chronicle.measured():
            placement.observe(unit, worker, seconds)
        self._scheduler = Scheduler(
            train=holdings(self._plan.train_availability, len(self._plan.train_partitions)),
            valid=holdings(self._plan.valid_availability, len(self._plan.valid_partitions)),
            placement=placement,
            positions=ledger.positions(),
            per_model=procedure.per_model,
            asks_when_idle=procedure.begins_models,
            visit_order=procedure.visit_order,
            first_attempt=ledger.next_attempt(),
        )

    def run(self) -> None:
        """Go on until no model is running.

        Raises `RunFailed` or the error of a user's function if the run cannot go on, and lets
        through what interrupts it; the workers are let go in every case.
        """
        self._sweep()
        try:
            self._roster.start()
            self._carry_out([], self._scheduler.start(self._clock()))
            self._follow_procedure()
            while not self._scheduler.ended:
                self._round()
        finally:
            self._roster.close()
            self._versions.close()
        self._sweep()

    def _sweep(self) -> None:
        try:
            self._versions.sweep()
        except StorageError as error:
            self._progress.say(f"{error}: what killed processes left there is not deleted now")

    def interrupt(self) -> None:
        """Stop the run, between two rounds, by raising `KeyboardInterrupt` there.

        To be called by signal handlers: what is being written is written to its end. A second
        call, or one while the procedure is being asked, raises at once.
        """
        if self._interrupted or self._asking:
            raise KeyboardInterrupt
        self._interrupted = True

    def wake(self) -> None:
        """Have the loop look up from waiting, so that a signal's handler can run. Any thread."""
        self._woken.set()
        self._notices.put(Notice(-1, Signal.WAKE, {}))

    def superseded(self, reason: str) -> None:
        """Another driver has taken the run up: end this one. Any thread."""
        self._notices.put(Notice(-1, Signal.SUPERSEDED, {"reason": reason}))

    def listed(self, workers: list[Listed]) -> None:
        """`workers.json` has been read. Any thread."""
        self._notices.put(Notice(-1, Signal.LISTED, {"workers": workers}))

    # --- one round -------------------------------------------------------------------------------

    def _round(self) -> None:
        notices = self._wait()
        if self._interrupted:
            raise KeyboardInterrupt
        records: list[Record] = []
        events, self._pending = self._pending, []
        for notice in notices:
            events.extend(self._understand(notice, records))
        events.extend(self._due())
        if self._fatal is not None:
            self._write(records)
            raise self._fatal
        if events or records:
            self._carry_out(records, self._scheduler.handle(*events, now=self._clock()))
            self._follow_procedure()
        for content in (n.content for n in notices if n.kind == Happened.COMMITTED):
            self._versions.discard_orphan(content["checkpoint"])
        if self._clock() - self._explained >= STALL_NOTICE_SECONDS:
            self._explained = self._clock()
            self._explain_wait()

    def _wait(self) -> list[Notice]:
        """All notices that have come; waits for the first, unless something else is due."""
        notices: list[Notice] = []
        with contextlib.suppress(queue.Empty):
            if not self._pending:
                notices.append(self._notices.get(timeout=self._time_left()))
            while True:
                notices.append(self._notices.get_nowait())
        return notices

    def _time_left(self) -> float:
        moments = [STALL_NOTICE_SECONDS + self._explained]
        if self._calendar:
            moments.append(self._calendar[0][0])
        return max(0.0, min(moments) - self._clock())

    def _due(self) -> list[ev.Event]:
        """Wakes whose time has come."""
        now, events = self._clock(), list[ev.Event]()
        while self._calendar and self._calendar[0][0] <= now:
            events.append(ev.Woke(heapq.heappop(self._calendar)[1]))
        return events

    def _explain_wait(self) -> None:
        """Say what is being waited for, and by whom."""
        waits = self._roster.waits()
        if not self._roster.is_deserted():
            for (split, partition), units in self._scheduler.stranded().items():
                path = self._paths_of(split)[partition]
                waits[f"{split.value} partition {partition}"] = (
                    f"{count(units, 'unit')} wait{'s' * (units == 1)} for a worker that may read "
                    f"{split.value} partition {partition} ({path})"
                )
            for attempt, _ in self._scheduler.live_attempts():
                if not self._progress.is_open(f"save {attempt.worker}"):
                    self._warn_if_slow(attempt)
        self._progress.wait_for(waits)

    def _warn_if_slow(self, attempt: Attempt) -> None:
        record = self._ledger.attempts.get(attempt.number)
        if record is None:
            return
        median = self._chronicle.median_seconds(attempt.unit.split)
        limit = max(SLOW_FACTOR * median, SLOW_SECONDS)
        if self._clock() - record.start > limit:
            self._progress.say_once(
                f"{attempt.unit} on {self._roster.url(attempt.worker)} has been running for more "
                f"than {limit:.0f} s (the median is {median:.1f} s); unit_timeout= would end one "
                "that never returns",
                key=f"slow attempt {attempt.number}",
            )

    # --- from notices to events ------------------------------------------------------------------

    def _understand(self, notice: Notice, records: list[Record]) -> list[ev.Event]:
        worker, content = notice.worker, notice.content
        attempt = content.get("attempt", -1)
        if notice.kind == Signal.JOINED:
            return self._roster.joined(notice, records)
        if notice.kind == Signal.LOST:
            self._progress.close(f"save {worker}")
            return self._roster.lost(worker, content["reason"], records)
        if notice.kind == Happened.DRAINING:
            return self._draining(worker, content["attempts"], records)
        if notice.kind == Signal.REFUSED:
            return self._roster.refused(worker, content["reason"])
        if notice.kind == Signal.LISTED:
            self._roster.add(content["workers"], records)
        elif notice.kind == Signal.SUPERSEDED:
            self._fatal = Superseded(content["reason"])
        elif notice.kind == Happened.BEGUN:
            self._roster.begun(worker, content["devices"])
        elif notice.kind == Happened.CANNOT_BEGIN:
            self._cannot_begin(worker, content)
        elif notice.kind == Happened.LOADED:
            self._progress.loaded(worker)
        elif notice.kind == Happened.UNREADABLE:
            self._errors[(content["split"], content["partition"])] = content
            return [self._roster.unreadable(worker, content, records)]
        elif notice.kind == Happened.READY:
            return self._roster.ready(worker, records)
        elif notice.kind == Happened.RAN:
            if self._scheduler.is_live(attempt):
                self._chronicle.ran(attempt, {**content, "ran": self._clock()})
                self._progress.ran(attempt)
            return [ev.UnitRan(attempt, content["phases"]["run"])]
        elif notice.kind == Happened.COMMITTED:
            said = f"{self._roster.url(worker)} has saved what waited"
            self._progress.close(f"save {worker}", said)
            self._chronicle.published(attempt, content["checkpoint"], content["save"])
            return [ev.UnitCommitted(attempt)]
        elif notice.kind == Happened.FAILED:
            self._chronicle.failed(attempt, content)
            if content["failure"] == Failure.INPUT.value and self._scheduler.is_live(attempt):
                unit = self._ledger.attempts[attempt].unit
                self._errors[(unit.split.value, unit.partition)] = content
            failure = Failure(content["failure"])
            events: list[ev.Event] = [ev.UnitFailed(attempt, failure)]
            if failure is Failure.TIMEOUT:  # which has ended its executor
                events.append(ev.UnitFailed(attempt, Failure.EXECUTOR))
            return events
        elif notice.kind == Happened.EXECUTOR_DIED:
            message = f"the executor on {self._roster.url(worker)} ended: {content['cause']}"
            if "SIGKILL" in content["cause"]:
                message += "; if nobody killed it, the kernel did, for want of memory"
            self._progress.close(f"save {worker}")
            for number in content["attempts"]:
                self._chronicle.failed(number, {"message": message, "output": content["output"]})
            return [ev.UnitFailed(n, Failure.EXECUTOR) for n in content["attempts"]]
        elif notice.kind == Happened.LOAD_WAITS:
            self._progress.say_once(
                f"loading waits: {content['path']} cannot be read by "
                f"{self._roster.url(worker)}: {content['cause']}; it is tried again"
            )
        elif notice.kind == Happened.SAVE_WAITS:
            self._progress.open(
                f"save {worker}",
                f"saving waits: {content['path']} cannot be written by "
                f"{self._roster.url(worker)}: {content['cause']}; it is tried again",
            )
        return []

    def _draining(self, worker: int, attempts: list[int], records: list[Record]) -> list[ev.Event]:
        """A worker takes no more: what else was started on it never reached it."""
        for attempt, _ in self._scheduler.live_attempts():
            if attempt.worker == worker and attempt.number not in attempts:
                message = "the worker was told to drain before it was given this"
                self._chronicle.failed(attempt.number, {"message": message})
        return self._roster.draining(worker, attempts, records)

    def _cannot_begin(self, worker: int, content: dict[str, Any]) -> None:
        """An executor cannot use the functions or the tool.

        Before anything has been trained that is an error of this run; later it is a worker's.
        """
        reason = f"cannot begin: {content['message']}"
        if self._has_started:
            self._roster.reject(worker, reason)
            return
        details = content.get("traceback") or content.get("output", "")
        self._fatal = ClusterError(f"the worker {self._roster.url(worker)} {reason}\n{details}")

    # --- from actions to records and deeds -------------------------------------------------------

    def _carry_out(self, records: list[Record], actions: list[ev.Action]) -> None:
        for record in records:
            self._ledger.add(record)
        deeds: list[Callable[[], None]] = []
        for action in actions:
            for record in self._chronicle.records_of(action):
                self._ledger.add(record)
                records.append(record)
            deed = self._deed_of(action)
            if deed is not None:
                deeds.append(deed)
        self._chronicle.forget_failures()
        self._append(records)
        for deed in deeds:
            deed()

    def _write(self, records: list[Record]) -> None:
        for record in records:
            self._ledger.add(record)
        self._append(records)

    def _append(self, records: list[Record]) -> None:
        """Make records durable, however long storage refuses, then do what they say of versions."""
        self._journal.append(records, self._wait_for_storage)
        self._progress.close("journal", "the journal is written again; nothing is lost")
        self._versions.delete()

    def _wait_for_storage(self, trouble: StorageError, seconds: float) -> None:
        """Workers go on meanwhile with what they have: their reports wait in the queue."""
        self._progress.open(
            "journal", f"the run waits: {trouble}; it is tried again, nothing is lost"
        )
        expires = time.monotonic() + seconds
        while (left := expires - time.monotonic()) > 0 and not self._interrupted:
            self._woken.wait(left)
            self._woken.clear()
        if self._interrupted:
            raise KeyboardInterrupt

    def _record(self, kind: str, **fields: Any) -> Record:
        return {"kind": kind, "t": self._clock(), "generation": self._generation, **fields}

    def _deed_of(self, action: ev.Action) -> Callable[[], None] | None:
        if isinstance(action, ev.Start):
            return lambda: self._start(action.attempt)
        if isinstance(action, ev.Stage):
            order = self._order(action.attempt)
            return lambda: self._roster.order(
                action.attempt.worker, Method.STAGE, order=vars(order)
            )
        if isinstance(action, ev.Unstage):
            attempt = action.attempt
            return lambda: self._roster.order(
                attempt.worker, Method.UNSTAGE, attempt=attempt.number
            )
        if isinstance(action, ev.Preload):
            return lambda: self._preload(action)
        if isinstance(action, ev.Wake):
            moment = self._clock() + action.seconds
            return lambda: heapq.heappush(self._calendar, (moment, action.token))
        if isinstance(action, ev.Ask):
            return lambda: self._ask(action.models)
        if isinstance(action, ev.ModelFailed):
            return lambda: self._forget([action.model])
        if isinstance(action, ev.Unreachable):
            return lambda: self._unreachable(action)
        return None

    def _paths_of(self, split: Split) -> list[str]:
        plan = self._plan
        return plan.train_partitions if split is Split.TRAIN else plan.valid_partitions

    def _order(self, attempt: Attempt) -> Order:
        unit, model = attempt.unit, self._ledger.models[attempt.unit.model]
        writes = None
        if unit.split is Split.TRAIN:
            folder = self._paths.version(
                unit.model, attempt.reads + 1, self._generation, attempt.number
            )
            writes = str(folder)
        return Order(
            attempt=attempt.number,
            model=unit.model,
            epoch=unit.epoch,
            split=unit.split.value,
            partition=unit.partition,
            path=self._paths_of(unit.split)[unit.partition],
            config=hyperparameters(model.mst),
            seed=model.mst.get("seed", self._plan.seed),
            reads=model.checkpoint(attempt.reads),
            writes=writes,
        )

    def _start(self, attempt: Attempt) -> None:
        self._has_started = True
        order = self._order(attempt)
        self._roster.order(attempt.worker, Method.START, order=vars(order))

    def _preload(self, action: ev.Preload) -> None:
        self._roster.preloading(action.worker)
        items = []
        if self._plan.keep_data:
            for split, partitions in ((Split.TRAIN, action.train), (Split.VALID, action.valid)):
                paths = self._paths_of(split)
                items += [
                    {"split": split.value, "partition": p, "path": paths[p]} for p in partitions
                ]
        self._progress.loading(action.worker, len(items))
        self._roster.order(action.worker, Method.PRELOAD, items=items)

    def _forget(self, models: list[int]) -> None:
        if models:
            self._roster.order_all(Method.FORGET, models=models)

    def _unreachable(self, action: ev.Unreachable) -> None:
        """No worker can read a partition: nothing can be completed any more."""
        details = self._errors.get((action.split.value, action.partition), {})
        path = self._paths_of(action.split)[action.partition]
        message = (
            f"no worker can read {action.split.value} partition {action.partition} ({path}): "
            f"{details.get('message', 'unknown')}"
        )
        if not os.path.isabs(path):
            message += " (a relative path counts from each worker's folder: pass an absolute one)"
        raise user_error(message, details)

    # --- the procedure ---------------------------------------------------------------------------

    def _ask(self, models: tuple[int, ...]) -> None:
        self._asking = True
        with self._progress.doing(f"asking {self._procedure.asked_as} which models go on"):
            decisions = self._procedure.ask(self._ledger, models)
        self._asking = False
        for decision in decisions:
            self._decided(decision)
        if not models and not decisions:
            self._pending.append(ev.Decided(()))

    def _decided(self, decision: Decision) -> None:
        released: list[Version] = []
        for new in decision.add:
            released += self._versions.read_by(new["model"], new["checkpoint"])
        released += self._versions.released(decision.stop)
        record = self._record(
            "decision",
            asked=list(decision.asked),
            stop={number: state.value for number, state in decision.stop.items()},
            add=decision.add,
        )
        self._write([record, *self._chronicle.dropped(released)])
        self._forget(list(decision.stop))
        new_models = tuple(ev.NewModel(new["model"], new["epoch"]) for new in decision.add)
        self._pending.append(ev.Decided(decision.asked, decision.stop, new_models))

    def _follow_procedure(self) -> None:
        """What the procedure wants, now that models have gone on, or failed."""
        for model, message in self._procedure.given_up(self._ledger).items():
            self._write([self._chronicle.model_failed(model, REPLAYED, {"message": message})])
            self._forget([model])
            self._pending.append(ev.Decided((), {model: ModelState.FAILED}))
        self._asking = True
        decisions = self._procedure.follow(self._ledger)
        self._asking = False
        for decision in decisions:
            self._decided(decision)


def holdings(matrix: Matrix | None, partitions: int) -> Holdings:
    """Who may read what, for one split."""
    return SharedHoldings(partitions) if matrix is None else FixedHoldings(matrix)
