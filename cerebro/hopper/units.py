"""The nouns of the method: training units, attempts, and the states of models."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Split(str, Enum):
    """Which half of the data a unit reads."""

    TRAIN = "train"
    VALID = "valid"

    __hash__ = str.__hash__  # Enum's is written in Python, and every look-up would run it


class ModelState(str, Enum):
    """The state of a model. Only a `RUNNING` one has units."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


class Phase(str, Enum):
    """How far a running model is in its epoch."""

    TRAIN = "train"
    VALID = "valid"
    DECIDING = "deciding"


class Failure(str, Enum):
    """Why an attempt did not succeed, by who is at fault.

    `USER` and `TIMEOUT` fail the model; `RESOURCES`, `EXECUTOR` and `STORAGE` are the machine's,
    and the unit is run again; `INPUT` means that this worker cannot read the partition, `DAMAGED`
    that the version it should start from is unusable.
    """

    USER = "user"
    TIMEOUT = "timeout"
    RESOURCES = "resources"
    EXECUTOR = "executor"
    STORAGE = "storage"
    INPUT = "input"
    DAMAGED = "damaged"


class Unit(NamedTuple):
    """One model on one partition in one epoch: the paper's sub-epoch."""

    model: int
    epoch: int
    split: Split
    partition: int

    def __str__(self) -> str:
        return (
            f"model {self.model}, epoch {self.epoch}, {self.split.value} partition {self.partition}"
        )


class Attempt(NamedTuple):
    """One try to run a unit on one worker.

    `number` is unique within a run. `reads` is the model's version the unit starts from; a
    train unit that succeeds makes version `reads + 1`.
    """

    number: int
    unit: Unit
    worker: int
    reads: int


@dataclass(frozen=True)
class ModelPosition:
    """How far a model has come, as far as the scheduler is concerned.

    `version` counts the train units committed since the model started, `last_unit` is the one that
    made it. `train_left` and `valid_left` are the partitions that remain in `epoch`; both empty
    means that the epoch has ended and the procedure decides.
    """

    model: int
    epoch: int
    version: int
    train_left: frozenset[int]
    valid_left: frozenset[int]
    state: ModelState = ModelState.RUNNING
    last_unit: Unit | None = None
    repair: Unit | None = None
