"""States of several partitions, added and evaluated; and what does not add up."""

from __future__ import annotations

import copy

import numpy as np

from cerebro.metrics.states import NUMBERS, encoded, joint_values, kinds


def of(total, count, kind="BinaryAccuracy", **more):
    variables = {"total": np.float32(total), "count": np.float32(count)}
    arrays = {name: np.asarray(value) for name, value in variables.items()}
    return {"acc": {**encoded(kind, arrays, {}), **more}}


def test_totals_are_added_before_they_are_divided():
    assert joint_values([of(1, 2), of(9, 10), of(0, 4)]) == ({"acc": 10 / 16}, None)


def test_the_error_follows_its_metric():
    parts = [of(1, 2, error="1 - value"), of(3, 3, error="1 - value")]
    assert joint_values(parts) == ({"acc": 0.8}, 1 - 0.8)
    assert joint_values([of(1, 2, kind="Hinge", error="value")]) == ({"acc": 0.5}, 0.5)


def test_what_is_not_of_every_partition_is_left_out():
    without = {"acc": {"kind": "BinaryAccuracy"}}
    for parts in ([of(1, 2), None], [of(1, 2), {}], [of(1, 2), without], [], [None]):
        assert joint_values(parts) == ({}, None)


def test_what_differs_or_is_not_understood_is_left_out():
    good = of(1, 2)
    spoilt = []
    for change in (
        {"kind": "FutureMetric"},
        {"kind": "Recall"},
        {"variables": {"total": [[], "<f4", "AAAA"], "count": [[], "<f4", "AAAAAA=="]}},
        {"variables": {"total": [[], "|O", "AAAAAA=="], "count": [[], "<f4", "AAAAAA=="]}},
        {"variables": {"total": 3, "count": 4}},
        {"variables": [1, 2]},
        {"settings": None, "error": "2 - value"},
        {"digest": "of other thresholds"},
    ):
        bad = copy.deepcopy(good)
        bad["acc"].update(change)
        spoilt.append(bad)
        assert joint_values([good, bad]) == ({}, None), change
    assert joint_values([spoilt[0], spoilt[0]]) == ({}, None)


def test_the_kinds_of_metrics():
    told = {**of(1, 2), "mine": {"kind": ""}, "odd": {"kind": 3}, "auc": {"kind": "AUC"}}
    assert kinds(told) == {"acc": "BinaryAccuracy", "auc": "AUC"}


def test_an_auc_of_the_usual_size_is_recorded():
    assert NUMBERS >= 4 * 200
