"""A search procedure at work in a run: it is shown the ledger's models, and what it answers is
checked and put into the journal's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cerebro.driver.argument_checks import check_config
from cerebro.driver.decisions import CheckedDecision, Procedure, begin
from cerebro.errors import ConfigurationError, DecisionError, UserFunctionError
from cerebro.formatting import message_of, shorten
from cerebro.hopper.units import ModelState
from cerebro.journal.best import score
from cerebro.journal.ledger import METRICS, EpochRecord, Ledger, ModelRecord
from cerebro.journal.records import NewModelEntry
from cerebro.journal.run_plan import RunPlan, hyperparameters
from cerebro.metrics.direction import bare, known_direction
from cerebro.search import Decision, NewModel, SearchProcedure, Trial, Trials
from cerebro.validation import plain_integer

FAILURES_AT_FIRST = 16
"""So many models that fail before any has ended an epoch are no bad luck: no more are started."""


class Search(Procedure):
    """A `SearchProcedure` as the run's procedure. `stops_here` ends messages: how to continue.

    It is asked about all models that wait, whichever has just ended an epoch.
    """

    begins_models = True
    asked_as = "the search procedure"

    def __init__(self, procedure: SearchProcedure, ledger: Ledger, stops_here: str) -> None:
        self._procedure = procedure
        self._stops_here = stops_here
        self._seen: dict[int, Trial] = {}
        self._measured: frozenset[str] = frozenset()
        self._failures = ledger.failures
        self.per_model = procedure.per_model
        self.copies = procedure.copies

    def ask(self, ledger: Ledger, models: tuple[int, ...]) -> list[CheckedDecision]:
        """Raises `DecisionError` for a bad answer, `UserFunctionError` for what it raised."""
        self._failures = ledger.failures
        try:
            trials = self._trials(ledger)
            decision = self._checked(self._procedure.decide(trials), trials, ledger)
        except ConfigurationError as error:
            raise DecisionError(f"{error}; {self._stops_here}", function="search") from error
        except DecisionError as error:
            raise DecisionError(f"{error}; {self._stops_here}", function="search") from error
        except Exception as error:
            raise UserFunctionError(
                f"{_name(self._procedure)}.decide raised {type(error).__name__}: "
                f"{message_of(error)}; {self._stops_here}",
                function="search",
            ) from error
        return [decision] if decision.asked or decision.stop or decision.add else []

    def would_train(self, ledger: Ledger) -> bool:
        """Whether anything is left to train in a run that is about to be resumed.

        The procedure is asked only if it would be at once. Raises `ConfigurationError` if it cannot
        continue with the run's models, and what `ask` raises.
        """
        trials = self._trials(ledger)
        self._procedure.check_models(trials)
        waiting, in_flight = trials.waiting(), trials.in_flight()
        if in_flight and not (self.per_model and waiting):
            return True
        decisions = self.ask(ledger, ())
        goes_on = any(set(d.asked).difference(d.stop) or d.add for d in decisions)
        return bool(in_flight or goes_on)

    def follow(self, ledger: Ledger) -> list[CheckedDecision]:
        """A model that has failed makes room for another one: at once, if it is asked about each
        model by itself or nothing else is in flight.
        """
        if ledger.failures == self._failures:
            return []
        running = [m for m in ledger.models.values() if m.state is ModelState.RUNNING]
        if self.per_model or (running and all(m.has_ended_epoch() for m in running)):
            return self.ask(ledger, ())
        return []

    def _trials(self, ledger: Ledger) -> Trials:
        plan = ledger.the_plan
        self._check_direction(ledger)
        if ledger.measured != self._measured:
            # What counts of epochs that have ended may be another thing now.
            self._seen, self._measured = {}, ledger.measured
        self._seen = {
            model.id: _trial(model, self._procedure, self._seen.get(model.id))
            for model in ledger.models.values()
        }
        units = len(plan.train_partitions) + len(plan.valid_partitions)
        return Trials(self._seen, len(plan.workers), units, ledger.last_t)

    def _check_direction(self, ledger: Ledger) -> None:
        """`DecisionError` where the metric is another one than its name says."""
        metric, assumed = self._procedure.metric, self._procedure.direction
        known = known_direction(metric, ledger.metric_kinds)
        if self._procedure.mode is None and known != assumed:
            kind = ledger.metric_kinds.get(bare(metric)) or "not of one direction in all models"
            raise DecisionError(
                f"metric={metric!r} is compared with mode={assumed!r}, as its name says, but it is "
                f"{kind}: pass mode='min' if its lowest value is best, mode='max' if its highest is"
            )

    def _checked(self, answer: Any, trials: Trials, ledger: Ledger) -> CheckedDecision:
        name = _name(self._procedure)
        if not isinstance(answer, Decision):
            raise DecisionError(
                f"{name}.decide returned {shorten(answer)}: expected a cerebro.search.Decision"
            )
        go_on, complete, stopped = (
            [_id(model, f"{name}.decide named model") for model in models]
            for models in (answer.go_on, answer.complete, answer.stop)
        )
        named = [*go_on, *complete, *stopped]
        waiting = {trial.model for trial in trials.waiting()}
        for model in named:
            if model not in waiting or named.count(model) > 1:
                raise DecisionError(
                    f"{name}.decide named model {shorten(model)}: each model that waits "
                    f"({sorted(waiting)}) may be named once, and no other"
                )
        stop = dict.fromkeys(complete, ModelState.COMPLETED)
        stop |= dict.fromkeys(stopped, ModelState.STOPPED)
        held = waiting.difference(named)
        if held and not trials.in_flight() and not answer.taking_off():
            raise DecisionError(
                f"{name}.decide leaves models {sorted(held)} waiting, and none is in flight whose "
                "end of an epoch would lead to another decision: let one go on, begin another, or "
                "stop them"
            )
        first = ledger.next_model()
        if not len(trials) and not answer.begin:
            raise DecisionError(f"{name}.decide begins no model: nothing would be trained")
        failed = sum(trial.state is ModelState.FAILED for trial in trials)
        if failed >= FAILURES_AT_FIRST and not any(trial.epochs for trial in trials):
            answer.begin.clear()
        add = tuple(_begin(new, n, ledger, name) for n, new in enumerate(answer.begin, first))
        return CheckedDecision(tuple(sorted(named)), stop, add)


def totals_planned(procedure: SearchProcedure, plan: RunPlan) -> dict[int, tuple[int, int]] | None:
    """Count the train and valid units of each model in the whole run.

    None if the procedure does not know beforehand how long models will be trained.
    """
    planned = procedure.epochs_planned()
    if planned is None:
        return None
    train, valid = len(plan.train_partitions), len(plan.valid_partitions)
    return {number: (epochs * train, epochs * valid) for number, epochs in enumerate(planned)}


def trials_of(procedure: SearchProcedure, ledger: Ledger) -> list[Trial]:
    """A run's models as the procedure sees them."""
    return [_trial(model, procedure, None) for model in ledger.models.values()]


def _trial(model: ModelRecord, procedure: SearchProcedure, before: Trial | None) -> Trial:
    waits = model.state is ModelState.RUNNING and model.has_ended_epoch()
    known = before is not None and len(before.values) == len(model.epochs)
    if known and before is not None and (before.state, before.waits) == (model.state, waits):
        return before
    return Trial(
        model.id,
        hyperparameters(model.mst),
        tuple(_score(epoch, procedure) for epoch in model.epochs),
        model.state,
        waits,
        sum(epoch.inherited for epoch in model.epochs),
    )


def _score(epoch: EpochRecord, procedure: SearchProcedure) -> float:
    metric = procedure.metric
    if metric in METRICS or metric in epoch.metrics:
        return score(epoch, metric, procedure.direction)
    known = ", ".join((*METRICS, *epoch.metrics))
    raise DecisionError(f"metric={metric!r} is no metric of this search: choose one of {known}")


def _id(value: Any, what: str) -> int:
    """A model's id as a plain integer, which the journal can hold."""
    number = plain_integer(value)
    if number is None:
        raise DecisionError(f"{what} {shorten(value)}: a model's id must be an integer")
    return number


def _name(procedure: SearchProcedure) -> str:
    return type(procedure).__name__


def _begin(new: Any, number: int, ledger: Ledger, name: str) -> NewModelEntry:
    where = f"{name}'s new configuration"
    if not isinstance(new, NewModel):
        raise DecisionError(f"{where} is {shorten(new)}: expected a cerebro.search.NewModel")
    config = check_config(new.config, where)
    if new.copies is None:
        return begin(config, number, ledger, where)
    return _copy(config, _id(new.copies, f"{where} copies model"), number, ledger, where)


def _copy(
    config: Mapping[str, Any], source: int, number: int, ledger: Ledger, where: str
) -> NewModelEntry:
    """A new model that starts where another one's last epoch ended."""
    parent = ledger.models.get(source)
    last = parent.epochs[-1] if parent is not None and parent.epochs else None
    checkpoint = None
    if parent is not None and last is not None and last.version is not None:
        checkpoint = parent.checkpoint(last.version)
    if last is None or checkpoint is None:
        raise DecisionError(
            f"{where} copies model {shorten(source)}, of which no version is kept at the end of an "
            "epoch: copy a model that has ended one of its own, and say copies = True in the "
            "procedure's class"
        )
    mst = {**config, "init_mst_id": source}
    return NewModelEntry(number, mst, last.epoch + 1, source, checkpoint)
