"""Who goes where: what the scheduler and a placement policy tell each other.

A policy keeps its own index of what it is told. The scheduler tells it what has changed before it
asks for units to start and to stage. A policy decides which of the units that may start do so,
never whether one may.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from cerebro.hopper.units import Split, Unit


class ModelWork(NamedTuple):
    """What a running model has before it; sets of partitions are bits.

    A unit that is only staged counts as not started: its model is free to go elsewhere.
    """

    epoch: int
    """The epoch that its next unit is of."""

    train: int
    """The train partitions on which no unit has been started."""

    valid: int
    """The validation partitions on which no unit has been started."""

    split: Split
    """The split that its next unit is of."""

    open: int
    """The partitions of that split on which a unit may start, if the model is idle."""

    idle: bool
    """Whether a unit may start: no train unit of it is running or saving."""


class WorkerSlots(NamedTuple):
    """What a present worker may be given, and what it has in its slots."""

    held: tuple[tuple[Split, int], ...]
    """The partitions that it may be given units of."""

    running: Unit | None
    """What it runs."""

    staged: Unit | None
    """What it has prepared to run next."""

    able: bool
    """Whether it may be given units at all: it has loaded, does not drain, and is not aside."""


class Placed(NamedTuple):
    """A unit for a worker."""

    worker: int
    unit: Unit


class Choices(NamedTuple):
    """What free workers start with, and what busy ones prepare for next.

    The starts come first. A worker keeps nothing staged behind another unit that it starts, and
    what it starts is staged nowhere else any more.
    """

    starts: list[Placed]
    stages: list[Placed]


class Placement(Protocol):
    """Decides which of the units that may start do so."""

    def tell_partitions(self, train: int, valid: int) -> None:
        """Take in how many partitions there are: the first that a policy is told."""

    def tell_model(self, model: int, work: ModelWork | None) -> None:
        """Take in what a model has before it now; None: it has ended."""

    def tell_worker(self, worker: int, slots: WorkerSlots | None) -> None:
        """Take in what a worker holds and runs now; None: it is gone."""

    def observe(self, unit: Unit, worker: int | None, seconds: float) -> None:
        """Learn that a unit has taken so long; `worker` None stands for a typical one."""

    def place(self, now: float) -> Choices:
        """Choose units for free workers, and for busy ones that have nothing staged.

        What is staged, here or elsewhere, may be started. The policy takes it that its choices are
        carried out, and is not told of them. `now` is in seconds since any moment; it does not go
        back.
        """

    def patience(self) -> float | None:
        """Return the seconds after which to ask again though nothing happens; None: no need."""
