"""What is wrong with an epoch's numbers, and whether it may be best.

An epoch is ruined where its training loss or a weight at its end is not finite: such a model may
have a low error all the same, one that always says the commonest class, say. A ruined epoch is
never best, whatever its metrics are, and no search procedure continues from it. What is wrong with
its validation alone may be one bad sample there: that is only said.

A metric that was NaN in every epoch of every model so far counts as not measured: a function that
does not compute a loss may return NaN for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Set
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cerebro.journal.ledger import EpochRecord, ModelRecord

WORDS = {
    "train_loss": "training loss",
    "train_error": "training error",
    "valid_loss": "validation loss",
    "valid_error": "validation error",
}


def is_ruined(epoch: EpochRecord, measured: Set[str]) -> bool:
    """Tell whether an epoch can never be best; `measured` are the metrics that are."""
    return epoch.finite is False or _is_odd(epoch.train_loss, "train_loss" in measured)


def flaw(epoch: EpochRecord, measured: Set[str], *, validates: bool) -> str:
    """Say what is wrong with an epoch's numbers; empty if nothing is.

    `validates`: the run has validation partitions.
    """
    known = set(measured)
    if validates and "train_loss" in measured:
        known.add("valid_loss")  # who computes the one does not leave out the other
    found = ["weights are not finite"] if epoch.finite is False else []
    for name, words in WORDS.items():
        value = epoch.metric(name)
        if _is_odd(value, name in known):
            found.append(f"{words} is {value}")
    return ", ".join(found)


def _is_odd(value: float, measured: bool) -> bool:
    return math.isinf(value) or (measured and math.isnan(value))


def warning(epoch: EpochRecord) -> str:
    """Say what is wrong with an epoch's numbers, and what follows from it."""
    return f"{epoch.flaw}; this epoch is never best" if epoch.ruined else epoch.flaw


def flawed_models(models: Iterable[ModelRecord]) -> list[tuple[ModelRecord, EpochRecord]]:
    """List the models with a flaw, each with the first epoch of its own that has its worst one."""
    found = []
    for model in models:
        own = [epoch for epoch in model.epochs if epoch.flaw and not epoch.inherited]
        if own:
            found.append((model, next((e for e in own if e.ruined), own[0])))
    return found
