"""What a model selection procedure is asked, and what it answers.

A procedure keeps no state: `decide` is a function of the results so far and of the procedure's own
parameters, its seed among them. So nothing but the journal is needed to continue with a search: the
configurations started and their results say how far it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from cerebro.errors import ConfigurationError
from cerebro.formatting import shorten
from cerebro.hopper.units import ModelState
from cerebro.metrics.direction import (
    MODES,
    OF_EVERY_UNIT,
    SPLITS,
    bare,
    known_direction,
    unknown_direction,
)
from cerebro.search.trials import Trial, Trials
from cerebro.validation import choice, integer


@dataclass(frozen=True)
class NewModel:
    """Adds a model to the search.

    Parameters:

    - `config`: its configuration, by hyperparameter; what JSON can hold.
    - `copies`: the id of a model to start from, at the end of its last epoch: with its weights, the
      state of its optimizer, and its history. By default it starts from `model_fn`.
    """

    config: Mapping[str, Any]
    copies: int | None = None


@dataclass
class Decision:
    """Answers which models continue, which end, and which are added.

    A model that waits and is named nowhere keeps waiting.

    Parameters:

    - `go_on`: ids of waiting models to train for one more epoch.
    - `complete`: ids of models that end because they are trained to the end.
    - `stop`: ids of models that end early.
    - `begin`: new models.
    """

    go_on: list[int] = field(default_factory=list)
    complete: list[int] = field(default_factory=list)
    stop: list[int] = field(default_factory=list)
    begin: list[NewModel] = field(default_factory=list)

    def taking_off(self) -> int:
        """Return how many models this decision puts in flight that were not."""
        return len(self.go_on) + len(self.begin)

    def ending(self) -> set[int]:
        """Return the ids of the models that end by this decision."""
        return {*self.complete, *self.stop}


@dataclass(frozen=True, kw_only=True)
class SearchProcedure(ABC):
    """Says which configurations are trained, for how long.

    `decide` is called at the start, and whenever a model has ended an epoch or failed. With
    `per_model` that is each model's own end of an epoch; otherwise all running models end the epoch
    first. The search ends when no model is left that runs: a waiting one that no decision will ever
    name again must be stopped.

    A procedure of your own derives from this class, best as a frozen dataclass too, and has a
    `decide`; what it draws at random, it draws from a seed among its parameters.

    Parameters:

    - `in_flight`: how many configurations are trained at once at most, from 1; None: no bound.
    - `metric`: what models are compared by, as the history calls it: `"valid_error"`, say. The best
      model is the best by it, too, and its weights are kept.
    - `mode`: `"min"` if the lowest value is best, `"max"` if the highest is. It may be left out for
      a metric with a usual name, such as `"valid_accuracy"`.

    Attributes of the class:

    - `per_model`: whether it is asked at each model's own end of an epoch.
    - `copies`: whether new models may start with the state of others, so that the versions at the
      end of their last epochs have to be kept.
    - `compares`: whether the metric makes a difference to what is trained.

    Raises `ConfigurationError` for a parameter that is out of its range, and says which range.
    """

    per_model: ClassVar[bool] = True
    copies: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    in_flight: int | None = None
    metric: str = "valid_error"
    mode: str | None = None

    def __post_init__(self) -> None:
        """Check the parameters; raises `ConfigurationError` for one that is out of its range."""
        if self.in_flight is not None:
            self._integers(in_flight=1)
        if not isinstance(self.metric, str) or not self.metric.startswith(SPLITS):
            raise ConfigurationError(
                f"metric={shorten(self.metric)}: a column of the history is needed, 'valid_error', "
                "'valid_loss', 'train_error', 'train_loss', or 'valid_' and 'train_' with the name "
                "of a metric that Keras compiles"
            )
        if self.mode is not None:
            choice("mode", self.mode, MODES, refusal=ConfigurationError)
        elif known_direction(self.metric) is None:
            raise ConfigurationError(unknown_direction(self.metric))
        if bare(self.metric) in OF_EVERY_UNIT and self.mode == known_direction(self.metric):
            # Saying what cannot be otherwise changes nothing. Of other metrics, a mode that is
            # passed counts, even where workers report a metric that its name does not fit.
            object.__setattr__(self, "mode", None)

    @property
    def direction(self) -> str:
        """Return `mode` or, where that is left out, what is known of the metric."""
        return self.mode or known_direction(self.metric) or "min"

    def __getstate__(self) -> dict[str, Any]:
        # Fingerprints of earlier versions hold a mode in every case.
        return {**vars(self), "mode": self.direction}

    def _integers(self, **bounds: int | None) -> None:
        """Check that parameters are integers of these least values, and keep them as plain ones."""
        for name, bound in bounds.items():
            value = getattr(self, name)
            number = integer(name, value, at_least=bound, refusal=ConfigurationError)
            object.__setattr__(self, name, number)

    @abstractmethod
    def decide(self, trials: Trials) -> Decision:
        """Decide what is trained next.

        `trials` has all models so far, with their results. The answer depends on nothing but these
        and the procedure's parameters: a run that is resumed asks again, and expects the same.
        """

    def epochs_planned(self) -> list[int] | None:
        """Return how many epochs each configuration will be trained for, one entry for each.

        None where that is not known beforehand. The time left is estimated from it.
        """
        return None

    def begins_together(self) -> bool:
        """Tell whether all configurations start at once, and are trained for a known time."""
        return self.in_flight is None and self.epochs_planned() is not None

    def described(self) -> str:
        """Return its name and those parameters that differ from their defaults."""
        shown = [
            f"{f.name}={_described(getattr(self, f.name))}"
            for f in sorted(fields(self), key=lambda f: f.kw_only is True)
            if f.init and getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def check_models(self, trials: Trials) -> None:  # noqa: B027 (most can with any)
        """Check that it can continue with the models of a run that had other parameters.

        `trials` has all of them. Called before the run is resumed; raises `ConfigurationError` if
        it cannot.
        """

    def reopens(self, trial: Trial) -> bool:
        """Tell whether a model that has ended may continue once the parameters are others."""
        return trial.state is ModelState.COMPLETED

    def bound(self, trials: Trials) -> float:
        """Return how many models may be in flight; infinity without a bound."""
        return float("inf") if self.in_flight is None else self.in_flight

    def room(self, trials: Trials, decision: Decision) -> float:
        """Return how many more models may be in flight once `decision` is carried out."""
        return self.bound(trials) - trials.in_flight() - decision.taking_off()


def twice_the_workers(procedure: SearchProcedure, trials: Trials) -> int:
    """Bound the models in flight of a procedure that learns from results.

    While one model's version is being saved, its worker trains another one; no more are started
    before the results of these are known.
    """
    return procedure.in_flight or 2 * trials.workers


def _described(value: Any) -> str:
    return value.described() if isinstance(value, SearchProcedure) else repr(value)
