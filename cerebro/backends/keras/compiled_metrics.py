"""The metrics that a compiled model measures: which they are, and their states after a pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from cerebro.backends.keras.private import named_metrics, wrapped_function
from cerebro.backends.keras.runtime import keras
from cerebro.metrics.direction import LOSS
from cerebro.metrics.exact import EXACT_METRICS, exact_value
from cerebro.metrics.states import NUMBERS, NUMBERS_OF_ALL, agrees, encoded


def compiled_metrics(model: Any) -> dict[str, Any]:
    """Return the model's metrics by their names in the history, without its loss."""
    return {name: metric for name, metric in named_metrics(model).items() if name != "loss"}


def kind_of(metric: Any) -> str:
    """Return the name of a class of Keras' own, `LOSS` for a loss; empty for any other metric.

    A class that is derived from one of Keras' may measure something else.
    """
    kind = type(metric)
    if getattr(keras.metrics, kind.__name__, None) is not kind:
        return ""
    if kind is keras.metrics.MeanMetricWrapper and _is_loss(wrapped_function(metric)):
        return LOSS
    return str(kind.__name__)


def _is_loss(function: Any) -> bool:
    if isinstance(function, keras.losses.Loss):
        return True
    name = getattr(function, "__name__", "")
    return bool(name) and getattr(keras.losses, name, None) is function


def states(metrics: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, Any]:
    """Return what is to be reported of metrics after a pass that gave these values.

    A state is reported only if the value that it gives is the one that Keras has.
    """
    found: dict[str, Any] = {}
    left = NUMBERS_OF_ALL
    for name, metric in metrics.items():
        kind = kind_of(metric)
        if not kind or name not in values:
            continue
        found[name] = {"kind": kind}
        if kind not in EXACT_METRICS:
            continue
        names = EXACT_METRICS[kind].variables
        if not all(hasattr(metric, name) for name in names):
            continue
        variables = {n: getattr(metric, n) for n in names}
        numbers = sum(int(np.prod(variable.shape)) for variable in variables.values())
        if numbers > min(NUMBERS, left):
            continue
        arrays = {n: keras.ops.convert_to_numpy(variable) for n, variable in variables.items()}
        try:
            settings = {n: _plain(getattr(metric, n)) for n in EXACT_METRICS[kind].settings}
            value = exact_value(kind, {n: a.astype(float) for n, a in arrays.items()}, settings)
        except (AttributeError, TypeError, ValueError):
            continue
        if agrees(value, values[name]):
            found[name] = encoded(kind, arrays, settings, _digest(kind, metric))
            left -= numbers
    return found


def _digest(kind: str, metric: Any) -> str:
    """One of what a metric is configured with; empty for a mean, which may be one of anything."""
    if "count" in EXACT_METRICS[kind].variables and kind != "R2Score":
        return ""
    config = {n: v for n, v in metric.get_config().items() if n not in ("name", "dtype")}
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """A parameter of a metric as JSON can hold it."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return np.asarray(value).tolist()
