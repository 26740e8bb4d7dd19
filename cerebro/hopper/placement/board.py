"""What a policy has been told, and which workers it has to look at again.

A worker that found nothing is looked at again when it changes itself, or when a model that needs
one of its partitions becomes free: it waits in a list for each partition that it holds.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from cerebro.hopper.bitset import bits_from
from cerebro.hopper.placement.base import Seat, Work
from cerebro.hopper.units import Split, Unit

TRAIN = Split.TRAIN

SEEKERS = 32
"""Workers that are looked at again, at most, because one model has become free."""


class Board:
    """The state of models and workers, as told.

    `staged` has the units that are staged, with their workers, in the order in which they were;
    `reserved` the models of which a train unit is staged, with that.
    """

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        self.work: dict[int, Work] = {}
        self.seats: dict[int, Seat] = {}
        self.staged: dict[Unit, int] = {}
        self.reserved: dict[int, Unit] = {}
        self._look: dict[int, None] = {}
        self._seekers: dict[tuple[Split, int], dict[int, None]] = {}
        self._sought = dict.fromkeys(Split, 0)
        self._seeking: dict[int, Seat] = {}

    def tell_model(self, model: int, work: Work | None) -> None:
        """A model stands otherwise now."""
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

    def tell_worker(self, worker: int, seat: Seat | None) -> None:
        """A worker stands otherwise now."""
        before = self.seats.get(worker)
        if worker in self._seeking:
            self._seek_no_more(worker)
        staged_before = None if before is None else before.staged
        staged = None if seat is None else seat.staged
        if staged is not staged_before:
            if staged_before is not None:
                self._unstaged(staged_before, worker)
            if staged is not None:
                self._staged(staged, worker)
        if seat is None:
            self.seats.pop(worker, None)
            self._look.pop(worker, None)
            return
        self.seats[worker] = seat
        if has_room(seat):
            self._look[worker] = None
        else:
            self._look.pop(worker, None)

    # --- what the policy chooses -----------------------------------------------------------------

    def begin(self, worker: int, unit: Unit) -> list[Unit]:
        """A unit starts. Returns what is not staged any more: itself, or what it displaced."""
        seat, released = self.seats[worker], list[Unit]()
        if seat.staged is not None:
            released.append(seat.staged)
            self._unstaged(seat.staged, worker)
        staged = self.reserved.get(unit.model) if unit.split is TRAIN else unit
        other = None if staged is None else self.staged.get(staged)
        if staged is not None and other is not None:
            released.append(staged)
            self._unstaged(staged, other)
            robbed = self.seats[other]
            self.seats[other] = Seat(robbed.held, robbed.running, None, robbed.able)
            if robbed.able:
                self._look[other] = None
        self.seats[worker] = Seat(seat.held, unit, None, seat.able)
        if worker in self._seeking:
            self._seek_no_more(worker)
        self._look[worker] = None
        self.work[unit.model] = _without(self.work[unit.model], 1 << unit.partition)
        return released

    def stage(self, worker: int, unit: Unit) -> None:
        """A unit is staged."""
        seat = self.seats[worker]
        self.seats[worker] = Seat(seat.held, seat.running, unit, seat.able)
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
        """Whether there is a worker to look at."""
        return bool(self._look)

    def look_at(self, workers: Iterable[int]) -> None:
        """Have these workers looked at again."""
        self._look.update(dict.fromkeys(workers))

    def free(self) -> list[int]:
        """Workers to look at that run nothing."""
        seats = self.seats
        return [w for w in self._look if seats[w].able and seats[w].running is None]

    def busy(self) -> list[int]:
        """Workers to look at that run something and have nothing staged."""
        seats = self.seats
        return [w for w in self._look if seats[w].running is not None and has_room(seats[w])]

    def looked(self) -> None:
        """All have been looked at; those that have got nothing seek on."""
        if self._look:
            for worker in self._look:
                self._seek(worker, self.seats[worker])
            self._look.clear()

    def _seek(self, worker: int, seat: Seat) -> None:
        if worker in self._seeking:
            return
        self._seeking[worker] = seat
        for part in seat.held:
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


def _without(work: Work, bit: int) -> Work:
    """What a model has before it once a unit has been started."""
    epoch, train, valid, split, is_open, _ = work
    before = train if split is TRAIN else valid
    left = before ^ (before & bit)
    now_open = left if is_open is before else is_open ^ (is_open & bit)
    if split is TRAIN:
        return Work(epoch, left, valid, split, now_open, False)
    return Work(epoch, train, left, split, now_open, True)


def has_room(seat: Seat) -> bool:
    """Whether a worker may be given a unit, to run or to stage."""
    return seat.able and (seat.running is None or seat.staged is None)
