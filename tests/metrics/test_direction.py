"""Which metrics are better low, which high, and which are not known."""

from __future__ import annotations

import pytest

from cerebro.errors import ConfigurationError
from cerebro.metrics.direction import known_direction
from cerebro.search import (
    ASHA,
    TPE,
    GridSearch,
    Hyperband,
    MedianStopping,
    PopulationBasedTraining,
    RandomSearch,
    SuccessiveHalving,
    Uniform,
)

SPACE = {"rate": Uniform(0, 1)}

PROCEDURES = [
    lambda **how: GridSearch({"rate": [1, 2]}, 2, **how),
    lambda **how: RandomSearch(SPACE, 2, 2, **how),
    lambda **how: SuccessiveHalving(SPACE, 3, 3, **how),
    lambda **how: Hyperband(SPACE, 3, **how),
    lambda **how: ASHA(SPACE, 3, n=3, **how),
    lambda **how: PopulationBasedTraining(SPACE, 4, 2, **how),
    lambda **how: TPE(SPACE, 2, 2, **how),
    lambda **how: MedianStopping(RandomSearch(SPACE, 2, 2, **how)),
]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("valid_error", "min"), ("train_loss", "min"), ("valid_rmse", "min"),
        ("valid_perplexity", "min"), ("valid_my_own_error", "min"), ("valid_aux_loss", "min"),
        ("valid_root_mean_squared_error", "min"), ("valid_mean_absolute_error", "min"),
        ("valid_accuracy", "max"), ("train_acc", "max"), ("valid_auc", "max"),
        ("valid_auc_1", "max"), ("valid_F1", "max"), ("valid_f1_score", "max"),
        ("valid_top2", "max"), ("valid_top_5_accuracy", "max"), ("valid_r2_score", "max"),
        ("valid_mean_io_u", "max"), ("valid_dice", "max"), ("valid_cosine_similarity", "max"),
        ("valid_score", None), ("valid_neg_mean_squared_error", None), ("valid_no_error", None),
        ("valid_neg_log_loss", None), ("valid_inaccuracy", None), ("valid_depth", None),
        ("valid_", None), ("valid_valid", None),
    ],
)  # fmt: skip
def test_usual_names(name, mode):
    assert known_direction(name) == mode


def test_the_kind_says_more_than_the_name():
    kinds = {"acc2": "BinaryAccuracy", "cosine_similarity": "loss", "mixed": None, "auc": None,
             "accuracy": "MeanSquaredError", "f1": "MeanMetricWrapper"}  # fmt: skip
    assert known_direction("valid_acc2", kinds) == "max"
    assert known_direction("valid_cosine_similarity", kinds) == "min"
    assert known_direction("valid_accuracy", kinds) == "min"
    assert known_direction("train_f1", kinds) == "max"
    assert known_direction("valid_mixed", kinds) is None
    assert known_direction("valid_error", {"error": "BinaryAccuracy"}) == "min"
    assert known_direction("valid_auc", kinds) is None


@pytest.mark.parametrize("make", PROCEDURES)
def test_a_search_knows_or_demands_the_mode_of_its_metric(make):
    assert make().direction == "min"
    assert make(metric="valid_accuracy").direction == "max"
    assert make(metric="valid_accuracy", mode="min").direction == "min"
    assert make(metric="valid_score", mode="max").direction == "max"
    with pytest.raises(ConfigurationError, match=r'valid_score.*mode="min".*mode="max"'):
        make(metric="valid_score")


def test_only_what_is_given_is_described():
    assert GridSearch({"a": [1]}, 2).described() == "GridSearch(space={'a': [1]}, epochs=2)"
    told = GridSearch({"a": [1]}, 2, metric="valid_score", mode="max").described()
    assert "metric='valid_score'" in told
    assert "mode='max'" in told
