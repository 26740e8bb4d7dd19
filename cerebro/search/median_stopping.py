"""The median stopping rule, on top of another procedure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import fmean, median

from cerebro.errors import ConfigurationError
from cerebro.formatting import shorten
from cerebro.hopper.units import ModelState
from cerebro.search.procedure import Decision, SearchProcedure
from cerebro.search.trials import Trial, Trials


@dataclass(frozen=True)
class MedianStopping(SearchProcedure):
    """Stops a model whose best value so far is worse than what half of the others had on average.

    Golovin, Solnik, Moitra, Kochanski, Karro and Sculley, "Google Vizier: a service for black-box
    optimization", KDD 2017, section 3.2.2: a model that has ended epoch s stops if its best value
    until then is strictly worse than the median, over the other models, of their values' means over
    epochs 1 to s. The paper takes the models that have completed; here it is all that have ended
    epoch s, because models are trained side by side. NaN counts as infinitely bad.

    Parameters:

    - `procedure`: decides everything else, which metric counts, and how many are in flight.
    - `grace_epochs`: nothing is stopped before it has ended so many epochs; from 1.
    - `min_models`: nothing is stopped while fewer others have come as far; from 1.

    Raises `ConfigurationError` for a parameter that is out of its range, and says which range.
    """

    procedure: SearchProcedure
    grace_epochs: int = 1
    min_models: int = 3
    in_flight: int | None = field(init=False, repr=False)
    metric: str = field(init=False, repr=False)
    mode: str | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.procedure, SearchProcedure):
            raise ConfigurationError(
                f"procedure={shorten(self.procedure)}: MedianStopping stops models of another "
                "procedure, such as MedianStopping(GridSearch(space, epochs=10))"
            )
        for name in ("in_flight", "metric", "mode"):
            object.__setattr__(self, name, getattr(self.procedure, name))
        super().__post_init__()
        self._integers(grace_epochs=1, min_models=1)

    @property
    def per_model(self) -> bool:  # type: ignore[override]
        return self.procedure.per_model

    @property
    def copies(self) -> bool:  # type: ignore[override]
        return self.procedure.copies

    def decide(self, trials: Trials) -> Decision:
        waiting = trials.waiting()
        means = {
            epochs: sorted(
                (fmean(numbers(t, epochs)), t.model) for t in trials if t.epochs >= epochs
            )
            for epochs in {trial.epochs for trial in waiting}
            if epochs >= self.grace_epochs
        }
        decision = self.procedure.decide(trials)
        behind = [t.model for t in waiting if self._is_behind(t, means.get(t.epochs, []))]
        stopped = [model for model in behind if model not in decision.complete]
        if not stopped:
            return decision
        left = dict(trials.trials)
        for model in stopped:
            left[model] = replace(left[model], state=ModelState.STOPPED, waits=False)
        decision = self.procedure.decide(replace(trials, trials=left))
        decision.stop[:0] = stopped
        return decision

    def _is_behind(self, trial: Trial, means: list[tuple[float, int]]) -> bool:
        """Tell whether a model's best value is worse than the median of the others' means."""
        others = [mean for mean, model in means if model != trial.model]
        if len(others) < self.min_models:
            return False
        return min(numbers(trial, trial.epochs)) > median(others)

    def epochs_planned(self) -> list[int] | None:
        return self.procedure.epochs_planned()

    def begins_together(self) -> bool:
        return self.procedure.begins_together()

    def check_models(self, trials: Trials) -> None:
        self.procedure.check_models(trials)

    def reopens(self, trial: Trial) -> bool:
        return self.procedure.reopens(trial)


def numbers(trial: Trial, epochs: int) -> list[float]:
    """Return a model's values until the end of an epoch, infinity in place of those that are not
    finite.
    """
    return [value if math.isfinite(value) else math.inf for value in trial.values[:epochs]]
