"""A matching that serves the most critical first.

With unit times all equal, a model or worker with the longest way to go has to be served in every
round, or the lower bound is lost; and it can be, because the bipartite graph of what is left always
has a matching that covers all its nodes of the highest degree (König's theorem on edge colouring).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from cerebro.hopper.bitset import bits


class Matching:
    """Pairs of workers and rows, one of each in a pair; rows are bits.

    `adjacent` has the rows that each worker may be given, and its order is that in which rows
    prefer workers. `preferred` picks a row for a worker out of a set of rows. A node that is to be
    served gets an alternating path, along which those served before it stay so, if there is one.
    So the matching covers greedily, which is best: the sets of nodes on either side that matchings
    can cover form a matroid.
    """

    def __init__(self, adjacent: Mapping[int, int], preferred: Callable[[int, int], int]) -> None:
        self.row_of: dict[int, int] = {}
        self._adjacent = adjacent
        self._preferred = preferred
        self._worker_of: dict[int, int] = {}
        self._matched = 0
        self._kept_rows = 0
        self._kept_workers: set[int] = set()
        self._barren = 0

    def serve_worker(self, worker: int) -> None:
        """Give a worker a row, if that can be."""
        if worker not in self.row_of:
            self._reach_from_worker(worker)
        self._kept_workers.add(worker)

    def serve_row(self, row: int) -> None:
        """Give a row a worker, if that can be."""
        if not self._matched >> row & 1:
            self._reach_from_row(row)
        self._kept_rows |= 1 << row

    def _join(self, worker: int, row: int) -> None:
        self.row_of[worker] = row
        self._worker_of[row] = worker
        self._matched |= 1 << row

    def _reach_from_worker(self, start: int) -> None:
        """Follow a path to a worker that can get a free row, or that may go without one."""
        came: dict[int, tuple[int, int]] = {}
        queue, seen = deque([start]), 0
        while queue:
            worker = queue.popleft()
            free = self._adjacent[worker] & ~self._matched
            if free or (worker != start and worker not in self._kept_workers):
                row = self.row_of.pop(worker, -1)
                if free:
                    self._join(worker, self._preferred(worker, free))
                while worker != start:
                    worker, row = came[worker]
                    self._join(worker, row)
                return
            # Rows from which a search has failed lead nowhere later either.
            for row in bits(self._adjacent[worker] & self._matched & ~seen & ~self._barren):
                seen |= 1 << row
                came[self._worker_of[row]] = worker, row
                queue.append(self._worker_of[row])
        self._barren |= seen

    def _reach_from_row(self, start: int) -> None:
        """Follow a path to a row whose worker is free, or that may go without one."""
        came: dict[int, tuple[int, int]] = {}
        queue, seen = deque([start]), set[int]()
        while queue:
            row = queue.popleft()
            for worker, rows in self._adjacent.items():
                if worker in seen or not rows >> row & 1:
                    continue
                seen.add(worker)
                other = self.row_of.get(worker)
                if other is not None and self._kept_rows >> other & 1:
                    came[other] = row, worker
                    queue.append(other)
                    continue
                if other is not None:
                    del self._worker_of[other]
                    self._matched &= ~(1 << other)
                    self._barren = 0
                self._join(worker, row)
                while row != start:
                    row, worker = came[row]
                    self._join(worker, row)
                return
