"""How long a unit will take, by what was measured: cost of the model times slowness of the worker.

In logarithms that is a sum, which is followed by a Kalman filter that keeps the variances alone:
the error of each prediction is shared between model and worker by how uncertain they are. What has
not been seen yet is taken to be like what has.
"""

from __future__ import annotations

import math

from cerebro.hopper.units import Split

MODEL_VARIANCE = 1.0
WORKER_VARIANCE = 0.25
"""Before anything is seen: costs of models differ by a factor of e, workers by half of that."""
NOISE_VARIANCE = 0.01
"""One unit's seconds differ by 10 % from what model and worker let expect."""
VARIANCE_LEFT = 0.0002
"""No estimate gets surer than this, so that it follows what changes."""

SPLITS = tuple(Split)


class _Family:
    """Logarithms of one kind, with their variances; a new one begins at the mean of those seen."""

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

    def begin(self, key: int, value: float) -> None:
        """The first level, from which the others are expected not to be far."""
        self.levels[key] = value, self._variance
        self._total = value

    def forget(self, key: int) -> None:
        self._total -= self.levels.pop(key, (0.0, 0.0))[0]


class Estimates:
    """Seconds of units to come, learned from those that ran."""

    def __init__(self) -> None:
        self._models = {split: _Family(MODEL_VARIANCE) for split in SPLITS}
        self._workers = _Family(WORKER_VARIANCE)

    def observe(self, model: int, split: Split, worker: int | None, seconds: float) -> None:
        """A unit took so long; `worker` None stands for the typical one."""
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

    def forget(self, model: int) -> None:
        """A model has ended."""
        for family in self._models.values():
            family.forget(model)

    def knows(self, model: int, split: Split) -> bool:
        """Whether a unit of a model has been measured."""
        return model in self._models[split].levels

    def cost(self, model: int, split: Split) -> float:
        """Seconds of a model's unit on a worker of slowness 1."""
        return math.exp(self._models[split].at(model)[0])

    def level(self) -> float:
        """The mean logarithm of the costs of train units."""
        return self._models[Split.TRAIN].mean()

    def typical(self, split: Split) -> float:
        """The cost of models of which no unit of a split has been measured."""
        family = self._models[split]
        if not family.levels:
            family = self._models[Split.TRAIN]
        return math.exp(family.mean())

    def slowness(self, worker: int) -> float:
        """How much longer than on a worker of slowness 1 a unit takes here."""
        return math.exp(self._workers.at(worker)[0])

    def has_seen_worker(self, worker: int) -> bool:
        """Whether a unit on a worker has been measured."""
        return worker in self._workers.levels
