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
from collections.abc import Mapping, Set

WORDS = {
    "train_loss": "training loss",
    "train_error": "training error",
    "valid_loss": "validation loss",
    "valid_error": "validation error",
}


def is_ruined(finite: bool | None, train_loss: float, measured: Set[str]) -> bool:
    """Tell whether an epoch can never be best.

    `finite` says whether the weights at its end are (None: not known); `measured` are the metrics
    that are, by their names in the history.
    """
    return finite is False or _is_odd(train_loss, "train_loss" in measured)


def flaw(
    finite: bool | None, values: Mapping[str, float], measured: Set[str], *, validates: bool
) -> str:
    """Say what is wrong with an epoch's numbers, `values` by name; empty if nothing is.

    `validates`: the run has validation partitions.
    """
    known = set(measured)
    if validates and "train_loss" in measured:
        known.add("valid_loss")  # who computes the one does not leave out the other
    found = ["weights are not finite"] if finite is False else []
    for name, words in WORDS.items():
        if _is_odd(values[name], name in known):
            found.append(f"{words} is {values[name]}")
    return ", ".join(found)


def _is_odd(value: float, measured: bool) -> bool:
    return math.isinf(value) or (measured and math.isnan(value))
