"""The value of a metric from its state, as Keras computes it.

The states of these classes of Keras add up: summed over partitions they are the state that one pass
over all examples would have left, so what is computed from the sum is exact. Values are computed in
double precision. `settings` are the parameters of the metric that its value depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cerebro.metrics.direction import LOSS

Arrays = Mapping[str, np.ndarray]
Settings = Mapping[str, Any]

EPSILON = 1e-7
"""What Keras adds to a divisor that may be 0, unless the user has set another one."""


@dataclass(frozen=True)
class ExactMetric:
    """How a class of metrics is evaluated: its variables, the settings that count, the formula."""

    variables: tuple[str, ...]
    value: Callable[[Arrays, Settings], Any]
    settings: tuple[str, ...] = ()


def _ratio(numerator: Any, denominator: Any) -> np.ndarray:
    """A quotient, 0 where the divisor is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    zero = denominator == 0
    return np.where(zero, 0.0, numerator / np.where(zero, 1.0, denominator))


def _mean(state: Arrays, settings: Settings) -> Any:
    return _ratio(state["total"], state["count"])


def _root(state: Arrays, settings: Settings) -> Any:
    return np.sqrt(_mean(state, settings))


def _sum(state: Arrays, settings: Settings) -> Any:
    return state["total"]


def _counted(state: Arrays, settings: Settings) -> Any:
    return state["accumulator"]


def _precision(state: Arrays, settings: Settings | None = None) -> np.ndarray:
    return _ratio(state["true_positives"], state["true_positives"] + state["false_positives"])


def _recall(state: Arrays, settings: Settings | None = None) -> np.ndarray:
    return _ratio(state["true_positives"], state["true_positives"] + state["false_negatives"])


def _specificity(state: Arrays) -> np.ndarray:
    return _ratio(state["true_negatives"], state["true_negatives"] + state["false_positives"])


def _highest(values: np.ndarray, constrained: np.ndarray, least: float) -> Any:
    """The highest value where what is constrained is at least so much; 0 where it never is.

    Compared in single precision, in which Keras has both.
    """
    feasible = constrained.astype(np.float32) >= np.float32(least)
    return np.max(np.where(feasible, values, 0.0), initial=0.0)


def _sensitivity_at_specificity(state: Arrays, settings: Settings) -> Any:
    return _highest(_recall(state), _specificity(state), settings["specificity"])


def _specificity_at_sensitivity(state: Arrays, settings: Settings) -> Any:
    return _highest(_specificity(state), _recall(state), settings["sensitivity"])


def _precision_at_recall(state: Arrays, settings: Settings) -> Any:
    return _highest(_precision(state), _recall(state), settings["recall"])


def _recall_at_precision(state: Arrays, settings: Settings) -> Any:
    return _highest(_recall(state), _precision(state), settings["precision"])


def _auc(state: Arrays, settings: Settings) -> Any:
    curve, method = settings["curve"], settings["summation_method"]
    if curve == "PR" and method == "interpolation":
        areas = _interpolated_precision(state)
    else:
        x, y = _curve(state, curve)
        ends = y[:-1], y[1:]
        if method == "interpolation":
            heights = (ends[0] + ends[1]) / 2
        elif method == "minoring":
            heights = np.minimum(*ends)
        elif method == "majoring":
            heights = np.maximum(*ends)
        else:
            raise ValueError(f"summation_method={method!r} is not known")
        areas = (x[:-1] - x[1:]) * heights
    by_label = areas.sum(axis=0)
    if not settings["multi_label"]:
        return by_label
    weights = settings["label_weights"]
    if weights is None:
        return by_label.mean()
    weights = np.asarray(weights, float)
    return _ratio((by_label * weights).sum(), weights.sum())


def _curve(state: Arrays, curve: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve, by threshold: x falls."""
    if curve == "ROC":
        false = state["false_positives"]
        return _ratio(false, false + state["true_negatives"]), _recall(state)
    if curve == "PR":
        return _recall(state), _precision(state)
    if curve != "PRGAIN":
        raise ValueError(f"curve={curve!r} is not known")
    positives = state["true_positives"]
    scale = _ratio(
        positives + state["false_negatives"], state["true_negatives"] + state["false_positives"]
    )
    none = positives == 0
    recall = np.where(none, 0.0, 1 - scale * _ratio(state["false_negatives"], positives))
    precision = np.where(none, 1.0, 1 - scale * _ratio(state["false_positives"], positives))
    return np.maximum(recall, 0.0), precision


def _interpolated_precision(state: Arrays) -> np.ndarray:
    """The areas below the precision-recall curve between thresholds (Davis and Goadrich, 2006)."""
    true = state["true_positives"]
    found = true + state["false_positives"]
    step = true[:-1] - true[1:]
    slope = _ratio(step, np.maximum(found[:-1] - found[1:], 0))
    intercept = true[1:] - slope * found[1:]
    both = (found[:-1] > 0) & (found[1:] > 0)
    quotient = np.where(both, _ratio(found[:-1], np.maximum(found[1:], 0)), 1.0)
    positives = np.maximum(true[1:] + state["false_negatives"][1:], 0)
    return _ratio(slope * (step + intercept * np.log(quotient)), positives)


def _f_beta(state: Arrays, settings: Settings) -> Any:
    true, squared = state["true_positives"], float(settings["beta"]) ** 2
    precision = true / (true + state["false_positives"] + EPSILON)
    recall = true / (true + state["false_negatives"] + EPSILON)
    scores = (1 + squared) * precision * recall / (squared * precision + recall + EPSILON)
    average = settings["average"]
    if average == "weighted":
        weights = state["intermediate_weights"]
        return (scores * weights / (weights.sum() + EPSILON)).sum()
    if average not in ("micro", "macro"):
        raise ValueError(f"average={average!r} gives no single number")
    return scores.mean()


def _iou(state: Arrays, settings: Settings) -> Any:
    matrix = state["total_cm"]
    both = np.diag(matrix)
    either = matrix.sum(axis=0) + matrix.sum(axis=1) - both
    targets = list(settings["target_class_ids"])
    both, either = both[targets], either[targets]
    there = either > 1e-9
    scores = np.where(there, both / (either + EPSILON), 0.0)
    return scores.sum() / (there.sum() + EPSILON)


def _r2(state: Arrays, settings: Settings) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        total = state["squared_sum"] - state["sum"] * (state["sum"] / state["count"])
        scores = 1 - state["total_mse"] / total
        scores = np.where(np.isinf(scores), 0.0, scores)
        if settings["class_aggregation"] == "variance_weighted_average":
            score = (total * scores).sum() / total.sum()
        elif settings["class_aggregation"] == "uniform_average":
            score = scores.mean()
        else:
            raise ValueError("without class_aggregation there is no single number")
    regressors, samples = float(settings["num_regressors"]), float(state["num_samples"])
    if regressors and regressors < samples - 1:
        return 1 - (1 - score) * (samples - 1) / (samples - regressors - 1)
    return score


_TOTAL = ("total", "count")
_CONFUSION = ("true_positives", "true_negatives", "false_positives", "false_negatives")
_F_STATE = ("true_positives", "false_positives", "false_negatives", "intermediate_weights")
_R2_STATE = ("squared_sum", "sum", "total_mse", "count", "num_samples")
_AUC_SETTINGS = ("curve", "summation_method", "multi_label", "label_weights")

_MEANS = (
    "Accuracy", "BinaryAccuracy", "BinaryCrossentropy", "CategoricalAccuracy",
    "CategoricalCrossentropy", "CategoricalHinge", "ConcordanceCorrelation", "CosineSimilarity",
    "Hinge", "KLDivergence", "LogCoshError", "Mean", "MeanAbsoluteError",
    "MeanAbsolutePercentageError", "MeanMetricWrapper", "MeanSquaredError",
    "MeanSquaredLogarithmicError", "PearsonCorrelation", "Poisson", "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy", "SparseTopKCategoricalAccuracy", "SquaredHinge",
    "TopKCategoricalAccuracy",
)  # fmt: skip
_COUNTS = ("FalseNegatives", "FalsePositives", "TrueNegatives", "TruePositives")
_IOUS = ("BinaryIoU", "IoU", "MeanIoU", "OneHotIoU", "OneHotMeanIoU")

EXACT_METRICS: Mapping[str, ExactMetric] = {
    **dict.fromkeys((*_MEANS, LOSS), ExactMetric(_TOTAL, _mean)),
    "RootMeanSquaredError": ExactMetric(_TOTAL, _root),
    "Sum": ExactMetric(("total",), _sum),
    **dict.fromkeys(_COUNTS, ExactMetric(("accumulator",), _counted)),
    "Precision": ExactMetric(("true_positives", "false_positives"), _precision),
    "Recall": ExactMetric(("true_positives", "false_negatives"), _recall),
    "SensitivityAtSpecificity": ExactMetric(
        _CONFUSION, _sensitivity_at_specificity, ("specificity",)
    ),
    "SpecificityAtSensitivity": ExactMetric(
        _CONFUSION, _specificity_at_sensitivity, ("sensitivity",)
    ),
    "PrecisionAtRecall": ExactMetric(_CONFUSION, _precision_at_recall, ("recall",)),
    "RecallAtPrecision": ExactMetric(_CONFUSION, _recall_at_precision, ("precision",)),
    "AUC": ExactMetric(_CONFUSION, _auc, _AUC_SETTINGS),
    "F1Score": ExactMetric(_F_STATE, _f_beta, ("average", "beta")),
    "FBetaScore": ExactMetric(_F_STATE, _f_beta, ("average", "beta")),
    **dict.fromkeys(_IOUS, ExactMetric(("total_cm",), _iou, ("target_class_ids",))),
    "R2Score": ExactMetric(_R2_STATE, _r2, ("class_aggregation", "num_regressors")),
}
"""By the name of the class in `keras.metrics`. A class that is derived from one is not one."""


def exact_value(kind: str, state: Arrays, settings: Settings) -> float:
    """Return a metric's value from its state.

    Raises `ValueError` for a kind that is not among these, a state or settings that it cannot be
    computed from, and a value that is not a single number.
    """
    metric = EXACT_METRICS.get(kind)
    if metric is None:
        raise ValueError(f"{kind!r} is no kind of metric whose state adds up")
    try:
        value = np.asarray(metric.value(state, settings), float)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"the state of a {kind} cannot be evaluated: {error!r}") from None
    if value.size != 1:
        raise ValueError(f"the state of this {kind} gives {value.size} numbers")
    return float(value.reshape(()))
