"""How the values of a hyperparameter are laid out: a linear or logarithmic axis, or strips."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cerebro.formatting import shown

WIDE = 8.0
"""How far apart the ends of a logarithmic axis are at least, as a quotient."""


@dataclass(frozen=True)
class Axis:
    """A hyperparameter of several models. `kind` is linear, log or category.

    `values` has one for each model, None where it has none: a number, or the place in
    `categories`.
    """

    name: str
    kind: str
    values: list[float | None]
    categories: list[str]


def varying(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The hyperparameters that are not the same in all configurations, as they first appear."""
    names = dict.fromkeys(name for config in configs for name in config)
    return [n for n in names if len({shown(c[n]) if n in c else None for c in configs}) > 1]


def axis(name: str, configs: Sequence[dict[str, Any]]) -> Axis:
    """The axis of a hyperparameter."""
    given = [config[name] for config in configs if name in config]
    if all(_is_number(value) for value in given):
        numbers = [float(config[name]) if name in config else None for config in configs]
        distinct = sorted({number for number in numbers if number is not None})
        return Axis(name, "log" if _fits_log(distinct) else "linear", numbers, [])
    categories = list(dict.fromkeys(shown(value) for value in given))
    places: list[float | None] = [
        float(categories.index(shown(config[name]))) if name in config else None
        for config in configs
    ]
    return Axis(name, "category", places, categories)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _fits_log(distinct: list[float]) -> bool:
    """Whether the values lie more evenly on a logarithmic axis."""
    if len(distinct) < 2 or distinct[0] <= 0 or distinct[-1] / distinct[0] < WIDE:
        return False
    if len(distinct) == 2:
        return True
    return _unevenness([math.log(value) for value in distinct]) < _unevenness(distinct)


def _unevenness(ascending: list[float]) -> float:
    """The spread of the steps between values, in units of the mean step."""
    steps = [after - before for before, after in itertools.pairwise(ascending)]
    return statistics.pstdev(steps) / statistics.fmean(steps)
