"""What the report shows, as plain numbers and texts: the page is made from this.

Seconds count from the start of the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cerebro.formatting import metric_name

COMMITTED, RUNNING, DISCARDED = "committed", "running", "discarded"
NO_FAILURES = (COMMITTED, RUNNING, DISCARDED)
"""Outcomes of attempts that are nobody's failure."""


class Bar(NamedTuple):
    """An attempt to run a unit on a worker, as long as it kept the worker busy."""

    model: int
    epoch: int
    valid: bool
    partition: int
    start: float
    end: float
    outcome: str


class Epoch(NamedTuple):
    """The metrics of a model after an epoch; NaN where there is none. `flaw` is what is wrong."""

    epoch: int
    train_loss: float
    train_error: float
    valid_loss: float
    valid_error: float
    inherited: bool = False
    flaw: str = ""


@dataclass(frozen=True)
class ReportedModel:
    """A model. `best` is its best epoch, `value` the metric of that epoch that models are ranked
    by, NaN where there is none, and `score` what that is worth, better the lower it is; `failure`
    is why it ended.
    """

    id: int
    config: dict[str, Any]
    state: str
    epochs: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    value: float = math.nan
    score: float = math.nan
    failure: str = ""


Interval = tuple[float, float]


@dataclass(frozen=True)
class ReportedWorker:
    """A worker: what it did, when it was away or loaded data, and the seconds of each `PARTS`."""

    id: int
    url: str
    machine: str
    bars: list[Bar] = field(default_factory=list)
    away: list[Interval] = field(default_factory=list)
    loading: list[Interval] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)


class Trouble(NamedTuple):
    """Something that went wrong: `what` kind, where (`worker` may be None), and its message."""

    seconds: float
    worker: int | None
    what: str
    unit: str
    message: str


class Part(NamedTuple):
    """A part of the workers' time: which of the `GROUPS` it belongs to, and what it is."""

    group: str
    meaning: str


GROUPS = {
    "train": "training",
    "valid": "validating",
    "around": "around units",
    "void": "attempts that did not count",
    "loading": "loading data",
    "idle": "nothing to start",
    "away": "away",
}
"""How parts of the time are told apart by colour, and named."""

PARTS = {
    "training": Part("train", "inside train_fn, training"),
    "validating": Part("valid", "inside train_fn, validating"),
    "load": Part("around", "loading a partition for a unit"),
    "build": Part("around", "model_fn, and building its graph"),
    "restore": Part("around", "reading the version to start from"),
    "fetch": Part("around", "copying the new version to the host"),
    "wait": Part("around", "waiting for the version of the unit before to be saved"),
    "orders": Part("around", "orders and reports between driver, worker and executor"),
    "void": Part("void", "attempts that failed, were lost or discarded, or were under way"),
    "loading": Part("loading", "input_fn, before the first unit or after coming back"),
    "idle": Part("idle", "no unit was there that could start"),
    "away": Part("away", "not there yet, lost, or set aside"),
}
"""Where the time of a worker goes, from the start of the run to its end."""


@dataclass(frozen=True)
class Contents:
    """All that a page shows. `notes` are sentences that its reader must know first.

    Models are ranked by `metric`.

    `saving` is how many seconds versions took to be saved, beside other units; `restarts` are when
    further drivers took the run up; `provenance` are names with what stands for them.
    """

    name: str
    run_dir: str
    began: str
    seconds: float
    notes: list[str]
    models: list[ReportedModel]
    workers: list[ReportedWorker]
    troubles: list[Trouble]
    restarts: list[float]
    saving: float
    provenance: list[tuple[str, list[str]]]
    methods: str | None = None
    metric: str = "valid_error"

    @property
    def ranked(self) -> list[ReportedModel]:
        """The models, best first; those without a value last."""
        return sorted(self.models, key=lambda m: (math.isnan(m.score), m.score, m.id))

    @property
    def metric_name(self) -> str:
        """The metric, in a sentence."""
        return "error" if self.metric == "valid_error" else metric_name(self.metric)
