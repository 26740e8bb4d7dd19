"""How long a unit will take, by what was measured: cost of the model times slowness of the worker.

In logarithms that is a sum, which is followed by a Kalman filter that keeps the variances alone:
the error of each prediction is shared between model and worker by how uncertain they are. What has
not been seen yet is taken to be like what has.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from cerebro.hopper.units import Split

MODEL_VARIANCE = 1.0
WORKER_VARIANCE = 0.25
"""Before anything is seen: costs of models differ by a factor of e, workers by half of that."""
NOISE_VARIANCE = 0.01
"""One unit's seconds differ by 10 % from what model and worker let expect."""
VARIANCE_LEFT = 0.0002
"""No estimate gets surer than this, so that it follows what changes."""

SPLITS = tuple(Split)

RECENT = 512
"""The last units, by which all levels are fitted together."""

ROUNDS = 5
"""Times that levels are set in turn."""

LEAST_VARIANCE = 1e-8


class _Family:
    """Logarithms of one kind, with their variances; a new one starts at the mean of those seen."""

    def __init__(self, variance: float) -> None:
        self._variance = variance
        self._total = 0.0
        self.levels: dict[int, tuple[float, float]] = {}

    def mean(self) -> float:
        return self._total / len(self.levels) if self.levels else 0.0

    def at(self, key: int) -> tuple[float, float]:
        """(value, variance)"""
        return self.levels.get(key) or (self.mean(), self._variance)

    def learn(self, key: int, error: float, uncertainty: float) -> None:
        """Take this level's part of a prediction's error; `uncertainty` is the whole variance."""
        before = self.levels.get(key)
        value, variance = before or (self.mean(), self._variance)
        self._total -= value if before else 0.0
        gain = variance / uncertainty
        value += gain * error
        self._total += value
        self.levels[key] = value, max(variance * (1.0 - gain), VARIANCE_LEFT)

    def fit(
        self, rests: Mapping[int, list[float]], noise: float, prior: float
    ) -> tuple[float, float]:
        """Set levels to what measurements leave for them: (their variance, doubt of all units)."""
        mean, weight = self.mean(), noise / prior
        spread = doubt = 0.0
        for key, found in rests.items():
            before, variance = self.levels[key]
            value = (sum(found) + weight * mean) / (len(found) + weight)
            self.levels[key] = value, variance
            self._total += value - before
            left = noise / (len(found) + weight)
            spread += (value - mean) ** 2 + left
            doubt += len(found) * left
        return (max(spread / len(rests), LEAST_VARIANCE) if len(rests) > 1 else prior), doubt

    def begin(self, key: int, value: float) -> None:
        """Set the first level, from which the others are expected not to be far."""
        self.levels[key] = value, self._variance
        self._total = value

    def forget(self, key: int) -> None:
        self._total -= self.levels.pop(key, (0.0, 0.0))[0]


class Estimates:
    """Seconds of units to come, learned from those that ran."""

    def __init__(self) -> None:
        self._models = {split: _Family(MODEL_VARIANCE) for split in SPLITS}
        self._workers = _Family(WORKER_VARIANCE)
        self._recent: deque[tuple[Split, int, int, float]] = deque(maxlen=RECENT)
        self._noise = NOISE_VARIANCE
        self._has_news = False

    def observe(self, model: int, split: Split, worker: int | None, seconds: float) -> None:
        """Learn that a unit took so long; `worker` None stands for the typical one."""
        if not seconds > 0.0 or math.isinf(seconds):
            return
        family = self._models[split]
        if worker is None:
            slowness, doubt = self._workers.mean(), NOISE_VARIANCE
        else:
            slowness, variance = self._workers.at(worker)
            doubt = NOISE_VARIANCE + variance
        measured = math.log(seconds) - slowness
        if not family.levels:
            family.begin(model, measured)
        cost, variance = family.at(model)
        doubt += variance
        family.learn(model, measured - cost, doubt)
        if worker is not None:
            self._workers.learn(worker, measured - cost, doubt)
            self._has_news = True
            self._recent.append((split, model, worker, math.log(seconds)))

    def fit(self) -> None:
        """Fit the levels of all that has run lately together, and how much they and units vary.

        The filter does not know that errors of a model and of the workers it was on depend on each
        other; here they are set in turn until they agree (expectation maximization).
        """
        seen = [
            (split, model, worker, measured)
            for split, model, worker, measured in self._recent
            if model in self._models[split].levels
        ]
        if not seen or not self._has_news:
            return
        self._has_news = False
        workers, noise, prior = self._workers, NOISE_VARIANCE, WORKER_VARIANCE
        priors = dict.fromkeys(SPLITS, MODEL_VARIANCE)
        for _ in range(ROUNDS):
            rests: dict[int, list[float]] = {}
            for split, model, worker, measured in seen:
                rest = measured - self._models[split].levels[model][0]
                rests.setdefault(worker, []).append(rest)
            prior, doubt = workers.fit(rests, noise, prior)
            of: dict[Split, dict[int, list[float]]] = {}
            for split, model, worker, measured in seen:
                rest = measured - workers.levels[worker][0]
                of.setdefault(split, {}).setdefault(model, []).append(rest)
            square = 0.0
            for split, rests in of.items():
                family = self._models[split]
                priors[split], left = family.fit(rests, noise, priors[split])
                doubt += left
                for model, found in rests.items():
                    level = family.levels[model][0]
                    square += sum((rest - level) ** 2 for rest in found)
            noise = max((square + doubt) / len(seen), LEAST_VARIANCE)
        self._noise = noise

    def deviation(self) -> float:
        """Return by which part of it a unit's seconds differ from what is expected."""
        return math.sqrt(self._noise)

    def forget(self, model: int) -> None:
        """Forget a model that has ended."""
        for family in self._models.values():
            family.forget(model)

    def knows(self, model: int, split: Split) -> bool:
        """Tell whether a unit of a model has been measured."""
        return model in self._models[split].levels

    def cost(self, model: int, split: Split) -> float:
        """Return the seconds of a model's unit on a worker of slowness 1."""
        return math.exp(self._models[split].at(model)[0])

    def level(self) -> float:
        """Return the mean logarithm of the costs of train units."""
        return self._models[Split.TRAIN].mean()

    def typical(self, split: Split) -> float:
        """Return the cost of models of which no unit of a split has been measured."""
        family = self._models[split]
        if not family.levels:
            family = self._models[Split.TRAIN]
        return math.exp(family.mean())

    def slowness(self, worker: int) -> float:
        """Return how many times longer a unit takes here than on a worker of slowness 1."""
        return math.exp(self._workers.at(worker)[0])
