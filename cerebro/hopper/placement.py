"""Who goes where: the policies that choose a unit for a worker.

A policy keeps its own index of the units that are pending. The scheduler tells it what becomes
pending and what no longer is, and asks it for a worker's next unit; it never decides whether a
unit may run, only which of those that may.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import Protocol

from cerebro.hopper.units import Split, Unit


class Placement(Protocol):
    """A placement policy."""

    def add(self, unit: Unit) -> None:
        """A unit has become pending."""

    def remove(self, unit: Unit) -> None:
        """A unit is no longer pending."""

    def choose(
        self,
        worker: int,
        held: Iterable[tuple[Split, int]],
        may_run: Callable[[Unit], bool],
    ) -> Unit | None:
        """A pending unit for `worker`, which may read the partitions in `held`; or None."""


class RandomizedPlacement:
    """The paper's randomized policy, its default: the first unit that fits in a shuffled queue.

    Each unit draws its place in the queue when it becomes pending, from a generator of the
    policy's own. The queue is kept by partition, so that a worker walks only what it holds.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._queues: dict[tuple[Split, int], list[tuple[float, Unit]]] = {}
        self._place: dict[Unit, float] = {}

    def add(self, unit: Unit) -> None:
        place = self._random.random()
        self._place[unit] = place
        insort(self._queues.setdefault((unit.split, unit.partition), []), (place, unit))

    def remove(self, unit: Unit) -> None:
        queue = self._queues[(unit.split, unit.partition)]
        del queue[bisect_left(queue, (self._place.pop(unit), unit))]

    def choose(
        self,
        worker: int,
        held: Iterable[tuple[Split, int]],
        may_run: Callable[[Unit], bool],
    ) -> Unit | None:
        queues = [self._queues[key] for key in held if self._queues.get(key)]
        for _, unit in heapq.merge(*queues):
            if may_run(unit):
                return unit
        return None
