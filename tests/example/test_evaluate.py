"""Measures against tables worked by hand."""

from __future__ import annotations

import csv
import os
import re
import sys

import numpy as np
import pandas as pd
import pytest

SIT, NOT, NONE = "sitting", "not-sitting", "no-label"


def write_predictions(path, label, prediction):
    path.parent.mkdir(exist_ok=True)
    table = pd.DataFrame({"segment": 0, "timestamp": "2024-01-01 10:00:00", "label": label,
                          "prediction": prediction})  # fmt: skip
    table.to_csv(path, index=False)


@pytest.fixture
def run(evaluate, tmp_path, monkeypatch):
    """The command on `<tmp_path>/in`; returns the rows of both tables as text."""

    def run(out="out"):
        arguments = ["evaluate.py", str(tmp_path / "in"), "--out", str(tmp_path / out)]
        monkeypatch.setattr(sys, "argv", arguments)
        evaluate.main()
        tables = []
        for name in ("per_subject.csv", "summary.csv"):
            with open(tmp_path / out / name, newline="") as file:
                tables.append(list(csv.DictReader(file)))
        return tables

    return run


def numbers(row, *names):
    return [float(row[name]) if row[name] else None for name in names]


COLUMNS = [
    "subject", "windows", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1",
    "sitting_minutes_true", "sitting_minutes_predicted",
]  # fmt: skip


def test_measures_of_each_subject(run, tmp_path):
    # A: 4 of 6 sat are found, 3 of 4 not sat; a window without label is left out.
    write_predictions(
        tmp_path / "in" / "A.csv",
        [SIT] * 6 + [NONE] + [NOT] * 4,
        [SIT] * 4 + [NOT] * 2 + [SIT] + [SIT] + [NOT] * 3,
    )
    # B never sat, C only sat, D has no labels at all, E sat and is never said to.
    write_predictions(tmp_path / "in" / "B.csv", [NOT] * 4, [SIT] + [NOT] * 3)
    write_predictions(tmp_path / "in" / "C.csv", [SIT] * 4, [SIT] * 3 + [NOT])
    write_predictions(tmp_path / "in" / "D.csv", [NONE] * 2, [SIT, NOT])
    write_predictions(tmp_path / "in" / "E.csv", [SIT, NOT], [NOT, NOT])
    rows, _ = run()
    assert list(rows[0]) == COLUMNS
    assert [row["subject"] for row in rows] == list("ABCDE")
    expected = {
        "A": [10, 0.7, (4 / 6 + 3 / 4) / 2, 4 / 6, 3 / 4, 8 / 11, 1, 5 / 6],
        "B": [4, 0.75, None, None, 0.75, None, 0, 1 / 6],
        "C": [4, 0.75, None, 0.75, None, 6 / 7, 4 / 6, 0.5],
        "D": [0, None, None, None, None, None, 0, 0],
        "E": [2, 0.5, 0.5, 0, 1, 0, 1 / 6, 0],
    }
    for row in rows:
        found = numbers(row, *COLUMNS[1:])
        assert found == [v if v is None else pytest.approx(v) for v in expected[row["subject"]]]


def test_the_mean_over_subjects_and_the_majority_baseline(run, tmp_path, capsys):
    write_predictions(tmp_path / "in" / "A.csv", [SIT] * 3 + [NOT], [SIT] * 3 + [NOT])
    write_predictions(tmp_path / "in" / "B.csv", [SIT, NOT, NOT, NOT], [SIT, SIT, NOT, NOT])
    write_predictions(tmp_path / "in" / "C.csv", [SIT] * 2, [SIT, NOT])
    _, rows = run()
    assert [row["measure"] for row in rows] == COLUMNS[2:]
    found = {
        row["measure"]: numbers(row, "subjects", "mean", "sd", "majority_mean", "majority_sd")
        for row in rows
    }
    # Accuracies 1, 3/4 and 1/2; six of ten windows are sitting: 3/4, 1/4 and 1.
    assert found["accuracy"] == pytest.approx(
        [3, 0.75, 0.25, 2 / 3, np.std([0.75, 0.25, 1], ddof=1)]
    )
    # C never did anything else, so two subjects have a specificity: 1 and 2/3.
    third = (1 / 3) / np.sqrt(2)
    assert found["specificity"] == pytest.approx([2, 5 / 6, third, 0, 0])
    assert found["sitting_minutes_true"][1] == pytest.approx(1 / 3)
    assert found["sitting_minutes_predicted"][3] == pytest.approx(10 / 3 / 6)
    printed = capsys.readouterr().out
    assert re.search(r"accuracy +3 +0\.7500 +0\.2500 +0\.6667", printed)


def test_the_deviation_of_one_subject_is_not_defined(run, tmp_path):
    write_predictions(tmp_path / "in" / "A.csv", [SIT, NOT], [SIT, NOT])
    _, rows = run()
    assert {row["sd"] for row in rows} == {""}


def test_nothing_is_overwritten(run, tmp_path):
    write_predictions(tmp_path / "in" / "A.csv", [SIT, NOT], [SIT, NOT])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"summary\.csv exists already"):
        run()
    assert os.listdir(tmp_path / "out") == ["summary.csv"]
    assert (tmp_path / "out" / "summary.csv").read_text() == "mine"
    with pytest.raises(ValueError, match="where the predictions are"):
        run("in")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "holds no .csv file"),
        ("", r"A\.csv is no CSV file"),
        ("segment,timestamp,prediction\n0,x,sitting\n", r"A\.csv has no column 'label'"),
        ("label,prediction\nsitting,sitting\nsitting,1\n", r"A\.csv, line 3: the prediction '1'"),
        ("label,prediction\n,sitting\n", r"A\.csv, line 2: the label ''"),
    ],
)
def test_what_is_no_prediction_is_named(run, tmp_path, content, words):
    (tmp_path / "in").mkdir()
    if content is not None:
        (tmp_path / "in" / "A.csv").write_text(content)
    with pytest.raises(ValueError, match=words):
        run()
    assert not (tmp_path / "out").exists()
