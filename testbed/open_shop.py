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
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

GPUS = (12.1, 5.6, 11.3, 18.7)
"""TFLOP/s."""

LOWEST, HIGHEST = 360.0, 21_000.0
LOG_MEAN, LOG_DEVIATION = 8.25, 1.08
POPULATION = 35

WHOLE_UNITS = 512
"""Of so many units at most the bound with whole units is looked for."""

BLIND = 200
"""Random beginnings of which the mean is taken."""

SLIGHT = 1e-6
"""Bounds that differ by less than this part are equal; solvers are no more exact."""


def population() -> list[float]:
    """The costs of 35 CNNs, in MFLOPS."""
    normal = NormalDist(LOG_MEAN, LOG_DEVIATION)
    costs = [math.exp(normal.inv_cdf((i + 0.5) / POPULATION)) for i in range(POPULATION)]
    costs = [min(max(cost, LOWEST), HIGHEST) for cost in costs]
    return [LOWEST, *costs[1:-1], HIGHEST]


class Bound(NamedTuple):
    """A lower bound on the makespan, and which it is."""

    seconds: float
    name: str


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

    @property
    def units(self) -> int:
        """How many units there are in an epoch."""
        return self.models * self.workers

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

    def bound(self, *, whole: bool = True) -> Bound:
        """What no schedule can be faster than.

        Without replicas, the larger of the most loaded worker and the longest chain, as in any open
        shop. With them, the least T for which units can be given to holders so that no worker has
        more than T seconds and no model more than T; a schedule does that, whatever its order.
        With divided units that is a linear programme; with whole ones an integer programme, of
        which what the solver has proved within its time counts, where that is more; `whole` False
        leaves it out.
        """
        loads, chains = [0.0] * self.workers, [0.0] * self.models
        for model in range(self.models):
            for partition in range(self.workers):
                able = self.holders(partition)
                took = min(self.seconds(model, partition, worker) for worker in able)
                chains[model] += took
                if self.replicas == 1:
                    loads[partition] += took
        bound = max(Bound(max(loads), "load"), Bound(max(chains), "chain"))
        if self.replicas > 1:
            # SciPy is needed here only.
            from testbed.assignment import least

            divided = least(self, bound.seconds)
            if divided > bound.seconds * (1.0 + SLIGHT):
                bound = Bound(divided, "LP")
            if whole and self.units <= WHOLE_UNITS:
                proved = least(self, bound.seconds, whole=True)
                if proved > bound.seconds * (1.0 + SLIGHT):
                    bound = Bound(proved, "MILP")
        return bound


def blind(shop: Shop, bound: float, rng: random.Random) -> float:
    """The mean bound of schedules in which every worker begins with a model picked at random.

    Of a unit that is begun so the partition is the best for that worker; whatever is not begun
    waits for the first that ends.
    """
    best = [
        [min(shop.seconds(m, p, w) for w in shop.holders(p)) for p in range(shop.workers)]
        for m in range(shop.models)
    ]
    held = [[p for p in range(shop.workers) if w in shop.holders(p)] for w in range(shop.workers)]
    chains = [sum(row) for row in best]
    total = 0.0
    for _ in range(BLIND):
        begun = rng.sample(range(shop.models), shop.workers)
        longest = bound
        ends = []
        for w, m in enumerate(begun):
            seconds = {p: shop.seconds(m, p, w) for p in held[w]}
            longest = max(longest, chains[m] + min(seconds[p] - best[m][p] for p in held[w]))
            ends.append(min(seconds.values()))
        waiting = (chains[m] for m in set(range(shop.models)).difference(begun))
        total += max(longest, min(ends) + max(waiting, default=0.0))
    return total / BLIND


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
