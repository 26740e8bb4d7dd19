"""What is left, by model and by worker, on numbers that one can add up by hand."""

from __future__ import annotations

import random

import pytest

from cerebro.hopper.bitset import bits
from cerebro.hopper.placement.estimates import Estimates
from cerebro.hopper.placement.workload import MOVED, Workload
from cerebro.hopper.units import Split, Unit

TRAIN, VALID = Split.TRAIN, Split.VALID


class Known(Estimates):
    """Estimates that are given: the cost by (model, split), the slowness by worker."""

    def __init__(self, costs, slowness, typical=1.0):
        super().__init__()
        self.costs, self._slowness, self._typical = costs, slowness, typical

    def knows(self, model, split):
        return (model, split) in self.costs

    def cost(self, model, split):
        return self.costs[(model, split)]

    def typical(self, split):
        return self._typical

    def slowness(self, worker):
        return self._slowness[worker]


def idle(_):
    return 0.0


COSTS = {(0, TRAIN): 3.0, (0, VALID): 1.0, (1, TRAIN): 5.0, (1, VALID): 2.0}


def two_workers(costs=COSTS):
    """Worker 1 is half as fast; each partition has one holder.

    worker 0 (slowness 1): train partition 0, valid partition 0
    worker 1 (slowness 2): train partition 1
    model 0: 3 s to train, 1 s to validate; model 1: 5 s and 2 s
    """
    load = Workload(Known(costs, [1.0, 2.0]), train=2, valid=1)
    load.tell_worker(0, ((TRAIN, 0), (VALID, 0)))
    load.tell_worker(1, ((TRAIN, 1),))
    for model in range(2):
        load.tell_model(model, 0b11, 0b1)
    load.settle(idle)
    return load


def test_loads_and_chains_at_the_start_of_an_epoch():
    load = two_workers()
    assert load.left == 6
    assert load.load(0) == (3 + 5) + (1 + 2)
    assert load.load(1) == (3 + 5) * 2
    assert load.chain(0) == 3 * 1 + 3 * 2 + 1
    assert load.chain(1) == 5 * 1 + 5 * 2 + 2
    assert load.seconds(1, TRAIN, 1) == 10
    assert load.slowest() == 5 * 2
    assert not load.has_replicas


def test_a_unit_that_has_started_is_before_neither_its_model_nor_its_worker():
    load = two_workers()
    load.begin(Unit(0, 0, TRAIN, 1), 0b01)
    assert load.left == 5
    assert load.load(1) == 5 * 2
    assert load.chain(0) == 3 * 1 + 1
    load.tell_model(0, 0, 0b1)
    assert load.left == 4
    assert load.load(0) == 5 + (1 + 2)
    assert load.chain(0) == 1


def test_the_longest_valid_unit_ends_a_chain_as_all_may_run_at_once():
    load = Workload(Known({(0, TRAIN): 4.0, (0, VALID): 1.5}, [1.0]), train=1, valid=3)
    load.tell_worker(0, ((TRAIN, 0), (VALID, 0), (VALID, 1), (VALID, 2)))
    load.tell_model(0, 0b1, 0b111)
    load.settle(idle)
    assert load.chain(0) == 4 + 1.5
    assert load.load(0) == 4 + 3 * 1.5


def test_a_model_that_has_ended_leaves_nothing():
    load = two_workers()
    load.drop_model(1)
    assert load.left == 3
    assert (load.load(0), load.load(1)) == (3 + 1, 3 * 2)


def test_a_model_that_nothing_is_known_of_costs_what_is_typical():
    estimates = Known({(0, TRAIN): 3.0}, [1.0], typical=7.0)
    load = Workload(estimates, train=1, valid=0)
    load.tell_worker(0, ((TRAIN, 0),))
    for model in range(2):
        load.tell_model(model, 0b1, 0)
    load.settle(idle)
    assert load.load(0) == 3 + 7
    load.tell_model(1, 0, 0)
    assert load.load(0) == 3
    load.tell_model(1, 0b1, 0)
    estimates.costs[(1, TRAIN)] = 5.0
    load.learned(1, TRAIN, 0)
    assert load.load(0) == 3 + 5


@pytest.mark.parametrize(("moved", "taken"), [(0.9 * MOVED, False), (1.1 * MOVED, True)])
def test_estimates_that_move_slightly_change_nothing_until_little_is_left(moved, taken):
    costs = dict(COSTS)
    load = two_workers(costs)
    costs[(1, TRAIN)] = now = 5 * (1 + moved)
    load.learned(1, TRAIN, None)
    assert load.load(1) == pytest.approx((3 + (now if taken else 5)) * 2)
    load.refresh()
    assert load.load(1) == pytest.approx((3 + now) * 2)


@pytest.mark.parametrize(
    ("slowness", "busy", "shares"),
    [
        ([1.0, 1.0], [0.0, 0.0], [6.0, 6.0]),
        ([1.0, 1.0], [4.0, 0.0], [4.0, 8.0]),  # both end at 8
        ([1.0, 2.0], [0.0, 0.0], [8.0, 4.0]),  # both end at 8
        ([1.0, 1.0], [20.0, 0.0], [0.0, 12.0]),  # the first is never free in time
    ],
)
def test_holders_of_one_partition_share_it_so_that_they_end_together(slowness, busy, shares):
    load = Workload(Known({(m, TRAIN): 3.0 for m in range(4)}, slowness), train=1, valid=0)
    for worker in range(2):
        load.tell_worker(worker, ((TRAIN, 0),))
    for model in range(4):
        load.tell_model(model, 0b1, 0)
    load.settle(lambda worker: busy[worker])
    assert load.has_replicas
    assert [load.due(w, (TRAIN, 0)) for w in range(2)] == pytest.approx(shares)
    assert [load.load(w) for w in range(2)] == pytest.approx(
        [share * slow for share, slow in zip(shares, slowness, strict=True)]
    )


def test_a_chain_counts_the_fastest_holder_and_the_others_are_penalised():
    load = Workload(Known({(0, TRAIN): 3.0}, [2.0, 1.0]), train=1, valid=0)
    for worker in range(2):
        load.tell_worker(worker, ((TRAIN, 0),))
    load.tell_model(0, 0b1, 0)
    load.settle(idle)
    assert load.chain(0) == 3
    assert load.penalty(0, (TRAIN, 0), 0) == 3
    assert load.penalty(0, (TRAIN, 0), 1) == 0
    load.tell_worker(1, ())
    load.settle(idle)
    assert load.chain(0) == 6, "the fast one is gone"
    assert load.load(0) == 6


def test_a_partition_that_others_will_do_is_not_a_workers_due():
    """Worker 0 has more than enough with its own partition; worker 1 has nothing else."""
    load = Workload(Known({(0, TRAIN): 1.0, (1, TRAIN): 9.0}, [1.0, 1.0]), train=2, valid=0)
    load.tell_worker(0, ((TRAIN, 0), (TRAIN, 1)))
    load.tell_worker(1, ((TRAIN, 1),))
    load.tell_model(0, 0b11, 0)
    load.tell_model(1, 0b01, 0)
    load.settle(idle)
    assert load.by_share(0) == (((TRAIN, 0),), ((TRAIN, 1),))
    assert load.by_share(1) == (((TRAIN, 1),), ())
    assert (load.load(0), load.load(1)) == (10, 1)


@pytest.mark.parametrize("seed", range(30))
def test_sums_agree_with_adding_everything_up(seed):
    rng = random.Random(seed)
    train, valid, workers = 4, 2, 3
    slowness = rng.sample([0.5, 0.8, 1.0, 1.5, 2.0], workers)
    costs = {(m, s): rng.uniform(1.0, 9.0) for m in range(5) for s in Split}
    load = Workload(Known(costs, slowness), train, valid)
    parts = [(TRAIN, p) for p in range(train)] + [(VALID, p) for p in range(valid)]
    holder = {part: rng.randrange(workers) for part in parts}
    for worker in range(workers):
        load.tell_worker(worker, tuple(part for part in parts if holder[part] == worker))
    load.settle(idle)
    left: dict[int, dict[Split, int]] = {}
    for _ in range(60):
        model = rng.randrange(5)
        kind = rng.choice(["tell", "begin", "drop", "price"])
        if kind == "tell":
            left[model] = {TRAIN: rng.randrange(1 << train), VALID: rng.randrange(1 << valid)}
            load.tell_model(model, left[model][TRAIN], left[model][VALID])
        elif kind == "drop":
            left.pop(model, None)
            load.drop_model(model)
        elif kind == "price":
            split = rng.choice(list(Split))
            costs[(model, split)] *= rng.choice([0.5, 2.0])
            load.learned(model, split, None)
        elif model in left and left[model][TRAIN]:
            partition = rng.choice(list(bits(left[model][TRAIN])))
            left[model][TRAIN] ^= 1 << partition
            load.begin(Unit(model, 0, TRAIN, partition), left[model][TRAIN])
        units = [(m, (s, p)) for m, of in left.items() for s in Split for p in bits(of[s])]
        assert load.left == len(units)
        for worker in range(workers):
            own = [costs[(m, part[0])] for m, part in units if holder[part] == worker]
            assert load.load(worker) == pytest.approx(slowness[worker] * sum(own), abs=1e-9)
        for number, of in left.items():
            slow = [slowness[holder[(TRAIN, p)]] for p in bits(of[TRAIN])]
            last = costs[(number, VALID)] if of[VALID] else 0.0
            chain = costs[(number, TRAIN)] * sum(slow) + last
            assert load.chain(number) == pytest.approx(chain, abs=1e-9)
