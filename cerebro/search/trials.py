"""What a procedure is shown: how every model has done so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cerebro.hopper.units import ModelState


@dataclass(frozen=True)
class Trial:
    """One model. `values` is the procedure's metric after each of its epochs; lower is better.

    A value may be NaN. The first `inherited` of them are another model's, which this one began
    with. One that `waits` has ended an epoch and does nothing until the procedure lets it go on.
    """

    model: int
    config: Mapping[str, Any]
    values: tuple[float, ...] = ()
    state: ModelState = ModelState.RUNNING
    waits: bool = False
    inherited: int = 0

    @property
    def epochs(self) -> int:
        """How many epochs are behind its weights."""
        return len(self.values)

    @property
    def runs(self) -> bool:
        """Whether it may still be trained."""
        return self.state is ModelState.RUNNING

    @property
    def in_flight(self) -> bool:
        """Whether it is being trained or validated now, or would be if a worker were free."""
        return self.runs and not self.waits

    def rank(self, epoch: int | None = None) -> tuple[float, int]:
        """By what models are sorted, best first: the value after an epoch, by default the last.

        NaN counts as infinitely bad; of equal ones the model that began first is the better.
        """
        value = self.values[-1 if epoch is None else epoch - 1]
        return (value if value == value else float("inf")), self.model


@dataclass(frozen=True)
class Trials:
    """All models so far, in the order in which they began, and what the cluster is like.

    `workers` is their number at the start of the run, `units_per_epoch` how many units one epoch of
    one model takes, training and validation together. `seconds` is how long the run has taken,
    without the time when no driver was at work.
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
        """The models that wait for a decision."""
        return [trial for trial in self if trial.runs and trial.waits]

    def in_flight(self) -> int:
        """How many models are in flight."""
        return self._in_flight

    @cached_property
    def _in_flight(self) -> int:
        return sum(trial.in_flight for trial in self)
