"""Which worker may read which partition: an availability matrix, or shares of shared storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Matrix = Sequence[Sequence[int]]


class Holdings(Protocol):
    """Knows who may read what, for one split of the data."""

    partitions: int

    def join(self, worker: int, row: Sequence[int] | None = None) -> None:
        """Let a worker be given units from now on; what it could not read before is tried again.

        `row` says what a worker may read that a matrix does not know.
        """

    def leave(self, worker: int) -> None:
        """Take a worker out that is gone."""

    def holders(self, partition: int) -> Sequence[int]:
        """Return the present workers that may read a partition, in the order of their numbers."""

    def held(self, worker: int) -> Sequence[int]:
        """Return the partitions that a present worker may read, ascending."""

    def unreadable(self, worker: int, partition: int) -> bool:
        """Note a failed read. Returns whether nobody is left, or may return, who could read it."""


class FixedHoldings:
    """An availability matrix: row `w`, column `p` is 1 where worker `w` may read partition `p`."""

    def __init__(self, matrix: Matrix) -> None:
        self.partitions = len(matrix[0]) if matrix else 0
        self._matrix = dict(enumerate(matrix))
        self._rows = {worker: _columns(row) for worker, row in self._matrix.items()}
        self._present: set[int] = set()

    def join(self, worker: int, row: Sequence[int] | None = None) -> None:
        if row is not None:
            self._matrix[worker] = row
        self._rows[worker] = _columns(self._matrix[worker])
        self._present.add(worker)

    def leave(self, worker: int) -> None:
        self._present.discard(worker)

    def holders(self, partition: int) -> Sequence[int]:
        return [w for w in sorted(self._present) if partition in self._rows[w]]

    def held(self, worker: int) -> Sequence[int]:
        return self._rows[worker] if worker in self._present else ()

    def unreadable(self, worker: int, partition: int) -> bool:
        self._rows[worker] = tuple(p for p in self._rows[worker] if p != partition)
        return not any(partition in row for row in self._rows.values())


def _columns(row: Sequence[int]) -> tuple[int, ...]:
    return tuple(column for column, held in enumerate(row) if held)


class SharedHoldings:
    """Shared storage: every worker may read every partition, and has a *home* share of them.

    A worker is given units of its share only, so that each partition is held in as few memories
    as possible. Shares differ by one partition at most and move as little as they can when a
    worker comes or goes; with fewer partitions than workers, several share a partition.
    """

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._shares: dict[int, set[int]] = {}
        self._homes: list[set[int]] = [set() for _ in range(partitions)]
        self._known: set[int] = set()
        self._failed: set[tuple[int, int]] = set()

    def join(self, worker: int, row: Sequence[int] | None = None) -> None:
        self._known.add(worker)
        self._failed = {(w, p) for w, p in self._failed if w != worker}
        self._shares.setdefault(worker, set())
        self._balance()

    def leave(self, worker: int) -> None:
        for partition in self._shares.pop(worker, ()):
            self._homes[partition].discard(worker)
        self._balance()

    def holders(self, partition: int) -> Sequence[int]:
        return sorted(self._homes[partition])

    def held(self, worker: int) -> Sequence[int]:
        return sorted(self._shares.get(worker, ()))

    def unreadable(self, worker: int, partition: int) -> bool:
        self._failed.add((worker, partition))
        self._take(worker, partition)
        self._balance()
        return all((known, partition) in self._failed for known in self._known)

    def _give(self, worker: int, partition: int) -> None:
        self._shares[worker].add(partition)
        self._homes[partition].add(worker)

    def _take(self, worker: int, partition: int) -> None:
        self._shares.get(worker, set()).discard(partition)
        self._homes[partition].discard(worker)

    def _balance(self) -> None:
        """Give homeless partitions away, then even the shares out."""
        for partition, homes in enumerate(self._homes):
            if homes:
                continue
            able = [w for w in self._shares if (w, partition) not in self._failed]
            if able:
                self._give(min(able, key=self._poverty), partition)
        while self._shares and self._move_one():
            pass

    def _poverty(self, worker: int) -> tuple[int, int]:
        return len(self._shares[worker]), worker

    def _move_one(self) -> bool:
        """Give the poorest worker that can take it a partition of the richest's, or a copy."""
        rich = max(self._shares, key=self._poverty)
        return any(self._enrich(w, rich) for w in sorted(self._shares, key=self._poverty))

    def _enrich(self, poor: int, rich: int) -> bool:
        """Move a partition from the richest to a poorer worker, or copy one to an empty hand."""
        few, many = self._shares[poor], self._shares[rich]
        if len(many) - len(few) > 1:
            movable = [p for p in many - few if (poor, p) not in self._failed]
            if movable:
                self._take(rich, max(movable))
                self._give(poor, max(movable))
                return True
        if few:
            return False
        able = [p for p in range(self.partitions) if (poor, p) not in self._failed]
        if able:
            self._give(poor, min(able, key=lambda p: (len(self._homes[p]), p)))
        return bool(able)
