"""The default policy: the most loaded worker and the longest chain first, and only what may be."""

from __future__ import annotations

import random

import pytest

from cerebro.hopper.bitset import bits
from cerebro.hopper.placement import critical_path
from cerebro.hopper.placement.base import ModelWork, WorkerSlots
from cerebro.hopper.placement.critical_path import CriticalPlacement
from cerebro.hopper.units import Split, Unit

TRAIN, VALID = Split.TRAIN, Split.VALID
SEEDS = range(10)


@pytest.fixture(params=["planned", "not planned"])
def _either_way(request, monkeypatch):
    """With a plan, and as where more is left than is planned."""
    if request.param == "not planned":
        monkeypatch.setattr(critical_path, "MOST_UNITS", 0)


def policy(seed: int, partitions: int, seconds: dict[int, float]) -> CriticalPlacement:
    """A policy that knows how long each model's units take on any worker."""
    made = CriticalPlacement(seed)
    made.tell_partitions(partitions, 0)
    for model, took in seconds.items():
        made.observe(Unit(model, 0, TRAIN, 0), None, took)
    return made


def holding(*partitions: int, running: Unit | None = None, able: bool = True) -> WorkerSlots:
    return WorkerSlots(tuple((TRAIN, p) for p in partitions), running, None, able)


def training(left: int, *, idle: bool = True) -> ModelWork:
    return ModelWork(0, left, 0, TRAIN, left, idle)


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_most_loaded_worker_is_served_first(seed):
    """One model is free, and two workers: worker 1 has another model's unit before it as well."""
    placement = policy(seed, 3, {0: 1.0, 1: 1.0})
    placement.tell_model(0, training(0b011))
    placement.tell_model(1, training(0b010, idle=False))
    placement.tell_worker(0, holding(0))
    placement.tell_worker(1, holding(1))
    placement.tell_worker(2, holding(2, running=Unit(1, 0, TRAIN, 2)))
    assert placement.place(0.0).starts == [(1, Unit(0, 0, TRAIN, 1))]


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_longest_chain_is_served_first(seed):
    """Each of the models could start on the only free worker; model 1 has more before it."""
    placement = policy(seed, 3, dict.fromkeys(range(4), 1.0))
    for model, left in ((0, 0b001), (1, 0b111), (2, 0b001)):
        placement.tell_model(model, training(left))
    placement.tell_worker(0, holding(0))
    for worker in (1, 2):
        placement.tell_worker(worker, holding(worker, running=Unit(3, 0, TRAIN, worker)))
    assert placement.place(0.0).starts == [(0, Unit(1, 0, TRAIN, 0))]


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("seed", SEEDS)
def test_of_models_with_as_much_before_them_the_slow_one_is_served_first(seed):
    placement = policy(seed, 2, {0: 6.0, 1: 8.0, 2: 7.0})
    for model in range(3):
        placement.tell_model(model, training(0b11))
    placement.tell_worker(0, holding(0))
    for worker in (1, 2, 3):
        placement.tell_worker(worker, holding(1, running=Unit(3, 0, TRAIN, 1)))
    assert placement.place(0.0).starts == [(0, Unit(1, 0, TRAIN, 0))]


def test_a_worker_that_may_not_be_given_units_gets_none():
    placement = policy(0, 1, {0: 1.0})
    placement.tell_model(0, training(0b1))
    placement.tell_worker(0, holding(0, able=False))
    assert placement.place(0.0) == ([], [])
    placement.tell_worker(0, holding(0))
    assert placement.place(0.0).starts == [(0, Unit(0, 0, TRAIN, 0))]


def random_work(rng: random.Random, partitions: int) -> ModelWork:
    """What is before a model at any moment of an epoch."""
    split = rng.choice(list(Split))
    every = (1 << partitions) - 1
    left = rng.randint(1, every)
    can_start = left & rng.choice([left, rng.randint(0, every)])
    if split is VALID:
        return ModelWork(0, 0, left, split, can_start, True)
    return ModelWork(0, left, every, split, can_start, rng.random() < 0.7)


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("seed", range(60))
def test_only_what_may_start_is_placed_and_only_where_it_can_be_read(seed):
    rng = random.Random(seed)
    partitions, workers, models = rng.randint(1, 4), rng.randint(1, 5), rng.randint(1, 6)
    parts = [(split, p) for split in Split for p in range(partitions)]
    placement = CriticalPlacement(seed)
    placement.tell_partitions(partitions, partitions)
    slots, works = {}, {}
    for model in range(models):
        works[model] = random_work(rng, partitions)
        placement.tell_model(model, works[model])
        if rng.random() < 0.5:
            placement.observe(Unit(model, 0, TRAIN, 0), None, rng.uniform(0.5, 20.0))
    for worker in range(workers):
        held = tuple(part for part in parts if rng.random() < 0.6)
        running = Unit(models, 0, *rng.choice(parts)) if rng.random() < 0.4 else None
        slots[worker] = WorkerSlots(held, running, None, rng.random() < 0.8)
        placement.tell_worker(worker, slots[worker])
    starts, stages = placement.place(0.0)
    placed = [*starts, *stages]
    for worker, unit in placed:
        work = works[unit.model]
        assert (unit.split, unit.partition) in slots[worker].held
        assert slots[worker].able
        assert work.idle
        assert (unit.epoch, unit.split) == (work.epoch, work.split)
        assert unit.partition in bits(work.open)
    assert len({unit for _, unit in placed}) == len(placed)
    trained = [unit.model for _, unit in placed if unit.split is TRAIN]
    assert len(set(trained)) == len(trained), "a model trains in one place at a time"
    assert len({worker for worker, _ in starts}) == len(starts)
    assert all(slots[worker].running is None for worker, _ in starts)
    begun = {worker for worker, _ in starts}
    assert all(worker in begun or slots[worker].running is not None for worker, _ in stages)
