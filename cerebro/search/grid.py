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
        self.check_models(trials)
        return super().decide(trials)

    def check_models(self, trials: Trials) -> None:
        self._left(trials)

    def _left(self, trials: Trials) -> list[Config]:
        """The combinations that no model has, in their order.

        Since models were started, lists may have got new values behind the others. Then models are
        told apart by their values, not by their numbers, and the first combination is the same.
        """
        begun, grid = list(trials), self._grid
        aligned = zip(begun, grid, strict=False)
        if len(begun) <= len(grid) and all(_has(c, trial.config) for trial, c in aligned):
            return grid[len(begun) :]
        left = list(grid)
        for trial in begun:
            among = left if trial is not begun[0] else grid[:1]
            found = next((c for c in among if _is(c, trial.config)), None)
            if found is None:
                instead = "there is no such combination for it"
                if trial is begun[0]:
                    instead = f"combination 0 is {grid[0]}"
                raise ConfigurationError(
                    f"model {trial.model} was started with {dict(trial.config)}, and in this grid "
                    f"{instead}: keep the hyperparameters and their values, with new values behind "
                    "the others, or start another run"
                )
            left.remove(found)
        return left

    def number(self) -> int:
        return len(self._grid)

    def length(self) -> int:
        return self.epochs

    def propose(self, number: int, trials: Trials) -> Config:
        return self._left(trials)[number - len(trials)]


def _has(combination: Config, config: Mapping[str, Any]) -> bool:
    """Whether a combination has a model's values; where a model starts, the model does not say."""
    return all(name in combination and _equal(combination[name], config[name]) for name in config)


def _is(combination: Config, config: Mapping[str, Any]) -> bool:
    return combination.keys() == config.keys() and _has(combination, config)


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are equal; a NaN equals another one."""
    return bool(a == b or (a != a and b != b))
