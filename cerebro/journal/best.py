"""Which epoch of which model is best: the one rule that everything shown and written keeps to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cerebro.journal.ledger import EpochRecord, ModelRecord

METRIC = "valid_error"
"""What models are compared by, unless somebody asks for another metric."""


def best_of(
    candidates: Iterable[tuple[ModelRecord, EpochRecord]], metric: str = METRIC, mode: str = "min"
) -> tuple[ModelRecord, EpochRecord] | None:
    """Return the model and epoch with the lowest ("min") or highest ("max") value of a metric.

    NaN never is best, infinity of either sign only where there is no number, and a ruined epoch
    never, whatever its value (`cerebro.journal.flaws`). Of equal values the model with the lowest
    id is, and of its epochs the first. None if there is no candidate with a number.
    """
    sign = 1.0 if mode == "min" else -1.0
    return min(
        (pair for pair in candidates if not math.isnan(comparable(pair[1], metric))),
        key=lambda pair: (
            _bad_if_infinite(sign * pair[1].metric(metric)),
            pair[0].id,
            pair[1].epoch,
        ),
        default=None,
    )


def comparable(epoch: EpochRecord, metric: str = METRIC) -> float:
    """Return the value by which an epoch is compared; NaN if it can never be best.

    That is a ruined one, and one whose version is gone, as another rule held when it was dropped.
    """
    return math.nan if epoch.ruined or epoch.dropped else epoch.metric(metric)


def _bad_if_infinite(value: float) -> float:
    return math.inf if math.isinf(value) else value


def own_epochs(models: Iterable[ModelRecord]) -> Iterator[tuple[ModelRecord, EpochRecord]]:
    """Yield each model, whatever its state, with each epoch that it trained itself.

    An epoch that it inherited belongs to the model that trained it.
    """
    for model in models:
        for epoch in model.epochs:
            if not epoch.inherited:
                yield model, epoch


def best_epoch(model: ModelRecord) -> EpochRecord | None:
    """Return the best epoch of one model; None if no epoch of its own has a number."""
    found = best_of(own_epochs([model]))
    return None if found is None else found[1]
