"""Weights in bins: all of them, no bin empty, and as even as they allow."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebro.data.subjects import balancing

WEIGHTS = st.lists(st.integers(1, 60_000), min_size=1, max_size=40)


def lowest(weights, bins):
    """The lightest that the heaviest bin can be, by trying everything."""
    best = sum(weights)
    sums = [0] * bins

    def place(left):
        nonlocal best
        if not left:
            best = min(best, max(sums))
            return
        for number in {total: n for n, total in enumerate(sums)}.values():
            if sums[number] + left[0] < best:
                sums[number] += left[0]
                place(left[1:])
                sums[number] -= left[0]

    place(sorted(weights, reverse=True))
    return best


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.data())
def test_every_weight_is_in_one_bin_and_no_bin_is_empty(weights, data):
    bins = data.draw(st.integers(1, len(weights)))
    found = balancing.pack(weights, bins, random.Random(0), 5)
    assert sorted(index for one in found for index in one) == list(range(len(weights)))
    assert len(found) == bins
    assert all(found)
    assert balancing.heaviest(weights, found) >= balancing.least(weights, bins)


@pytest.mark.parametrize("seed", range(40))
def test_within_five_percent_where_any_arrangement_is(seed):
    draw = random.Random(seed)
    weights = [draw.randint(20_000, 60_000) for _ in range(draw.randint(5, 11))]
    bins = draw.randint(2, 4)
    limit = max(balancing.TOLERANCE * sum(weights) / bins, lowest(weights, bins))
    found = balancing.pack(weights, bins, random.Random(0), 50)
    assert balancing.heaviest(weights, found) <= limit


def test_the_heaviest_first_is_not_the_last_word():
    # 7+5+4 and 6+5+5 are even; by falling weight alone it would be 17 and 15.
    weights = [7, 6, 5, 5, 5, 4]
    assert balancing.heaviest(weights, balancing.pack(weights, 2, random.Random(0), 1)) == 16


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.data())
def test_the_bound_is_below_what_is_possible(weights, data):
    bins = data.draw(st.integers(1, len(weights)))
    assert balancing.least(weights, bins) <= lowest(weights, bins)
