"""ASHA: asynchronous successive halving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

from cerebro.errors import ConfigurationError
from cerebro.hopper.units import ModelState
from cerebro.search.procedure import (
    Decision,
    NewModel,
    SearchProcedure,
    twice_the_workers,
)
from cerebro.search.rungs import best, check_levels, check_number, levels
from cerebro.search.space import Space
from cerebro.search.trials import Trial, Trials
from cerebro.validation import positive


@dataclass(frozen=True)
class ASHA(SearchProcedure):
    """Promotes a model as soon as it is among the best of its rung: halving without waiting.

    Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht and Talwalkar, "A system for
    massively parallel hyperparameter tuning", MLSys 2020, algorithm 2. Rung k is after
    grace_epochs * eta^k epochs, the last one after `max_epochs`. Whenever fewer than `in_flight`
    models are in flight (twice as many as there are workers, unless it is given), the rungs are
    looked through from the top: a model that is among the best floor(size / eta) of its rung, and
    has not been promoted yet, continues to the next rung. If there is none, a new configuration
    starts. A model that is not promoted waits: it may be later, when its rung is larger.

    The search starts `n` configurations, or draws them until its budget is used up. At the end,
    waiting models stop; one that cannot be promoted any more, whatever others do, stops before.

    Parameters:

    - `space`: what each hyperparameter may be.
    - `max_epochs`: epochs after which a model is complete.
    - `eta`: one model in `eta` is promoted from each rung; from 2.
    - `grace_epochs`: epochs before the first rung, from 1.
    - `n`: how many configurations are started; enough for one of them to get to `max_epochs`.
    - `max_units`: units of all models together, apart from those that have to be run again.
    - `max_seconds`: after so long nothing is started any more, and what is in flight ends its
      epoch. The time when no driver was at work does not count.
    - `seed`: what configurations are drawn from.
    - `in_flight`: twice the number of workers by default; `metric`, `mode`: see `SearchProcedure`.

    At least one of `n`, `max_units` and `max_seconds` has to be given.

    Raises `ConfigurationError` for a parameter that is out of its range, and says which range.
    """

    space: Mapping[str, Any]
    max_epochs: int
    eta: int = 3
    grace_epochs: int = 1
    n: int | None = None
    max_units: int | None = None
    max_seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._integers(eta=2, grace_epochs=1, max_epochs=1, seed=None)
        check_levels("grace_epochs", self.grace_epochs, self.max_epochs)
        if self.n is not None:
            self._integers(n=1)
            rungs = len(self.rungs())
            most = f"max_epochs={self.max_epochs}"
            check_number(self.n, rungs, self.eta, least="grace_epochs", most=most)
        if self.max_units is not None:
            self._integers(max_units=1)
        if self.max_seconds is not None:
            positive("max_seconds", self.max_seconds, refusal=ConfigurationError)
        if self.n is None and self.max_units is None and self.max_seconds is None:
            raise ConfigurationError(
                "nothing would end the search: give n (configurations), max_units (units of one "
                "model on one partition) or max_seconds"
            )
        Space.of(self.space)

    def rungs(self) -> list[int]:
        """Return the epochs of each rung, ascending."""
        return levels(self.grace_epochs, self.max_epochs, self.eta)

    def decide(self, trials: Trials) -> Decision:
        decision = Decision()
        in_time = self.max_seconds is None or trials.seconds < self.max_seconds
        decision.complete = [t.model for t in trials.waiting() if t.epochs >= self.max_epochs]
        epochs_left = self._epochs_left(trials)
        between = [t for t in trials.waiting() if t.epochs not in self.rungs()]
        between = sorted((t for t in between if t.epochs < self.max_epochs), key=Trial.rank)
        # They have their places and epochs, unless the search was another one at their promotion.
        while between and epochs_left < 0:
            epochs_left += self._way(between.pop())
        for trial in between if in_time else ():
            if self.room(trials, decision) >= 1:
                decision.go_on.append(trial.model)
        for epochs, model in self._jobs(trials) if in_time else ():
            too_long = epochs > epochs_left
            if self.room(trials, decision) < 1 or (model is None and too_long):
                break
            if too_long:
                continue
            epochs_left -= epochs
            if model is None:
                number = len(trials) + len(decision.begin)
                decision.begin.append(NewModel(Space.of(self.space).sample(self.seed, number)))
            else:
                decision.go_on.append(model)
        left = {t.model for t in trials.waiting()}.difference(decision.go_on, decision.complete)
        if in_time and trials.in_flight() + decision.taking_off():
            left &= self._hopeless(trials)
        decision.stop.extend(sorted(left))
        return decision

    def bound(self, trials: Trials) -> float:
        return twice_the_workers(self, trials)

    def _jobs(self, trials: Trials) -> Iterator[tuple[int, int | None]]:
        """What to do next, and how many epochs it takes: models to promote, then None for new ones.

        This is `get_job` of the paper's algorithm 2.
        """
        rungs = self.rungs()
        for level, after in reversed(list(pairwise(rungs))):
            size = sum(trial.epochs >= level for trial in trials)
            for model in best(trials, level)[: size // self.eta]:
                if trials[model].runs and trials[model].waits and trials[model].epochs == level:
                    yield after - level, model
        numbers = count(len(trials)) if self.n is None else range(len(trials), self.n)
        for _ in numbers:
            yield rungs[0], None

    def _epochs_left(self, trials: Trials) -> float:
        """How many epochs may yet be started: what is in flight continues to its rung."""
        if self.max_units is None:
            return float("inf")
        used = 0
        for trial in trials:
            used += trial.epochs
            if trial.state is ModelState.FAILED:
                used += 1  # at most, of an epoch that is not complete
            elif trial.runs and not (trial.waits and trial.epochs in self.rungs()):
                used += self._way(trial)
        return self.max_units // trials.units_per_epoch - used

    def _way(self, trial: Trial) -> int:
        """How many epochs it is to a model's next rung."""
        return (
            min((e for e in self.rungs() if e > trial.epochs), default=trial.epochs) - trial.epochs
        )

    def _hopeless(self, trials: Trials) -> set[int]:
        """The models that wait at a rung and will never be among the best of it.

        Their places can only get worse; how large a rung can become is known where `n` is.
        """
        found: set[int] = set()
        if self.n is None:
            return found
        for level in self.rungs():
            to_come = self.n - len(trials) + sum(t.runs and t.epochs < level for t in trials)
            size = to_come + sum(t.epochs >= level for t in trials)
            hopeful = best(trials, level)[: size // self.eta]
            waiting = {t.model for t in trials.waiting() if t.epochs == level}
            found |= waiting.difference(hopeful)
        return found

    def reopens(self, trial: Trial) -> bool:
        return trial.state is not ModelState.FAILED
