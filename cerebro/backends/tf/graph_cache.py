"""Graphs, with their sessions, kept from one epoch to the next."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from cerebro.backends.tf.graphs import UnitGraph
from cerebro.backends.tf.sessions import UnitSession

GRAPHS = 64
"""How many graphs are kept at most; the one unused for longest goes first."""

SESSION_BYTES = 2 * 2**30
"""How much memory the variables of kept sessions may fill, on host or device."""

Key = tuple[int, int, bool]
"""(model, partition, whether it trains)."""


@dataclass
class CachedGraph:
    """A graph, the data that it was built on, and its open session, if it can be used again.

    `exhausted` says whether the session's last unit came to the end of its input.
    """

    unit: UnitGraph
    data: Any
    session: UnitSession | None = None
    exhausted: bool = False

    @property
    def session_bytes(self) -> int:
        """What the variables of an open session take."""
        if self.session is None:
            return 0
        return sum(
            (variable.shape.num_elements() or 0) * variable.dtype.base_dtype.size
            for variable in self.unit.variables.values()
        )

    def is_for(self, data: Any) -> bool:
        """Whether the graph was built on this very object (or an equal plain value).

        Equal data that was loaded again is another object: to continue with the old one would keep
        both in memory.
        """
        if isinstance(data, (str, bytes, int, float)):
            return type(data) is type(self.data) and data == self.data
        return data is self.data

    def close(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None


class GraphCache:
    """Bounded by `GRAPHS` and `SESSION_BYTES`, oldest use out first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Key, CachedGraph] = OrderedDict()

    def take(self, key: Key) -> CachedGraph | None:
        """The entry, which then belongs to the caller: to be put back, or closed."""
        return self._entries.pop(key, None)

    def put(self, key: Key, entry: CachedGraph) -> None:
        self._entries[key] = entry
        while len(self._entries) > GRAPHS:
            self._entries.popitem(last=False)[1].close()
        held = sum(kept.session_bytes for kept in self._entries.values())
        for kept in self._entries.values():
            if held <= SESSION_BYTES:
                break
            held -= kept.session_bytes
            kept.close()

    def drop(self, model: int) -> None:
        """Close and forget all of a model's."""
        for key in [key for key in self._entries if key[0] == model]:
            self._entries.pop(key).close()

    def clear(self) -> None:
        for entry in self._entries.values():
            entry.close()
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
