"""The least time in which units can be given to workers that hold their partitions, by SciPy."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

SOLVER_SECONDS = 5.0


class Shop(Protocol):
    """Models with a unit on each partition; there are as many partitions as workers."""

    @property
    def models(self) -> int:
        """How many there are."""

    @property
    def workers(self) -> int:
        """How many there are."""

    @property
    def units(self) -> int:
        """All models' units."""

    def holders(self, partition: int) -> list[int]:
        """The workers that hold a partition."""

    def seconds(self, model: int, partition: int, worker: int) -> float:
        """How long a unit takes on a worker."""


def least(shop: Shop, scale: float, *, whole: bool = False) -> float:
    """The longest of all loads and chains, where that is shortest, as far as that is proved.

    `scale` is about what will come out, for the solver's tolerances.
    """
    rows: list[int] = []
    columns: list[int] = []
    entries: list[float] = []
    units: list[int] = []
    for model in range(shop.models):
        for partition in range(shop.workers):
            for worker in shop.holders(partition):
                seconds = shop.seconds(model, partition, worker) / scale
                rows += [worker, shop.workers + model]
                columns += [len(units)] * 2
                entries += [seconds] * 2
                units.append(model * shop.workers + partition)
    nodes, last = shop.workers + shop.models, len(units)
    rows += range(nodes)
    columns += [last] * nodes
    entries += [-1.0] * nodes
    longest = csr_array((entries, (rows, columns)), shape=(nodes, last + 1))
    once = csr_array((np.ones(last), (units, range(last))), shape=(shop.units, last + 1))
    is_unit = np.arange(last + 1) < last
    solved = milp(
        ~is_unit * 1.0,
        constraints=[LinearConstraint(longest, -np.inf, 0.0), LinearConstraint(once, 1.0, 1.0)],
        integrality=is_unit * int(whole),
        bounds=Bounds(0.0, np.where(is_unit, 1.0, np.inf)),
        options={"time_limit": SOLVER_SECONDS},
    )
    if whole:
        return scale * (solved.mip_dual_bound or 0.0)
    if solved.status:
        raise RuntimeError(f"the bound was not found: {solved.message}")
    return scale * float(solved.fun)
