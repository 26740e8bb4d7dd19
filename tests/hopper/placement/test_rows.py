"""Sets of rows say what a look at every model would say."""

from __future__ import annotations

import random

import pytest

from cerebro.hopper.bitset import bits, mask_of
from cerebro.hopper.placement.base import ModelWork
from cerebro.hopper.placement.rows import Rows
from cerebro.hopper.units import Split, Unit

TRAIN, VALID = Split.TRAIN, Split.VALID
EVERY = {TRAIN: 0b111, VALID: 0b11}
PARTS = tuple((split, p) for split, every in EVERY.items() for p in bits(every))


def training(open_to: int, *, idle: bool = True) -> ModelWork:
    return ModelWork(0, open_to, 0b11, TRAIN, open_to, idle)


def follow(rows: Rows, model: int, work: ModelWork, chain: float = 1.0, known: bool = True) -> int:
    """Take in what a model has before it, as a policy does."""
    number = rows.enter(model)
    row, bit = rows.rows[number], 1 << number
    rows.reopen(number, work)
    if work.idle and work.open:
        rows.set_idle(row, bit, chain, known)
    else:
        rows.set_busy(row, bit)
    return number


def test_a_model_may_start_where_it_is_open_and_idle():
    rows = Rows(EVERY)
    first = follow(rows, 7, training(0b011))
    second = follow(rows, 9, training(0b110, idle=False))
    assert (rows.number(7), rows.number(9), rows.number(8)) == (first, second, None)
    assert [rows.startable((TRAIN, p), False) for p in range(3)] == [1 << first, 1 << first, 0]
    assert [rows.open((TRAIN, p)) for p in range(3)] == [1 << first, 0b11, 1 << second]
    assert rows.startable((VALID, 0), False) == 0, "it has yet to be trained"
    assert rows.may_start(first, Unit(7, 0, TRAIN, 1))
    assert not rows.may_start(first, Unit(7, 0, TRAIN, 2))
    assert not rows.may_start(first, Unit(7, 0, VALID, 1))
    assert not rows.may_start(second, Unit(9, 0, TRAIN, 1))


def test_what_has_begun_a_unit_may_start_nothing():
    rows = Rows(EVERY)
    number = follow(rows, 0, training(0b111))
    rows.begin(number, 1, training(0b101, idle=False))
    assert all(rows.startable((TRAIN, p), False) == 0 for p in range(3))
    assert [rows.open((TRAIN, p)) for p in range(3)] == [1, 0, 1]


def test_a_staged_train_unit_reserves_its_model_and_a_valid_unit_itself():
    rows = Rows(EVERY)
    train = follow(rows, 0, training(0b111))
    valid = follow(rows, 1, ModelWork(0, 0, 0b11, VALID, 0b11, True))
    rows.reserve(Unit(0, 0, TRAIN, 2), True)
    rows.reserve(Unit(1, 0, VALID, 0), True)
    assert rows.startable((TRAIN, 0), False) == 1 << train, "it may still be started"
    assert rows.startable((TRAIN, 0), True) == 0
    assert rows.startable((VALID, 0), True) == 0
    assert rows.startable((VALID, 1), True) == 1 << valid
    rows.reserve(Unit(0, 0, TRAIN, 2), False)
    assert rows.startable((TRAIN, 0), True) == 1 << train


def test_the_longest_chains_come_first_and_unknown_ones_before_all():
    rows = Rows(EVERY)
    short = follow(rows, 0, training(0b111), chain=1.0)
    long = follow(rows, 1, training(0b111), chain=16.0)
    unknown = follow(rows, 2, training(0b111), known=False)
    assert rows.longest(rows.idle) == 1 << unknown
    assert rows.longest(1 << short | 1 << long) == 1 << long
    assert rows.longest(1 << short) == 1 << short
    assert rows.longest(0) == 0
    rows.set_busy(rows.row(1), 1 << long)
    assert rows.longest(1 << short | 1 << long) == 1 << short


def test_a_row_is_used_again_and_nothing_of_its_first_model_is_left():
    rows = Rows(EVERY)
    number = follow(rows, 0, training(0b001))
    rows.reserve(Unit(0, 0, TRAIN, 0), True)
    rows.leave(0)
    assert (rows.idle, rows.rows) == (0, {})
    assert follow(rows, 5, training(0b110)) == number
    assert [rows.startable((TRAIN, p), True) for p in range(3)] == [0, 1, 1]


@pytest.mark.parametrize("seed", range(50))
def test_sets_of_rows_agree_with_a_look_at_every_model(seed):
    rng, rows = random.Random(seed), Rows(EVERY)
    works: dict[int, ModelWork] = {}
    staged: set[Unit] = set()

    def numbers(models) -> int:
        return mask_of(rows.number(model) for model in models)

    for _ in range(200):
        model = rng.randrange(6)
        kind = rng.choice(["follow", "follow", "begin", "leave", "reserve"])
        work = works.get(model)
        if kind == "follow":
            split = rng.choice(list(Split))
            left = rng.randrange(EVERY[split] + 1)
            can_start = left & rng.randrange(EVERY[split] + 1)
            train, valid = (left, 0b11) if split is TRAIN else (0, left)
            works[model] = ModelWork(0, train, valid, split, can_start, rng.random() < 0.7)
            follow(rows, model, works[model], rng.uniform(0.1, 50.0), rng.random() < 0.8)
        elif kind == "leave":
            works.pop(model, None)
            staged = {unit for unit in staged if unit.model != model}
            rows.leave(model)
        elif kind == "reserve" and work is not None:
            unit = Unit(model, 0, *rng.choice(PARTS))
            is_staged = unit not in staged
            trained = [u for u in staged if u.model == model and u.split is TRAIN]
            if is_staged and unit.split is TRAIN and trained:
                continue  # at most one of a model
            staged ^= {unit}
            rows.reserve(unit, is_staged)
        elif kind == "begin" and work is not None and work.idle and work.split is TRAIN:
            partition = next(bits(work.open), None)
            if partition is not None:
                left = ~(1 << partition)
                works[model] = work._replace(
                    train=work.train & left, open=work.open & left, idle=False
                )
                rows.begin(rows.number(model), partition, works[model])
        assert {row.model for row in rows.rows.values()} == works.keys()
        for split, p in PARTS:
            may = {m for m, w in works.items() if w.idle and w.split is split and w.open >> p & 1}
            reserved = {
                u.model for u in staged if u.split is split and (split is TRAIN or u.partition == p)
            }
            assert rows.startable((split, p), False) == numbers(may)
            assert rows.startable((split, p), True) == numbers(may - reserved)
        idle = {m for m, w in works.items() if w.idle and w.open}
        assert rows.idle == numbers(idle)
        assert rows.validating == numbers(m for m in idle if works[m].split is VALID)
