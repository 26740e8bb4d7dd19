"""Oldest first: the policy for searches whose models continue one by one.

A model's units come before those of every model that started its epoch later, in random order among
themselves. So each epoch takes about as long as all others, whatever starts meanwhile: where models
come and go all the time, no other order keeps one from being overtaken again and again. Nothing is
planned, because what is left of the epochs in flight is never all that is left.
"""

from __future__ import annotations

from cerebro.hopper.placement.base import ModelWork
from cerebro.hopper.placement.randomized import RandomizedPlacement


class OldestPlacement(RandomizedPlacement):
    """Takes for each free worker a unit of the model that started its epoch first."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._epochs = 0
        self._began: dict[int, tuple[int, int]] = {}

    def tell_model(self, model: int, work: ModelWork | None) -> None:
        if work is None:
            self._began.pop(model, None)
        elif model not in self._began or self._began[model][0] != work.epoch:
            self._epochs += 1
            self._began[model] = work.epoch, self._epochs
        super().tell_model(model, work)

    def _draw(self, model: int) -> float:
        return self._began[model][1] + super()._draw(model)
