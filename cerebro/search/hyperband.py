"""Hyperband."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cerebro.search.procedure import Decision, NewModel, SearchProcedure
from cerebro.search.space import Space
from cerebro.search.successive_halving import Bracket, Rung, decide_brackets
from cerebro.search.trials import Trials


@dataclass(frozen=True)
class Hyperband(SearchProcedure):
    """Runs successive halving with several trade-offs between configurations and epochs.

    Li, Jamieson, DeSalvo, Rostamizadeh and Talwalkar, "Hyperband: a novel bandit-based approach to
    hyperparameter optimization", JMLR 18, 2018. With R = `max_epochs` and s_max = floor(log_eta R)
    there is a bracket for each s from s_max to 0. Bracket s starts with
    n = floor((s_max + 1) / (s + 1)) * eta^s configurations, trained for R / eta^s epochs, and keeps
    one in `eta` from each rung to the next. These are the numbers of the paper's table 1; its
    algorithm 1 rounds n upwards instead, which for R = 81 and eta = 3 starts 143 configurations
    instead of 128.

    The brackets do not wait for each other: all are in flight at once, unless `in_flight` bounds
    that; then the one with most configurations starts first.

    Parameters:

    - `space`: what each hyperparameter may be.
    - `max_epochs`: the paper's R: epochs after which a model is complete, from 1.
    - `eta`: one model in `eta` is kept from each rung; from 2.
    - `seed`: what configurations are drawn from.
    - `in_flight`, `metric`, `mode`: see `SearchProcedure`.

    Raises `ConfigurationError` for a parameter that is out of its range, and says which range.
    """

    space: Mapping[str, Any]
    max_epochs: int
    eta: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._integers(max_epochs=1, eta=2, seed=None)
        Space.of(self.space)

    def brackets(self) -> list[Bracket]:
        """Return the rungs of each bracket, from s = s_max to s = 0."""
        s_max = 0
        while self.eta ** (s_max + 1) <= self.max_epochs:
            s_max += 1
        found: list[Bracket] = []
        for s in range(s_max, -1, -1):
            n = (s_max + 1) // (s + 1) * self.eta**s
            found.append(
                [
                    Rung(n // self.eta**i, self.max_epochs // self.eta ** (s - i))
                    for i in range(s + 1)
                ]
            )
        return found

    def decide(self, trials: Trials) -> Decision:
        decision = decide_brackets(self, self.brackets(), trials)
        for number in range(len(trials), sum(bracket[0].n for bracket in self.brackets())):
            if self.room(trials, decision) < 1:
                break
            decision.begin.append(NewModel(Space.of(self.space).sample(self.seed, number)))
        return decision
