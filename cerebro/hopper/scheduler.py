"""The scheduler's core: events in, actions out.

Two rules keep it honest. Everything that decides which unit runs where, and what counts, is here;
and nothing here knows about time, storage or the network: the driver turns what happens out
there into events, writes the actions into its journal, and then carries them out.

A model goes through its epochs: all its train units, one at a time, in any order; then all its
valid units, several at once if workers are free; then the procedure decides. A train unit is
*pending*, perhaps *staged* on a busy worker, *running*, *saving* (the worker is free, the model
is held until its new version is published), and *committed*. A valid unit is committed when it
has run.

Exactly once: an attempt counts only if it is still the live attempt of its unit. An event of any
other attempt (a late answer, a second delivery, a worker that was given up) changes nothing. An
attempt whose model has ended, or whose version was voided, is *void*: it keeps its worker busy
until the worker says that it is over, and what comes of it does not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from cerebro.hopper import events as ev
from cerebro.hopper.holdings import Holdings
from cerebro.hopper.placement import Placement
from cerebro.hopper.units import Attempt, Failure, ModelPosition, ModelState, Phase, Split, Unit

STORY_LENGTH = 40
"""Events and actions that an `IllegalTransition` tells."""

DEATHS_ALLOWED = 3
"""Executor deaths in one unit after which its model, or the worker, is at fault."""
RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 30.0
ASIDE_SECONDS = 10.0
ASIDE_SECONDS_MAX = 300.0


Part: TypeAlias = tuple[Split, int]
"""A partition of a split."""


class Slot(str, Enum):
    """What a live attempt occupies on its worker."""

    STAGED = "staged"
    RUNNING = "running"
    SAVING = "saving"


class IllegalTransition(Exception):
    """An event that cannot happen in this state: a defect in the driver or in the scheduler."""


@dataclass
class _Model:
    id: int
    epoch: int
    version: int
    state: ModelState
    train_left: set[int]
    valid_left: set[int]
    phase: Phase = Phase.TRAIN
    pending: dict[Part, Unit] = field(default_factory=dict)
    train_attempt: int | None = None
    last_unit: Unit | None = None
    repair: Unit | None = None


@dataclass
class _Worker:
    id: int
    ready: bool = False
    told: set[Part] | None = None
    loads: int = 0
    aside: bool = False
    times_aside: int = 0
    slots: dict[Slot, int] = field(default_factory=dict)
    ran: dict[int, int] = field(default_factory=dict)
    deaths_in_a_row: list[int] = field(default_factory=list)

    def ran_others(self, model: int) -> int:
        """Units of other models that ran here to their end."""
        return sum(count for other, count in self.ran.items() if other != model)


@dataclass
class _Troubles:
    """What went wrong with one unit so far."""

    retries: int = 0
    exhaustions: int = 0
    deaths: dict[int, int] = field(default_factory=dict)
    death_count: int = 0


class Scheduler:
    """One run's state machine.

    `positions` are the models to begin (or go on) with. `visit_order`, where given, fixes the
    order in which a model visits the train partitions of an epoch, and it visits no others; the
    workers stay free.
    `per_model` asks the procedure at each model's own epoch end, instead of when all running
    models have ended the epoch. `first_attempt` is the number of the first attempt.
    """

    def __init__(
        self,
        *,
        train: Holdings,
        valid: Holdings,
        placement: Placement,
        positions: Iterable[ModelPosition],
        per_model: bool = False,
        visit_order: Mapping[tuple[int, int], Sequence[int]] | None = None,
        first_attempt: int = 0,
    ) -> None:
        self._holdings = {Split.TRAIN: train, Split.VALID: valid}
        self._placement = placement
        self._per_model = per_model
        self._visit_order = visit_order or {}
        self._next_attempt = first_attempt
        self._models: dict[int, _Model] = {}
        self._workers: dict[int, _Worker] = {}
        self._live: dict[int, tuple[Attempt, Slot]] = {}
        self._staged: dict[int, None] = {}
        self._void: set[int] = set()
        self._resting: set[Unit] = set()
        self._troubles: dict[Unit, _Troubles] = {}
        self._running: set[int] = set()
        self._deciding: set[int] = set()
        self._asked: set[int] = set()
        self._idle: set[int] = set()
        self._held_by: dict[int, frozenset[Part]] = {}
        self._hungry: dict[int, None] = {}
        self._freed_workers: dict[int, None] = {}
        self._freed_models: dict[int, None] = {}
        self._shares_moved = False
        self._is_open = False
        self._ended = False
        self._out: list[ev.Action] = []
        self._story: deque[tuple[str, object]] = deque(maxlen=STORY_LENGTH)
        for position in positions:
            self._begin(position)

    # --- what the driver and the tests may look at ---------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether `End` was given out."""
        return self._ended

    def positions(self) -> list[ModelPosition]:
        """How far every model has come."""
        return [
            ModelPosition(
                m.id,
                m.epoch,
                m.version,
                frozenset(m.train_left),
                frozenset(m.valid_left),
                m.state,
                m.last_unit,
                m.repair,
            )
            for m in self._models.values()
        ]

    def live_attempts(self) -> list[tuple[Attempt, Slot]]:
        """The attempts under way, with the slot each occupies."""
        return list(self._live.values())

    def slot(self, attempt: int) -> Slot | None:
        """What an attempt occupies on its worker; None if it is not under way."""
        return self._live[attempt][1] if attempt in self._live else None

    def is_live(self, attempt: int) -> bool:
        """Whether an attempt's outcome would still count."""
        return attempt in self._live and attempt not in self._void

    def stranded(self) -> dict[Part, int]:
        """Partitions that pending units need and no present worker holds, with how many do."""
        held = frozenset().union(*(self._held(worker) for worker in self._workers))
        parts = ((s, p) for s in Split for p in range(self._holdings[s].partitions))
        found = {part: 0 for part in parts if part not in held}
        if found:
            for model in self._models.values():
                for part in model.pending.keys() & found.keys():
                    found[part] += 1
        return {part: units for part, units in found.items() if units}

    # --- the one entrance -----------------------------------------------------------------------

    def handle(self, *events: ev.Event) -> list[ev.Action]:
        """Apply events that fell together, then place. Returns the actions, in order.

        Raises `IllegalTransition` for an event that cannot happen.
        """
        self._out = []
        for event in events:
            self._story.append(("<", event))
            self._apply(event)
        if not self._ended:
            self._tell_shares()
            self._open()
            if self._is_open:
                self._place()
            self._ask()
        self._story.extend((">", action) for action in self._out)
        return self._out

    def start(self) -> list[ev.Action]:
        """The first actions of a run whose models all wait for a decision, or have ended."""
        return self.handle()

    def _apply(self, event: ev.Event) -> None:
        if isinstance(event, ev.WorkerJoined):
            self._joined(event)
        elif isinstance(event, ev.WorkerReady):
            self._ready(event.worker)
        elif isinstance(event, ev.WorkerLost):
            self._lost(event.worker)
        elif isinstance(event, ev.PartitionUnreadable):
            self._unreadable(event)
        elif isinstance(event, ev.UnitRan):
            self._ran(event.attempt)
        elif isinstance(event, ev.UnitCommitted):
            self._published(event.attempt)
        elif isinstance(event, ev.UnitFailed):
            self._failed(event.attempt, event.failure)
        elif isinstance(event, ev.Decided):
            self._decided(event)
        else:
            self._woke(event.token)

    def _illegal(self, what: str) -> IllegalTransition:
        story = (f"{direction} {message}" for direction, message in self._story)
        return IllegalTransition("\n  ".join([what, *story]))

    # --- workers ---------------------------------------------------------------------------------

    def _joined(self, event: ev.WorkerJoined) -> None:
        worker = event.worker
        if worker in self._workers:
            raise self._illegal(f"worker {worker} joined twice without being lost")
        self._workers[worker] = _Worker(worker)
        self._holdings[Split.TRAIN].join(worker, event.train)
        self._holdings[Split.VALID].join(worker, event.valid)
        self._shares_moved = True

    def _ready(self, worker: int) -> None:
        if worker in self._workers:
            self._workers[worker].loads -= 1
            self._workers[worker].ready |= self._workers[worker].loads <= 0
            self._freed(self._workers[worker])

    def _lost(self, worker: int) -> None:
        lost = self._workers.pop(worker, None)
        if lost is None:
            return
        self._freed_workers.pop(worker, None)
        self._hungry.pop(worker, None)
        for holdings in self._holdings.values():
            holdings.leave(worker)
        for slot, number in list(lost.slots.items()):
            counts = self.is_live(number)
            attempt = self._close(number)
            if counts:
                self._again(attempt)
                if slot is not Slot.STAGED:
                    self._out.append(ev.Retry(attempt, None))
        self._shares_moved = True

    def _unreadable(self, event: ev.PartitionUnreadable) -> None:
        self._cannot_read(event.worker, event.split, event.partition)

    def _cannot_read(self, worker: int, split: Split, partition: int) -> None:
        if self._holdings[split].unreadable(worker, partition):
            self._out.append(ev.Unreachable(split, partition))
        self._shares_moved = True
        for attempt in [self._live[number][0] for number in self._staged]:
            unit = attempt.unit
            if (attempt.worker, unit.split, unit.partition) == (worker, split, partition):
                self._release_staged(self._workers[worker])

    def _tell_shares(self) -> None:
        """Have workers load what they may now be given, and look for work for all of them."""
        if not self._shares_moved:
            return
        self._shares_moved = False
        self._held_by.clear()
        for worker in self._workers.values():
            held = self._held(worker.id)
            new = held if worker.told is None else held - worker.told
            if new or worker.told is None:
                worker.told = (worker.told or set()) | held
                train, valid = (sorted(p for s, p in new if s is split) for split in Split)
                worker.loads += 1
                self._out.append(ev.Preload(worker.id, tuple(train), tuple(valid)))
        self._freed_workers.update(self._hungry)

    def _open(self) -> None:
        """Begin once all that have joined at the start have loaded: bad input costs no work."""
        workers = self._workers.values()
        if not self._is_open and workers and all(worker.loads <= 0 for worker in workers):
            self._is_open = True
            self._freed_workers.update(self._hungry)

    def _freed(self, worker: _Worker) -> None:
        """A worker's slots, or its right to work, have changed."""
        idle = Slot.RUNNING not in worker.slots or Slot.STAGED not in worker.slots
        if worker.ready and not worker.aside and idle:
            self._hungry[worker.id] = None
            self._freed_workers[worker.id] = None
        else:
            self._hungry.pop(worker.id, None)

    # --- attempts --------------------------------------------------------------------------------

    def _attempt(self, unit: Unit, worker: int, slot: Slot) -> Attempt:
        model = self._models[unit.model]
        attempt = Attempt(self._next_attempt, unit, worker, model.version)
        self._next_attempt += 1
        self._live[attempt.number] = (attempt, slot)
        if slot is Slot.STAGED:
            self._staged[attempt.number] = None
        self._workers[worker].slots[slot] = attempt.number
        self._freed(self._workers[worker])
        if unit.split is Split.TRAIN:
            model.train_attempt = attempt.number
        self._unpend(unit)
        return attempt

    def _move(self, number: int, slot: Slot) -> Attempt:
        attempt, before = self._live[number]
        slots = self._workers[attempt.worker].slots
        if slot in slots:
            raise self._illegal(f"attempt {number} of {attempt.unit}: {slot.value} slot is taken")
        del slots[before]
        slots[slot] = number
        self._live[number] = (attempt, slot)
        self._staged.pop(number, None)
        self._freed(self._workers[attempt.worker])
        return attempt

    def _close(self, number: int) -> Attempt:
        """An attempt is no longer live; its slot is free."""
        attempt, slot = self._live.pop(number)
        self._staged.pop(number, None)
        self._void.discard(number)
        worker = self._workers.get(attempt.worker)
        if worker is not None:
            del worker.slots[slot]
            self._freed(worker)
        model = self._models[attempt.unit.model]
        if model.train_attempt == number:
            model.train_attempt = None
            self._weigh(model)
        return attempt

    def _give_up(self, model: _Model) -> None:
        """Whatever of a model is under way will not count.

        What is staged is forgotten; what has begun keeps its worker busy until it is over.
        """
        for number, (attempt, slot) in list(self._live.items()):
            if attempt.unit.model != model.id or number in self._void:
                continue
            if slot is Slot.STAGED:
                self._close(number)
                self._out.append(ev.Unstage(attempt))
            else:
                self._void.add(number)
                self._out.append(ev.Discard(attempt))

    def _again(self, attempt: Attempt, rest: float = 0.0) -> None:
        """Put an attempt's unit back, to be placed after `rest` seconds."""
        if self._models[attempt.unit.model].state is not ModelState.RUNNING:
            return
        self._pend(attempt.unit)
        if rest:
            self._resting.add(attempt.unit)
            unit = attempt.unit
            token = f"unit {unit.model} {unit.epoch} {unit.split.value} {unit.partition}"
            self._out.append(ev.Wake(token, rest))

    def _pend(self, unit: Unit) -> None:
        model = self._models[unit.model]
        model.pending[(unit.split, unit.partition)] = unit
        self._placement.add(unit)
        self._freed_models[unit.model] = None
        self._weigh(model)

    def _unpend(self, unit: Unit) -> None:
        model = self._models[unit.model]
        del model.pending[(unit.split, unit.partition)]
        self._resting.discard(unit)
        self._placement.remove(unit)
        self._weigh(model)

    def _weigh(self, model: _Model) -> None:
        """Keep account of the models of which a unit could be placed."""
        if model.pending and model.train_attempt is None:
            self._idle.add(model.id)
        else:
            self._idle.discard(model.id)

    def _ran(self, number: int) -> None:
        if number not in self._live:
            return
        attempt, slot = self._live[number]
        if slot is Slot.SAVING:
            return
        if slot is Slot.STAGED:
            raise self._illegal(f"attempt {number} of {attempt.unit} ran while {slot.value}")
        worker = self._workers[attempt.worker]
        worker.ran[attempt.unit.model] = worker.ran.get(attempt.unit.model, 0) + 1
        worker.deaths_in_a_row.clear()
        worker.times_aside = 0
        if number in self._void:
            self._close(number)
        elif attempt.unit.split is Split.TRAIN:
            self._move(number, Slot.SAVING)
        else:
            self._commit(self._close(number))

    def _published(self, number: int) -> None:
        if number not in self._live:
            return
        attempt, slot = self._live[number]
        if slot is not Slot.SAVING:
            raise self._illegal(f"attempt {number} of {attempt.unit} committed while {slot.value}")
        counts = number not in self._void
        self._close(number)
        if counts:
            self._commit(attempt)

    def _commit(self, attempt: Attempt) -> None:
        model, unit = self._models[attempt.unit.model], attempt.unit
        self._troubles.pop(unit, None)
        self._out.append(ev.Commit(attempt))
        if unit.split is Split.VALID:
            model.valid_left.discard(unit.partition)
            if not model.valid_left:
                self._end_epoch(model)
            return
        model.version += 1
        model.last_unit = unit
        self._freed_models[model.id] = None
        if unit == model.repair:
            model.repair = None
            self._pend_phase(model)
            return
        model.train_left.discard(unit.partition)
        if not model.train_left:
            model.phase = Phase.VALID
            if model.valid_left:
                self._pend_phase(model)
            else:
                self._end_epoch(model)

    def _failed(self, number: int, failure: Failure) -> None:
        if number not in self._live:
            return
        (attempt, slot), counts = self._live[number], number not in self._void
        unit, model = attempt.unit, self._models[attempt.unit.model]
        if failure is Failure.TIMEOUT:
            # Nothing but the worker ends it, which has yet to say so.
            self._void.add(number)
            if counts:
                self._fail(model, attempt, failure)
            return
        self._close(number)
        if not counts:
            return
        troubles = self._troubles.setdefault(unit, _Troubles())
        if failure is Failure.USER:
            self._fail(model, attempt, failure)
        elif failure is Failure.DAMAGED:
            self._damaged(model, attempt)
        elif failure is Failure.INPUT:
            self._out.append(ev.Retry(attempt, failure))
            self._again(attempt)
            self._cannot_read(attempt.worker, unit.split, unit.partition)
        elif failure is Failure.EXECUTOR and not self._beside_another(attempt, slot):
            self._died(model, attempt, troubles)
        else:
            troubles.retries += 1
            troubles.exhaustions += failure is Failure.RESOURCES
            if failure is Failure.RESOURCES and troubles.exhaustions >= DEATHS_ALLOWED:
                self._died(model, attempt, troubles)
            else:
                self._retry(attempt, failure, troubles.retries)

    def _beside_another(self, attempt: Attempt, slot: Slot) -> bool:
        """Whether an attempt was only saving while another one ran, which is to blame then."""
        return slot is Slot.SAVING and Slot.RUNNING in self._workers[attempt.worker].slots

    def _retry(self, attempt: Attempt, failure: Failure, times: int) -> None:
        self._out.append(ev.Retry(attempt, failure))
        self._again(attempt, min(RETRY_SECONDS * 2 ** (times - 1), RETRY_SECONDS_MAX))

    def _died(self, model: _Model, attempt: Attempt, troubles: _Troubles) -> None:
        """An executor died in this unit: after three times, find out whose fault it is.

        The model's, if the workers it died on before ran other models' units since (or if there
        are no other models that could show it); otherwise the worker's, which is set aside.
        """
        worker = self._workers[attempt.worker]
        sound = all(self._is_sound(w, model.id, n) for w, n in troubles.deaths.items())
        troubles.deaths[worker.id] = worker.ran_others(model.id)
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
            self._freed(worker)
            self._out.append(ev.SetAside(worker.id, seconds))
            self._out.append(ev.Wake(f"worker {worker.id}", seconds))

    def _release_staged(self, worker: _Worker) -> None:
        number = worker.slots.get(Slot.STAGED)
        if number is not None:
            attempt = self._close(number)
            self._out.append(ev.Unstage(attempt))
            self._again(attempt)

    def _is_sound(self, worker: int, model: int, ran_at_death: int) -> bool:
        """Whether a worker ran other models' units since a model's unit died on it."""
        present = self._workers.get(worker)
        return present is not None and present.ran_others(model) > ran_at_death

    def _woke(self, token: str) -> None:
        kind, _, rest = token.partition(" ")
        if kind == "worker":
            worker = self._workers.get(int(rest))
            if worker is not None and worker.aside:
                worker.aside = False
                del worker.deaths_in_a_row[:-1]
                self._freed(worker)
            return
        model, epoch, split, partition = rest.split()
        unit = Unit(int(model), int(epoch), Split(split), int(partition))
        if unit in self._resting:
            self._resting.discard(unit)
            self._freed_models[unit.model] = None

    # --- models ----------------------------------------------------------------------------------

    def _begin(self, position: ModelPosition) -> None:
        model = _Model(
            position.model,
            position.epoch,
            position.version,
            position.state,
            set(position.train_left),
            set(position.valid_left),
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
        if model.repair is not None:
            self._pend(model.repair)
        else:
            self._pend_phase(model)

    def _pend_phase(self, model: _Model) -> None:
        """Make pending what is left of a model's phase."""
        left = {
            Phase.TRAIN: (Split.TRAIN, model.train_left),
            Phase.VALID: (Split.VALID, model.valid_left),
        }
        split, partitions = left.get(model.phase, (Split.TRAIN, set()))
        for partition in sorted(partitions):
            self._pend(Unit(model.id, model.epoch, split, partition))

    def _next_epoch(self, model: _Model) -> None:
        self._deciding.discard(model.id)
        model.epoch += 1
        model.phase = Phase.TRAIN
        model.train_left = set(range(self._holdings[Split.TRAIN].partitions))
        model.valid_left = set(range(self._holdings[Split.VALID].partitions))
        self._pend_phase(model)

    def _end_epoch(self, model: _Model) -> None:
        model.phase = Phase.DECIDING
        self._deciding.add(model.id)
        self._out.append(ev.EpochEnded(model.id, model.epoch, model.version))

    def _quit(self, model: _Model, state: ModelState) -> None:
        """A model ends: nothing of it is pending any more, and nothing under way counts."""
        model.state = state
        self._running.discard(model.id)
        self._deciding.discard(model.id)
        for unit in list(model.pending.values()):
            self._unpend(unit)
        self._give_up(model)

    def _fail(self, model: _Model, attempt: Attempt, failure: Failure) -> None:
        self._out.append(ev.ModelFailed(model.id, attempt, failure))
        self._quit(model, ModelState.FAILED)

    def _damaged(self, model: _Model, attempt: Attempt) -> None:
        """The version that an attempt should read is unusable: go back by one, make it again.

        If the version before it is unusable as well, or is where the model began, the model
        cannot go on.
        """
        lost_unit = model.last_unit
        if lost_unit is None or model.repair is not None:
            self._fail(model, attempt, Failure.DAMAGED)
            return
        self._out.append(ev.Retry(attempt, Failure.DAMAGED))
        self._out.append(ev.Void(model.id, attempt.reads))
        self._give_up(model)
        for unit in list(model.pending.values()):
            self._unpend(unit)
        model.version -= 1
        model.repair = lost_unit
        if model.phase is Phase.VALID:
            # What was measured belongs to the lost version.
            model.valid_left = set(range(self._holdings[Split.VALID].partitions))
        self._pend(lost_unit)

    # --- the procedure ---------------------------------------------------------------------------

    def _ask(self) -> None:
        if not self._running:
            self._ended = True
            self._out.append(ev.End())
        elif self._per_model:
            for model in sorted(self._deciding - self._asked):
                self._asked.add(model)
                self._out.append(ev.Ask((model,)))
        elif len(self._deciding) == len(self._running) and not self._asked:
            self._asked.update(self._deciding)
            self._out.append(ev.Ask(tuple(sorted(self._deciding))))

    def _decided(self, event: ev.Decided) -> None:
        if not self._asked.issuperset(event.asked):
            raise self._illegal(f"decided about {event.asked}, asked about {self._asked}")
        self._asked.difference_update(event.asked)
        for model_id, state in event.stop.items():
            model = self._models[model_id]
            if model.state is ModelState.RUNNING:
                self._quit(model, state)
        for new in event.add:
            if new.model in self._models:
                raise self._illegal(f"model {new.model} is there already")
            model = _Model(new.model, new.epoch - 1, 0, ModelState.RUNNING, set(), set())
            self._models[new.model] = model
            self._running.add(model.id)
            self._next_epoch(model)
        for model_id in event.asked:
            model = self._models[model_id]
            if model.state is ModelState.RUNNING and model.phase is Phase.DECIDING:
                self._next_epoch(model)

    # --- placing ---------------------------------------------------------------------------------

    def _held(self, worker: int) -> frozenset[Part]:
        held = self._held_by.get(worker)
        if held is None:
            held = frozenset((s, p) for s in Split for p in self._holdings[s].held(worker))
            self._held_by[worker] = held
        return held

    def _may_run(self, unit: Unit) -> bool:
        """Whether a pending unit could start now: its model is idle and its turn has come."""
        if unit in self._resting:
            return False
        if unit.split is Split.VALID:
            return True
        model = self._models[unit.model]
        if model.train_attempt is not None:
            return False
        if unit == model.repair:
            return True
        order = self._visit_order.get((unit.model, unit.epoch))
        if order is None:
            return True
        return next((p for p in order if p in model.train_left), None) == unit.partition

    def _place(self) -> None:
        """Give free workers a unit each, then let busy ones stage what is left."""
        for model_id in self._freed_models:
            wanted = self._models[model_id].pending.keys()
            for worker_id in self._hungry:
                if worker_id not in self._freed_workers and not wanted.isdisjoint(
                    self._held(worker_id)
                ):
                    self._freed_workers[worker_id] = None
        self._freed_models.clear()
        while self._freed_workers:
            considered = [w for w in self._freed_workers if w in self._hungry]
            self._freed_workers.clear()
            for worker_id in considered:
                if Slot.RUNNING not in self._workers[worker_id].slots:
                    self._start_on(self._workers[worker_id])
            for worker_id in considered:
                slots = self._workers[worker_id].slots
                if Slot.RUNNING in slots and Slot.STAGED not in slots:
                    self._stage_on(self._workers[worker_id])

    def _start_on(self, worker: _Worker) -> None:
        staged = worker.slots.get(Slot.STAGED)
        if staged is not None:
            self._out.append(ev.Start(self._move(staged, Slot.RUNNING)))
            return
        unit = self._choose(worker) or self._take_over(worker)
        if unit is not None:
            self._out.append(ev.Start(self._attempt(unit, worker.id, Slot.RUNNING)))

    def _choose(self, worker: _Worker) -> Unit | None:
        if not self._idle:
            return None
        return self._placement.choose(worker.id, self._held(worker.id), self._may_run)

    def _take_over(self, worker: _Worker) -> Unit | None:
        """A unit for a free worker from what others have staged: no model idles in a queue."""
        held = self._held(worker.id)
        for number in self._staged:
            attempt, _ = self._live[number]
            options = [attempt.unit]
            model = self._models[attempt.unit.model]
            in_order = (model.id, attempt.unit.epoch) in self._visit_order
            if attempt.unit.split is Split.TRAIN and not in_order:
                options.extend(u for u in model.pending.values() if u not in self._resting)
            for unit in options:
                if (unit.split, unit.partition) in held:
                    self._close(number)
                    self._out.append(ev.Unstage(attempt))
                    self._pend(attempt.unit)
                    return unit
        return None

    def _stage_on(self, worker: _Worker) -> None:
        unit = self._choose(worker)
        if unit is not None:
            self._out.append(ev.Stage(self._attempt(unit, worker.id, Slot.STAGED)))
