"""A unit without a `train_fn`: one epoch of `fit` to train, `evaluate` to validate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cerebro.backends.base import UserFunctions, user_code
from cerebro.backends.keras import datasets
from cerebro.backends.keras.compiled_metrics import kind_of, states
from cerebro.backends.keras.private import examples_seen
from cerebro.errors import BadReturn
from cerebro.metrics.direction import HIGHEST, LOWEST, direction_of
from cerebro.metrics.rules import EXACT
from cerebro.metrics.states import TURNED, VALUE

ACCURACIES = (
    "accuracy",
    "acc",
    "binary_accuracy",
    "categorical_accuracy",
    "sparse_categorical_accuracy",
)
"""The names that Keras gives to the accuracy; 1 minus it is the error."""

TAKEN = ("error", "seconds")
"""Names of metrics that would stand for something else in the history."""

_TURNED = re.compile(r"1\s*-\s*(.+)")
"""An `error_metric` whose name is that of a metric that is better high."""


@dataclass(frozen=True)
class Fitted:
    """What a pass gave; `examples` None where they were not counted."""

    loss: float
    error: float
    examples: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    states: dict[str, Any] | None = None


@dataclass(frozen=True)
class _ErrorSource:
    """The metric that the error comes from; `turned`: it is 1 minus that one."""

    metric: str
    turned: bool

    def error(self, values: Mapping[str, float]) -> float:
        """The error of a pass with these values."""
        value = values[self.metric]
        return 1.0 - value if self.turned else value


def check_metrics(
    names: Iterable[str], metrics: Mapping[str, Any], functions: UserFunctions
) -> None:
    """`BadReturn` where the error cannot be had from the compiled metrics of these names."""
    names = list(names)
    source = _error_source(names, metrics, functions)
    for name in TAKEN:
        if name in names and name != source.metric:
            raise _bad(f"a compiled metric is called {name!r}, which the history needs: rename it")


def fit(
    model: Any,
    data: Any,
    *,
    train: bool,
    batch_size: int | None,
    metrics: Mapping[str, Any],
    functions: UserFunctions,
) -> Fitted:
    """One pass over a partition. Raises `UserFunctionError` for what Keras raises."""
    dataset = datasets.is_dataset(data)
    x, y, weights = (data, None, None) if dataset else (*data, None)[:3]
    given = {"x": x, "y": y, "sample_weight": weights, "verbose": 0}
    if not dataset:
        given["batch_size"] = batch_size
    if train:
        given["shuffle"] = not dataset
        with user_code("model.fit"):
            history = model.fit(**given, epochs=1).history
        logs = {name: values[-1] for name, values in history.items()}
    else:
        with user_code("model.evaluate"):
            logs = model.evaluate(**given, return_dict=True)
    values = dict(_scalars(logs))
    if "loss" not in values:
        raise _bad(f"its {'train' if train else 'test'}_step gave no 'loss', but {_listed(logs)}")
    count = examples_seen(model) if dataset else float(datasets.examples(data))
    source = _error_source(values, metrics, functions)
    reported = None
    if not train and functions.metric_rules >= EXACT:
        reported = states(metrics, values)
        if source.metric in reported:
            reported[source.metric]["error"] = TURNED if source.turned else VALUE
    shown = {name: value for name, value in values.items() if name not in ("loss", *TAKEN)}
    return Fitted(values["loss"], source.error(values), count, shown, reported or None)


def _error_source(
    names: Iterable[str], metrics: Mapping[str, Any], functions: UserFunctions
) -> _ErrorSource:
    """The metric that the error comes from, so that the error is better when low."""
    names = list(names)
    kinds = {name: kind_of(metric) for name, metric in metrics.items()}
    given = functions.error_metric
    if given is not None and functions.metric_rules < EXACT:
        _check_compiled(given, given, names)
        return _ErrorSource(given, False)
    if given is not None:
        turned = _TURNED.fullmatch(given) if given not in names else None
        name = turned[1] if turned else given
        _check_compiled(name, given, names)
        mode = direction_of(name, kinds.get(name, ""))
        if mode is None and not turned:
            raise _bad(
                f"whether low or high values of {name!r} are better is not known, and the error "
                f"must be low where a model is good: pass error_metric='1 - {name}' if high ones "
                f"are, or call the metric '{name}_error' if low ones are"
            )
        if mode == LOWEST and turned:
            raise _bad(
                f"error_metric={given!r} would be high where a model is good: of {name!r} low "
                f"values are better; pass error_metric={name!r}"
            )
        return _ErrorSource(name, mode != LOWEST)
    found = [name for name in names if name in ACCURACIES]
    if len(found) != 1:
        have = f"{len(found)} accuracies" if found else "no accuracy"
        raise _bad(
            f"there is {have} among its compiled metrics ({_listed(names)}): compile it with "
            "metrics=['accuracy'], or name the one that the error comes from in error_metric="
        )
    if direction_of(found[0], kinds.get(found[0], "")) != HIGHEST:
        raise _bad(
            f"its metric {found[0]!r} is a {kinds[found[0]]}, of which low values are better: call "
            "it by its own name, and pass that as error_metric="
        )
    return _ErrorSource(found[0], True)


def _check_compiled(name: str, given: str, names: list[str]) -> None:
    if name not in names:
        raise _bad(
            f"error_metric={given!r} is none of its compiled metrics: {_listed(names)}. "
            "Name one of these, or compile it"
        )


def _scalars(logs: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """The metrics that are one number."""
    for name, value in logs.items():
        if getattr(value, "shape", ()) == ():
            yield name, float(value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _bad(message: str) -> BadReturn:
    return BadReturn(f"model_fn returned a model, and {message}", function="model_fn")
