"""Random search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cerebro.search.full_training import FullTraining
from cerebro.search.space import Config, Space
from cerebro.search.trials import Trials


@dataclass(frozen=True)
class RandomSearch(FullTraining):
    """Trains configurations that are drawn at random.

    Bergstra and Bengio, "Random search for hyper-parameter optimization", JMLR 13, 2012: where few
    hyperparameters matter, it finds better values than a grid of the same size, because it tries
    `n` values of each.

    Parameters:

    - `space`: what each hyperparameter may be.
    - `n`: how many configurations are trained, from 1.
    - `epochs`: how many epochs each is trained for, from 1.
    - `seed`: the same seed draws the same configurations.
    - `in_flight`, `metric`, `mode`: see `SearchProcedure`.

    Raises `ConfigurationError` for a parameter that is out of its range, and says which range.
    """

    space: Mapping[str, Any]
    n: int
    epochs: int
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._integers(n=1, epochs=1, seed=None)
        Space.of(self.space)

    def number(self) -> int:
        return self.n

    def length(self) -> int:
        return self.epochs

    def propose(self, number: int, trials: Trials) -> Config:
        return Space.of(self.space).sample(self.seed, number)
