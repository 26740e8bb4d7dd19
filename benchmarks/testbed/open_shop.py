"""The paper's simulated shop: configurations, workers, unit times, and the bound on the makespan.

Costs are those of the paper's 35 CNNs as far as it tells of them (360 to 21,000 MFLOPS, mean 5,939,
standard deviation 5,671): the quantiles of a log-normal distribution, cut off at both ends, with
the parameters that come nearest. A homogeneous shop has equal costs and equal workers. In a
heterogeneous one each configuration draws a cost, and each worker a GPU, with replacement.

Partition `p` lies on the workers `p` to `p + replicas - 1`, modulo their number.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

GPUS = (12.1, 5.6, 11.3, 18.7)
"""TFLOP/s."""

LOWEST, HIGHEST = 360.0, 21_000.0
LOG_MEAN, LOG_DEVIATION = 8.25, 1.08
POPULATION = 35


def population() -> list[float]:
    """The costs of 35 CNNs, in MFLOPS."""
    normal = NormalDist(LOG_MEAN, LOG_DEVIATION)
    costs = [math.exp(normal.inv_cdf((i + 0.5) / POPULATION)) for i in range(POPULATION)]
    costs = [min(max(cost, LOWEST), HIGHEST) for cost in costs]
    return [LOWEST, *costs[1:-1], HIGHEST]


@dataclass(frozen=True)
class Shop:
    """Unit times are `costs[model] * slowness[worker] * noise[model][partition]`."""

    costs: list[float]
    slowness: list[float]
    noise: list[list[float]]
    replicas: int

    @property
    def models(self) -> int:
        """How many configurations there are."""
        return len(self.costs)

    @property
    def workers(self) -> int:
        """How many workers there are, and partitions."""
        return len(self.slowness)

    def seconds(self, model: int, partition: int, worker: int) -> float:
        """How long a unit really takes."""
        return self.costs[model] * self.slowness[worker] * self.noise[model][partition]

    def holders(self, partition: int) -> list[int]:
        """The workers that hold a partition."""
        return [(partition + copy) % self.workers for copy in range(self.replicas)]

    def matrix(self) -> list[list[int]]:
        """The availability matrix: a row a worker."""
        partitions = range(self.workers)
        return [[int(w in self.holders(p)) for p in partitions] for w in range(self.workers)]

    def bound(self) -> float:
        """What no schedule can be faster than: the most loaded worker, or the longest chain.

        The chain takes every unit on the fastest holder of its partition. The load is that of a
        fluid: each partition's work divided among its holders so that the last is done as early as
        possible, by maximum flow. Without replicas both are the open shop's.
        """
        chains = (
            sum(min(self.seconds(m, p, w) for w in self.holders(p)) for p in range(self.workers))
            for m in range(self.models)
        )
        work = [
            sum(self.costs[m] * self.noise[m][p] for m in range(self.models))
            for p in range(self.workers)
        ]
        speeds = [1.0 / slowness for slowness in self.slowness]
        return max(*chains, fluid_bound(work, speeds, self.holders))


def draw(
    models: int,
    workers: int,
    *,
    heterogeneous: bool,
    replicas: int = 1,
    noise: float = 0.0,
    seed: int = 0,
    epoch: int = 0,
) -> Shop:
    """A shop, by its seed; `noise` 0.2 stands for factors from 0.8 to 1.2, evenly spread.

    The noise is another one in each epoch.
    """
    rng = random.Random(f"{models} {workers} {heterogeneous} {seed}")
    costs, slowness = [1.0] * models, [1.0] * workers
    if heterogeneous:
        known = population()
        costs = [rng.choice(known) for _ in range(models)]
        slowness = [1.0 / rng.choice(GPUS) for _ in range(workers)]
    rng = random.Random(f"{models} {workers} {seed} {epoch}")
    factors = [[1.0 + noise * rng.uniform(-1.0, 1.0) for _ in range(workers)] for _ in costs]
    return Shop(costs, slowness, factors, replicas)


def fluid_bound(
    work: list[float], speeds: list[float], holders: Callable[[int], list[int]]
) -> float:
    """The least time in which workers of given speeds can do the work on the partitions they hold.

    By Hall's condition it is the largest work of a set of partitions by the speed of all their
    holders; sets are found as minimum cuts, from below, until none is violated.
    """
    edges = [holders(p) for p in range(len(work))]
    seconds = sum(work) / sum(speeds)
    while True:
        cut = _starved(work, [speed * seconds * (1.0 + 1e-12) for speed in speeds], edges)
        if not cut:
            return seconds
        able = {w for p in cut for w in edges[p]}
        better = sum(work[p] for p in cut) / sum(speeds[w] for w in able)
        if better <= seconds * (1.0 + 1e-12):
            return seconds
        seconds = better


def _starved(work: list[float], room: list[float], edges: list[list[int]]) -> set[int]:
    """Partitions whose work does not fit with that of the others that they compete with."""
    left, room = list(work), list(room)
    flow = [dict.fromkeys(able, 0.0) for able in edges]
    small = 1e-12 * sum(work)
    starved: set[int] = set()
    for source in range(len(work)):
        while left[source] > small:
            came: dict[int, tuple[int, int]] = {}
            seen, queue, end = {source}, deque([source]), -1
            reached: set[int] = set()
            while queue and end < 0:
                p = queue.popleft()
                for w in edges[p]:
                    if w in reached:
                        continue
                    reached.add(w)
                    came[w] = (p, -1)
                    if room[w] > small:
                        end = w
                        break
                    for q in range(len(work)):
                        if q not in seen and flow[q].get(w, 0.0) > small:
                            seen.add(q)
                            queue.append(q)
                            came[-1 - q] = (w, q)
            if end < 0:
                starved |= seen
                break
            path, worker = [], end
            while True:
                p = came[worker][0]
                path.append((p, worker))
                if p == source:
                    break
                worker = came[-1 - p][0]
            amount = min(left[source], room[end])
            for (p, _), (_, before) in pairwise(path):
                amount = min(amount, flow[p][before])
            for index, (p, w) in enumerate(path):
                flow[p][w] += amount
                if index + 1 < len(path):
                    flow[p][path[index + 1][1]] -= amount
            left[source] -= amount
            room[end] -= amount
    return starved
