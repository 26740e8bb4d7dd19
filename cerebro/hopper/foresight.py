"""Looking one step ahead: whether a critical model or worker will find nobody free.

Every model that is running will need a worker when it ends, one that holds a partition it has not
seen; and every worker a model. A pairing of free workers and idle models is judged by how far the
horizon would be exceeded by those that are critical, once they have waited for the first that is
free then. If that is so, other pairings are tried that differ by one pair: another model on a
worker, two exchanged, or a worker that waits.

It is done for the most critical ones only, and only with seconds that were measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cerebro.hopper.bits import bits, bits_from
from cerebro.hopper.units import Split

if TYPE_CHECKING:
    from cerebro.hopper.critical import CriticalPlacement

WATCHED = 40
"""Critical models, and as many workers, that are looked after at most."""

FEW_UNITS = 64
"""A worker with more units left will find one, and is not looked after."""

OTHERS = 24
"""Other models that are tried on a worker."""

COPIES = 256
"""Where workers hold more partitions than that, all together, nobody is looked after."""

EFFORT = 700_000
"""Pairings to be tried, times whom to look after, times copies of partitions: no more than that."""

ROUNDS = 4
"""Times that a pairing is bettered, at most."""

OVERDUE = 0.5
"""A unit that takes longer than expected by more than this part of it is not waited for."""

NEAR = 1e-6
"""Times that differ by less than this part of the horizon are equal."""

Pairs = dict[int, int]
"""Rows by workers."""


class Foresight:
    """Betters the pairs that a policy has matched."""

    def __init__(self, policy: CriticalPlacement) -> None:
        self._policy = policy
        self._rows: list[int] = []
        self._workers: list[int] = []
        self._next_end = 0.0

    def watch(self, rows: list[int], workers: list[int]) -> None:
        """The critical rows and workers, the most critical first.

        Where there are more than can be looked after, nobody is: what was gained for some would
        be lost for the others. Nor where each partition is held by so many that one will be free.
        """
        policy = self._policy
        if max(len(rows), len(workers)) > WATCHED or policy.load.copies > COPIES:
            rows, workers = [], []
        self._rows = [
            number
            for number in rows
            if policy.estimates.knows(policy.rows[number].model, Split.TRAIN)
        ]
        self._workers = [
            worker
            for worker in workers
            if policy.estimates.has_seen_worker(worker) and policy.load.units(worker) <= FEW_UNITS
        ]

    @property
    def watches(self) -> bool:
        """Whether there is anybody to look after."""
        return bool(self._rows or self._workers)

    def improve(self, pairs: Pairs, found: dict[int, int]) -> Pairs:
        """Better pairs; a worker that gets nothing had better wait."""
        policy = self._policy
        watched = len(self._rows) + len(self._workers)
        if not watched or len(pairs) * OTHERS * watched * policy.load.copies > EFFORT:
            return pairs
        ends = [end for end in policy.ends.values() if end > policy.now]
        # Who gets nothing now is looked at again when the next unit ends.
        self._next_end = min(ends, default=0.0)
        best = self._excess(pairs, found)
        for _ in range(ROUNDS):
            if best[0] <= NEAR * policy.horizon:
                break
            tried = [(self._excess(other, found), other) for other in self._others(pairs, found)]
            if not tried:
                break
            excess, other = min(tried, key=lambda entry: entry[0])
            if excess >= best:
                break
            best, pairs = excess, other
        return pairs

    def _others(self, pairs: Pairs, found: dict[int, int]) -> list[Pairs]:
        """Pairings that differ in one pair or two."""
        others: list[Pairs] = []
        worker_of = {row: worker for worker, row in pairs.items()}
        for worker, row in pairs.items():
            if self._next_end:
                others.append({w: r for w, r in pairs.items() if w != worker})
            start = self._policy.random.randrange(found[worker].bit_length())
            for number, other in enumerate(bits_from(found[worker], start)):
                if number >= OTHERS:
                    break
                if other == row:
                    continue
                changed = {**pairs, worker: other}
                loser = worker_of.get(other)
                if loser is not None and found[loser] >> row & 1:
                    changed[loser] = row
                elif loser is not None:
                    del changed[loser]
                others.append(changed)
        return others

    def _excess(self, pairs: Pairs, found: dict[int, int]) -> tuple[float, float]:
        """How far the horizon is exceeded: (by the worst, by all together)."""
        policy = self._policy
        worst = total = 0.0
        worker_of = {row: worker for worker, row in pairs.items()}
        free_at = dict(policy.ends)
        begun: dict[int, float] = {}
        for worker in found:
            if worker in pairs:
                seconds = self._seconds(pairs[worker], worker)
                begun[worker] = seconds
                free_at[worker] = policy.now + seconds
            else:
                free_at[worker] = self._next_end
        for number in self._rows:
            over = self._row_excess(number, worker_of, begun, free_at)
            worst, total = max(worst, over), total + over
        for worker in self._workers:
            over = self._worker_excess(worker, pairs, worker_of, begun, free_at)
            worst, total = max(worst, over), total + over
        return worst, total

    def _seconds(self, number: int, worker: int) -> float:
        row = self._policy.rows[number]
        return self._policy.load.seconds(row.model, row.work.split, worker)

    def _row_free_at(
        self, number: int, worker_of: dict[int, int], begun: dict[int, float]
    ) -> float:
        policy, row = self._policy, self._policy.rows[number]
        if number in worker_of:
            return policy.now + begun[worker_of[number]]
        return self._next_end if row.work.idle else max(policy.now, row.end)

    def _row_excess(
        self,
        number: int,
        worker_of: dict[int, int],
        begun: dict[int, float],
        free_at: dict[int, float],
    ) -> float:
        policy, row = self._policy, self._policy.rows[number]
        if row.work.split is Split.VALID or not row.work.open:
            return 0.0
        if not row.work.idle and policy.now > row.end + OVERDUE * row.seconds:
            return 0.0
        own = worker_of.get(number)
        at = self._row_free_at(number, worker_of, begun)
        left = policy.load.chain(row.model)
        if own is not None:
            left -= begun[own] - policy.penalty(own, number)
        limit = policy.horizon - left
        first = float("inf")
        for partition in bits(row.work.open):
            for worker in policy.load.holders[(Split.TRAIN, partition)]:
                if worker != own:
                    free = max(at, free_at.get(worker, policy.now))
                    free += policy.load.penalty(row.model, (Split.TRAIN, partition), worker)
                    if free <= limit:
                        return 0.0
                    first = min(first, free)
        return max(at, first) - limit if first < float("inf") else max(0.0, at - limit)

    def _worker_excess(
        self,
        worker: int,
        pairs: Pairs,
        worker_of: dict[int, int],
        begun: dict[int, float],
        free_at: dict[int, float],
    ) -> float:
        policy = self._policy
        at = max(policy.now, free_at.get(worker, policy.now))
        limit = policy.horizon - policy.load.load(worker) + begun.get(worker, 0.0)
        rows = 0
        for part in policy.board.seats[worker].held:
            rows |= policy.models.open(part)
        own = pairs.get(worker)
        if own is not None and len(policy.board.seats[worker].held) == 1:
            rows &= ~(1 << own)
        first = float("inf")
        for number in bits(rows):
            free = max(at, self._row_free_at(number, worker_of, begun))
            if free <= limit:
                return 0.0
            first = min(first, free)
        return first - limit if first < float("inf") else max(0.0, at - limit)
