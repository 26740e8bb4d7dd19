"""What a policy has been told, and which workers it has to look at again.

The *review list* has the workers to look at. One that found nothing leaves it and becomes a
*seeker*: registered under each partition that it holds, it returns to the list when it changes
itself, or when a model that needs one of these partitions becomes free.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from cerebro.hopper.bitset import bits_from
from cerebro.hopper.placement.base import ModelWork, WorkerSlots
from cerebro.hopper.units import Split, Unit

TRAIN = Split.TRAIN

SEEKERS = 32
"""Workers that are looked at again, at most, because one model has become free."""


class Board:
    """The state of models and workers, as told.

    Attributes:
        work: what each running model has before it.
        workers: the slots of each present worker.
        staged: the staged units with their workers, in the order in which they were staged.
        reserved: the models of which a train unit is staged, with that unit.
    """

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        self.work: dict[int, ModelWork] = {}
        self.workers: dict[int, WorkerSlots] = {}
        self.staged: dict[Unit, int] = {}
        self.reserved: dict[int, Unit] = {}
        self._look: dict[int, None] = {}
        self._seekers: dict[tuple[Split, int], dict[int, None]] = {}
        self._sought = dict.fromkeys(Split, 0)
        self._seeking: dict[int, WorkerSlots] = {}

    def tell_model(self, model: int, work: ModelWork | None) -> None:
        """Record the model's new state. Seekers that it may now serve are looked at again."""
        if work is None:
            self.work.pop(model, None)
            return
        self.work[model] = work
        sought = work.open & self._sought[work.split] if work.idle else 0
        if sought:
            found: dict[int, None] = {}
            for partition in bits_from(sought, self._random.randrange(sought.bit_length())):
                found.update(self._seekers[(work.split, partition)])
                if len(found) >= SEEKERS:
                    break
            self._look.update(found)

    def tell_worker(self, worker: int, slots: WorkerSlots | None) -> None:
        """Record the worker's new state. If it has room, it is looked at."""
        before = self.workers.get(worker)
        if worker in self._seeking:
            self._seek_no_more(worker)
        staged_before = None if before is None else before.staged
        staged = None if slots is None else slots.staged
        if staged is not staged_before:
            if staged_before is not None:
                self._unstaged(staged_before, worker)
            if staged is not None:
                self._staged(staged, worker)
        if slots is None:
            self.workers.pop(worker, None)
            self._look.pop(worker, None)
            return
        self.workers[worker] = slots
        if has_room(slots):
            self._look[worker] = None
        else:
            self._look.pop(worker, None)

    # --- what the policy chooses -----------------------------------------------------------------

    def begin(self, worker: int, unit: Unit) -> list[Unit]:
        """Start a unit. Returns what is no longer staged: the unit itself, or what it displaced."""
        slots, released = self.workers[worker], list[Unit]()
        if slots.staged is not None:
            released.append(slots.staged)
            self._unstaged(slots.staged, worker)
        staged = self.reserved.get(unit.model) if unit.split is TRAIN else unit
        other = None if staged is None else self.staged.get(staged)
        if staged is not None and other is not None:
            released.append(staged)
            self._unstaged(staged, other)
            robbed = self.workers[other]
            self.workers[other] = WorkerSlots(robbed.held, robbed.running, None, robbed.able)
            if robbed.able:
                self._look[other] = None
        self.workers[worker] = WorkerSlots(slots.held, unit, None, slots.able)
        if worker in self._seeking:
            self._seek_no_more(worker)
        self._look[worker] = None
        self.work[unit.model] = _without(self.work[unit.model], 1 << unit.partition)
        return released

    def stage(self, worker: int, unit: Unit) -> None:
        """Stage a unit on a busy worker."""
        slots = self.workers[worker]
        self.workers[worker] = WorkerSlots(slots.held, slots.running, unit, slots.able)
        self._staged(unit, worker)
        if worker in self._seeking:
            self._seek_no_more(worker)
        self._look.pop(worker, None)

    def _staged(self, unit: Unit, worker: int) -> None:
        self.staged[unit] = worker
        if unit.split is TRAIN:
            self.reserved[unit.model] = unit

    def _unstaged(self, unit: Unit, worker: int) -> None:
        if self.staged.get(unit) == worker:
            del self.staged[unit]
            if unit.split is TRAIN:
                del self.reserved[unit.model]

    # --- whom to look at -------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Tell whether there is a worker to look at."""
        return bool(self._look)

    def look_at(self, workers: Iterable[int]) -> None:
        """Put workers on the review list."""
        self._look.update(dict.fromkeys(workers))

    def free(self) -> list[int]:
        """List the workers to look at that run nothing."""
        workers = self.workers
        return [w for w in self._look if workers[w].able and workers[w].running is None]

    def busy(self) -> list[int]:
        """List the workers to look at that run something and have nothing staged."""
        workers = self.workers
        return [w for w in self._look if workers[w].running is not None and has_room(workers[w])]

    def looked(self) -> None:
        """Clear the review list. Workers that got nothing stay registered as seekers."""
        if self._look:
            for worker in self._look:
                self._seek(worker, self.workers[worker])
            self._look.clear()

    def _seek(self, worker: int, slots: WorkerSlots) -> None:
        if worker in self._seeking:
            return
        self._seeking[worker] = slots
        for part in slots.held:
            seekers = self._seekers.setdefault(part, {})
            if not seekers:
                self._sought[part[0]] |= 1 << part[1]
            seekers[worker] = None

    def _seek_no_more(self, worker: int) -> None:
        for part in self._seeking.pop(worker).held:
            seekers = self._seekers[part]
            del seekers[worker]
            if not seekers:
                self._sought[part[0]] &= ~(1 << part[1])


def _without(work: ModelWork, bit: int) -> ModelWork:
    """Take a started unit out of what its model has before it."""
    epoch, train, valid, split, is_open, _ = work
    before = train if split is TRAIN else valid
    left = before ^ (before & bit)
    now_open = left if is_open is before else is_open ^ (is_open & bit)
    if split is TRAIN:
        return ModelWork(epoch, left, valid, split, now_open, False)
    return ModelWork(epoch, train, left, split, now_open, True)


def has_room(slots: WorkerSlots) -> bool:
    """Tell whether a worker may be given a unit, to run or to stage."""
    return slots.able and (slots.running is None or slots.staged is None)
