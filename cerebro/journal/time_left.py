"""How long what is left will take: plain arithmetic on what units have taken so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cerebro.formatting import duration


@dataclass(frozen=True)
class TimeLeft:
    """An estimate in seconds, for the whole run where its end is known, else for the epoch.

    `at_least`: units are still to come of a split of which none has been measured, or on partitions
    that no present worker may read.
    """

    seconds: float
    whole_run: bool = False
    at_least: bool = False

    def text(self) -> str:
        """Say it as every display does: `about 3 min left in this epoch`."""
        about = "at least" if self.at_least else "about"
        span = "run" if self.whole_run else "epoch"
        return f"{about} {duration(self.seconds)} left in this {span}"


@dataclass(frozen=True)
class SplitWork:
    """What one model has left of one split.

    `units` include those under way. A unit keeps a worker busy for `busy` seconds and holds its
    model for `held` seconds, of which `busy_done` and `held_done` seconds have passed in the units
    under way: of all of them together, and of the one that is furthest behind.
    """

    units: int = 0
    busy: float = 0.0
    held: float = 0.0
    busy_done: float = 0.0
    held_done: float = 0.0


@dataclass(frozen=True)
class WorkLeft:
    """What one model has left, with `epoch_valid`, its valid units of one epoch."""

    train: SplitWork
    valid: SplitWork
    epoch_valid: int

    @property
    def total(self) -> float:
        """Seconds of workers' time."""
        return sum(
            max(0.0, split.units * split.busy - split.busy_done)
            for split in (self.train, self.valid)
        )

    def chain(self, workers: int) -> float:
        """Seconds that the model needs however many others wait: train units come one after
        another, and the valid units of an epoch side by side.
        """
        epochs, rest = divmod(self.valid.units, max(1, self.epoch_valid))
        turns = epochs * math.ceil(self.epoch_valid / workers) + math.ceil(rest / workers)
        return max(0.0, self.train.units * self.train.held - self.train.held_done) + max(
            0.0, turns * self.valid.held - self.valid.held_done
        )


def seconds_left(
    work: Sequence[WorkLeft], workers: int, loads: Iterable[float] = ()
) -> float | None:
    """Return the seconds until all work is done on so many workers; None if there are none.

    It is the longest of three: all work shared out evenly, the longest chain of one model's units,
    and the heaviest of `loads`, the seconds of work that only a given worker may do.
    """
    if not workers:
        return None
    shared = sum(model.total for model in work) / workers
    return max(shared, *(m.chain(workers) for m in work), *loads, 0.0)
