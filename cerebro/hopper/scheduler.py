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
has run.

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
from cerebro.hopper.bits import bits, mask_of
from cerebro.hopper.holdings import Holdings
from cerebro.hopper.placement import Placed, Placement, Seat, Work
from cerebro.hopper.states import DEATHS_ALLOWED, ModelEntry, Slot, Troubles, WorkerEntry
from cerebro.hopper.units import Attempt, Failure, ModelPosition, ModelState, Phase, Split, Unit

STORY_LENGTH = 40
"""Events and actions that an `IllegalTransition` tells."""

RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 30.0
ASIDE_SECONDS = 10.0
ASIDE_SECONDS_MAX = 300.0


Part: TypeAlias = tuple[Split, int]
"""A partition of a split."""


class IllegalTransition(Exception):
    """An event that cannot happen in this state: a defect in the driver or in the scheduler."""


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
        self._models: dict[int, ModelEntry] = {}
        self._workers: dict[int, WorkerEntry] = {}
        self._live: dict[int, tuple[Attempt, Slot]] = {}
        self._staged: dict[Unit, int] = {}
        self._void: set[int] = set()
        self._troubles: dict[Unit, Troubles] = {}
        self._running: set[int] = set()
        self._deciding: set[int] = set()
        self._asked: set[int] = set()
        self._held_by: dict[int, tuple[Part, ...]] = {}
        self._changed_models: dict[int, None] = {}
        self._changed_workers: dict[int, None] = {}
        self._looks_again = False
        self._now = 0.0
        self._shares_moved = False
        self._is_open = False
        self._ended = False
        self._out: list[ev.Action] = []
        self._story: deque[tuple[str, object]] = deque(maxlen=STORY_LENGTH)
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.WorkerJoined: self._joined,
            ev.WorkerReady: lambda event: self._ready(event.worker),
            ev.WorkerDrains: self._drains,
            ev.WorkerLost: lambda event: self._lost(event.worker),
            ev.PartitionUnreadable: self._unreadable,
            ev.UnitRan: self._ran,
            ev.UnitCommitted: lambda event: self._published(event.attempt),
            ev.UnitFailed: lambda event: self._failed(event.attempt, event.failure),
            ev.Decided: self._decided,
            ev.Woke: lambda event: self._woke(event.token),
        }
        placement.tell_partitions(train.partitions, valid.partitions)
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
                frozenset(bits(m.train_left)),
                frozenset(bits(m.valid_left)),
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
        for event in events:
            self._story.append(("<", event))
            self._handlers[type(event)](event)
        if not self._ended:
            self._tell_shares()
            self._open()
            if self._is_open:
                self._place()
            self._ask()
        self._story.extend((">", action) for action in self._out)
        return self._out

    def start(self, now: float = 0.0) -> list[ev.Action]:
        """The first actions of a run whose models all wait for a decision, or have ended."""
        return self.handle(now=now)

    def _illegal(self, what: str) -> IllegalTransition:
        story = (f"{direction} {message}" for direction, message in self._story)
        return IllegalTransition("\n  ".join([what, *story]))

    # --- workers ---------------------------------------------------------------------------------

    def _joined(self, event: ev.WorkerJoined) -> None:
        worker = event.worker
        if worker in self._workers:
            raise self._illegal(f"worker {worker} joined twice without being lost")
        self._workers[worker] = WorkerEntry(worker)
        self._holdings[Split.TRAIN].join(worker, event.train)
        self._holdings[Split.VALID].join(worker, event.valid)
        self._shares_moved = True

    def _ready(self, worker: int) -> None:
        if worker in self._workers:
            self._workers[worker].loads -= 1
            self._workers[worker].ready |= self._workers[worker].loads <= 0
            self._changed_workers[worker] = None

    def _drains(self, event: ev.WorkerDrains) -> None:
        worker = self._workers.get(event.worker)
        if worker is None:
            return
        worker.drains = True
        self._changed_workers[worker.id] = None
        # Others load its partitions while it ends what it has begun.
        for holdings in self._holdings.values():
            holdings.leave(worker.id)
        self._shares_moved = True
        self._release_staged(worker)
        for number in list(worker.slots.values()):
            if number not in event.attempts:
                self._never_mind(number)

    def _never_mind(self, number: int) -> None:
        """A worker will not say any more what became of an attempt: its unit is pending again."""
        counts = self.is_live(number)
        attempt = self._close(number)
        if counts:
            self._again(attempt)
            self._out.append(ev.Retry(attempt, None))

    def _lost(self, worker: int) -> None:
        lost = self._workers.pop(worker, None)
        if lost is None:
            return
        self._changed_workers[worker] = None
        for holdings in self._holdings.values():
            holdings.leave(worker)
        for slot, number in list(lost.slots.items()):
            if slot is Slot.STAGED:
                self._close(number)
            else:
                self._never_mind(number)
        self._shares_moved = True

    def _unreadable(self, event: ev.PartitionUnreadable) -> None:
        self._cannot_read(event.worker, event.split, event.partition)

    def _cannot_read(self, worker: int, split: Split, partition: int) -> None:
        if self._holdings[split].unreadable(worker, partition):
            self._out.append(ev.Unreachable(split, partition))
        self._shares_moved = True
        for attempt in [self._live[number][0] for number in self._staged.values()]:
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

    def _open(self) -> None:
        """Begin once all that have joined at the start have loaded: bad input costs no work."""
        workers = [worker for worker in self._workers.values() if not worker.drains]
        if not self._is_open and workers and all(worker.loads <= 0 for worker in workers):
            self._is_open = True

    # --- attempts --------------------------------------------------------------------------------

    def _attempt(self, unit: Unit, worker: int, slot: Slot) -> Attempt:
        model = self._models[unit.model]
        attempt = Attempt(self._next_attempt, unit, worker, model.version)
        self._next_attempt += 1
        self._live[attempt.number] = (attempt, slot)
        if slot is Slot.STAGED:
            self._staged[unit] = attempt.number
        else:
            self._began(model, unit)
        self._workers[worker].slots[slot] = attempt.number
        self._changed_workers[worker] = None
        if unit.split is Split.TRAIN:
            model.train_attempt = attempt.number
        return attempt

    def _move(self, number: int, slot: Slot) -> Attempt:
        attempt, before = self._live[number]
        slots = self._workers[attempt.worker].slots
        if slot in slots:
            raise self._illegal(f"attempt {number} of {attempt.unit}: {slot.value} slot is taken")
        del slots[before]
        slots[slot] = number
        self._live[number] = (attempt, slot)
        if before is Slot.STAGED:
            del self._staged[attempt.unit]
            self._began(self._models[attempt.unit.model], attempt.unit)
        self._changed_workers[attempt.worker] = None
        return attempt

    def _began(self, model: ModelEntry, unit: Unit) -> None:
        model.started |= 1 << unit.partition
        self._changed_models[model.id] = None

    def _close(self, number: int) -> Attempt:
        """An attempt is no longer live; its slot is free."""
        attempt, slot = self._live.pop(number)
        model = self._models[attempt.unit.model]
        if slot is Slot.STAGED:
            del self._staged[attempt.unit]
        else:
            self._changed_models[model.id] = None
            if number not in self._void:
                model.started &= ~(1 << attempt.unit.partition)
        self._void.discard(number)
        worker = self._workers.get(attempt.worker)
        if worker is not None:
            del worker.slots[slot]
            if slot is not Slot.SAVING:
                self._changed_workers[worker.id] = None
        if model.train_attempt == number:
            model.train_attempt = None
        return attempt

    def _give_up(self, model: ModelEntry) -> None:
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
                model.started &= ~(1 << attempt.unit.partition)
                self._changed_models[model.id] = None
                self._out.append(ev.Discard(attempt))

    def _again(self, attempt: Attempt, rest: float = 0.0) -> None:
        """Put an attempt's unit back, to be placed after `rest` seconds."""
        unit, model = attempt.unit, self._models[attempt.unit.model]
        if rest and model.state is ModelState.RUNNING:
            model.resting |= 1 << unit.partition
            token = f"unit {unit.model} {unit.epoch} {unit.split.value} {unit.partition}"
            self._out.append(ev.Wake(token, rest))

    def _ran(self, event: ev.UnitRan) -> None:
        number = event.attempt
        if number not in self._live:
            return
        attempt, slot = self._live[number]
        if slot is Slot.SAVING:
            return
        if slot is Slot.STAGED:
            raise self._illegal(f"attempt {number} of {attempt.unit} ran while {slot.value}")
        worker = self._workers[attempt.worker]
        worker.ran(attempt.unit.model)
        if number in self._void:
            self._close(number)
            return
        if event.seconds is not None:
            self._placement.observe(attempt.unit, attempt.worker, event.seconds)
        if attempt.unit.split is Split.TRAIN:
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
            model.valid_left &= ~(1 << unit.partition)
            if not model.valid_left:
                self._end_epoch(model)
            return
        model.version += 1
        model.last_unit = unit
        if unit == model.repair:
            model.repair = None
            return
        model.train_left &= ~(1 << unit.partition)
        if not model.train_left:
            model.phase = Phase.VALID
            if not model.valid_left:
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
        troubles = self._troubles.setdefault(unit, Troubles())
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

    def _died(self, model: ModelEntry, attempt: Attempt, troubles: Troubles) -> None:
        """An executor died in this unit: after three times, find out whose fault it is.

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
            self._out.append(ev.Wake(f"worker {worker.id}", seconds))

    def _release_staged(self, worker: WorkerEntry) -> None:
        number = worker.slots.get(Slot.STAGED)
        if number is not None:
            attempt = self._close(number)
            self._out.append(ev.Unstage(attempt))

    def _is_sound(self, worker: int, model: int, newest_at_death: int) -> bool:
        """Whether a worker ran other models' units since a model's unit died on it."""
        present = self._workers.get(worker)
        return present is not None and present.newest_of_others(model) > newest_at_death

    def _woke(self, token: str) -> None:
        kind, _, rest = token.partition(" ")
        if kind == "place":
            self._looks_again = False
        elif kind == "worker":
            worker = self._workers.get(int(rest))
            if worker is not None and worker.aside:
                worker.aside = False
                del worker.deaths_in_a_row[:-1]
                self._changed_workers[worker.id] = None
        else:
            number, epoch, split, partition = rest.split()
            unit = Unit(int(number), int(epoch), Split(split), int(partition))
            model = self._models[unit.model]
            if model.unit(unit.partition) == unit:
                model.resting &= ~(1 << unit.partition)
                self._changed_models[model.id] = None

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
        """A model ends: nothing of it is pending any more, and nothing under way counts."""
        model.state = state
        self._running.discard(model.id)
        self._deciding.discard(model.id)
        self._changed_models[model.id] = None
        self._give_up(model)

    def _fail(self, model: ModelEntry, attempt: Attempt, failure: Failure) -> None:
        self._out.append(ev.ModelFailed(model.id, attempt, failure))
        self._quit(model, ModelState.FAILED)

    def _damaged(self, model: ModelEntry, attempt: Attempt) -> None:
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
        model.resting = 0
        model.version -= 1
        model.repair = lost_unit
        if model.phase is Phase.VALID:
            # What was measured belongs to the lost version.
            model.valid_left = (1 << self._holdings[Split.VALID].partitions) - 1

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
        for placed in starts:
            self._start_on(placed)
        for placed in stages:
            attempt = self._attempt(placed.unit, placed.worker, Slot.STAGED)
            self._out.append(ev.Stage(attempt))
        # The policy knows what it has chosen.
        self._changed_models.clear()
        self._changed_workers.clear()
        seconds = self._placement.patience()
        if seconds is not None and not self._looks_again:
            self._looks_again = True
            self._out.append(ev.Wake("place", seconds))

    def _tell(self) -> None:
        """Tell the policy what has changed."""
        for model_id in self._changed_models:
            self._placement.tell_model(model_id, self._work(self._models[model_id]))
        for worker_id in self._changed_workers:
            worker = self._workers.get(worker_id)
            self._placement.tell_worker(worker_id, None if worker is None else self._seat(worker))
        self._changed_models.clear()
        self._changed_workers.clear()

    def _seat(self, worker: WorkerEntry) -> Seat:
        slots, live = worker.slots, self._live
        return Seat(
            self._held(worker.id),
            live[slots[Slot.RUNNING]][0].unit if Slot.RUNNING in slots else None,
            live[slots[Slot.STAGED]][0].unit if Slot.STAGED in slots else None,
            worker.ready and not worker.aside and not worker.drains,
        )

    def _work(self, model: ModelEntry) -> Work | None:
        if model.state is not ModelState.RUNNING:
            return None
        split, left = model.split(), model.wanted() & ~model.started
        idle = split is Split.VALID or (
            model.train_attempt is None or self._live[model.train_attempt][1] is Slot.STAGED
        )
        can_start = left & ~model.resting
        order = self._visit_order.get((model.id, model.epoch))
        if order is not None and split is Split.TRAIN and model.repair is None:
            first = next((p for p in order if model.train_left >> p & 1), None)
            can_start &= 0 if first is None else 1 << first
        epoch = model.epoch if model.repair is None else model.repair.epoch
        if split is Split.TRAIN:
            return Work(epoch, left, model.valid_left, split, can_start, idle)
        return Work(epoch, 0, left, split, can_start, idle)

    def _start_on(self, placed: Placed) -> None:
        """Run a unit, which may be staged here or elsewhere."""
        unit, model = placed.unit, self._models[placed.unit.model]
        number = self._staged.get(unit)
        if unit.split is Split.TRAIN:
            number = model.train_attempt
        if number is not None:
            attempt = self._live[number][0]
            if (attempt.unit, attempt.worker) == (unit, placed.worker):
                self._out.append(ev.Start(self._move(number, Slot.RUNNING)))
                return
            self._close(number)
            self._out.append(ev.Unstage(attempt))
        # What is staged on a worker is what it runs next: it is not kept behind another unit.
        self._release_staged(self._workers[placed.worker])
        self._out.append(ev.Start(self._attempt(unit, placed.worker, Slot.RUNNING)))
