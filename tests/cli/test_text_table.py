"""Tables, times and sizes for a terminal."""

from __future__ import annotations

from cerebro.cli import text_table


def test_the_last_column_wraps_below_itself():
    rows = [["A", "STATE"], ["one", "first line\nthe second one is longer"], ["b", ""]]
    assert text_table.table(rows, 25).splitlines() == [
        "A    STATE",
        "one  first line",
        "     the second one is",
        "     longer",
        "b",
    ]


def test_a_path_is_never_broken():
    path = "/a-very-long/path-that/does-not/fit"
    assert path in text_table.table([["x", f"see {path} for more"]], 20)
