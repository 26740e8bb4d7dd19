"""The board keeps what it is told, and finds the workers to look at as a search of all would."""

from __future__ import annotations

import random

import pytest

from cerebro.hopper.bitset import bits
from cerebro.hopper.placement.base import ModelWork, WorkerSlots
from cerebro.hopper.placement.board import SEEKERS, Board, has_room
from cerebro.hopper.units import Split, Unit

TRAIN, VALID = Split.TRAIN, Split.VALID
PARTS = tuple((split, partition) for split in Split for partition in range(3))


def board() -> Board:
    return Board(random.Random(0))


def open_to(partitions: int, *, idle: bool = True) -> ModelWork:
    """A model that may train on some partitions."""
    return ModelWork(0, partitions, 0, TRAIN, partitions, idle)


def holding(*partitions: int, running: Unit | None = None, staged: Unit | None = None):
    return WorkerSlots(tuple((TRAIN, p) for p in partitions), running, staged, True)


class Naive:
    """What a board does, worked out from all workers whenever it is asked."""

    def __init__(self) -> None:
        self.work: dict[int, ModelWork] = {}
        self.workers: dict[int, WorkerSlots] = {}
        self.look: set[int] = set()
        self.seekers: set[int] = set()

    def units(self, worker: int, taken: set[Unit], models: set[int]) -> list[Unit]:
        """What a worker could be given, apart from some units and some models' train units."""
        return [
            unit
            for model, work in self.work.items()
            for split, partition in self.workers[worker].held
            if work.idle and split is work.split and work.open >> partition & 1
            if (unit := Unit(model, work.epoch, split, partition)) not in taken
            if split is VALID or model not in models
        ]

    def staged(self) -> dict[Unit, int]:
        return {s.staged: w for w, s in self.workers.items() if s.staged is not None}

    def reserved(self) -> dict[int, Unit]:
        return {unit.model: unit for unit in self.staged() if unit.split is TRAIN}

    def tell_model(self, model: int, work: ModelWork | None) -> None:
        self.work.pop(model, None)
        if work is not None:
            self.work[model] = work
            open_parts = {(work.split, p) for p in bits(work.open)} if work.idle else set()
            for worker in self.seekers:
                if open_parts.intersection(self.workers[worker].held):
                    self.look.add(worker)

    def tell_worker(self, worker: int, slots: WorkerSlots | None) -> None:
        self.seekers.discard(worker)
        self.look.discard(worker)
        self.workers.pop(worker, None)
        if slots is not None:
            self.workers[worker] = slots
            if has_room(slots):
                self.look.add(worker)

    def begin(self, worker: int, unit: Unit) -> None:
        released = self.reserved().get(unit.model) if unit.split is TRAIN else unit
        other = self.staged().get(released) if released is not None else None
        self.tell_worker(worker, self.workers[worker]._replace(running=unit, staged=None))
        if other not in (None, worker):
            slots = self.workers[other] = self.workers[other]._replace(staged=None)
            if slots.able:
                self.look.add(other)
        work, left = self.work[unit.model], ~(1 << unit.partition)
        if unit.split is TRAIN:
            work = work._replace(train=work.train & left, idle=False)
        else:
            work = work._replace(valid=work.valid & left)
        self.work[unit.model] = work._replace(open=work.open & left)

    def stage(self, worker: int, unit: Unit) -> None:
        self.tell_worker(worker, self.workers[worker]._replace(staged=unit))

    def looked(self) -> None:
        self.seekers |= self.look
        self.look.clear()

    def free(self) -> set[int]:
        return {w for w in self.look if self.workers[w].able and self.workers[w].running is None}

    def busy(self) -> set[int]:
        return {
            w
            for w in self.look
            if self.workers[w].able
            and self.workers[w].running is not None
            and self.workers[w].staged is None
        }


def random_work(rng: random.Random) -> ModelWork | None:
    if rng.random() < 0.1:
        return None
    train, valid, split = rng.randrange(8), rng.randrange(8), rng.choice(list(Split))
    if split is VALID:
        train = 0
    before = train if split is TRAIN else valid
    # Often all that is before a model is open, and then it is the same number.
    can_start = before if rng.random() < 0.5 else before & rng.randrange(8)
    return ModelWork(rng.randrange(2), train, valid, split, can_start, rng.random() < 0.7)


def random_slots(rng: random.Random, before: WorkerSlots | None) -> WorkerSlots | None:
    if rng.random() < 0.1:
        return None
    held = tuple(part for part in PARTS if rng.random() < 0.5)
    running = rng.choice([None, Unit(rng.randrange(4), 0, *rng.choice(PARTS))])
    staged = before.staged if before is not None and rng.random() < 0.5 else None
    return WorkerSlots(held, running, staged, rng.random() < 0.8)


@pytest.mark.parametrize("seed", range(50))
def test_the_index_agrees_with_a_search_of_all(seed):
    rng, naive, indexed = random.Random(seed), Naive(), board()
    for _ in range(200):
        kind = rng.choice(["model", "worker", "begin", "begin", "stage", "stage", "looked"])
        if kind == "model":
            model, work = rng.randrange(4), random_work(rng)
            naive.tell_model(model, work)
            indexed.tell_model(model, work)
        elif kind == "worker":
            worker = rng.randrange(5)
            slots = random_slots(rng, naive.workers.get(worker))
            naive.tell_worker(worker, slots)
            indexed.tell_worker(worker, slots)
        elif kind == "looked":
            naive.looked()
            indexed.looked()
        else:
            begins = kind == "begin"
            taken, models = (set(), set()) if begins else (set(naive.staged()), naive.reserved())
            workers = sorted(naive.free() if begins else naive.busy())
            options = [(w, unit) for w in workers for unit in naive.units(w, taken, set(models))]
            if not options:
                continue
            worker, unit = rng.choice(options)
            staged = set(naive.staged())
            if begins:
                naive.begin(worker, unit)
                released = indexed.begin(worker, unit)
                assert sorted(released) == sorted(staged - set(naive.staged()))
            else:
                naive.stage(worker, unit)
                indexed.stage(worker, unit)
        assert indexed.work == naive.work
        assert indexed.workers == naive.workers
        assert indexed.staged == naive.staged()
        assert indexed.reserved == naive.reserved()
        assert set(indexed.free()) == naive.free()
        assert set(indexed.busy()) == naive.busy()
        assert indexed.has_news == bool(naive.look)


def test_a_seeker_is_looked_at_when_a_model_opens_one_of_its_partitions():
    seen = board()
    seen.tell_worker(0, holding(0))
    seen.tell_worker(1, holding(1))
    assert seen.free() == [0, 1]
    seen.looked()
    assert not seen.has_news
    seen.tell_model(0, open_to(0b10, idle=False))
    assert not seen.has_news, "the model is still busy"
    seen.tell_model(0, open_to(0b10))
    assert seen.free() == [1]


def test_one_free_model_has_few_of_many_seekers_looked_at():
    seen = board()
    for worker in range(3 * SEEKERS):
        seen.tell_worker(worker, holding(worker % 3))
    seen.looked()
    seen.tell_model(0, open_to(0b111))
    assert len(seen.free()) == SEEKERS


def test_what_is_staged_elsewhere_is_released_when_its_model_starts_here():
    seen, unit, elsewhere = board(), Unit(0, 0, TRAIN, 0), Unit(0, 0, TRAIN, 1)
    seen.tell_model(0, open_to(0b11))
    seen.tell_worker(0, holding(0))
    seen.tell_worker(1, holding(1, running=Unit(1, 0, TRAIN, 1)))
    seen.stage(1, elsewhere)
    assert (seen.staged, seen.reserved) == ({elsewhere: 1}, {0: elsewhere})
    seen.looked()
    assert seen.begin(0, unit) == [elsewhere]
    assert (seen.staged, seen.reserved) == ({}, {})
    assert sorted(seen.busy()) == [0, 1], "both have nothing staged now"
    assert seen.work[0] == ModelWork(0, 0b10, 0, TRAIN, 0b10, False)


def test_a_model_stays_idle_when_one_of_its_valid_units_starts():
    seen = board()
    seen.tell_model(0, ModelWork(2, 0, 0b11, VALID, 0b11, True))
    seen.tell_worker(0, WorkerSlots(((VALID, 0),), None, None, True))
    seen.begin(0, Unit(0, 2, VALID, 0))
    assert seen.work[0] == ModelWork(2, 0, 0b10, VALID, 0b10, True)
