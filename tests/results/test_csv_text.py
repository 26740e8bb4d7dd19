"""The tables as files: a spreadsheet computes nothing, and pandas reads back what was written."""

from __future__ import annotations

import io

import pandas
import pytest

from cerebro.results.csv_text import csv_text


def written(*values):
    return csv_text(pandas.DataFrame({"a": pandas.Series(values, dtype=object)})).decode()


def read(text):
    return list(pandas.read_csv(io.StringIO(text), keep_default_na=False)["a"])


@pytest.mark.parametrize(
    "formula",
    ["=1+1", "+cmd", "-cmd|' /C calc'!A0", "@SUM(A1)", " =1", "＝1+1", "＋1a",
     "－1a", "＠a", "=a,b", '="a"', "'=1", "-inf", "\tx", "\n"],
)  # fmt: skip
def test_a_text_is_no_formula(formula):
    (cell,) = read(written(formula))
    assert cell == f"'{formula}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a;=1", "a;'=1"),
        ("a\n=1\n\n+b", "a\n'=1\n\n'+b"),
        ("\t=1", "'\t'=1"),
        ("-a; -b;'@c", "'-a;' -b;''@c"),
        ("1;-2;a\tb", "1;-2;a\tb"),
    ],
)
def test_no_part_of_a_text_is_a_formula_where_semicolons_separate_cells(text, shown):
    assert read(written(text)) == [shown]


def test_lists_and_tables_are_texts_too():
    assert read(written(["a;=1"], {"b": "c;+d"})) == ["['a;'=1']", "{'b': 'c;'+d'}"]


@pytest.mark.parametrize(
    "text", ["-1.5", "+2", "-.5e-3", "a=1", "'quoted'", "it's", "ü, 日", "a\nb", ""]
)
def test_other_texts_and_texts_that_are_numbers_stay(text):
    content = io.StringIO(written(text, "x"))
    assert list(pandas.read_csv(content, keep_default_na=False, dtype=str)["a"]) == [text, "x"]


def test_control_characters_are_escaped_so_that_rows_stay_rows():
    assert read(written("a\rb", "a\x00b", "a\x1b[2J", "\ud800")) == [
        r"a\rb", r"a\x00b", r"a\x1b[2J", r"\ud800",
    ]  # fmt: skip


def test_ordinary_tables_are_what_pandas_writes():
    frame = pandas.DataFrame(
        {
            "text": ["a", None, "c,d"],
            "mixed": pandas.Series([1, -2.5, "x"], dtype=object),
            "list": [[1, "a"], {"b": -1}, None],
            "flag": pandas.array([True, None, False], dtype="boolean"),
            "number": pandas.array([-1, None, 3], dtype="Int64"),
            "real": [-1.5, float("nan"), 1e-300],
        }
    )
    assert csv_text(frame) == frame.to_csv(index=False).encode()


def test_heads_are_texts_too():
    frame = pandas.DataFrame([[1, 2]], columns=["=1+1", "b\x1b"])
    assert csv_text(frame).decode() == "'=1+1,b\\x1b\n1,2\n"
