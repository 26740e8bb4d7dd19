"""What the scheduler keeps of each model, worker and troubled unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from cerebro.hopper.units import Attempt, ModelState, Phase, Split, Unit

DEATHS_ALLOWED = 3
"""Executor deaths in one unit after which its model, or the worker, is at fault."""


class Slot(str, Enum):
    """What a live attempt occupies on its worker."""

    STAGED = "staged"
    RUNNING = "running"
    SAVING = "saving"

    __hash__ = str.__hash__  # as with `Split`


@dataclass(slots=True)
class ModelEntry:
    """One model. Sets of partitions are bits.

    `train_left` and `valid_left` are those of its epoch that are not committed; of the split that
    it is in, `started` are those with an attempt that runs or saves and counts, and `resting`
    those to be left alone for a while. `repair` is a unit to be run again before anything else.
    """

    id: int
    epoch: int
    version: int
    state: ModelState
    train_left: int
    valid_left: int
    phase: Phase = Phase.TRAIN
    started: int = 0
    resting: int = 0
    train_attempt: LiveAttempt | None = None
    last_unit: Unit | None = None
    repair: Unit | None = None

    def split(self) -> Split:
        """The split that its next unit is of."""
        is_valid = self.phase is Phase.VALID and self.repair is None
        return Split.VALID if is_valid else Split.TRAIN

    def unit(self, partition: int) -> Unit:
        """Its next unit on a partition; one to be run again may be of the epoch before."""
        epoch = self.epoch if self.repair is None else self.repair.epoch
        return Unit(self.id, epoch, self.split(), partition)

    def wanted(self) -> int:
        """The partitions of that split on which a unit is to be committed before it goes on."""
        if self.state is not ModelState.RUNNING:
            return 0
        if self.repair is not None:
            return 1 << self.repair.partition
        if self.phase is Phase.TRAIN:
            return self.train_left
        return self.valid_left if self.phase is Phase.VALID else 0


@dataclass(slots=True, eq=False)
class LiveAttempt:
    """An attempt under way; what comes of it `counts`, unless its model or version is void."""

    attempt: Attempt
    model: ModelEntry
    slot: Slot
    counts: bool = True


@dataclass(slots=True)
class WorkerEntry:
    """One worker. `told` is what it was told to load, `loads` how many orders to load it obeys.

    One that `drains` ends what it has begun and is given nothing more.
    """

    id: int
    ready: bool = False
    drains: bool = False
    told: set[tuple[Split, int]] | None = None
    loads: int = 0
    aside: bool = False
    times_aside: int = 0
    slots: dict[Slot, LiveAttempt] = field(default_factory=dict)
    deaths_in_a_row: list[int] = field(default_factory=list)
    units_ran: int = 0
    last_model: int = -1
    newest_before: int = 0

    def ran(self, model: int) -> None:
        """A unit has run to its end."""
        if model != self.last_model:
            self.last_model, self.newest_before = model, self.units_ran
        self.units_ran += 1
        if self.deaths_in_a_row:
            self.deaths_in_a_row.clear()
        self.times_aside = 0

    def newest_of_others(self, model: int) -> int:
        """How many units had run when the newest one of another model had; 0 if there is none."""
        return self.newest_before if model == self.last_model else self.units_ran


@dataclass(slots=True)
class Troubles:
    """What went wrong with one unit so far; `deaths` has how far the workers were that it hit."""

    retries: int = 0
    exhaustions: int = 0
    deaths: dict[int, int] = field(default_factory=dict)
    death_count: int = 0
