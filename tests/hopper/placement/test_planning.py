"""Plans are schedules: all that is left, once, on holders, one unit at a time on each side."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebro.hopper.placement.estimates import Estimates
from cerebro.hopper.placement.planning import Job, Shop, ShopPlan, Step, retimed
from cerebro.hopper.units import Split, Unit

NEAR = 1e-6


@st.composite
def shops(draw: st.DrawFn) -> Shop:
    """Some models on some workers, with partitions that have any holders."""
    workers = draw(st.integers(1, 5))
    splits = ((Split.TRAIN, draw(st.integers(1, 5))), (Split.VALID, draw(st.integers(0, 3))))
    holders = {
        (split, p): sorted(draw(st.sets(st.integers(0, workers - 1), min_size=1)))
        for split, partitions in splits
        for p in range(partitions)
    }
    costs = draw(st.lists(st.floats(0.5, 20.0), min_size=1, max_size=6))
    slowness = [draw(st.floats(0.5, 3.0)) for _ in range(workers)]
    (_, train), (_, valid) = splits
    jobs = []
    for model, cost in enumerate(costs):
        masks = (draw(st.integers(0, (1 << partitions) - 1)) for partitions in (train, valid))
        jobs.append(Job(model, draw(st.floats(0.0, 9.0)), cost * train, *masks))
    much = {
        w: tuple(part for part, able in holders.items() if w == able[0]) for w in range(workers)
    }
    little = {
        w: tuple(part for part, able in holders.items() if w in able[1:]) for w in range(workers)
    }
    return Shop(
        jobs,
        {w: draw(st.floats(0.0, 9.0)) for w in range(workers)},
        holders,
        lambda model, split, w: costs[model] * slowness[w] * (1.0 if split is Split.TRAIN else 0.3),
        dict.fromkeys(range(workers), 1.0),
        {w: (much[w], little[w]) for w in range(workers)},
        random.Random(0),
    )


def times(shop: Shop, plan: ShopPlan) -> ShopPlan:
    """The steps as they run in their order; this checks that a plan says when it ends."""
    free_at = {job.model: job.free_at for job in shop.jobs}
    return retimed(plan.steps, shop.free_at, free_at.__getitem__, shop.seconds)


@pytest.mark.parametrize(
    "make",
    [
        Shop.forward,
        lambda shop: shop.by_chains(shaken=False),
        lambda shop: shop.by_chains(shaken=True),
    ],
)
@settings(max_examples=100, deadline=None)
@given(shop=shops())
def test_a_plan_is_a_schedule(make: Callable[[Shop], ShopPlan], shop: Shop) -> None:
    plan = make(shop)
    units = sorted((step.model, step.part) for step in plan.steps)
    assert units == sorted((job.model, part) for job in shop.jobs for part in job.parts())
    assert all(step.worker in shop.holders[step.part] for step in plan.steps)
    trained = set[int]()
    for step in reversed(plan.steps):
        if step.part[0] is Split.TRAIN:
            trained.add(step.model)
        else:
            assert step.model not in trained, "validated before it is trained"
    if plan.steps:
        assert times(shop, plan).end <= plan.end + NEAR


def test_two_long_chains_do_not_meet() -> None:
    """Each needs the fast holder of every partition, and the short ones are in the way."""
    costs = [8.0, 8.0, 2.0, 2.0, 2.0, 2.0]
    slowness = [1.0, 3.0, 1.0, 3.0]
    holders = {(Split.TRAIN, p): [p // 2 * 2, p // 2 * 2 + 1] for p in range(4)}
    jobs = [Job(m, 0.0, 4 * cost, 0b1111, 0) for m, cost in enumerate(costs)]
    held = {w: (tuple(q for q, able in holders.items() if w in able), ()) for w in range(4)}
    shop = Shop(
        jobs,
        dict.fromkeys(range(4), 0.0),
        holders,
        lambda model, _, w: costs[model] * slowness[w],
        dict.fromkeys(range(4), 0.0),
        held,
        random.Random(1),
    )
    best = min(shop.by_chains(shaken=bool(number)).end for number in range(20))
    assert best == pytest.approx(32.0, rel=0.2)
    assert best <= shop.forward().end


def test_a_plan_keeps_its_order_in_other_times() -> None:
    steps = [
        Step(0, (Split.TRAIN, 0), 0),
        Step(1, (Split.TRAIN, 0), 0),
        Step(0, (Split.TRAIN, 1), 1),
    ]
    plan = retimed(steps, {0: 0.0, 1: 5.0}, lambda _: 1.0, lambda *_: 2.0)
    assert [(step.model, step.worker) for step in plan.steps] == [(0, 0), (1, 0), (0, 1)]
    assert plan.end == 7.0


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_what_ran_lately_is_fitted_together(noise: float) -> None:
    rng = random.Random(3)
    costs = [rng.uniform(1.0, 50.0) for _ in range(16)]
    slowness = [rng.uniform(0.3, 1.0) for _ in range(8)]
    estimates = Estimates()
    for model, cost in enumerate(costs):
        for worker, slow in enumerate(slowness):
            unit = Unit(model, 0, Split.TRAIN, worker)
            estimates.observe(
                unit.model, unit.split, worker, cost * slow * math.exp(rng.gauss(0, noise))
            )
    estimates.fit()
    errors = [
        estimates.cost(model, Split.TRAIN) * estimates.slowness(worker) / (cost * slow)
        for model, cost in enumerate(costs)
        for worker, slow in enumerate(slowness)
    ]
    assert max(abs(error - 1.0) for error in errors) < max(2e-3, 1.5 * noise)
    assert estimates.deviation() == pytest.approx(noise, rel=0.3, abs=2e-3)
