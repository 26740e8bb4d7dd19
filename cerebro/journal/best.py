"""Which epoch of which model is best: the one rule that everything shown and written keeps to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cerebro.journal.ledger import EpochRecord, Ledger, ModelRecord
    from cerebro.journal.run_plan import RunPlan

METRIC = "valid_error"
"""What models are compared by, unless somebody asks for another metric."""


def score(epoch: EpochRecord, metric: str = METRIC, mode: str = "min") -> float:
    """Return what an epoch is worth by a metric, better the lower it is; NaN is never best.

    That is so where the metric is NaN, and where the epoch is ruined, whatever its value
    (`cerebro.journal.flaws`). Infinity of either sign is the worst that there is.
    """
    return math.nan if epoch.ruined else value(epoch, metric, mode)


def value(epoch: EpochRecord, metric: str, mode: str) -> float:
    """Return an epoch's value of a metric, better the lower it is, whether it is ruined or not."""
    number = epoch.metric(metric)
    if math.isinf(number):
        return math.inf
    return number if mode == "min" else -number


def best_of(
    candidates: Iterable[tuple[ModelRecord, EpochRecord]], metric: str = METRIC, mode: str = "min"
) -> tuple[ModelRecord, EpochRecord] | None:
    """Return the model and epoch with the lowest ("min") or highest ("max") value of a metric.

    NaN never is best, infinity of either sign only where there is no number, and a ruined epoch
    never, whatever its value (`cerebro.journal.flaws`). Of equal values the model with the lowest
    id is, and of its epochs the first. None if there is no candidate with a number.
    """
    return min(
        (pair for pair in candidates if not math.isnan(score(pair[1], metric, mode))),
        key=lambda pair: (score(pair[1], metric, mode), pair[0].id, pair[1].epoch),
        default=None,
    )


def own_epochs(models: Iterable[ModelRecord]) -> Iterator[tuple[ModelRecord, EpochRecord]]:
    """Yield each model, whatever its state, with each epoch that it trained itself.

    An epoch that it inherited belongs to the model that trained it.
    """
    for model in models:
        for epoch in model.epochs:
            if not epoch.inherited:
                yield model, epoch


def kept_epochs(models: Iterable[ModelRecord]) -> Iterator[tuple[ModelRecord, EpochRecord]]:
    """Yield those own epochs of models whose weights are kept."""
    for model, epoch in own_epochs(models):
        if epoch.version and model.checkpoint(epoch.version) is not None:
            yield model, epoch


def best_so_far(ledger: Ledger) -> tuple[ModelRecord, EpochRecord] | None:
    """Return the best model and epoch of a run, by what the run compares models by.

    None if no epoch has ended with a number.
    """
    plan = ledger.the_plan
    return best_of(kept_epochs(ledger.models.values()), plan.metric, plan.mode)


def best_epoch(model: ModelRecord, plan: RunPlan) -> EpochRecord | None:
    """Return the best epoch of one model; None if no epoch of its own has a number."""
    found = best_of(kept_epochs([model]), plan.metric, plan.mode)
    return None if found is None else found[1]
