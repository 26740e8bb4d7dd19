"""What the scheduler is told and what it answers: frozen messages, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from cerebro.hopper.units import Attempt, Failure, ModelState, Split, Unit

# --- what a wake is for -----------------------------------------------------------------------


@dataclass(frozen=True)
class RetryUnit:
    """A unit whose attempt failed has rested: it may be placed again."""

    unit: Unit


@dataclass(frozen=True)
class ProbeWorker:
    """A worker that was set aside is given work again, to see whether it does better."""

    worker: int


@dataclass(frozen=True)
class LookAgain:
    """The placement policy is asked again, though nothing has happened."""


WakeTarget: TypeAlias = RetryUnit | ProbeWorker | LookAgain

# --- events -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerJoined:
    """A worker answers and belongs to the run; it has no data yet.

    `train` and `valid` are its rows of the availability matrices (1 where it may read a
    partition), if it was not known when they were made.
    """

    worker: int
    train: tuple[int, ...] | None = None
    valid: tuple[int, ...] | None = None


@dataclass(frozen=True)
class WorkerReady:
    """A worker has loaded what it was told to load."""

    worker: int


@dataclass(frozen=True)
class WorkerDrains:
    """A worker ends the `attempts` that it has started, and takes no more, until it is lost.

    What else was started on it has not reached it, and never will.
    """

    worker: int
    attempts: tuple[int, ...]


@dataclass(frozen=True)
class WorkerLost:
    """A worker is gone, or cut off: whatever it still does is void."""

    worker: int


@dataclass(frozen=True)
class PartitionUnreadable:
    """`input_fn` failed on this worker for this partition."""

    worker: int
    split: Split
    partition: int


@dataclass(frozen=True)
class UnitRan:
    """`train_fn` has returned: the worker is free; a train unit's model is still held.

    `seconds` is how long it took, by the worker's clock, where that is known.
    """

    attempt: int
    seconds: float | None = None


@dataclass(frozen=True)
class UnitCommitted:
    """The version that a train unit made is published: its model is free."""

    attempt: int


@dataclass(frozen=True)
class UnitFailed:
    """An attempt ended without a result."""

    attempt: int
    failure: Failure


@dataclass(frozen=True)
class AddedModel:
    """A model that the procedure adds: it trains from `epoch` on (above 0 if it inherits some)."""

    model: int
    epoch: int = 0


@dataclass(frozen=True)
class Decided:
    """What the model selection procedure answered to an `Ask` for the models in `asked`."""

    asked: tuple[int, ...]
    stop: dict[int, ModelState] = field(default_factory=dict)
    add: tuple[AddedModel, ...] = ()


@dataclass(frozen=True)
class Woke:
    """The time of a `Wake` has come."""

    target: WakeTarget


Event: TypeAlias = (
    WorkerJoined
    | WorkerReady
    | WorkerDrains
    | WorkerLost
    | PartitionUnreadable
    | UnitRan
    | UnitCommitted
    | UnitFailed
    | Decided
    | Woke
)

# --- actions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preload:
    """Have a worker load these partitions, then report that it is ready."""

    worker: int
    train: tuple[int, ...]
    valid: tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """Have a busy worker prepare an attempt: data and state into memory, nothing run."""

    attempt: Attempt


@dataclass(frozen=True)
class Unstage:
    """An attempt that was staged will not be started."""

    attempt: Attempt


@dataclass(frozen=True)
class Start:
    """Have a free worker run an attempt (which it may have staged)."""

    attempt: Attempt


@dataclass(frozen=True)
class Commit:
    """An attempt counts: a train unit's version `reads + 1`, or a valid unit's result."""

    attempt: Attempt


@dataclass(frozen=True)
class Retry:
    """An attempt is void and its unit will be run again; `failure` None: its worker was lost."""

    attempt: Attempt
    failure: Failure | None


@dataclass(frozen=True)
class Discard:
    """An attempt under way will not count, nor be run again for its own sake.

    Its model has ended, or the version it reads was voided. It keeps its worker until it is over.
    """

    attempt: Attempt


@dataclass(frozen=True)
class Void:
    """A version cannot be read: it no longer counts, and the unit that made it runs again."""

    model: int
    version: int


@dataclass(frozen=True)
class EpochEnded:
    """Every unit of a model's epoch is committed."""

    model: int
    epoch: int
    version: int


@dataclass(frozen=True)
class ModelFailed:
    """A model ends; `attempt` is the one that did it."""

    model: int
    attempt: Attempt
    failure: Failure


@dataclass(frozen=True)
class SetAside:
    """A worker on which unit after unit died gets no work until it is probed again."""

    worker: int
    seconds: float


@dataclass(frozen=True)
class Wake:
    """Send `Woke(target)` after so many seconds."""

    target: WakeTarget
    seconds: float


@dataclass(frozen=True)
class Ask:
    """Ask the procedure about these models, which have ended an epoch."""

    models: tuple[int, ...]


@dataclass(frozen=True)
class Unreachable:
    """Every holder of a partition has failed to read it: the run cannot continue."""

    split: Split
    partition: int


@dataclass(frozen=True)
class End:
    """No model is running any more."""


Action: TypeAlias = (
    Preload
    | Stage
    | Unstage
    | Start
    | Commit
    | Retry
    | Discard
    | Void
    | EpochEnded
    | ModelFailed
    | SetAside
    | Wake
    | Ask
    | Unreachable
    | End
)
