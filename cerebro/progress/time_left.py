"""How long what is left will take, from what units have taken so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RECENT = 0.3
"""How much a new measurement counts beside the ones before: times of late count most."""


class Seconds:
    """What units of some kind take, on the average of late; None before the first."""

    def __init__(self) -> None:
        self.mean: float | None = None

    def add(self, seconds: float) -> None:
        """One more unit has been measured."""
        self.mean = seconds if self.mean is None else self.mean + RECENT * (seconds - self.mean)


@dataclass(frozen=True)
class Work:
    """What one model has left: units of both splits, and the seconds that each takes.

    `begun` are the seconds that its units under way have taken already.
    """

    train: int
    train_seconds: float
    valid: int
    valid_seconds: float
    begun: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of work."""
        return max(
            0.0, self.train * self.train_seconds + self.valid * self.valid_seconds - self.begun
        )

    def chain(self, workers: int) -> float:
        """Seconds at least: train units come one after another, valid units side by side."""
        turns = math.ceil(self.valid / workers)
        return max(0.0, self.train * self.train_seconds + turns * self.valid_seconds - self.begun)


def seconds_left(work: Sequence[Work], workers: int, loads: Iterable[float] = ()) -> float | None:
    """Seconds until all is done, on so many workers; None where there is none to do it.

    It is the longest of three: all work shared out evenly, the longest model's chain of units,
    and the heaviest of `loads`, the seconds of work that only a given worker may do.
    """
    if not workers:
        return None
    shared = sum(model.total for model in work) / workers
    return max(shared, *(m.chain(workers) for m in work), *loads, 0.0)
