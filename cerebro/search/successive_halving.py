"""Successive halving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cerebro.hopper.units import ModelState
from cerebro.search.procedure import Decision, NewModel, SearchProcedure
from cerebro.search.rungs import best, check_levels, check_number, levels
from cerebro.search.space import Space
from cerebro.search.trials import Trial, Trials


@dataclass(frozen=True)
class Rung:
    """Counts `n` configurations, each trained for `epochs` epochs in all."""

    n: int
    epochs: int


Bracket = Sequence[Rung]
"""One run of successive halving, from its first rung to its last."""


def decide_brackets(
    procedure: SearchProcedure, brackets: Sequence[Bracket], trials: Trials
) -> Decision:
    """Decide what brackets want, whose configurations start in this order."""
    decision = Decision()
    begun = iter(trials)
    members = [list(islice(begun, bracket[0].n)) for bracket in brackets]
    # What is on its way to a rung goes first: it has its place in flight already.
    for bracket, own in zip(brackets, members, strict=True):
        _go_on(bracket, own, decision)
    for bracket, own in zip(brackets, members, strict=True):
        _decide_rung(procedure, bracket, own, trials, decision)
    # Of another search that was larger.
    decision.stop.extend(trial.model for trial in begun if trial.runs and trial.waits)
    return decision


def _go_on(bracket: Bracket, begun: Sequence[Trial], decision: Decision) -> None:
    """Let models between two rungs continue, and complete those at the last one."""
    ends = [rung.epochs for rung in bracket]
    for trial in begun:
        if trial.runs and trial.waits and trial.epochs >= ends[-1]:
            decision.complete.append(trial.model)
        elif trial.runs and trial.waits and trial.epochs not in ends:
            decision.go_on.append(trial.model)


def _decide_rung(
    procedure: SearchProcedure,
    bracket: Bracket,
    begun: Sequence[Trial],
    trials: Trials,
    decision: Decision,
) -> None:
    """Compare the models of a rung, once all that still run have its epochs.

    As many of them as the next rung takes continue, the best ones; the others stop, and so do those
    without a number.
    """
    live = [trial for trial in begun if trial.runs]
    ends = [rung.epochs for rung in bracket]
    least = min((trial.epochs for trial in live), default=0)
    if len(begun) < bracket[0].n or least not in ends[:-1]:
        return
    survivors = best(live, least)[: bracket[ends.index(least) + 1].n]
    for trial in live:
        if not trial.waits or trial.epochs != least:
            continue
        if trial.model not in survivors:
            decision.stop.append(trial.model)
        elif procedure.room(trials, decision) >= 1:
            decision.go_on.append(trial.model)


@dataclass(frozen=True)
class SuccessiveHalving(SearchProcedure):
    """Starts `n` configurations; from each rung the best one in `eta` continues.

    Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter
    optimization", AISTATS 2016, in the form of Li et al. (see `Hyperband`): rung i has
    floor(n / eta^i) configurations, each trained for min_epochs * eta^i epochs, and the last one
    for `max_epochs`. A rung is decided when all its models have got there; those that failed, or
    whose metric is NaN, do not continue.

    Parameters:

    - `space`: what each hyperparameter may be.
    - `n`: how many configurations are started; enough for one of them to get to `max_epochs`.
    - `max_epochs`: epochs after which a model is complete.
    - `eta`: one model in `eta` continues from each rung; from 2.
    - `min_epochs`: epochs before the first rung, from 1.
    - `seed`: what configurations are drawn from.
    - `in_flight`, `metric`, `mode`: see `SearchProcedure`.

    Raises `ConfigurationError` for a parameter that is out of its range, and says which range.
    """

    space: Mapping[str, Any]
    n: int
    max_epochs: int
    eta: int = 3
    min_epochs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._integers(n=1, eta=2, min_epochs=1, max_epochs=1, seed=None)
        check_levels("min_epochs", self.min_epochs, self.max_epochs)
        rungs = len(levels(self.min_epochs, self.max_epochs, self.eta))
        check_number(
            self.n, rungs, self.eta, least="min_epochs", most=f"max_epochs={self.max_epochs}"
        )
        Space.of(self.space)

    def bracket(self) -> Bracket:
        """Return its rungs, from the first to the last."""
        ends = levels(self.min_epochs, self.max_epochs, self.eta)
        return [Rung(self.n // self.eta**i, epochs) for i, epochs in enumerate(ends)]

    def decide(self, trials: Trials) -> Decision:
        decision = decide_brackets(self, [self.bracket()], trials)
        for number in range(len(trials), self.n):
            if self.room(trials, decision) < 1:
                break
            decision.begin.append(NewModel(Space.of(self.space).sample(self.seed, number)))
        return decision

    def reopens(self, trial: Trial) -> bool:
        return trial.state is not ModelState.FAILED
