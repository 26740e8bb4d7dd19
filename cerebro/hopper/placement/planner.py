"""When to plan the last units, and how long to follow it; pays only with replicated partitions.

Where few units are left, the plan is followed, and made anew when reality has left it (`planning`
says how plans are made). With one holder for each partition there is little to choose, and the
policy ends near the lower bound without a plan.

No plan ends before the horizon. While the one that is kept ends there it is followed; else others
are made, and the one that ends first is taken. A plan in which workers wait for certain units is
only as good as the times that it was made with: it has to be better than one in which nobody waits
by more than these are uncertain.
"""

from __future__ import annotations

import random
from collections.abc import Container
from typing import Protocol

from cerebro.hopper.placement.board import Board
from cerebro.hopper.placement.estimates import Estimates
from cerebro.hopper.placement.planning import Job, Shop, ShopPlan, Step, retimed
from cerebro.hopper.placement.rows import Row, Rows
from cerebro.hopper.placement.workload import Workload
from cerebro.hopper.units import Split

MOST_UNITS = 256
"""So many units are planned at most."""

LAID = 512
"""Units that are laid by chains for one decision, at most: so many plans are tried."""

NEAR = 1e-3
"""A plan that ends later than the horizon by this part of what is left is not bettered."""

DOUBT = 0.15
"""How much of a unit's uncertainty has to be gained by waiting."""

OVERDUE = 0.5
"""A unit that takes longer than expected by more than this part of it is not planned with."""


class Planned(Protocol):
    """What a planner asks of its policy: the state of things, and when what runs is to end."""

    now: float
    horizon: float
    unit: float
    random: random.Random
    board: Board
    estimates: Estimates
    load: Workload
    models: Rows
    rows: dict[int, Row]
    ends: dict[int, float]

    def is_overdue(self, worker: int) -> bool:
        """Tell whether what a worker runs takes much longer than expected."""


class Planner:
    """Keeps a plan for a policy."""

    def __init__(self, policy: Planned) -> None:
        self._policy = policy
        self._steps: list[Step] = []

    def renew(self) -> bool:
        """Make the plan fit the present state. Returns whether there is one."""
        policy = self._policy
        now, horizon = policy.now, policy.horizon
        shop = None if self._is_unplannable() else self._shop()
        if shop is None:
            self._steps = []
            return False
        best = self._kept(shop)
        limit = horizon + NEAR * (horizon - now)
        doubt = DOUBT * policy.estimates.deviation() * policy.unit
        if best.end > limit or horizon + doubt > limit:
            forward = shop.forward()
            if forward.end - doubt <= max(best.end, limit):
                best = forward
            for number in range(LAID // policy.load.left):
                if best.end <= limit + doubt:
                    break
                plan = shop.by_chains(shaken=bool(number or self._steps))
                if plan.end < min(best.end, forward.end - doubt):
                    best = plan
        self._steps = best.steps
        return True

    def due(self, workers: Container[int]) -> dict[int, Step]:
        """Return the next steps of those workers whose next is the next of its model too."""
        due: dict[int, Step] = {}
        seen, models = set[int](), set[int]()
        for step in self._steps:
            work = self._policy.board.work[step.model]
            split, partition = step.part
            if not (work.train if split is Split.TRAIN else work.valid) >> partition & 1:
                continue  # it has just been started
            if step.worker not in seen and step.model not in models and step.worker in workers:
                due[step.worker] = step
            seen.add(step.worker)
            if split is Split.TRAIN:
                models.add(step.model)
        return due

    def _is_unplannable(self) -> bool:
        """Tell whether something is overdue, or a model may not go where it has to."""
        policy = self._policy
        if any(policy.is_overdue(worker) for worker in policy.ends):
            return True
        for row in policy.rows.values():
            work = row.work
            left = work.train if work.split is Split.TRAIN else work.valid
            if work.idle and work.open != left:
                return True
            if not work.idle and policy.now > row.end + OVERDUE * row.seconds:
                return True
        return False

    def _shop(self) -> Shop | None:
        """Collect what is to be planned; None if nobody can do some of it."""
        policy = self._policy
        load, workers = policy.load, policy.board.workers
        free_at = {
            worker: max(policy.now, policy.ends.get(worker, 0.0))
            for worker, slots in workers.items()
            if slots.able
        }
        holders = {part: [w for w in able if w in free_at] for part, able in load.holders.items()}
        jobs = []
        for row in policy.rows.values():
            chain = load.chain(row.model)
            work = row.work
            jobs.append(Job(row.model, self._free_at(row.model), chain, work.train, work.valid))
        if not all(holders[part] for job in jobs for part in job.parts()):
            return None
        loads = {worker: load.load(worker) for worker in free_at}
        held = {worker: load.by_share(worker) for worker in free_at}
        return Shop(jobs, free_at, holders, load.seconds, loads, held, policy.random)

    def _free_at(self, model: int) -> float:
        row = self._policy.models.row(model)
        return self._policy.now if row.work.idle else max(self._policy.now, row.end)

    def _kept(self, shop: Shop) -> ShopPlan:
        """Return what is left of the plan, if it is all that is left to do."""
        left = {job.model: (job.train, job.valid) for job in shop.jobs}
        steps = []
        for step in self._steps:
            (split, partition), before = step.part, left.get(step.model, (0, 0))
            if before[split is Split.VALID] >> partition & 1:
                if step.worker not in shop.holders[step.part]:
                    return ShopPlan()
                steps.append(step)
        if len(steps) != sum(
            train.bit_count() + valid.bit_count() for train, valid in left.values()
        ):
            return ShopPlan()
        return retimed(steps, shop.free_at, self._free_at, shop.seconds)
