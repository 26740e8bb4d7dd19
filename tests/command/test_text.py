"""Tables, times and sizes for a terminal."""

from __future__ import annotations

import pytest

from cerebro.command import text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0 s"), (0.4, "0 s"), (119.4, "119 s"), (119.6, "2 min"), (3569, "59 min"),
        (3599, "1 h"), (3661, "1 h 1 min"), (47 * 3600 + 3599, "2 d"), (73.5 * 3600, "3 d 1 h"),
    ],
)  # fmt: skip
def test_durations(seconds, said):
    assert text.duration(seconds) == said


def test_sizes():
    assert [text.size(n) for n in (None, 0, 48_300_000, 1_250_000_000)] == [
        "?", "0 MB", "48 MB", "1.2 GB",
    ]  # fmt: skip


def test_the_last_column_wraps_below_itself():
    rows = [["A", "STATE"], ["one", "first line\nthe second one is longer"], ["b", ""]]
    assert text.table(rows, 25).splitlines() == [
        "A    STATE",
        "one  first line",
        "     the second one is",
        "     longer",
        "b",
    ]


def test_a_path_is_never_broken():
    path = "/a-very-long/path-that/does-not/fit"
    assert path in text.table([["x", f"see {path} for more"]], 20)
