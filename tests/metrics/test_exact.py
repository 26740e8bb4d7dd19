"""Metrics of several partitions are what Keras gives for all their examples in one pass."""

from __future__ import annotations

import json

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from cerebro.backends.keras.compiled_metrics import kind_of, states  # noqa: E402
from cerebro.metrics.direction import direction_of_kind  # noqa: E402
from cerebro.metrics.exact import EXACT_METRICS  # noqa: E402
from cerebro.metrics.states import NUMBERS, joint_values  # noqa: E402

pytestmark = pytest.mark.tf

M = keras.metrics
SIZES = (5, 40, 17)


def binary(rng, n):
    """Labels with another share of positives in each partition, and scores that depend on them."""
    y = (rng.random((n, 1)) < rng.uniform(0.1, 0.8)).astype("float32")
    return y, np.clip(0.35 * y + 0.65 * rng.random((n, 1)), 0, 1).astype("float32")


def labels(rng, n):
    y = (rng.random((n, 3)) < 0.4).astype("float32")
    return y, np.clip(0.3 * y + 0.7 * rng.random((n, 3)), 0, 1).astype("float32")


def logits(rng, n):
    y, p = binary(rng, n)
    return y, (6 * p - 3).astype("float32")


def classes(rng, n):
    y = np.eye(4, dtype="float32")[rng.integers(4, size=n)]
    p = 0.5 * y + rng.random((n, 4))
    return y, (p / p.sum(axis=1, keepdims=True)).astype("float32")


def sparse(rng, n):
    y, p = classes(rng, n)
    return y.argmax(axis=1, keepdims=True).astype("int32"), p


def numbers(rng, n):
    y = (rng.uniform(-2, 2) + rng.normal(size=(n, 2))).astype("float32")
    return y, (y + rng.normal(size=(n, 2)) * rng.uniform(0.2, 1)).astype("float32")


def ids(rng, n):
    return rng.integers(3, size=(n, 1)), rng.integers(3, size=(n, 1))


def distance(y, p):
    return abs(y - p)


METRICS = [
    (binary, lambda: M.AUC()),
    (binary, lambda: M.AUC(curve="PR")),
    (binary, lambda: M.AUC(curve="PR", summation_method="minoring")),
    (binary, lambda: M.AUC(summation_method="majoring", num_thresholds=50)),
    (binary, lambda: M.AUC(thresholds=[0.2, 0.5, 0.9])),
    (logits, lambda: M.AUC(from_logits=True)),
    (labels, lambda: M.AUC(multi_label=True, num_labels=3)),
    (labels, lambda: M.AUC(multi_label=True, num_labels=3, label_weights=[1.0, 2.0, 5.0])),
    (labels, lambda: M.AUC(label_weights=[1.0, 2.0, 5.0])),
    (labels, lambda: M.AUC(curve="PR", multi_label=True, num_labels=3)),
    (binary, lambda: M.Precision()),
    (binary, lambda: M.Precision(thresholds=0.7)),
    (logits, lambda: M.Precision(thresholds=0)),
    (classes, lambda: M.Precision(class_id=2)),
    (classes, lambda: M.Precision(top_k=2)),
    (binary, lambda: M.Recall()),
    (classes, lambda: M.Recall(top_k=2, class_id=1)),
    (binary, lambda: M.TruePositives(thresholds=0.4)),
    (binary, lambda: M.TrueNegatives()),
    (binary, lambda: M.FalsePositives()),
    (binary, lambda: M.FalseNegatives()),
    (binary, lambda: M.SensitivityAtSpecificity(0.7)),
    (binary, lambda: M.SpecificityAtSensitivity(0.6)),
    (binary, lambda: M.PrecisionAtRecall(0.6)),
    (binary, lambda: M.RecallAtPrecision(0.6)),
    (classes, lambda: M.RecallAtPrecision(0.5, class_id=3)),
    (classes, lambda: M.F1Score(average="macro")),
    (classes, lambda: M.F1Score(average="micro")),
    (labels, lambda: M.F1Score(average="weighted", threshold=0.5)),
    (classes, lambda: M.FBetaScore(average="macro", beta=2.0)),
    (ids, lambda: M.MeanIoU(num_classes=3)),
    (ids, lambda: M.MeanIoU(num_classes=5, ignore_class=1)),
    (ids, lambda: M.IoU(num_classes=3, target_class_ids=[0, 2])),
    (binary, lambda: M.BinaryIoU(target_class_ids=[1], threshold=0.6)),
    (classes, lambda: M.OneHotIoU(num_classes=4, target_class_ids=[1, 3])),
    (classes, lambda: M.OneHotMeanIoU(num_classes=4)),
    (numbers, lambda: M.R2Score()),
    (numbers, lambda: M.R2Score(class_aggregation="variance_weighted_average")),
    (numbers, lambda: M.R2Score(num_regressors=3)),
    (numbers, lambda: M.RootMeanSquaredError()),
    (numbers, lambda: M.MeanSquaredError()),
    (numbers, lambda: M.MeanAbsoluteError()),
    (numbers, lambda: M.MeanAbsolutePercentageError()),
    (binary, lambda: M.MeanSquaredLogarithmicError()),
    (numbers, lambda: M.LogCoshError()),
    (numbers, lambda: M.CosineSimilarity()),
    (binary, lambda: M.Accuracy()),
    (binary, lambda: M.BinaryAccuracy(threshold=0.6)),
    (classes, lambda: M.CategoricalAccuracy()),
    (sparse, lambda: M.SparseCategoricalAccuracy()),
    (classes, lambda: M.TopKCategoricalAccuracy(k=2)),
    (sparse, lambda: M.SparseTopKCategoricalAccuracy(k=2)),
    (binary, lambda: M.BinaryCrossentropy()),
    (logits, lambda: M.BinaryCrossentropy(from_logits=True)),
    (classes, lambda: M.CategoricalCrossentropy(label_smoothing=0.1)),
    (sparse, lambda: M.SparseCategoricalCrossentropy()),
    (classes, lambda: M.KLDivergence()),
    (classes, lambda: M.Poisson()),
    (binary, lambda: M.Hinge()),
    (binary, lambda: M.SquaredHinge()),
    (classes, lambda: M.CategoricalHinge()),
    (numbers, lambda: M.MeanMetricWrapper(distance, name="mine")),
]
if hasattr(M, "ConcordanceCorrelation"):  # which earlier versions of Keras 3 have not
    METRICS += [
        (numbers, lambda: M.PearsonCorrelation()),
        (numbers, lambda: M.ConcordanceCorrelation()),
        (binary, lambda: M.AUC(curve="PRGAIN")),
    ]


def named(entry):
    metric = entry[1]()
    return type(metric).__name__


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("entry", METRICS, ids=named)
def test_the_joint_value_is_that_of_one_pass(entry, weighted):
    """A curve's AUC depends on both, as F1 does: means over partitions are something else."""
    make, metric = entry[0], entry[1]()
    counts = hasattr(metric, "total_cm")  # in integers, weights included
    rng = np.random.default_rng(3)
    whole, parts, reported = entry[1](), [], []
    for size in SIZES:
        y, p = make(rng, size)
        weight = None
        if weighted:
            weight = rng.integers(1, 4, size) if counts else rng.uniform(0.5, 3, size)
        metric.reset_state()
        metric.update_state(y, p, sample_weight=weight)
        value = float(metric.result())
        parts.append(value)
        reported.append(json.loads(json.dumps(states({"m": metric}, {"m": value}))))
        whole.update_state(y, p, sample_weight=weight)
    assert reported[0]["m"]["kind"] == type(metric).__name__
    values, error = joint_values(reported)
    assert values["m"] == pytest.approx(float(whole.result()), rel=2e-5, abs=1e-6)
    assert error is None


def test_states_of_other_thresholds_do_not_add_up():
    told = []
    for threshold in (0.5, 0.6):
        metric = M.Precision(thresholds=threshold)
        metric.update_state([[1.0], [0.0]], [[0.55], [0.7]])
        told.append(states({"m": metric}, {"m": float(metric.result())}))
    assert joint_values(told) == ({}, None)
    assert joint_values(told[:1])[0] == {"m": 0.5}


def test_every_kind_is_tried_and_has_a_direction():
    tried = {type(metric()).__name__ for _, metric in METRICS}
    rest = {"Mean", "Sum", "loss"}
    assert tried == (EXACT_METRICS.keys() - rest) & set(vars(M))
    unknown = {"MeanMetricWrapper", "Mean", "Sum"}
    for kind in EXACT_METRICS.keys() - unknown:
        assert direction_of_kind(kind), kind


def test_every_class_of_keras_is_exact_or_known_not_to_be():
    classes_ = {name for name in vars(M) if isinstance(getattr(M, name), type)}
    classes_ -= {"Metric"}
    assert classes_ <= EXACT_METRICS.keys()


class Half(M.AUC):
    def result(self):
        return super().result() / 2


@pytest.mark.parametrize(
    "metric",
    [
        Half(),
        M.AUC(num_thresholds=NUMBERS // 4 + 1),
        M.MeanIoU(num_classes=100),
        M.Precision(thresholds=[0.2, 0.8]),
        M.F1Score(),
    ],
    ids=["derived", "large", "many classes", "several thresholds", "no average"],
)
def test_others_are_no_part_of_what_adds_up(metric):
    if isinstance(metric, M.MeanIoU):
        metric.update_state([[1]], [[1]])
    elif isinstance(metric, M.F1Score):
        metric.update_state(np.eye(2), np.eye(2))
    else:
        metric.update_state([[0.0], [1.0]], [[0.3], [0.7]])
    told = states({"m": metric}, {"m": float(np.mean(metric.result()))})
    assert "variables" not in told.get("m", {})


def test_a_loss_that_is_compiled_as_a_metric_is_one():
    for loss in (keras.losses.cosine_similarity, keras.losses.CosineSimilarity()):
        assert kind_of(M.MeanMetricWrapper(loss)) == "loss"
    assert kind_of(M.CosineSimilarity()) == "CosineSimilarity"
