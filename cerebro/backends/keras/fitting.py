"""A unit without a `train_fn`: one epoch of `fit` to train, `evaluate` to validate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cerebro.backends.base import user_code
from cerebro.backends.keras import datasets
from cerebro.backends.keras.private import examples_seen
from cerebro.errors import BadReturn

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


@dataclass(frozen=True)
class Fitted:
    """What a pass gave; `examples` None where they were not counted."""

    loss: float
    error: float
    examples: float | None
    metrics: dict[str, float]


def check_metrics(names: Iterable[str], error_metric: str | None) -> None:
    """`BadReturn` where the error cannot be had from the compiled metrics of these names."""
    names = list(names)
    _error_source(names, error_metric)
    for name in TAKEN:
        if name in names and name != error_metric:
            raise _bad(f"a compiled metric is called {name!r}, which the history needs: rename it")


def fit(
    model: Any, data: Any, *, train: bool, batch_size: int | None, error_metric: str | None
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
    source, sign = _error_source(values, error_metric)
    error = 1.0 - values[source] if sign else values[source]
    metrics = {name: value for name, value in values.items() if name not in ("loss", *TAKEN)}
    return Fitted(values["loss"], error, count, metrics)


def _error_source(names: Iterable[str], error_metric: str | None) -> tuple[str, bool]:
    """(the metric that the error comes from, whether it is subtracted from 1)."""
    names = list(names)
    if error_metric is not None:
        if error_metric not in names:
            raise _bad(
                f"error_metric={error_metric!r} is none of its compiled metrics: {_listed(names)}. "
                "Name one of these, or compile it"
            )
        return error_metric, False
    found = [name for name in names if name in ACCURACIES]
    if len(found) != 1:
        have = f"{len(found)} accuracies" if found else "no accuracy"
        raise _bad(
            f"there is {have} among its compiled metrics ({_listed(names)}): compile it with "
            "metrics=['accuracy'], or name the one that is the error in error_metric="
        )
    return found[0], True


def _scalars(logs: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """The metrics that are one number."""
    for name, value in logs.items():
        if getattr(value, "shape", ()) == ():
            yield name, float(value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _bad(message: str) -> BadReturn:
    return BadReturn(f"model_fn returned a model, and {message}", function="model_fn")
