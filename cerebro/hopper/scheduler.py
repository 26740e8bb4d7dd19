"""The scheduler's core: events in, actions out.

Two rules keep it honest. Everything that decides which unit runs where, and what counts, is here;
and nothing here knows about time, storage or the network: the driver turns what happens out
there into events, writes the actions into its journal, and then carries them out.

Who goes where is a policy's choice (`placement`): it is told what has changed, and answers which of
the units that may start do so. The time of an event comes with it, and is only passed on.

A model goes through its epochs: all its train units, one at a time, in any order; then all its
valid units, several at once if workers are free; then the procedure decides. A train unit is
*pending*, perhaps *staged* on a busy worker, *running*, *saving* (the worker is free, the model
is held until its new version is published), and *committed*. A valid unit is committed when it
has run. What can happen to an attempt under way is a table, `attempt_states.TRANSITIONS`.

Exactly once: an attempt counts only if it is still the live attempt of its unit. An event of any
other attempt (a late answer, a second delivery, a worker that was given up) changes nothing. An
attempt whose model has ended, or whose version was voided, is *void*: it keeps its worker busy
until the worker says that it is over, and what comes of it does not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from cerebro.hopper import events as ev
from cerebro.hopper.attempt_states import TRANSITIONS, Slot, SlotEvent
from cerebro.hopper.bitset import bits, mask_of
from cerebro.hopper.entries import DEATHS_ALLOWED, LiveAttempt, ModelEntry, Troubles, WorkerEntry
from cerebro.hopper.holdings import Holdings
from cerebro.hopper.placement.base import ModelWork, Placement, WorkerSlots
from cerebro.hopper.units import Attempt, Failure, ModelPosition, ModelState, Phase, Split, Unit

STORY_LENGTH = 20
"""Calls, with their events and actions, that an `IllegalTransition` tells of."""

# An enum's members are looked up by its metaclass, which takes longer than what is done with them.
TRAIN, VALID = Split.TRAIN, Split.VALID
STAGED, RUNNING, SAVING = Slot.STAGED, Slot.RUNNING, Slot.SAVING
STARTED, UNSTAGED, TRAINED = SlotEvent.STARTED, SlotEvent.UNSTAGED, SlotEvent.TRAINED
RAN, COMMITTED = SlotEvent.RAN, SlotEvent.COMMITTED
FAILED, ABANDONED = SlotEvent.FAILED, SlotEvent.ABANDONED

RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 30.0
ASIDE_SECONDS = 10.0
ASIDE_SECONDS_MAX = 300.0


Part: TypeAlias = tuple[Split, int]
"""A partition of a split."""


_Told: TypeAlias = tuple[Sequence[ev.Event], Sequence[ev.Action]]


class IllegalTransition(Exception):
    """An event that cannot happen in this state: a defect in the driver or in the scheduler."""


class Scheduler:
    """One run's state machine.

    `positions` are the models to start (or continue) with. `visit_order`, where given, fixes the
    order in which a model visits the train partitions of an epoch, and it visits no others; the
    workers stay free.
    `per_model` asks the procedure at each model's own epoch end, instead of when all running
    models have ended the epoch. A model that is not named in an answer keeps waiting.
    `asks_when_idle`: when no model runs, the procedure is asked for new ones, and the run ends if
    it adds none. `first_attempt` is the number of the first attempt.
    """

    def __init__(
        self,
        *,
        train: Holdings,
        valid: Holdings,
        placement: Placement,
        positions: Iterable[ModelPosition],
        per_model: bool = False,
        asks_when_idle: bool = False,
        visit_order: Mapping[tuple[int, int], Sequence[int]] | None = None,
        first_attempt: int = 0,
    ) -> None:
        self._holdings = {Split.TRAIN: train, Split.VALID: valid}
        self._placement = placement
        self._per_model = per_model
        self._asks_when_idle = asks_when_idle
        self._visit_order = visit_order or {}
        self._next_attempt = first_attempt
        self._models: dict[int, ModelEntry] = {}
        self._workers: dict[int, WorkerEntry] = {}
        self._live: dict[int, LiveAttempt] = {}
        self._staged: dict[Unit, LiveAttempt] = {}
        self._troubles: dict[Unit, Troubles] = {}
        self._running: set[int] = set()
        self._deciding: set[int] = set()
        self._asked: set[int] = set()
        self._asked_for_more = False
        self._held_by: dict[int, tuple[Part, ...]] = {}
        self._changed_models: dict[int, None] = {}
        self._changed_workers: dict[int, None] = {}
        self._looks_again = False
        self._now = 0.0
        self._shares_moved = False
        self._is_open = False
        self._ended = False
        self._out: list[ev.Action] = []
        self._story: deque[_Told] = deque(maxlen=STORY_LENGTH)
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.WorkerJoined: self._on_worker_joined,
            ev.WorkerReady: self._on_worker_ready,
            ev.WorkerDrains: self._on_worker_drains,
            ev.WorkerLost: self._on_worker_lost,
            ev.PartitionUnreadable: self._on_partition_unreadable,
            ev.UnitRan: self._on_unit_ran,
            ev.UnitCommitted: self._on_unit_committed,
            ev.UnitFailed: self._on_unit_failed,
            ev.Decided: self._on_decided,
            ev.Woke: self._on_wake,
        }
        self._wake_handlers: dict[type, Callable[[Any], None]] = {
            ev.RetryUnit: self._retry_unit,
            ev.ProbeWorker: self._probe_worker,
            ev.LookAgain: self._look_again,
        }
        placement.tell_partitions(train.partitions, valid.partitions)
        for position in positions:
            self._begin(position)

    # --- what the driver and the tests may look at ---------------------------------------------

    @property
    def ended(self) -> bool:
        """Tell whether `End` was given out."""
        return self._ended

    def positions(self) -> list[ModelPosition]:
        """Return how far every model has come."""
        return [
            ModelPosition(
                m.id,
                m.epoch,
                m.version,
                frozenset(bits(m.train_left)),
                frozenset(bits(m.valid_left)),
                m.state,
                m.last_unit,
                m.repair,
            )
            for m in self._models.values()
        ]

    def live_attempts(self) -> list[tuple[Attempt, Slot]]:
        """Return the attempts under way, with the slot each occupies."""
        return [(live.attempt, live.slot) for live in self._live.values()]

    def slot(self, attempt: int) -> Slot | None:
        """Return what an attempt occupies on its worker; None if it is not under way."""
        return self._live[attempt].slot if attempt in self._live else None

    def saving_on(self, worker: int) -> int | None:
        """Return the attempt whose version a worker saves, if any."""
        entry = self._workers.get(worker)
        live = None if entry is None else entry.slots.get(SAVING)
        return None if live is None else live.attempt.number

    def is_live(self, attempt: int) -> bool:
        """Tell whether an attempt's outcome would still count."""
        return attempt in self._live and self._live[attempt].counts

    def stranded(self) -> dict[Part, int]:
        """Count the pending units of each partition that no present worker holds."""
        held = frozenset().union(*(self._held(worker) for worker in self._workers))
        parts = ((s, p) for s in Split for p in range(self._holdings[s].partitions))
        found = {part: 0 for part in parts if part not in held}
        if found:
            for model in self._models.values():
                waiting = model.wanted() & ~model.started
                for part in found:
                    found[part] += part[0] is model.split() and waiting >> part[1] & 1
            for unit in self._staged:
                if (unit.split, unit.partition) in found:
                    found[(unit.split, unit.partition)] -= 1
        return {part: units for part, units in found.items() if units}

    # --- the one entrance -----------------------------------------------------------------------

    def handle(self, *events: ev.Event, now: float = 0.0) -> list[ev.Action]:
        """Apply events that fell together, then place. Returns the actions, in order.

        `now` is in seconds since any moment, and does not go back: a policy may want to know when
        what is running will end. Raises `IllegalTransition` for an event that cannot happen.
        """
        self._out = []
        self._now = now
        self._story.append((events, self._out))
        for event in events:
            self._handlers[type(event)](event)
        if not self._ended:
            if self._shares_moved:
                self._preload_shares()
            if self._is_open or self._open():
                self._place()
            if self._deciding or not self._running:
                self._ask()
        return self._out

    def start(self, now: float = 0.0) -> list[ev.Action]:
        """Return the first actions of a run whose models all wait for a decision, or have ended."""
        return self.handle(now=now)

    def _illegal(self, what: str) -> IllegalTransition:
        story = [what]
        for events, actions in self._story:
            story += [*(f"< {event}" for event in events), *(f"> {action}" for action in actions)]
        return IllegalTransition("\n  ".join(story))

    # --- workers ---------------------------------------------------------------------------------

    def _on_worker_joined(self, event: ev.WorkerJoined) -> None:
        worker = event.worker
        if worker in self._workers:
            raise self._illegal(f"worker {worker} joined twice without being lost")
        self._workers[worker] = WorkerEntry(worker)
        self._holdings[Split.TRAIN].join(worker, event.train)
        self._holdings[Split.VALID].join(worker, event.valid)
        self._shares_moved = True

    def _on_worker_ready(self, event: ev.WorkerReady) -> None:
        worker = self._workers.get(event.worker)
        if worker is not None:
            worker.loads -= 1
            worker.ready |= worker.loads <= 0
            self._changed_workers[worker.id] = None

    def _on_worker_drains(self, event: ev.WorkerDrains) -> None:
        worker = self._workers.get(event.worker)
        if worker is None:
            return
        worker.drains = True
        self._changed_workers[worker.id] = None
        # Others load its partitions while it ends what it has started.
        for holdings in self._holdings.values():
            holdings.leave(worker.id)
        self._shares_moved = True
        self._release_staged(worker)
        for live in list(worker.slots.values()):
            if live.attempt.number not in event.attempts:
                self._abandon(live)

    def _abandon(self, live: LiveAttempt) -> None:
        """Give an attempt up: the worker will never report on it, and its unit is pending again."""
        self._move(live, ABANDONED)
        if live.counts:
            self._out.append(ev.Retry(live.attempt, None))

    def _on_worker_lost(self, event: ev.WorkerLost) -> None:
        worker = self._workers.pop(event.worker, None)
        if worker is None:
            return
        self._changed_workers[worker.id] = None
        for holdings in self._holdings.values():
            holdings.leave(worker.id)
        for live in list(worker.slots.values()):
            if live.slot is STAGED:
                self._move(live, ABANDONED)
            else:
                self._abandon(live)
        self._shares_moved = True

    def _on_partition_unreadable(self, event: ev.PartitionUnreadable) -> None:
        self._cannot_read(event.worker, event.split, event.partition)

    def _cannot_read(self, worker: int, split: Split, partition: int) -> None:
        if self._holdings[split].unreadable(worker, partition):
            self._out.append(ev.Unreachable(split, partition))
        self._shares_moved = True
        for attempt in [live.attempt for live in self._staged.values()]:
            unit = attempt.unit
            if (attempt.worker, unit.split, unit.partition) == (worker, split, partition):
                self._release_staged(self._workers[worker])

    def _preload_shares(self) -> None:
        """Have workers load what they may now be given, and look for work for all of them."""
        self._shares_moved = False
        self._held_by.clear()
        for worker in self._workers.values():
            if worker.drains:
                continue
            held = frozenset(self._held(worker.id))
            new = held if worker.told is None else held - worker.told
            if new or worker.told is None:
                worker.told = (worker.told or set()) | held
                train, valid = (sorted(p for s, p in new if s is split) for split in Split)
                worker.loads += 1
                self._out.append(ev.Preload(worker.id, tuple(train), tuple(valid)))
        self._changed_workers.update(dict.fromkeys(self._workers))

    def _open(self) -> bool:
        """Open the run once all that joined at the start have loaded: bad input costs no work."""
        workers = [worker for worker in self._workers.values() if not worker.drains]
        self._is_open = bool(workers) and all(worker.loads <= 0 for worker in workers)
        return self._is_open

    # --- attempts --------------------------------------------------------------------------------

    def _attempt(self, unit: Unit, worker: int, slot: Slot) -> Attempt:
        """Make an attempt of a unit, in a slot of a worker."""
        model = self._models[unit.model]
        attempt = Attempt(self._next_attempt, unit, worker, model.version)
        self._next_attempt += 1
        live = self._live[attempt.number] = LiveAttempt(attempt, model, slot)
        if slot is STAGED:
            self._staged[unit] = live
        else:
            self._began(live)
        self._workers[worker].slots[slot] = live
        self._changed_workers[worker] = None
        if unit.split is TRAIN:
            model.train_attempt = live
        return attempt

    def _move(self, live: LiveAttempt, event: SlotEvent) -> None:
        """Take an attempt from its slot to the one that follows, as `TRANSITIONS` has it."""
        try:
            after = TRANSITIONS[(live.slot, event)]
        except KeyError:
            number, unit = live.attempt.number, live.attempt.unit
            raise self._illegal(
                f"attempt {number} of {unit} {event.value} while {live.slot.value}"
            ) from None
        if after is None:
            self._close(live)
            return
        attempt, before = live.attempt, live.slot
        slots = self._workers[attempt.worker].slots
        if after in slots:
            number, unit = attempt.number, attempt.unit
            raise self._illegal(f"attempt {number} of {unit}: {after.value} slot is taken")
        del slots[before]
        slots[after] = live
        live.slot = after
        if before is STAGED:
            del self._staged[attempt.unit]
            self._began(live)
        self._changed_workers[attempt.worker] = None

    def _began(self, live: LiveAttempt) -> None:
        live.model.started |= 1 << live.attempt.unit.partition
        self._changed_models[live.model.id] = None

    def _close(self, live: LiveAttempt) -> None:
        """Free an attempt's slot: it is no longer under way."""
        attempt, model, slot = live.attempt, live.model, live.slot
        del self._live[attempt.number]
        if slot is STAGED:
            del self._staged[attempt.unit]
        else:
            self._changed_models[model.id] = None
            if live.counts:
                model.started ^= model.started & 1 << attempt.unit.partition
        worker = self._workers.get(attempt.worker)
        if worker is not None:
            del worker.slots[slot]
            if slot is not SAVING:
                self._changed_workers[worker.id] = None
        if model.train_attempt is live:
            model.train_attempt = None

    def _give_up(self, model: ModelEntry) -> None:
        """Void whatever of a model is under way.

        What is staged is forgotten; what has started keeps its worker busy until it is over.
        """
        for live in list(self._live.values()):
            if live.model is not model or not live.counts:
                continue
            if live.slot is STAGED:
                self._move(live, UNSTAGED)
                self._out.append(ev.Unstage(live.attempt))
            else:
                live.counts = False
                model.started &= ~(1 << live.attempt.unit.partition)
                self._changed_models[model.id] = None
                self._out.append(ev.Discard(live.attempt))

    def _requeue(self, attempt: Attempt, rest: float) -> None:
        """Have an attempt's unit, which is pending again, rest for some seconds first."""
        unit, model = attempt.unit, self._models[attempt.unit.model]
        if model.state is ModelState.RUNNING:
            model.resting |= 1 << unit.partition
            self._out.append(ev.Wake(ev.RetryUnit(unit), rest))

    def _on_unit_ran(self, event: ev.UnitRan) -> None:
        live = self._live.get(event.attempt)
        if live is None or live.slot is SAVING:  # it was told before
            return
        worker, unit = live.attempt.worker, live.attempt.unit
        is_saved = live.counts and unit.split is TRAIN
        self._move(live, TRAINED if is_saved else RAN)
        self._workers[worker].ran(unit.model)
        if not live.counts:
            return
        if event.seconds is not None:
            self._placement.observe(unit, worker, event.seconds)
        if not is_saved:
            self._commit(live)

    def _on_unit_committed(self, event: ev.UnitCommitted) -> None:
        live = self._live.get(event.attempt)
        if live is None:
            return
        self._move(live, COMMITTED)
        if live.counts:
            self._commit(live)

    def _commit(self, live: LiveAttempt) -> None:
        model, unit = live.model, live.attempt.unit
        if self._troubles:
            self._troubles.pop(unit, None)
        self._out.append(ev.Commit(live.attempt))
        if unit.split is VALID:
            model.valid_left &= ~(1 << unit.partition)
            if not model.valid_left:
                self._end_epoch(model)
            return
        model.version += 1
        model.last_unit = unit
        if unit == model.repair:
            model.repair = None
            return
        model.train_left ^= model.train_left & 1 << unit.partition
        if not model.train_left:
            model.phase = Phase.VALID
            if not model.valid_left:
                self._end_epoch(model)

    def _on_unit_failed(self, event: ev.UnitFailed) -> None:
        live, failure = self._live.get(event.attempt), event.failure
        if live is None:
            return
        attempt, model, counts = live.attempt, live.model, live.counts
        unit = attempt.unit
        if failure is Failure.TIMEOUT:
            # Nothing but the worker ends it, which has yet to say so.
            live.counts = False
            if counts:
                self._fail(model, attempt, failure)
            return
        self._move(live, FAILED)
        if not counts:
            if failure is Failure.INPUT:
                # What the worker has found holds, whatever became of the unit meanwhile.
                self._cannot_read(attempt.worker, unit.split, unit.partition)
            return
        troubles = self._troubles.setdefault(unit, Troubles())
        if failure is Failure.USER:
            self._fail(model, attempt, failure)
        elif failure is Failure.DAMAGED:
            self._damaged(model, attempt)
        elif failure is Failure.INPUT:
            self._out.append(ev.Retry(attempt, failure))
            self._cannot_read(attempt.worker, unit.split, unit.partition)
        elif failure is Failure.EXECUTOR and not self._beside_another(live):
            self._died(model, attempt, troubles)
        else:
            troubles.retries += 1
            troubles.exhaustions += failure is Failure.RESOURCES
            if failure is Failure.RESOURCES and troubles.exhaustions >= DEATHS_ALLOWED:
                self._died(model, attempt, troubles)
            else:
                self._retry(attempt, failure, troubles.retries)

    def _beside_another(self, live: LiveAttempt) -> bool:
        """Tell whether an attempt was only saving while another one ran, which is to blame then."""
        return live.slot is SAVING and RUNNING in self._workers[live.attempt.worker].slots

    def _retry(self, attempt: Attempt, failure: Failure, times: int) -> None:
        self._out.append(ev.Retry(attempt, failure))
        self._requeue(attempt, min(RETRY_SECONDS * 2 ** (times - 1), RETRY_SECONDS_MAX))

    def _died(self, model: ModelEntry, attempt: Attempt, troubles: Troubles) -> None:
        """Count an executor's death in this unit; after three, find out whose fault it is.

        The model's, if the workers it died on before ran other models' units since (or if there
        are no other models that could show it); otherwise the worker's, which is set aside.
        """
        worker = self._workers[attempt.worker]
        sound = all(self._is_sound(w, model.id, n) for w, n in troubles.deaths.items())
        troubles.deaths[worker.id] = worker.newest_of_others(model.id)
        troubles.death_count += 1
        worker.deaths_in_a_row.append(model.id)
        others = len(self._running) - len(self._deciding) > 1
        if troubles.death_count >= DEATHS_ALLOWED and (sound or not others):
            self._fail(model, attempt, Failure.EXECUTOR)
        else:
            self._retry(attempt, Failure.EXECUTOR, troubles.death_count)
        if len(worker.deaths_in_a_row) >= DEATHS_ALLOWED and others and not worker.aside:
            worker.aside = True
            seconds = min(ASIDE_SECONDS * 2**worker.times_aside, ASIDE_SECONDS_MAX)
            worker.times_aside += 1
            self._release_staged(worker)
            self._changed_workers[worker.id] = None
            self._out.append(ev.SetAside(worker.id, seconds))
            self._out.append(ev.Wake(ev.ProbeWorker(worker.id), seconds))

    def _release_staged(self, worker: WorkerEntry) -> None:
        live = worker.slots.get(STAGED)
        if live is not None:
            self._move(live, UNSTAGED)
            self._out.append(ev.Unstage(live.attempt))

    def _is_sound(self, worker: int, model: int, newest_at_death: int) -> bool:
        """Tell whether a worker ran other models' units since a model's unit died on it."""
        present = self._workers.get(worker)
        return present is not None and present.newest_of_others(model) > newest_at_death

    # --- wakes -----------------------------------------------------------------------------------

    def _on_wake(self, event: ev.Woke) -> None:
        self._wake_handlers[type(event.target)](event.target)

    def _retry_unit(self, target: ev.RetryUnit) -> None:
        """End a unit's rest, unless its model has left that unit behind meanwhile."""
        unit, model = target.unit, self._models[target.unit.model]
        if model.unit(unit.partition) == unit:
            model.resting &= ~(1 << unit.partition)
            self._changed_models[model.id] = None

    def _probe_worker(self, target: ev.ProbeWorker) -> None:
        """Give a worker that was set aside work again; one more death sets it aside again."""
        worker = self._workers.get(target.worker)
        if worker is not None and worker.aside:
            worker.aside = False
            del worker.deaths_in_a_row[:-1]
            self._changed_workers[worker.id] = None

    def _look_again(self, _: ev.LookAgain) -> None:
        """Let the next placement ask for another wake."""
        self._looks_again = False

    # --- models ----------------------------------------------------------------------------------

    def _begin(self, position: ModelPosition) -> None:
        model = ModelEntry(
            position.model,
            position.epoch,
            position.version,
            position.state,
            mask_of(position.train_left),
            mask_of(position.valid_left),
            last_unit=position.last_unit,
            repair=position.repair,
        )
        self._models[model.id] = model
        if not model.train_left:
            model.phase = Phase.VALID if model.valid_left else Phase.DECIDING
        if model.state is not ModelState.RUNNING:
            return
        self._running.add(model.id)
        if model.phase is Phase.DECIDING:
            self._deciding.add(model.id)
        self._changed_models[model.id] = None

    def _next_epoch(self, model: ModelEntry) -> None:
        self._deciding.discard(model.id)
        model.epoch += 1
        model.phase = Phase.TRAIN
        model.train_left = (1 << self._holdings[Split.TRAIN].partitions) - 1
        model.valid_left = (1 << self._holdings[Split.VALID].partitions) - 1
        self._changed_models[model.id] = None

    def _end_epoch(self, model: ModelEntry) -> None:
        model.phase = Phase.DECIDING
        self._deciding.add(model.id)
        self._out.append(ev.EpochEnded(model.id, model.epoch, model.version))

    def _quit(self, model: ModelEntry, state: ModelState) -> None:
        """End a model: nothing of it is pending any more, and nothing under way counts."""
        model.state = state
        self._running.discard(model.id)
        self._deciding.discard(model.id)
        self._changed_models[model.id] = None
        self._give_up(model)

    def _fail(self, model: ModelEntry, attempt: Attempt, failure: Failure) -> None:
        self._out.append(ev.ModelFailed(model.id, attempt, failure))
        self._quit(model, ModelState.FAILED)

    def _damaged(self, model: ModelEntry, attempt: Attempt) -> None:
        """Go back by one version, as the one to be read is unusable, and make it again.

        If the version before it is unusable as well, or is where the model started, the model
        cannot continue.
        """
        lost_unit = model.last_unit
        if lost_unit is None or model.repair is not None:
            self._fail(model, attempt, Failure.DAMAGED)
            return
        self._out.append(ev.Retry(attempt, Failure.DAMAGED))
        self._out.append(ev.Void(model.id, attempt.reads))
        self._give_up(model)
        model.resting = 0
        model.version -= 1
        model.repair = lost_unit
        if model.phase is Phase.VALID:
            # What was measured belongs to the lost version.
            model.valid_left = (1 << self._holdings[Split.VALID].partitions) - 1

    # --- the procedure ---------------------------------------------------------------------------

    def _ask(self) -> None:
        if not self._running:
            self._ask_for_more()
            return
        new = sorted(self._deciding - self._asked)
        if self._per_model:
            self._out.extend(ev.Ask((model,)) for model in new)
        elif new and len(self._deciding) == len(self._running):
            self._out.append(ev.Ask(tuple(new)))
        else:
            return
        self._asked.update(new)

    def _ask_for_more(self) -> None:
        """End the run, as no model runs, unless the procedure has yet to say that it adds none."""
        if not self._asks_when_idle:
            self._ended = True
            self._out.append(ev.End())
        elif not self._asked_for_more:
            self._asked_for_more = True
            self._out.append(ev.Ask(()))

    def _on_decided(self, event: ev.Decided) -> None:
        if not self._asked.issuperset(event.asked):
            raise self._illegal(f"decided about {event.asked}, asked about {self._asked}")
        self._asked.difference_update(event.asked)
        if self._asked_for_more:
            self._asked_for_more = False
            self._asks_when_idle = bool(event.add)
        for model_id, state in event.stop.items():
            model = self._models[model_id]
            if model.state is ModelState.RUNNING:
                self._quit(model, state)
        for new in event.add:
            if new.model in self._models:
                raise self._illegal(f"model {new.model} is there already")
            model = ModelEntry(new.model, new.epoch - 1, 0, ModelState.RUNNING, 0, 0)
            self._models[new.model] = model
            self._running.add(model.id)
            self._next_epoch(model)
        for model_id in event.asked:
            model = self._models[model_id]
            if model.state is ModelState.RUNNING and model.phase is Phase.DECIDING:
                self._next_epoch(model)

    # --- placing ---------------------------------------------------------------------------------

    def _held(self, worker: int) -> tuple[Part, ...]:
        held = self._held_by.get(worker)
        if held is None:
            held = tuple((s, p) for s in Split for p in self._holdings[s].held(worker))
            self._held_by[worker] = held
        return held

    def _place(self) -> None:
        """Give free workers a unit each, then let busy ones stage what is left."""
        self._tell()
        starts, stages = self._placement.place(self._now)
        for worker, unit in starts:
            self._start_on(worker, unit)
        for worker, unit in stages:
            self._out.append(ev.Stage(self._attempt(unit, worker, STAGED)))
        if starts or stages:
            # The policy knows what it has chosen.
            self._changed_models.clear()
            self._changed_workers.clear()
        seconds = self._placement.patience()
        if seconds is not None and not self._looks_again:
            self._looks_again = True
            self._out.append(ev.Wake(ev.LookAgain(), seconds))

    def _tell(self) -> None:
        """Tell the policy what has changed."""
        for model_id in self._changed_models:
            self._placement.tell_model(model_id, self._work(self._models[model_id]))
        for worker_id in self._changed_workers:
            worker = self._workers.get(worker_id)
            slots = None if worker is None else self._slots_of(worker)
            self._placement.tell_worker(worker_id, slots)
        self._changed_models.clear()
        self._changed_workers.clear()

    def _slots_of(self, worker: WorkerEntry) -> WorkerSlots:
        running, staged = worker.slots.get(RUNNING), worker.slots.get(STAGED)
        return WorkerSlots(
            self._held(worker.id),
            None if running is None else running.attempt.unit,
            None if staged is None else staged.attempt.unit,
            worker.ready and not worker.aside and not worker.drains,
        )

    def _work(self, model: ModelEntry) -> ModelWork | None:
        if model.state is not ModelState.RUNNING:
            return None
        split, left = model.split(), model.wanted()
        if model.started:
            left ^= left & model.started
        # Where nothing rests, one long integer is enough.
        can_start = left ^ (left & model.resting) if model.resting else left
        if self._visit_order and split is TRAIN and model.repair is None:
            order = self._visit_order.get((model.id, model.epoch))
            if order is not None:
                first = next((p for p in order if model.train_left >> p & 1), None)
                can_start &= 0 if first is None else 1 << first
        epoch = model.epoch if model.repair is None else model.repair.epoch
        if split is VALID:
            return ModelWork(epoch, 0, left, split, can_start, True)
        attempt = model.train_attempt
        idle = attempt is None or attempt.slot is STAGED
        return ModelWork(epoch, left, model.valid_left, split, can_start, idle)

    def _start_on(self, worker: int, unit: Unit) -> None:
        """Run a unit, which may be staged here or elsewhere."""
        is_train = unit.split is TRAIN
        live = self._models[unit.model].train_attempt if is_train else self._staged.get(unit)
        if live is not None:
            attempt = live.attempt
            if attempt.worker == worker and attempt.unit == unit:
                self._move(live, STARTED)
                self._out.append(ev.Start(attempt))
                return
            self._move(live, UNSTAGED)
            self._out.append(ev.Unstage(attempt))
        # What is staged on a worker is what it runs next: it is not kept behind another unit.
        self._release_staged(self._workers[worker])
        self._out.append(ev.Start(self._attempt(unit, worker, RUNNING)))
