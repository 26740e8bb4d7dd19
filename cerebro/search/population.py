"""Population based training."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebro.errors import ConfigurationError
from cerebro.formatting import shorten
from cerebro.hopper.units import ModelState
from cerebro.hopper.values import position, same
from cerebro.search.procedure import Decision, NewModel, SearchProcedure
from cerebro.search.space import Choice, Config, LogUniform, Range, Space, Uniform
from cerebro.search.trials import Trial, Trials
from cerebro.seeding import derive
from cerebro.validation import plain_number

FACTORS = (0.8, 1.2)
"""By one of these explore multiplies a number, as in the paper's experiments."""


MEMBERS = (ModelState.RUNNING, ModelState.COMPLETED)
"""States of models that belong to the population."""


@dataclass(frozen=True)
class PopulationBasedTraining(SearchProcedure):
    """Changes hyperparameters while models are trained: bad models become copies of good ones.

    Jaderberg et al., "Population based training of neural networks", 2017. `population` models
    start, with configurations drawn from `space`. Every `interval` epochs a model is compared with
    the others as they are then, by their last values. *Exploit* is the paper's truncation
    selection: one among the worst `fraction` of the population stops, and a copy of one of the best
    `fraction`, drawn at random, takes its place, with its weights, the state of its optimizer, and
    its history. *Explore* changes the copy's hyperparameters named in `perturb`: each is drawn anew
    with the probability `resample`, and otherwise multiplied by 0.8 or 1.2, within its range; a
    choice takes the value before or after its own. All end after `epochs` epochs.

    Parameters:

    - `space`: what each hyperparameter may be.
    - `population`: how many models are trained at once, from 2.
    - `epochs`: epochs after which each ends, from 1.
    - `interval`: epochs between two comparisons of a model, from 1.
    - `perturb`: names of the hyperparameters that change. By default every `Uniform` and
      `LogUniform`; choices and integers are often sizes, with which weights could not be copied:
      name those that are none.
    - `fraction`: the share of the population that counts as worst, and as best: above 0, at most
      0.5.
    - `resample`: the probability, from 0 to 1, that a hyperparameter is drawn anew.
    - `seed`: what is random is drawn from it.
    - `metric`, `mode`: see `SearchProcedure`.

    Raises `ConfigurationError` for a parameter that is out of its range, and says which range.
    """

    copies = True

    space: Mapping[str, Any]
    population: int
    epochs: int
    interval: int = 1
    perturb: Sequence[str] | None = None
    fraction: float = 0.2
    resample: float = 0.25
    seed: int = 0
    in_flight: int | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._integers(population=2, epochs=1, interval=1, seed=None)
        if not 0 < (plain_number(self.fraction) or 0) <= 0.5:
            raise ConfigurationError(
                f"fraction={shorten(self.fraction)}: it must be above 0, and at most 0.5, or the "
                "best models would be among the worst"
            )
        resample = plain_number(self.resample)
        if resample is None or not 0 <= resample <= 1:
            raise ConfigurationError(
                f"resample={shorten(self.resample)}: a probability from 0 to 1 is needed"
            )
        dimensions = Space.of(self.space).dimensions
        unknown = [name for name in self.perturb or () if name not in dimensions]
        if isinstance(self.perturb, str) or unknown:
            raise ConfigurationError(
                f"perturb={shorten(self.perturb)}: pass a list of names among {sorted(dimensions)}"
            )
        if not self._perturbed():
            raise ConfigurationError(
                "no hyperparameter would change: the space has no Uniform and no LogUniform; name "
                "what may change in perturb"
            )

    def _perturbed(self) -> list[str]:
        if self.perturb is not None:
            return list(self.perturb)
        dimensions = Space.of(self.space).dimensions
        return [name for name, d in dimensions.items() if isinstance(d, (Uniform, LogUniform))]

    def decide(self, trials: Trials) -> Decision:
        decision = Decision()
        for trial in trials.waiting():
            if trial.epochs >= self.epochs:
                decision.complete.append(trial.model)
                continue
            source = self._source(trial, trials, decision)
            if source is None:
                decision.go_on.append(trial.model)
            else:
                decision.stop.append(trial.model)
                decision.begin.append(NewModel(self._explore(source, trial), copies=source.model))
        for number in range(_drawn(trials), self.population):
            decision.begin.append(NewModel(Space.of(self.space).sample(self.seed, number)))
        return decision

    def _source(self, trial: Trial, trials: Trials, decision: Decision) -> Trial | None:
        """The model whose copy takes this one's place, if it is among the worst."""
        if trial.epochs % self.interval or _drawn(trials) < self.population:
            return None
        gone = decision.ending()
        members = [t for t in trials if t.epochs and t.state in MEMBERS and t.model not in gone]
        ranked = sorted(members, key=lambda member: member.rank())
        number = max(1, int(self.fraction * len(ranked)))
        if trial not in ranked[max(number, len(ranked) - number) :]:
            return None
        # What it has not trained itself, it has no version of.
        best = [t for t in ranked[:number] if t.inherited < t.epochs < self.epochs]
        best = [t for t in best if t.rank()[0] < float("inf")]
        return self._rng("exploit", trial).choice(best) if best else None

    def _explore(self, source: Trial, trial: Trial) -> Config:
        """The source's configuration with other hyperparameters."""
        rng = self._rng("explore", trial)
        config = dict(source.config)
        for name in self._perturbed():
            dimension = Space.of(self.space).dimensions[name]
            known = not isinstance(dimension, Choice) or any(
                same(config.get(name), value) for value in dimension.values
            )
            if rng.random() < self.resample or not known or name not in config:
                config[name] = dimension.sample(rng)
            elif isinstance(dimension, Choice):
                values = dimension.values
                place = position(values, config[name]) + rng.choice((-1, 1))
                config[name] = values[min(len(values) - 1, max(0, place))]
            else:
                assert isinstance(dimension, Range)
                value = config[name] * rng.choice(FACTORS)
                config[name] = dimension.at(dimension.position(value))
        return config

    def _rng(self, purpose: str, trial: Trial) -> random.Random:
        return random.Random(derive(self.seed, purpose, trial.model, trial.epochs))


def _drawn(trials: Trials) -> int:
    """How many models were drawn from the space; the others are copies."""
    return sum(not trial.inherited for trial in trials)
