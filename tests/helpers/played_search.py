"""A cluster that trains nothing: models in flight end their epochs in an order of one's own.

What a procedure says is written down as the journal would have it, so that a search can be cut off
anywhere and gone on with.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace

from cerebro.hopper.units import ModelState
from cerebro.search import Trial, Trials

NAN = float("nan")


class PlayedSearch:
    """One search. `value(config, model, epoch)` is what a model's epoch gives, None if it fails."""

    def __init__(self, procedure, value, *, workers=2, units=1, second=1.0):
        self.procedure = procedure
        self.value = value
        self.trials: dict[int, Trial] = {}
        self.second = second
        self.seconds = 0.0
        self.workers, self.units = workers, units
        self.records: list[dict] = []
        self.fresh: set[int] = set()
        self.decisions = 0
        self.most_in_flight = 0

    def view(self):
        return Trials(self.trials, self.workers, self.units, self.seconds)

    def start(self):
        self.decide()
        return self

    def in_flight(self):
        return [trial.model for trial in self.trials.values() if trial.in_flight]

    @property
    def over(self):
        return not any(trial.runs for trial in self.trials.values())

    def step(self, model):
        """A model in flight ends its epoch, or fails."""
        self.end_epoch(model)
        self.decide()

    def end_epoch(self, model):
        trial = self.trials[model]
        assert trial.in_flight
        value = self.value(trial.config, model, trial.epochs)
        self.seconds += self.second
        self.records.append({"model": model, "value": value})
        if value is None:
            self.trials[model] = replace(trial, state=ModelState.FAILED)
        else:
            self.trials[model] = replace(trial, values=(*trial.values, value), waits=True)

    def decide(self):
        view = self.view()
        decision = self.procedure.decide(view)
        waiting = {trial.model for trial in view.waiting()}
        named = [*decision.go_on, *decision.complete, *decision.stop]
        assert len(named) == len(set(named)), "a model that is named twice"
        assert waiting.issuperset(named), "a model that does not wait"
        for model in decision.go_on:
            self.trials[model] = replace(self.trials[model], waits=False)
        for state, models in (
            (ModelState.COMPLETED, decision.complete),
            (ModelState.STOPPED, decision.stop),
        ):
            for model in models:
                self.trials[model] = replace(self.trials[model], state=state, waits=False)
        add = []
        for new in decision.begin:
            number = len(self.trials)
            values = () if new.copies is None else self.trials[new.copies].values
            config = json.loads(json.dumps(new.config))
            self.trials[number] = Trial(number, config, values, inherited=len(values))
            add.append({"config": config, "copies": new.copies})
        self.decisions += 1
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight()))
        if self.trials and not self.in_flight():
            assert self.over, "models wait, and nothing will happen that lets them go on"
        self.records.append({"decision": self.decisions, "named": sorted(named), "add": add})

    def run(self, rng, steps=None):
        """Let models end their epochs in a random order, to the end or for so many epochs."""
        while not self.over and (steps is None or steps > 0):
            self.step(rng.choice(self.in_flight()))
            if steps is not None:
                steps -= 1
            assert self.decisions < 20_000, "a search that does not end"
        return self

    def resumed(self, procedure):
        """The search as a new driver finds it, which has nothing but what was written down."""
        other = PlayedSearch(procedure, self.value, workers=self.workers, units=self.units)
        other.second, other.seconds = self.second, self.seconds
        other.trials = {
            trial.model: Trial(
                trial.model,
                json.loads(json.dumps(trial.config)),
                tuple(json.loads(json.dumps(trial.values))),
                ModelState(trial.state.value),
                trial.waits,
                trial.inherited,
            )
            for trial in self.trials.values()
        }
        other.records, other.decisions = list(self.records), self.decisions
        return other

    def outcome(self):
        """What came of every model."""
        return [
            (t.model, dict(t.config), repr(t.values), t.state, t.inherited)
            for t in self.trials.values()
        ]


def by_seed(seed, *, fails=0.0, nan=0.0):
    """Values that depend on seed, model and epoch alone; some fail, some are no numbers."""

    def value(config, model, epoch):
        rng = random.Random(f"{seed} {model} {epoch}")
        draw = rng.random()
        if draw < fails:
            return None
        return NAN if draw < fails + nan else round(rng.random(), 2)

    return value
