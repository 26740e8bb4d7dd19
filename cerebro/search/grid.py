"""Grid search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cerebro.errors import ConfigurationError
from cerebro.search.full_training import FullTraining
from cerebro.search.procedure import Decision
from cerebro.search.space import Config, Space
from cerebro.search.trials import Trials


@dataclass(frozen=True)
class GridSearch(FullTraining):
    """Trains every combination of the values in `space`.

    All combinations are in flight at once unless `in_flight` bounds that.

    Parameters:

    - `space`: a list of values for each hyperparameter; a range has no grid.
    - `epochs`: how many epochs each combination is trained for, from 1.
    - `in_flight`, `metric`, `mode`: see `SearchProcedure`.

    Raises `ConfigurationError` for a parameter that is out of its range, and says which range.
    """

    space: Mapping[str, Any]
    epochs: int
    _grid: list[Config] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._integers(epochs=1)
        object.__setattr__(self, "_grid", Space.of(self.space).grid())

    def decide(self, trials: Trials) -> Decision:
        for trial, combination in zip(trials, self._grid, strict=False):
            if any(combination.get(name) != value for name, value in trial.config.items()):
                raise ConfigurationError(
                    f"model {trial.model} was started with {dict(trial.config)}, and in this grid "
                    f"combination {trial.model} is {combination}: some would be trained twice, and "
                    "others never; resume with the same values, or start another run"
                )
        return super().decide(trials)

    def number(self) -> int:
        return len(self._grid)

    def length(self) -> int:
        return self.epochs

    def propose(self, number: int, trials: Trials) -> Config:
        return self._grid[number]
