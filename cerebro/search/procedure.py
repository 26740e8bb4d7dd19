"""What a model selection procedure is asked, and what it answers.

A procedure keeps no state: `decide` is a function of the results so far and of the procedure's own
parameters, its seed among them. So nothing but the journal is needed to go on with a search: the
configurations begun and their results say where it stands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from cerebro.errors import ConfigurationError
from cerebro.formatting import shorten
from cerebro.hopper.units import ModelState
from cerebro.search.trials import Trial, Trials
from cerebro.validation import choice, integer

SPLITS = ("valid_", "train_")
MODES = ("min", "max")


@dataclass(frozen=True)
class NewModel:
    """A configuration to train. With `copies` it begins where that model's last epoch ended: with
    its weights, the state of its optimizer, and its history.
    """

    config: Mapping[str, Any]
    copies: int | None = None


@dataclass
class Decision:
    """An answer. Waiting models that are named nowhere go on waiting.

    `go_on`: ids of models to train for one more epoch. `complete` and `stop`: ids of models that
    end, because they are trained to the end, or early. `begin`: new models.
    """

    go_on: list[int] = field(default_factory=list)
    complete: list[int] = field(default_factory=list)
    stop: list[int] = field(default_factory=list)
    begin: list[NewModel] = field(default_factory=list)

    def taking_off(self) -> int:
        """How many models are in flight by this decision that were not."""
        return len(self.go_on) + len(self.begin)

    def ending(self) -> set[int]:
        """The models that end by this decision."""
        return {*self.complete, *self.stop}


@dataclass(frozen=True, kw_only=True)
class SearchProcedure(ABC):
    """Says which configurations are trained, for how long.

    `decide` is called at the beginning, and whenever a model has ended an epoch or failed. With
    `per_model` that is each model's own end of an epoch; otherwise all running models end the epoch
    first. The search ends when no model is left that runs: a waiting one that no decision will ever
    name again must be stopped.

    `in_flight` bounds how many configurations are trained at once, None does not. `metric` is what
    models are compared by, as the history calls it, `mode` says whether the lowest ("min") or
    highest ("max") is best, and `compares` whether that makes a difference to what is trained.
    `copies` tells that new models may begin with the state of others, so that their last epoch's
    versions have to be kept.

    A procedure of your own derives from this class, best as a frozen dataclass too, and has a
    `decide`; what it draws at random, it draws from a seed among its parameters.
    """

    per_model: ClassVar[bool] = True
    copies: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    in_flight: int | None = None
    metric: str = "valid_error"
    mode: str = "min"

    def __post_init__(self) -> None:
        """Raises `ConfigurationError` for a parameter that cannot be."""
        if self.in_flight is not None:
            self._integers(in_flight=1)
        if not isinstance(self.metric, str) or not self.metric.startswith(SPLITS):
            raise ConfigurationError(
                f"metric={shorten(self.metric)}: a column of the history is needed, 'valid_error', "
                "'valid_loss', 'train_error', 'train_loss', or 'valid_' and 'train_' with the name "
                "of a metric that Keras compiles"
            )
        choice("mode", self.mode, MODES, refusal=ConfigurationError)

    def _integers(self, **bounds: int | None) -> None:
        """Check that parameters are integers of these least values, and keep them as plain ones."""
        for name, bound in bounds.items():
            value = getattr(self, name)
            number = integer(name, value, at_least=bound, refusal=ConfigurationError)
            object.__setattr__(self, name, number)

    @abstractmethod
    def decide(self, trials: Trials) -> Decision:
        """What to do now. Depends on nothing but `trials` and the procedure's parameters."""

    def epochs_planned(self) -> list[int] | None:
        """How many epochs each configuration will be trained for, where that is known beforehand.

        It is what the time left is estimated from.
        """
        return None

    def begins_together(self) -> bool:
        """Whether all configurations begin at once, and are trained for a known time."""
        return self.in_flight is None and self.epochs_planned() is not None

    def described(self) -> str:
        """Its name and those parameters that are not what they are by default."""
        shown = [
            f"{f.name}={_described(getattr(self, f.name))}"
            for f in sorted(fields(self), key=lambda f: f.kw_only is True)
            if f.init and getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def reopens(self, trial: Trial) -> bool:
        """Whether a model that has ended may go on, once the procedure has other parameters."""
        return trial.state is ModelState.COMPLETED

    def bound(self, trials: Trials) -> float:
        """How many models may be in flight."""
        return float("inf") if self.in_flight is None else self.in_flight

    def room(self, trials: Trials, decision: Decision) -> float:
        """How many more may be in flight than there are already, with a decision carried out."""
        return self.bound(trials) - trials.in_flight() - decision.taking_off()


def twice_the_workers(procedure: SearchProcedure, trials: Trials) -> int:
    """A bound for procedures that learn from results: while one model's version is being saved,
    its worker trains another one, and no more are begun without knowing what others gave.
    """
    return procedure.in_flight or 2 * trials.workers


def _described(value: Any) -> str:
    return value.described() if isinstance(value, SearchProcedure) else repr(value)
