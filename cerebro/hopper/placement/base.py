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

    `train` and `valid` are the partitions on which no unit has been started. A unit of `epoch` and
    `split` may start on those in `open`, if the model is `idle`. A unit that is only staged counts
    as not started: its model is free to go elsewhere.
    """

    epoch: int
    train: int
    valid: int
    split: Split
    open: int
    idle: bool


class WorkerSlots(NamedTuple):
    """A present worker: the partitions it may be given, and what it runs and has staged.

    `able` means that it may be given units at all.
    """

    held: tuple[tuple[Split, int], ...]
    running: Unit | None
    staged: Unit | None
    able: bool


class Placed(NamedTuple):
    """A unit for a worker."""

    worker: int
    unit: Unit


class Choices(NamedTuple):
    """What free workers begin with, and what busy ones prepare for next.

    The starts come first. A worker keeps nothing staged behind another unit that it starts, and
    what it starts is staged nowhere else any more.
    """

    starts: list[Placed]
    stages: list[Placed]


class Placement(Protocol):
    """A placement policy."""

    def tell_partitions(self, train: int, valid: int) -> None:
        """How many there are; the first that a policy is told."""

    def tell_model(self, model: int, work: ModelWork | None) -> None:
        """What a model has before it now; None: it has ended."""

    def tell_worker(self, worker: int, slots: WorkerSlots | None) -> None:
        """How a worker stands now; None: it is gone."""

    def observe(self, unit: Unit, worker: int | None, seconds: float) -> None:
        """A unit has taken so long; `worker` None stands for a typical one."""

    def place(self, now: float) -> Choices:
        """Units for free workers and for busy ones that have nothing staged.

        What is staged, here or elsewhere, may be started. The policy takes it that its choices are
        carried out, and is not told of them. `now` is in seconds since any moment; it does not go
        back.
        """

    def patience(self) -> float | None:
        """Seconds after which to ask again though nothing happens; None: no need."""
