"""A search procedure at work on a simulated cluster: no clock, no worker, no training.

The procedure is shown the simulation's models as `Trials`, as a run shows it the ledger's, and what
it answers goes back as `Decided`. What a model's metric is after an epoch, a function of its
configuration says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cerebro.hopper import events as ev
from cerebro.hopper.holdings import Holdings
from cerebro.hopper.placement.base import Placement
from cerebro.hopper.scheduler import Scheduler
from cerebro.hopper.simulator import Simulation, Visit
from cerebro.hopper.units import Attempt, ModelState, Split
from cerebro.search import Decision, SearchProcedure, Trial, Trials

Curve = Callable[[Mapping[str, Any], int], float]
"""The metric of a configuration after so many epochs; lower is better."""

Seconds = Callable[[Mapping[str, Any], Attempt], float]
"""How long an attempt of a model with this configuration takes."""


class WrongDecision(Exception):
    """A decision that a run would have refused."""


@dataclass
class SimulatedSearch:
    """A search on simulated time. `seconds` is when it ended, `decisions` what was answered.

    A worker has `train` and `valid` partitions by their holdings; versions are saved in no time,
    and the procedure answers in none. A model that fails (`outcome` says so) makes room for another
    one, as in a run.
    """

    procedure: SearchProcedure
    train: Holdings
    valid: Holdings
    placement: Placement
    curve: Curve
    run_seconds: Seconds
    outcome: Callable[[Attempt, ev.Event], ev.Event] = lambda _, event: event
    trials: dict[int, Trial] = field(default_factory=dict)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    seconds: float = 0.0
    _workers: int = 0

    def run(self, workers: int) -> None:
        """Search with so many workers until no model runs any more.

        Raises `WrongDecision` for a decision that names a model that does not wait, or names one
        twice, and `RuntimeError` for a procedure that leaves models waiting for ever.
        """
        self._workers = workers
        scheduler = Scheduler(
            train=self.train,
            valid=self.valid,
            placement=self.placement,
            positions=[],
            per_model=self.procedure.per_model,
            asks_when_idle=True,
        )
        simulation = self._simulation = Simulation(
            scheduler,
            run_seconds=lambda a: self.run_seconds(self.trials[a.unit.model].config, a),
            decide=self._decide,
            outcome=self.outcome,
            observe=self._observe,
        )
        simulation.run(range(workers))
        self.visits, self.seconds = simulation.visits, simulation.now
        if not scheduler.ended:
            left = [trial.model for trial in self.trials.values() if trial.runs]
            raise RuntimeError(f"nothing happens any more, and these models still run: {left}")

    def busy(self, until: float) -> float:
        """The share of all workers' time until then in which they ran units that counted."""
        spans = (min(visit.end, until) - visit.start for visit in self.visits)
        return sum(span for span in spans if span > 0) / (self._workers * until)

    def bound(self) -> float:
        """What no schedule of the same units is faster than, in seconds.

        The longest chain: a model's train units one after another, and of each epoch the longest
        valid unit. The most loaded worker: what it alone holds. All workers together.
        """
        loads = [0.0] * self._workers
        trains = dict.fromkeys(self.trials, 0.0)
        valids: dict[tuple[int, int], float] = {}
        for visit in self.visits:
            unit, took = visit.attempt.unit, visit.end - visit.start
            holders = (self.train if unit.split is Split.TRAIN else self.valid).holders
            able = holders(unit.partition)
            if len(able) == 1:
                loads[able[0]] += took
            if unit.split is Split.TRAIN:
                trains[unit.model] += took
            else:
                key = unit.model, unit.epoch
                valids[key] = max(valids.get(key, 0.0), took)
        for (model, _), took in valids.items():
            trains[model] += took
        total = sum(visit.end - visit.start for visit in self.visits)
        return max(*loads, *trains.values(), total / self._workers)

    def _observe(self, events: tuple[ev.Event, ...], actions: list[ev.Action]) -> None:
        failed = False
        for action in actions:
            if isinstance(action, ev.EpochEnded):
                trial = self.trials[action.model]
                value = self.curve(trial.config, trial.epochs + 1)
                self._change(action.model, values=(*trial.values, value), waits=True)
            elif isinstance(action, ev.ModelFailed):
                self._change(action.model, state=ModelState.FAILED, waits=False)
                failed = True
        if failed:
            self._simulation.at(0.0, self._decide(ev.Ask(())))

    def _change(self, model: int, **changes: Any) -> None:
        self.trials[model] = replace(self.trials[model], **changes)

    def _decide(self, ask: ev.Ask) -> ev.Decided:
        units = self.train.partitions + self.valid.partitions
        now = self._simulation.now
        shown = Trials(dict(self.trials), self._workers, units, now)
        decision = self.procedure.decide(shown)
        self.decisions.append((now, decision))
        named = sorted([*decision.go_on, *decision.complete, *decision.stop])
        waiting = {trial.model for trial in shown.waiting()}
        if not waiting.issuperset(named) or len(set(named)) < len(named):
            raise WrongDecision(f"{decision} at {now} s, when these wait: {sorted(waiting)}")
        stop = dict.fromkeys(decision.complete, ModelState.COMPLETED)
        stop |= dict.fromkeys(decision.stop, ModelState.STOPPED)
        for model in named:
            self._change(model, state=stop.get(model, ModelState.RUNNING), waits=False)
        begun = []
        for number, new in enumerate(decision.begin, len(self.trials)):
            values = () if new.copies is None else self.trials[new.copies].values
            self.trials[number] = Trial(number, new.config, values, inherited=len(values))
            begun.append(ev.AddedModel(number, len(values)))
        return ev.Decided(tuple(named), stop, tuple(begun))
