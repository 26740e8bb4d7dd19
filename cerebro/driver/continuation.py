"""What a run that is resumed continues with: models that had ended, and appended configurations.

All of it is found out before the first record is written, so that a run stays as it is where what
is asked for cannot be.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cerebro.driver.resume import check_extended, differs
from cerebro.driver.search_decisions import Search, trials_of
from cerebro.errors import ConfigurationError, ResumeRefused
from cerebro.formatting import count
from cerebro.hopper.units import ModelState
from cerebro.journal.ledger import Ledger
from cerebro.journal.records import (
    DecisionRecord,
    Header,
    NewModelEntry,
    Record,
    ReopenedRecord,
)
from cerebro.journal.run_plan import RunPlan
from cerebro.search import SearchProcedure

APPENDED = "configurations were appended"


@dataclass(frozen=True)
class Continuation:
    """`reopened` are models that continue although they had ended, and why; `added` those that
    start with configurations that were appended to the list.
    """

    reopened: tuple[tuple[tuple[int, ...], str], ...] = ()
    added: tuple[NewModelEntry, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.reopened or self.added)

    def records(self, header: Header) -> list[Record]:
        """What the journal says of it. What has started is known from the decision alone."""
        records: list[Record] = [
            ReopenedRecord(**header, models=models, why=why) for models, why in self.reopened
        ]
        if self.added:
            records.append(DecisionRecord(**header, asked=(), stop={}, add=self.added))
        return records

    def tell(self, say: Callable[[str], None]) -> None:
        """Say what continues, and what starts."""
        for models, why in self.reopened:
            say(f"{f'resuming models {list(models)}' if models else 'resuming'}: {why}")
        if self.added:
            first, last = self.added[0].model, self.added[-1].model
            which = f"model {first} begins" if first == last else f"models {first} to {last} begin"
            appended = count(len(self.added), "configuration")
            say(f"{which}, with {appended} more; mst_eval_fn decides how long they are trained")


def continuation(
    ledger: Ledger,
    plan: RunPlan,
    search: SearchProcedure | None,
    configs: Sequence[dict[str, Any]],
    *,
    retry_failed: bool,
) -> Continuation:
    """What a run continues with, by what is given now.

    Failed models, if that is asked for. Where `mst_eval_fn` is another one now, the models that no
    other had left behind when the run ended. Where the search procedure is another one, or has
    other parameters, the models that it may let continue. Of `configs` those that no model has
    started with. A replay starts and continues what the recording did.

    Raises `ResumeRefused` if `configs` are not those of the run, with more behind them.
    """
    reopened: list[tuple[tuple[int, ...], str]] = []
    models = ledger.models.values()
    failed = tuple(m.id for m in models if m.state is ModelState.FAILED)
    if retry_failed and failed:
        reopened.append((failed, "retry_failed"))
    if plan.replay is not None:
        return Continuation(tuple(reopened))
    if search is not None:
        if differs("search", ledger.the_plan, plan):
            again = tuple(
                t.model for t in trials_of(search, ledger) if not t.runs and search.reopens(t)
            )
            if again or ledger.ended:
                reopened.append((again, "the search procedure is asked again"))
        return Continuation(tuple(reopened))
    if differs("mst_eval_fn", ledger.the_plan, plan):
        runs = any(m.state is ModelState.RUNNING for m in models)
        finishers = ledger.finished if runs else ledger.finishers()
        stopped = tuple(m for m in finishers if ledger.models[m].state is ModelState.COMPLETED)
        if stopped:
            reopened.append((stopped, "mst_eval_fn is asked again"))
    added = _appended(ledger, configs)
    if added and ledger.ended and not reopened:
        reopened.append(((), APPENDED))
    return Continuation(tuple(reopened), added)


def _appended(ledger: Ledger, configs: Sequence[dict[str, Any]]) -> tuple[NewModelEntry, ...]:
    """The models of the configurations behind those that the run has started with."""
    check_extended(ledger.the_plan.name, ledger.configs, configs)
    begun, first = len(ledger.configs), ledger.next_model()
    return tuple(
        NewModelEntry(first + n, config, 0, None, config.get("init_ckpt_path"), begun + n)
        for n, config in enumerate(configs[begun:])
    )


def check_search(
    ledger: Ledger,
    plan: RunPlan,
    search: SearchProcedure,
    continues: Continuation,
    run_dir: str,
    say: Callable[[str], None],
) -> None:
    """Ask a search procedure with other parameters what it will do, before anything is recorded.

    Raises `ResumeRefused` where it cannot continue with the models of the run, and where the run
    has ended and it would train nothing; `DecisionError` and `UserFunctionError` for a bad answer.
    """
    begun = len(ledger.models)
    prospect = copy.deepcopy(ledger)
    for record in continues.records({"t": ledger.last_t, "generation": 0}):
        prospect.add(record)
    asked = Search(search, prospect, f"the run in {run_dir} stays as it is")
    try:
        trains = asked.would_train(prospect)
    except ConfigurationError as error:
        raise ResumeRefused(
            f"the run {plan.name!r} cannot be resumed with {plan.search}: {error}"
        ) from error
    if trains is False and ledger.ended:
        raise ResumeRefused(
            f"the run {plan.name!r} has ended, with {count(begun, 'model')}, and {plan.search} "
            "starts no other and lets none continue, so nothing would be trained: models keep the "
            "configurations that they began with, whatever the values and ranges are now. Ask for "
            "more configurations or more epochs, or start another run; "
            f"cerebro.load({run_dir!r}) gives the results of this one"
        )
    planned = search.epochs_planned()
    if trains is False:
        say(f"{plan.search} starts no other model and lets none continue: the run ends")
    elif planned is not None and len(planned) <= begun:
        say(f"{plan.search} starts no other model than the {begun} of the run: these continue")
