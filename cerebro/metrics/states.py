"""What a worker reports of a metric after a pass, as JSON: its kind, and the state that adds up.

    {"auc": {"kind": "AUC", "digest": "…", "settings": {"curve": "ROC", …},
             "variables": {"true_positives": [[200], "<f4", "…"], …}}}

Metrics are by name; all but `kind` is left out where the state does not add up, or is too large to
be recorded; the metric of an epoch is then the mean over partitions. `error`, of one metric at
most, says what the error is of it: `"value"`, or `"1 - value"`. A variable is its shape, the type
of its numbers, and their bytes in base64, little end first.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cerebro.metrics.exact import EXACT_METRICS, exact_value

NUMBERS = 4096
"""So many numbers the state of one metric may have: an AUC with 200 thresholds has 800."""

NUMBERS_OF_ALL = 16384
"""So many the states of all metrics of one model may have together; the first ones count."""

States = Mapping[str, Mapping[str, Any]]

VALUE, TURNED = "value", "1 - value"
"""What the error is of the metric that it comes from."""

_TYPES = ("<f4", "<f8", "<i4", "<i8")


def encoded(
    kind: str, variables: Mapping[str, np.ndarray], settings: Mapping[str, Any], digest: str = ""
) -> dict[str, Any]:
    """Return what is reported of a metric whose state adds up.

    `digest` is one of all that the metric is configured with, where states depend on it.
    """
    return {
        "kind": kind,
        "digest": digest,
        "settings": dict(settings),
        "variables": {name: _encoded(array) for name, array in variables.items()},
    }


def _encoded(array: np.ndarray) -> list[Any]:
    little = array.astype(array.dtype.newbyteorder("<"))
    if little.dtype.str not in _TYPES:
        little = array.astype("<f8")
    text = base64.b64encode(little.tobytes()).decode("ascii")
    return [list(little.shape), little.dtype.str, text]


def _decoded(value: Any) -> np.ndarray:
    shape, kind, text = value
    if kind not in _TYPES:
        raise ValueError(f"numbers of type {kind!r} are not known")
    content = base64.b64decode(text, validate=True)
    array: np.ndarray = np.frombuffer(content, kind).reshape(shape).astype(float)
    return array


def kinds(states: States) -> dict[str, str]:
    """Return the kind of each metric that one is reported of, by name."""
    found = {name: of.get("kind") for name, of in states.items()}
    return {name: kind for name, kind in found.items() if isinstance(kind, str) and kind}


def joint_values(parts: Sequence[States | None]) -> tuple[dict[str, float], float | None]:
    """Return the exact values of metrics over all parts, by name, and the error if it is of one.

    `parts` are what the units of an epoch have reported, in the order of the partitions. A metric
    has a value where every part has its state, in a form that is known here.
    """
    values: dict[str, float] = {}
    error = None
    known = [part for part in parts if part]
    if not known or len(known) < len(parts):
        return values, error
    for name in known[0]:
        value = _joint_value([part.get(name) for part in known])
        if value is None:
            continue
        values[name] = value
        rule = known[0][name].get("error")
        if rule in (VALUE, TURNED):
            error = value if rule == VALUE else 1.0 - value
    return values, error


def _joint_value(parts: Sequence[Any]) -> float | None:
    first = parts[0]
    if not all(isinstance(part, dict) and part.get("variables") for part in parts):
        return None
    if any(part.get(field) != first.get(field) for part in parts for field in _SAME):
        return None
    try:
        variables = [
            {name: _decoded(value) for name, value in part["variables"].items()} for part in parts
        ]
        names = EXACT_METRICS[first["kind"]].variables
        total = {name: _total([of[name] for of in variables]) for name in names}
        return exact_value(first["kind"], total, first["settings"])
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        return None  # of a later version, which may know more kinds and forms


_SAME = ("kind", "digest", "settings", "error")
"""What is the same on all partitions, or states do not add up: a `model_fn` sees the data."""


def _total(arrays: Sequence[np.ndarray]) -> np.ndarray:
    total = arrays[0]
    for array in arrays[1:]:
        if array.shape != total.shape:
            raise ValueError("parts have states of different shapes")
        total = total + array
    return total


def agrees(value: float, reported: float) -> bool:
    """Tell whether a value computed here is the one that the tool has reported."""
    if math.isnan(value) or math.isnan(reported):
        return math.isnan(value) and math.isnan(reported)
    return math.isclose(value, reported, rel_tol=1e-3, abs_tol=1e-4)
