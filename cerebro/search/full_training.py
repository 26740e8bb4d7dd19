"""What grid search, random search and TPE have in common: everything is trained to the end."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from cerebro.search.procedure import Decision, NewModel, SearchProcedure
from cerebro.search.space import Config
from cerebro.search.trials import Trials


@dataclass(frozen=True)
class FullTraining(SearchProcedure):
    """Trains a number of configurations for the same number of epochs.

    Where all start at once, nothing is to be decided before the last epoch: it is asked when all
    models have ended an epoch, whose end can be planned then. Otherwise each model's own end of an
    epoch counts, as another one starts when it ends.
    """

    compares = False

    @abstractmethod
    def number(self) -> int:
        """Return how many configurations there are."""

    @abstractmethod
    def length(self) -> int:
        """Return how many epochs each is trained for."""

    @abstractmethod
    def propose(self, number: int, trials: Trials) -> Config:
        """Return configuration `number`, counted from 0, given the results so far."""

    @property
    def per_model(self) -> bool:  # type: ignore[override]
        return not self.begins_together()

    def decide(self, trials: Trials) -> Decision:
        decision = Decision()
        for trial in trials.waiting():
            if trial.epochs >= self.length():
                decision.complete.append(trial.model)
            elif self.room(trials, decision) >= 1:
                decision.go_on.append(trial.model)
        for number in range(len(trials), self.number()):
            if self.room(trials, decision) < 1:
                break
            decision.begin.append(NewModel(self.propose(number, trials)))
        return decision

    def epochs_planned(self) -> list[int]:
        return [self.length()] * self.number()
