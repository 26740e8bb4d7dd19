"""What a procedure is shown: how every model has done so far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cerebro.hopper.units import ModelState


@dataclass(frozen=True)
class Trial:
    """Holds what a procedure may know of one model.

    Parameters:

    - `model`: its id.
    - `config`: its configuration, by hyperparameter.
    - `values`: the procedure's metric after each of its epochs; lower is better, whatever `mode`.
      A value is NaN where the metric is, and where the epoch is ruined: its training loss or
      weights are not finite, so that no model should continue from it.
    - `state`: `RUNNING`, `COMPLETED`, `STOPPED` or `FAILED`.
    - `waits`: whether it has ended an epoch, and does nothing until the procedure lets it continue.
    - `inherited`: how many of the first `values` are another model's, which this one started from.
    """

    model: int
    config: Mapping[str, Any]
    values: tuple[float, ...] = ()
    state: ModelState = ModelState.RUNNING
    waits: bool = False
    inherited: int = 0

    @property
    def epochs(self) -> int:
        """Return how many epochs are behind its weights."""
        return len(self.values)

    @property
    def runs(self) -> bool:
        """Tell whether it may still be trained."""
        return self.state is ModelState.RUNNING

    @property
    def in_flight(self) -> bool:
        """Tell whether it is being trained or validated, or would be if a worker were free."""
        return self.runs and not self.waits

    def rank(self, epoch: int | None = None) -> tuple[float, int]:
        """Return what models are sorted by, best first: the value after `epoch`, and the id.

        `epoch` counts from 1; None stands for the last. What is not finite counts as infinitely
        bad; of equal ones the model that started first is the better. Raises `IndexError` for an
        epoch that the model has not ended.
        """
        value = self.values[-1 if epoch is None else epoch - 1]
        return (value if math.isfinite(value) else math.inf), self.model


@dataclass(frozen=True)
class Trials:
    """Holds all models so far, in the order in which they started, and what the cluster is like.

    It can be iterated, has a length, and `trials[model]` is the trial of one id.

    Parameters:

    - `trials`: the models by id.
    - `workers`: how many there were at the start of the run.
    - `units_per_epoch`: units that one epoch of one model takes, training and validation together.
    - `seconds`: how long the run has taken, without the time when no driver was at work.
    """

    trials: Mapping[int, Trial]
    workers: int = 1
    units_per_epoch: int = 1
    seconds: float = 0.0

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials.values())

    def __len__(self) -> int:
        return len(self.trials)

    def __getitem__(self, model: int) -> Trial:
        return self.trials[model]

    def waiting(self) -> list[Trial]:
        """Return the models that wait for a decision."""
        return [trial for trial in self if trial.runs and trial.waits]

    def in_flight(self) -> int:
        """Return how many models are in flight."""
        return self._in_flight

    @cached_property
    def _in_flight(self) -> int:
        return sum(trial.in_flight for trial in self)
