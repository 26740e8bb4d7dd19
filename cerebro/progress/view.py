"""What is shown of a run at one moment. Nothing here changes, so any thread may read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from cerebro.hopper.units import Unit
from cerebro.journal.run_progress import EpochProgress
from cerebro.journal.time_left import TimeLeft


class WorkerActivity(str, Enum):
    """What a worker does, as far as its driver knows; those that need a look come first."""

    LOST = "lost"
    ASIDE = "set aside"
    ABSENT = "absent"
    CONNECTING = "connecting"
    LOADING = "loading"
    TRAINING = "training"
    VALIDATING = "validating"
    SAVING = "saving"
    IDLE = "idle"


TROUBLES = (WorkerActivity.LOST, WorkerActivity.ASIDE, WorkerActivity.ABSENT)


@dataclass(frozen=True)
class WorkerView:
    """A worker: for how many seconds it has been in its state, the unit, and what it saves.

    `saves` are models whose new versions it writes beside its unit; `detail` says more of a state.
    """

    number: int
    url: str
    state: WorkerActivity
    seconds: float
    unit: Unit | None = None
    saves: tuple[int, ...] = ()
    detail: str = ""


@dataclass(frozen=True)
class BestView:
    """The best model and epoch, by a metric; `config` is what sets the model apart."""

    model: int
    epoch: int
    metric: str
    value: float
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """A run at one moment. `seconds` are those since this driver took it up.

    `outcome` is empty while it runs. `doing` is what the driver itself is at, with seconds;
    `waits` say what is being waited for, and why. `models` counts them by state; `ruined` of them
    have numbers that are not finite.
    """

    name: str = ""
    outcome: str = ""
    seconds: float = 0.0
    units: int = 0
    epochs: int = 0
    epoch: EpochProgress | None = None
    time_left: TimeLeft | None = None
    models: tuple[tuple[str, int], ...] = ()
    ruined: int = 0
    best: BestView | None = None
    disk: str = ""
    doing: tuple[tuple[str, float], ...] = ()
    waits: tuple[str, ...] = ()
    workers: tuple[WorkerView, ...] = ()
