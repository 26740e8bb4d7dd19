"""Which worker may read which partition: an availability matrix, or shares of shared storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Matrix = Sequence[Sequence[int]]


class Holdings(Protocol):
    """Who may read what, for one split of the data."""

    partitions: int

    def join(self, worker: int) -> None:
        """A worker can be given units from now on."""

    def leave(self, worker: int) -> None:
        """A worker is gone."""

    def holders(self, partition: int) -> Sequence[int]:
        """The present workers that may read a partition, in the order of their numbers."""

    def held(self, worker: int) -> Sequence[int]:
        """The partitions that a present worker may read, ascending."""

    def unreadable(self, worker: int, partition: int) -> bool:
        """A worker failed to read a partition. True if nobody is left who could."""


class FixedHoldings:
    """An availability matrix: row `w`, column `p` is 1 where worker `w` may read partition `p`."""

    def __init__(self, matrix: Matrix) -> None:
        self.partitions = len(matrix[0]) if matrix else 0
        self._rows = [tuple(p for p, held in enumerate(row) if held) for row in matrix]
        self._present: set[int] = set()

    def join(self, worker: int) -> None:
        self._present.add(worker)

    def leave(self, worker: int) -> None:
        self._present.discard(worker)

    def holders(self, partition: int) -> Sequence[int]:
        return [w for w in sorted(self._present) if partition in self._rows[w]]

    def held(self, worker: int) -> Sequence[int]:
        return self._rows[worker] if worker in self._present else ()

    def unreadable(self, worker: int, partition: int) -> bool:
        self._rows[worker] = tuple(p for p in self._rows[worker] if p != partition)
        return not any(partition in row for row in self._rows)


class SharedHoldings:
    """Shared storage: every worker may read every partition, and has a *home* share of them.

    A worker is given units of its share only, so that each partition is held in as few memories
    as possible. Shares differ by one partition at most and move as little as they can when a
    worker comes or goes; with fewer partitions than workers, several share a partition.
    """

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._shares: dict[int, set[int]] = {}
        self._held: dict[int, tuple[int, ...]] = {}
        self._failed: set[tuple[int, int]] = set()

    def join(self, worker: int) -> None:
        self._shares.setdefault(worker, set())
        self._balance()

    def leave(self, worker: int) -> None:
        self._shares.pop(worker, None)
        self._balance()

    def holders(self, partition: int) -> Sequence[int]:
        return [w for w in sorted(self._shares) if partition in self._shares[w]]

    def held(self, worker: int) -> Sequence[int]:
        return self._held.get(worker, ())

    def unreadable(self, worker: int, partition: int) -> bool:
        self._failed.add((worker, partition))
        self._shares.get(worker, set()).discard(partition)
        self._balance()
        return bool(self._shares) and not self.holders(partition)

    def _balance(self) -> None:
        """Give homeless partitions away, then even the shares out."""
        for partition in range(self.partitions):
            able = [w for w in self._shares if (w, partition) not in self._failed]
            if able and not self.holders(partition):
                self._shares[min(able, key=self._poverty)].add(partition)
        while self._shares and self._move_one():
            pass
        self._held = {w: tuple(sorted(share)) for w, share in self._shares.items()}

    def _poverty(self, worker: int) -> tuple[int, int]:
        return len(self._shares[worker]), worker

    def _move_one(self) -> bool:
        """Move a partition from the richest to the poorest worker, or copy one to an empty hand."""
        order = sorted(self._shares, key=self._poverty)
        poor, rich = self._shares[order[0]], self._shares[order[-1]]
        able = [p for p in range(self.partitions) if (order[0], p) not in self._failed]
        movable = [p for p in able if p in rich and p not in poor]
        if len(rich) - len(poor) > 1 and movable:
            rich.remove(movable[-1])
            poor.add(movable[-1])
            return True
        if poor or not able:
            return False
        poor.add(min(able, key=lambda p: (len(self.holders(p)), p)))
        return True
