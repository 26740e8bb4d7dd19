"""The driver's loop: what happens becomes events, the scheduler's actions take effect.

Every round takes all notices that have come, hands them to the scheduler together, writes what
follows into the journal, and only then carries it out. So whatever has taken effect is in
the journal, and a driver that dies loses nothing but attempts under way.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import queue
import time
from collections.abc import Callable

from cerebro.driver.attempt_results import AttemptResults
from cerebro.driver.decisions import CheckedDecision, Procedure
from cerebro.driver.events_in import EventsIn, Heard, LookUp, WorkersListed
from cerebro.driver.interruption import Interruption
from cerebro.driver.orders_out import OrdersOut
from cerebro.driver.remote_errors import user_error
from cerebro.driver.trusted import Trust
from cerebro.driver.versions import Version, Versions
from cerebro.driver.waits import Waits
from cerebro.driver.worker_connection import DriverReplaced, Notice
from cerebro.driver.workers import MakeLink, Workers
from cerebro.driver.workers_file import Listed
from cerebro.errors import StorageError
from cerebro.hopper import events as ev
from cerebro.hopper.holdings import FixedHoldings, Holdings, SharedHoldings
from cerebro.hopper.placement.registry import POLICIES
from cerebro.hopper.scheduler import Scheduler
from cerebro.hopper.units import ModelState, Split
from cerebro.journal.journal import Journal
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import DecisionRecord, Header, Record
from cerebro.journal.run_plan import RunPlan
from cerebro.progress import Reporter
from cerebro.protocol.messages import Problem, VersionPublished
from cerebro.seeding import derive

REPLAYED = "replayed"
"""The failure of a model that ends because it did so in the run that is replayed."""


class Driver:
    """Drives one run from the state in its ledger to its end.

    `procedure` answers an `Ask`. The workers in `absent` did not answer at the start: nothing
    waits for them, and they join when they do. `trust` looks at checkpoints that new
    models start with. `clock` gives seconds since the run started.
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
        trust: Trust,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._trust = trust
        self._journal = journal
        self._procedure = procedure
        self._progress = progress
        self._clock = clock
        self._generation = journal.generation
        self._heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        plan = ledger.the_plan
        self._workers = Workers(
            dict(enumerate(plan.workers)),
            absent,
            make_link,
            self._heard.put,
            self._header,
            progress,
            str(paths.workers),
        )
        self._calendar: list[tuple[float, int, ev.WakeTarget]] = []
        self._calendar_entries = itertools.count()  # orders wakes of one moment
        self._pending: list[ev.Event] = []
        self._interruption = Interruption()
        self._versions = Versions(
            paths, ledger, journal.reach, procedure.pinned, keep_epoch_ends=procedure.copies
        )
        self._attempt_results = AttemptResults(ledger, self._versions, self._workers, self._header)
        policy = POLICIES[plan.placement]
        placement = policy(derive(plan.seed, "placement", journal.generation))
        for unit, worker, seconds in self._attempt_results.measured():
            placement.observe(unit, worker, seconds)
        self._scheduler = Scheduler(
            train=holdings(plan, Split.TRAIN),
            valid=holdings(plan, Split.VALID),
            placement=placement,
            positions=ledger.positions(),
            per_model=procedure.per_model,
            asks_when_idle=procedure.begins_models,
            visit_order=procedure.visit_order,
            first_attempt=ledger.next_attempt(),
        )
        self._orders_out = OrdersOut(
            workers=self._workers,
            ledger=ledger,
            paths=paths,
            generation=journal.generation,
            progress=progress,
        )
        self._events_in = EventsIn(
            workers=self._workers,
            scheduler=self._scheduler,
            ledger=ledger,
            attempt_results=self._attempt_results,
            progress=progress,
            clock=clock,
            has_started=lambda: self._orders_out.has_started,
        )
        self._waits = Waits(
            workers=self._workers,
            scheduler=self._scheduler,
            ledger=ledger,
            attempt_results=self._attempt_results,
            progress=progress,
            path_of=self._orders_out.path_of,
            clock=clock,
        )

    def run(self) -> None:
        """Drive the run until no model is running.

        Raises `RunFailed` or the error of a user's function if the run cannot continue, and lets
        through what interrupts it; the workers are let go in every case.
        """
        self._sweep()
        try:
            self._workers.start()
            self._carry_out([], self._scheduler.start(self._clock()))
            self._follow_procedure()
            while not self._scheduler.ended:
                self._round()
        finally:
            self._workers.close()
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
        self._interruption.ask()

    def wake(self) -> None:
        """Have the loop look up from waiting, so that a signal's handler can run. Any thread."""
        self._interruption.wake()
        self._heard.put(LookUp())

    def superseded(self, reason: str) -> None:
        """Another driver has taken the run up: end this one. Any thread."""
        self._heard.put(DriverReplaced(reason))

    def listed(self, workers: list[Listed]) -> None:
        """`workers.json` has been read. Any thread."""
        self._heard.put(WorkersListed(workers))

    # --- one round -------------------------------------------------------------------------------

    def _round(self) -> None:
        heard = self._wait()
        self._interruption.check()
        records: list[Record] = []
        events, self._pending = self._pending, []
        for one in heard:
            events.extend(self._events_in.understand(one, records))
        events.extend(self._due())
        if self._events_in.fatal is not None:
            self._write(records)
            raise self._events_in.fatal
        if events or records:
            self._carry_out(records, self._scheduler.handle(*events, now=self._clock()))
            self._follow_procedure()
        for one in heard:
            if isinstance(one, Notice) and isinstance(one.message, VersionPublished):
                self._versions.discard_orphan(one.message.checkpoint)
        self._waits.explain_if_due()

    def _wait(self) -> list[Heard]:
        """All that was heard; waits for the first, unless something else is due."""
        heard: list[Heard] = []
        with contextlib.suppress(queue.Empty):
            if not self._pending:
                heard.append(self._heard.get(timeout=self._time_left()))
            while True:
                heard.append(self._heard.get_nowait())
        return heard

    def _time_left(self) -> float:
        moments = [self._waits.due]
        if self._calendar:
            moments.append(self._calendar[0][0])
        return max(0.0, min(moments) - self._clock())

    def _due(self) -> list[ev.Event]:
        """Wakes whose time has come."""
        now, events = self._clock(), list[ev.Event]()
        while self._calendar and self._calendar[0][0] <= now:
            events.append(ev.Woke(heapq.heappop(self._calendar)[-1]))
        return events

    # --- from actions to records and effects -----------------------------------------------------

    def _carry_out(self, records: list[Record], actions: list[ev.Action]) -> None:
        for record in records:
            self._ledger.add(record)
        effects: list[Callable[[], None]] = []
        for action in actions:
            for record in self._attempt_results.records_of(action):
                self._ledger.add(record)
                records.append(record)
            effect = self._effect_of(action)
            if effect is not None:
                effects.append(effect)
        self._attempt_results.forget_failures()
        self._append(records)
        for effect in effects:
            effect()

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
        """Workers continue meanwhile with what they have: their reports wait in the queue."""
        self._progress.open(
            "journal", f"the run waits: {trouble}; it is tried again, nothing is lost"
        )
        self._interruption.pause(seconds)

    def _header(self) -> Header:
        return {"t": self._clock(), "generation": self._generation}

    def _effect_of(self, action: ev.Action) -> Callable[[], None] | None:
        if isinstance(action, ev.Wake):
            moment = self._clock() + action.seconds
            entry = (moment, next(self._calendar_entries), action.target)
            return lambda: heapq.heappush(self._calendar, entry)
        if isinstance(action, ev.Ask):
            return lambda: self._ask(action.models)
        if isinstance(action, ev.Unreachable):
            return lambda: self._unreachable(action)
        return self._orders_out.effect_of(action)

    def _unreachable(self, action: ev.Unreachable) -> None:
        """No worker can read a partition: nothing can be completed any more."""
        problem = self._events_in.input_problem(action.split, action.partition)
        path = self._orders_out.path_of(action.split, action.partition)
        message = (
            f"no worker can read {action.split.value} partition {action.partition} ({path}): "
            f"{problem.message}"
        )
        if not os.path.isabs(path):
            message += " (a relative path counts from each worker's folder: pass an absolute one)"
        raise user_error(message, problem)

    # --- the procedure ---------------------------------------------------------------------------

    def _ask(self, models: tuple[int, ...]) -> None:
        with (
            self._interruption.immediate(),
            self._progress.doing(f"asking {self._procedure.asked_as} which models go on"),
        ):
            decisions = self._procedure.ask(self._ledger, models)
        for decision in decisions:
            self._decided(decision)
        if not models and not decisions:
            self._pending.append(ev.Decided(()))

    def _decided(self, decision: CheckedDecision) -> None:
        released: list[Version] = []
        for new in decision.add:
            self._trust.check_beginning(new.checkpoint, self._ledger)
        for new in decision.add:
            released += self._versions.read_by(new.model, new.checkpoint)
        released += self._versions.released(decision.stop)
        record = DecisionRecord(
            **self._header(), asked=decision.asked, stop=decision.stop, add=decision.add
        )
        self._write([record, *self._attempt_results.dropped(released)])
        self._orders_out.forget(decision.stop)
        new_models = tuple(ev.AddedModel(new.model, new.epoch) for new in decision.add)
        self._pending.append(ev.Decided(decision.asked, decision.stop, new_models))

    def _follow_procedure(self) -> None:
        """What the procedure wants, now that models have gone on, or failed."""
        for model, message in self._procedure.given_up(self._ledger).items():
            self._write(
                [self._attempt_results.model_failed(model, REPLAYED, Problem(message=message))]
            )
            self._orders_out.forget([model])
            self._pending.append(ev.Decided((), {model: ModelState.FAILED}))
        with self._interruption.immediate():
            decisions = self._procedure.follow(self._ledger)
        for decision in decisions:
            self._decided(decision)


def holdings(plan: RunPlan, split: Split) -> Holdings:
    """Return who may read what, for one split."""
    matrix = plan.availability(split)
    return SharedHoldings(len(plan.partitions(split))) if matrix is None else FixedHoldings(matrix)
