"""How durations, sizes and lists of names are put into words."""

from __future__ import annotations

import pytest

from cerebro.formatting import duration, size, some


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (8.4, "8 s"), (99.4, "99 s"), (100, "2 min"), (3599, "1 h 00 min"),
     (3900, "1 h 05 min"), (86399, "1 d 0 h"), (180000, "2 d 2 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (980, "980 B"), (5.94e6, "5.9 MB"), (99.96e6, "100 MB"), (999.9e6, "1.0 GB"),
     (68e9, "68 GB"), (2.5e15, "2500 TB")],
)  # fmt: skip
def test_sizes(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("names", "text"), [([], ""), (["a"], "a"), ("ab", "a, b"), ("abcde", "a, b and 3 more")]
)
def test_the_first_of_some_names(names, text):
    assert some(iter(names), 2) == text
