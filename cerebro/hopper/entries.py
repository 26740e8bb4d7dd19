"""What the scheduler keeps of each model, live attempt, worker and troubled unit."""

from __future__ import annotations

from dataclasses import dataclass, field

from cerebro.hopper.attempt_states import Slot
from cerebro.hopper.units import Attempt, ModelState, Phase, Split, Unit

DEATHS_ALLOWED = 3
"""Executor deaths in one unit after which its model, or the worker, is at fault."""


@dataclass(slots=True)
class ModelEntry:
    """One model. Sets of partitions are bits."""

    id: int

    epoch: int
    """The epoch that it is in, from 0."""

    version: int
    """Its newest version: how many train units it has committed."""

    state: ModelState

    train_left: int
    """Train partitions of its epoch that are not committed."""

    valid_left: int
    """Validation partitions of its epoch that are not committed."""

    phase: Phase = Phase.TRAIN

    started: int = 0
    """Partitions, of the split that it is in, with an attempt that runs or saves and counts."""

    resting: int = 0
    """Partitions, of the split that it is in, whose unit failed and is left alone for a while."""

    train_attempt: LiveAttempt | None = None
    """Its train unit under way, in whatever slot: there is at most one."""

    last_unit: Unit | None = None
    """The train unit that made its newest version."""

    repair: Unit | None = None
    """A unit whose version was voided, to be run again before anything else."""

    def split(self) -> Split:
        """Return the split that its next unit is of."""
        is_valid = self.phase is Phase.VALID and self.repair is None
        return Split.VALID if is_valid else Split.TRAIN

    def unit(self, partition: int) -> Unit:
        """Return its next unit on a partition; one to be run again may be of the epoch before."""
        epoch = self.epoch if self.repair is None else self.repair.epoch
        return Unit(self.id, epoch, self.split(), partition)

    def wanted(self) -> int:
        """Return the partitions of that split with a unit to commit before it continues."""
        if self.state is not ModelState.RUNNING:
            return 0
        if self.repair is not None:
            return 1 << self.repair.partition
        if self.phase is Phase.TRAIN:
            return self.train_left
        return self.valid_left if self.phase is Phase.VALID else 0


@dataclass(slots=True, eq=False)
class LiveAttempt:
    """An attempt under way."""

    attempt: Attempt

    model: ModelEntry

    slot: Slot
    """What it occupies on its worker."""

    counts: bool = True
    """Whether its result will count: its model still runs, and the version it reads is valid."""


@dataclass(slots=True)
class WorkerEntry:
    """One worker that is present."""

    id: int

    ready: bool = False
    """Whether it has ever loaded all that it was told to load."""

    drains: bool = False
    """Whether it only ends what it has started, and is given nothing more."""

    told: set[tuple[Split, int]] | None = None
    """The partitions that it was told to load; None: nothing yet."""

    loads: int = 0
    """How many orders to load it has not yet reported on."""

    aside: bool = False
    """Whether it gets no work for a while, because unit after unit died on it."""

    times_aside: int = 0
    """How often it was set aside since a unit last ran to its end on it."""

    slots: dict[Slot, LiveAttempt] = field(default_factory=dict)
    """Its attempts under way, one in each slot at most."""

    deaths_in_a_row: list[int] = field(default_factory=list)
    """The models in whose units its executor died, since a unit last ran to its end."""

    units_ran: int = 0
    """How many units have run to their end on it."""

    last_model: int = -1
    """The model of the newest of these."""

    newest_before: int = 0
    """What `units_ran` was when `last_model` started its present series of units."""

    def ran(self, model: int) -> None:
        """Count a unit that has run to its end."""
        if model != self.last_model:
            self.last_model, self.newest_before = model, self.units_ran
        self.units_ran += 1
        if self.deaths_in_a_row:
            self.deaths_in_a_row.clear()
        self.times_aside = 0

    def newest_of_others(self, model: int) -> int:
        """Return `units_ran` as it was when another model's unit last ended; 0 without one."""
        return self.newest_before if model == self.last_model else self.units_ran


@dataclass(slots=True)
class Troubles:
    """What went wrong with one unit so far."""

    retries: int = 0
    """Times that it is run again for a failure that is nobody's death."""

    exhaustions: int = 0
    """Times that memory or a device gave out."""

    deaths: dict[int, int] = field(default_factory=dict)
    """By worker on which an executor died in it: how many units of others had run there."""

    death_count: int = 0
    """Executor deaths, on all workers together."""
