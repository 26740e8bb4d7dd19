"""How a plan of all that is left of an epoch is made; pays only where partitions are replicated.

`planner` decides when one is made and followed. There are two ways to make one.

*Forward*: as time goes, no worker waits, and the longest chains and the most loaded workers are
served first. Good where workers are what is short.

*By chains*: models are laid one after the other, the longest chain first, into the gaps that those
before have left on the workers. So the longest finds a worker whenever it needs one, even if that
had to wait for it, and the others fill what is left. Good where chains are what is short.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cerebro.hopper.bitset import bits
from cerebro.hopper.placement.matching import Matching
from cerebro.hopper.placement.workload import Part
from cerebro.hopper.units import Split

SHAKEN = 0.3
"""A chain counts for so much more, at most, where the order is shaken."""

SLIGHT = 1e-9
"""Seconds that make no difference."""

NEVER = float("inf")

Seconds = Callable[[int, Split, int], float]
"""How long a unit of a model and a split takes on a worker."""

Gaps = list[tuple[float, float]]
"""When a worker is busy, from and to, in order."""


class Job(NamedTuple):
    """What is left of a model's epoch, from when it is free; sets of partitions are bits."""

    model: int
    free_at: float
    chain: float
    train: int
    valid: int

    def parts(self) -> Iterator[Part]:
        """Yield the partitions that are before it."""
        yield from ((Split.TRAIN, partition) for partition in bits(self.train))
        yield from ((Split.VALID, partition) for partition in bits(self.valid))


class Step(NamedTuple):
    """A unit on a worker."""

    model: int
    part: Part
    worker: int


@dataclass(slots=True)
class ShopPlan:
    """Steps in the order of their starts, and `end`, the second at which the last one ends."""

    steps: list[Step] = field(default_factory=list)
    end: float = NEVER


@dataclass(slots=True)
class Shop:
    """What plans are made for.

    `free_at` has the workers that may be given units, `holders` those of them that hold each
    partition. `loads` are the seconds before each worker, and `held` its partitions: those that are
    its to do, and those left to others.
    """

    jobs: list[Job]
    free_at: dict[int, float]
    holders: dict[Part, list[int]]
    seconds: Seconds
    loads: dict[int, float]
    held: Mapping[int, tuple[Sequence[Part], Sequence[Part]]]
    random: random.Random

    def by_chains(self, *, shaken: bool) -> ShopPlan:
        """Lay one model after the other, the longest chain first, or nearly."""
        urgency = {
            job: (job.free_at + job.chain) * (1.0 + shaken * SHAKEN * self.random.random())
            for job in self.jobs
        }
        busy: dict[int, Gaps] = {worker: [(-NEVER, at)] for worker, at in self.free_at.items()}
        steps: list[tuple[float, Step]] = []
        end = 0.0
        for job in sorted(self.jobs, key=lambda job: -urgency[job]):
            end = max(end, self._lay(job, busy, steps))
        return ShopPlan([step for _, step in sorted(steps)], end)

    def _lay(self, job: Job, busy: dict[int, Gaps], steps: list[tuple[float, Step]]) -> float:
        """Lay, each time, the unit that loses the least, by waiting or on a slow worker."""
        at, left = job.free_at, list(bits(job.train))
        self.random.shuffle(left)
        able = {p: self.holders[(Split.TRAIN, p)] for p in left}
        takes = {
            w: self.seconds(job.model, Split.TRAIN, w) for workers in able.values() for w in workers
        }
        fastest = {p: min(takes[w] for w in workers) for p, workers in able.items()}
        while left:
            least, best = NEVER, (left[0], able[left[0]][0], at)
            for p in left:
                for w in able[p]:
                    start = _gap(busy[w], at, takes[w])
                    lost = start + takes[w] - at - fastest[p]
                    if lost < least - SLIGHT:
                        least, best = lost, (p, w, start)
                if least <= SLIGHT:
                    break
            p, w, start = best
            at = start + takes[w]
            left.remove(p)
            insort(busy[w], (start, at))
            steps.append((start, Step(job.model, (Split.TRAIN, p), w)))
        end = at
        for p in bits(job.valid):
            part, ends = (Split.VALID, p), dict[int, tuple[float, float]]()
            for w in self.holders[part]:
                took = self.seconds(job.model, Split.VALID, w)
                start = _gap(busy[w], at, took)
                ends[w] = start + took, start
            w = min(ends, key=lambda w: ends[w])
            done, start = ends[w]
            insort(busy[w], (start, done))
            steps.append((start, Step(job.model, part, w)))
            end = max(end, done)
        return end

    def forward(self) -> ShopPlan:
        """Run what is left as time goes, with no worker ever waiting."""
        return _Forward(self).run()


def _gap(busy: Gaps, at: float, took: float) -> float:
    """Find the earliest start, from a time on, in a gap that is long enough."""
    for index in range(bisect_right(busy, (at, at)) - 1, len(busy)):
        start, end = busy[index]
        if end <= at:
            continue
        if start + SLIGHT >= at + took:
            break
        at = end
    return at


class _Forward:
    """A run of what is left; jobs are bits."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._any = next(iter(shop.free_at))
        self._loads = dict(shop.loads)
        self._chains = [job.chain for job in shop.jobs]
        self._train = [job.train for job in shop.jobs]
        self._open = dict.fromkeys(shop.holders, 0)
        self._work = dict.fromkeys(shop.holders, 0.0)
        self._calendar: list[tuple[float, bool, int]] = []
        self._free: dict[int, None] = {}
        self._idle = 0
        self._plan = ShopPlan(end=0.0)

    def run(self) -> ShopPlan:
        shop = self._shop
        for number, job in enumerate(shop.jobs):
            for part in job.parts():
                self._work[part] += self._cost(job, part)
                if part[0] is Split.TRAIN or not job.train:
                    self._open[part] |= 1 << number
        calendar = self._calendar
        calendar += [(at, False, worker) for worker, at in shop.free_at.items()]
        calendar += [(job.free_at, True, number) for number, job in enumerate(shop.jobs)]
        heapq.heapify(calendar)
        while calendar:
            now = calendar[0][0]
            while calendar and calendar[0][0] <= now + SLIGHT:
                _, is_job, number = heapq.heappop(calendar)
                if is_job:
                    self._idle |= 1 << number
                else:
                    self._free[number] = None
            while pairs := self._pairs():
                for worker, number in pairs.items():
                    self._begin(worker, number, now)
        return self._plan

    def _cost(self, job: Job, part: Part) -> float:
        """Return a unit's seconds on some worker, always the same one."""
        return self._shop.seconds(job.model, part[0], self._any)

    def _pairs(self) -> dict[int, int]:
        found = {worker: self._rows(worker) for worker in self._free} if self._idle else {}
        found = {worker: rows for worker, rows in found.items() if rows}
        if len(found) < 2:
            return {worker: self._longest(worker, rows) for worker, rows in found.items()}
        nodes = [(-self._loads[worker], False, worker) for worker in found]
        wanted = 0
        for rows in found.values():
            wanted |= rows
        nodes += [(-self._chains[number], True, number) for number in bits(wanted)]
        nodes.sort()
        ordered = {number: found[number] for _, is_row, number in nodes if not is_row}
        matching = Matching(ordered, self._longest)
        for _, is_row, number in nodes:
            if is_row:
                matching.serve_row(number)
            else:
                matching.serve_worker(number)
        return matching.row_of

    def _rows(self, worker: int) -> int:
        """Return the jobs for a worker, of partitions that are its to do if there are any."""
        for parts in self._shop.held[worker]:
            rows = 0
            for part in parts:
                rows |= self._open[part]
            if rows & self._idle:
                return rows & self._idle
        return 0

    def _longest(self, _: int, rows: int) -> int:
        return max(bits(rows), key=self._chains.__getitem__)

    def _begin(self, worker: int, number: int, now: float) -> None:
        shop, bit = self._shop, 1 << number
        job = shop.jobs[number]
        much, little = ([q for q in parts if self._open[q] & bit] for parts in shop.held[worker])
        part = max(much or little, key=lambda q: self._work[q] / len(shop.holders[q]))
        took = shop.seconds(job.model, part[0], worker)
        self._plan.steps.append(Step(job.model, part, worker))
        self._plan.end = max(self._plan.end, now + took)
        self._open[part] ^= bit
        self._work[part] -= self._cost(job, part)
        self._loads[worker] -= took
        del self._free[worker]
        heapq.heappush(self._calendar, (now + took, False, worker))
        if part[0] is Split.VALID:
            return
        self._chains[number] -= took
        self._train[number] ^= 1 << part[1]
        self._idle ^= bit
        heapq.heappush(self._calendar, (now + took, True, number))
        if not self._train[number]:
            for partition in bits(job.valid):
                self._open[(Split.VALID, partition)] |= bit


def retimed(
    steps: Sequence[Step],
    free_at: Mapping[int, float],
    free_from: Callable[[int], float],
    seconds: Seconds,
) -> ShopPlan:
    """Time the same steps on the same workers in the same order, from the present state."""
    worker_at, model_at = dict(free_at), dict[int, float]()
    starts: list[tuple[float, int]] = []
    end = 0.0
    for number, (model, part, worker) in enumerate(steps):
        at = model_at[model] if model in model_at else free_from(model)
        start = max(at, worker_at[worker])
        done = start + seconds(model, part[0], worker)
        worker_at[worker] = done
        model_at[model] = done if part[0] is Split.TRAIN else at
        starts.append((start, number))
        end = max(end, done)
    return ShopPlan([steps[number] for _, number in sorted(starts)], end)
