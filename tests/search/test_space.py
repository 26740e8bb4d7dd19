"""Spaces: what is drawn lies where it may, and a position is a value's again."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebro.search import Choice, Integer, LogUniform, Uniform
from cerebro.search.space import Space

numbers = st.floats(-1e6, 1e6)
positions = st.floats(0, 1)


@given(numbers, numbers, positions)
def test_a_uniform_range(a, b, position):
    low, high = min(a, b), max(a, b) + 1.0
    value = Uniform(low, high).at(position)
    assert low <= value <= high
    assert Uniform(low, high).position(value) == pytest.approx(position, abs=1e-6)


@given(st.floats(1e-9, 1e3), st.floats(1.01, 1e6), positions)
def test_a_logarithmic_range(low, ratio, position):
    dimension = LogUniform(low, low * ratio)
    value = dimension.at(position)
    assert low <= value <= low * ratio
    assert dimension.position(value) == pytest.approx(position, abs=1e-6)


@given(st.integers(1, 100), st.integers(1, 100), st.booleans(), positions)
def test_a_range_of_integers(low, more, log, position):
    dimension = Integer(low, low + more, log=log)
    value = dimension.at(position)
    assert isinstance(value, int)
    assert low <= value <= low + more
    assert dimension.at(dimension.position(value)) == value


def test_each_integer_is_as_likely_and_each_order_of_magnitude_too():
    space = Space.of({"n": Integer(1, 4), "rate": LogUniform(1e-4, 1e0)})
    drawn = [space.sample(7, number) for number in range(4000)]
    counts = Counter(config["n"] for config in drawn)
    assert all(900 < counts[n] < 1100 for n in (1, 2, 3, 4))
    orders = Counter(math.floor(math.log10(config["rate"])) for config in drawn)
    assert all(900 < orders[o] < 1100 for o in (-4, -3, -2, -1))


@given(st.integers(0, 2**40), st.integers(0, 10**6))
def test_a_configuration_depends_on_seed_and_number_alone(seed, number):
    space = {"a": Uniform(0, 1), "b": [1, 2, 3], "c": "fixed", "d": Integer(1, 9, log=True)}
    first, second = (Space.of(space).sample(seed, number) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first)) == first


def test_values_are_as_the_journal_gives_them_back():
    assert Choice([(3, 3), "a"]).values == ([3, 3], "a")
