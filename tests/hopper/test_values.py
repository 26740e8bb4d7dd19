"""When values of configurations are the same."""

from __future__ import annotations

import math

import pytest

from cerebro.hopper.values import position, same

NAN = [math.nan, float("nan"), -math.nan]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NAN[0], NAN[1]), (NAN[1], NAN[2]), ([NAN[0], 1], [NAN[1], 1]), (1, 1.0), ([1], (1,)),
        ({"a": NAN[0], "b": 1}, {"b": 1, "a": NAN[1]}), (None, None), (math.inf, math.inf),
    ],
)  # fmt: skip
def test_the_same(one, other):
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NAN[0], 1.0), (1, True), (0, False), ("1", 1), (None, NAN[0]), ("nan", NAN[0]),
        ({"a": 1}, {"a": 1, "b": 2}), ({"a": 1}, {"b": 1}), ([1, 2], [2, 1]), ([1], [1, 1]),
        ([], {}), ([NAN[0]], NAN[0]), (math.inf, -math.inf),
    ],
)  # fmt: skip
def test_not_the_same(one, other):
    assert not same(one, other)
    assert not same(other, one)


def test_a_position_among_others():
    assert position([0, False, NAN[0]], float("nan")) == 2
    assert position([0, False], False) == 1
    with pytest.raises(ValueError, match="not among"):
        position([1, 2], 3)
