"""TPE: the tree-structured Parzen estimator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cerebro.hopper.units import ModelState
from cerebro.hopper.values import position, same
from cerebro.search.full_training import FullTraining
from cerebro.search.procedure import twice_the_workers
from cerebro.search.space import Choice, Config, Dimension, Range, Space
from cerebro.search.trials import Trial, Trials
from cerebro.seeding import derive

GAMMA = 0.15
"""The share of configurations that counts as good, as in the paper."""


@dataclass(frozen=True)
class TPE(FullTraining):
    """Draws configurations where good ones lie more densely than bad ones.

    Bergstra, Bardenet, Bengio and Kégl, "Algorithms for hyper-parameter optimization", NIPS 2011,
    section 4. The configurations so far are split into the best share gamma = 0.15 and the others,
    and for each hyperparameter a density is estimated from either, l(x) and g(x): Gaussians on the
    values seen, as wide as the way to the farther neighbour, beside a uniform prior. Of
    `candidates` draws from l the one with the highest l(x) / g(x) is trained next, with which the
    expected improvement grows. The first `startup` configurations are drawn at random.

    What counts of a model is its best value so far. Those that failed, have no number, or are in
    flight, count as bad ones: in flight, so that no two are drawn from the same spot.

    Parameters:

    - `space`: what each hyperparameter may be.
    - `n`: how many configurations are trained, from 1.
    - `epochs`: how many epochs each is trained for, from 1.
    - `startup`: how many are drawn at random first, from 1.
    - `candidates`: draws of which the best is taken, from 1.
    - `seed`: what is random is drawn from it.
    - `in_flight`: twice the number of workers by default; the fewer at once, the more each draw
      knows. `metric`, `mode`: see `SearchProcedure`.

    Raises `ConfigurationError` for a parameter that is out of its range, and says which range.
    """

    compares = True

    space: Mapping[str, Any]
    n: int
    epochs: int
    startup: int = 10
    candidates: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._integers(n=1, epochs=1, startup=1, candidates=1, seed=None)
        Space.of(self.space)

    def number(self) -> int:
        return self.n

    def length(self) -> int:
        return self.epochs

    def bound(self, trials: Trials) -> float:
        return twice_the_workers(self, trials)

    def begins_together(self) -> bool:
        return False

    def propose(self, number: int, trials: Trials) -> Config:
        space = Space.of(self.space)
        ranked = sorted(trials, key=_score)
        known = sum(_score(trial)[0] < math.inf for trial in ranked)
        if number < self.startup or not known:
            return space.sample(self.seed, number)
        split = min(known, math.ceil(GAMMA * len(ranked)))
        good = [trial.config for trial in ranked[:split]]
        bad = [trial.config for trial in ranked[split:]]
        rng = np.random.default_rng(derive(self.seed, "tpe", number))
        config: Config = {}
        for name, dimension in space.dimensions.items():
            # Where a model starts is no hyperparameter: its configuration does not have it.
            low = _density(dimension, [c[name] for c in good if name in c])
            high = _density(dimension, [c[name] for c in bad if name in c])
            draws = low.draw(rng, self.candidates)
            config[name] = low.value(draws[int(np.argmax(low.log(draws) - high.log(draws)))])
        return config


def _score(trial: Trial) -> tuple[float, int]:
    numbers = [value for value in trial.values if math.isfinite(value)]
    ended = trial.state in (ModelState.COMPLETED, ModelState.STOPPED)
    return (min(numbers) if ended and numbers else math.inf), trial.model


class _Choices:
    """A choice: how often each value was seen, and once more."""

    def __init__(self, choice: Choice, seen: Sequence[Any]) -> None:
        self._values = choice.values
        counts = np.ones(len(self._values))
        for value in seen:
            if any(same(value, known) for known in self._values):
                counts[position(self._values, value)] += 1
        self._weights = counts / counts.sum()

    def draw(self, rng: np.random.Generator, number: int) -> Any:
        return rng.choice(len(self._values), number, p=self._weights)

    def log(self, draws: Any) -> Any:
        return np.log(self._weights[draws])

    def value(self, draw: Any) -> Any:
        return self._values[int(draw)]


class _Parzen:
    """A range, as positions from 0 to 1: a mixture of truncated Gaussians and the prior."""

    def __init__(self, dimension: Range, seen: Sequence[Any]) -> None:
        self._dimension = dimension
        points = np.sort([dimension.position(value) for value in seen])
        ways = np.diff(points, prepend=0.0, append=1.0)
        # As narrow as the points lie on average, at least, or single ones would be all peaks.
        narrowest = 1.0 / min(100, 1 + len(points))
        self._means = points
        self._widths = np.clip(np.maximum(ways[:-1], ways[1:]), narrowest, 1.0)

    def draw(self, rng: np.random.Generator, number: int) -> Any:
        found: list[float] = []
        while len(found) < number:
            kernel = int(rng.integers(len(self._means) + 1))
            if kernel == len(self._means):
                found.append(float(rng.random()))
                continue
            position = rng.normal(self._means[kernel], self._widths[kernel])
            if 0.0 <= position <= 1.0:
                found.append(float(position))
        return np.array(found)

    def log(self, draws: Any) -> Any:
        density = np.ones(len(draws))
        for mean, width in zip(self._means, self._widths, strict=True):
            inside = _normal((1 - mean) / width) - _normal(-mean / width)
            height = np.exp(-0.5 * ((draws - mean) / width) ** 2)
            density += height / (width * math.sqrt(2 * math.pi) * inside)
        return np.log(density / (len(self._means) + 1))

    def value(self, draw: Any) -> Any:
        return self._dimension.at(float(draw))


def _normal(x: float) -> float:
    """Return the standard normal distribution up to x."""
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def _density(dimension: Dimension, seen: Sequence[Any]) -> _Choices | _Parzen:
    if isinstance(dimension, Choice):
        return _Choices(dimension, seen)
    assert isinstance(dimension, Range)
    return _Parzen(dimension, seen)
