"""The paper's randomized policy: the first unit that fits in a shuffled queue.

Each unit draws its place in the queue when it comes before its model, from a generator of the
policy's own. The queue is kept by partition, so that a worker walks only what it holds. It learns
nothing from what was measured.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left, insort

from cerebro.hopper.bitset import bits
from cerebro.hopper.placement.base import Choices, ModelWork, Placed, WorkerSlots
from cerebro.hopper.placement.board import Board
from cerebro.hopper.units import Split, Unit

NOTHING = ModelWork(0, 0, 0, Split.TRAIN, 0, False)


class RandomizedPlacement:
    """Takes for each free worker the first unit in a shuffled queue that may start there."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._board = Board(self._random)
        self._queues: dict[tuple[Split, int], list[tuple[float, Unit]]] = {}
        self._place: dict[Unit, float] = {}

    def tell_partitions(self, train: int, valid: int) -> None:
        pass

    def tell_model(self, model: int, work: ModelWork | None) -> None:
        self._queue(model, self._board.work.get(model, NOTHING), work or NOTHING)
        self._board.tell_model(model, work)

    def _queue(self, model: int, before: ModelWork, now: ModelWork) -> None:
        """Keep the queues: units that have come before a model, and those that have gone."""
        for split in Split:
            old, new = _before(before, split), _before(now, split)
            kept = old & new if before.epoch == now.epoch else 0
            for partition in bits(old & ~kept):
                unit = Unit(model, before.epoch, split, partition)
                queue = self._queues[(split, partition)]
                del queue[bisect_left(queue, (self._place.pop(unit), unit))]
            for partition in bits(new & ~kept):
                unit = Unit(model, now.epoch, split, partition)
                place = self._place[unit] = self._draw(model)
                insort(self._queues.setdefault((split, partition), []), (place, unit))

    def _draw(self, model: int) -> float:
        """Draw a place in the queue for a unit of a model; the lowest is the first."""
        return self._random.random()

    def tell_worker(self, worker: int, slots: WorkerSlots | None) -> None:
        self._board.tell_worker(worker, slots)

    def observe(self, unit: Unit, worker: int | None, seconds: float) -> None:
        pass

    def patience(self) -> float | None:
        return None

    def place(self, now: float) -> Choices:
        board, choices = self._board, Choices([], [])
        for worker in board.free():
            own = board.workers[worker].staged
            unit = own if own is not None and self._may_start(own) else None
            unit = unit or self._choose(worker) or self._take_over(worker)
            if unit is not None:
                before = board.work[unit.model]
                board.begin(worker, unit)
                self._queue(unit.model, before, board.work[unit.model])
                choices.starts.append(Placed(worker, unit))
        for worker in board.busy():
            unit = self._choose(worker)
            if unit is not None:
                board.stage(worker, unit)
                choices.stages.append(Placed(worker, unit))
        board.looked()
        return choices

    def _may_start(self, unit: Unit) -> bool:
        work = self._board.work[unit.model]
        return work.idle and work.split is unit.split and bool(work.open >> unit.partition & 1)

    def _choose(self, worker: int) -> Unit | None:
        """Choose the first unit in the queue that nobody has staged."""
        board = self._board
        held = board.workers[worker].held
        queues = [self._queues[part] for part in held if self._queues.get(part)]
        for _, unit in heapq.merge(*queues):
            is_staged = unit in board.staged or unit.model in board.reserved
            if not is_staged and self._may_start(unit):
                return unit
        return None

    def _take_over(self, worker: int) -> Unit | None:
        """Choose a unit that others have staged: no model idles in a queue while a worker does."""
        board = self._board
        held = board.workers[worker].held
        for staged in board.staged:
            options = [staged]
            if staged.split is Split.TRAIN:
                options += [Unit(staged.model, staged.epoch, *part) for part in held]
            for unit in options:
                if (unit.split, unit.partition) in held and self._may_start(unit):
                    return unit
        return None


def _before(work: ModelWork, split: Split) -> int:
    """Return the partitions that a model has before it in its present split."""
    if work.split is not split:
        return 0
    return work.train if split is Split.TRAIN else work.valid
