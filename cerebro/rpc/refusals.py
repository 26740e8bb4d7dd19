"""Refused connections in the log: the first at once, then counts.

Whoever reaches the port can be refused thousands of times in a second. So neither the lines nor
the memory that is kept may grow with that.
"""

from __future__ import annotations

import logging
from collections import Counter

logger = logging.getLogger(__name__)

SUMMARY_SECONDS = 30.0
_KINDS_KEPT = 64
_KINDS_SHOWN = 5


class RefusalLog:
    """Counts refusals by reason and address. Used by one thread; `now` is a monotonic clock.

    A refusal after a quiet time is logged as it is. Those of the next `SUMMARY_SECONDS` are one
    line, and so on until none has come for as long. There is no timer: the owner calls `flush`
    once `due` has passed.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._others = 0
        self._since = 0.0
        self.due: float | None = None

    def note(self, address: str, reason: str, now: float) -> None:
        """A connection from `address` was refused, for one of few reasons."""
        if self.due is None:
            logger.warning(
                "refused a connection of %s: %s; more of them are counted, and logged every %.0f s",
                address,
                reason,
                SUMMARY_SECONDS,
            )
            self._since, self.due = now, now + SUMMARY_SECONDS
        elif (address, reason) in self._counts or len(self._counts) < _KINDS_KEPT:
            self._counts[address, reason] += 1
        else:
            self._others += 1

    def flush(self, now: float) -> None:
        """Log what has been counted, if there is anything."""
        total = self._counts.total() + self._others
        if not total:
            self.due = None
            return
        shown = self._counts.most_common(_KINDS_SHOWN)
        parts = [f"{number} of {address} ({reason})" for (address, reason), number in shown]
        if rest := total - sum(number for _, number in shown):
            parts.append(f"{rest} others")
        logger.warning(
            "refused more connections, %d in %.0f s: %s", total, now - self._since, ", ".join(parts)
        )
        self._counts.clear()
        self._others = 0
        self._since, self.due = now, now + SUMMARY_SECONDS
