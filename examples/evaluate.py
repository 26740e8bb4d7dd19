"""How good are predictions? Measures of each subject, and over subjects.

    python evaluate.py PREDICTIONS --out DIR

PREDICTIONS is a folder of CSV files as `predict.py` writes them for data with labels. Windows
without a label are left out. The positive class is sitting.

`<DIR>/per_subject.csv` has a row for each subject:

- `windows`: with a label;
- `accuracy`: the share of windows whose prediction is right;
- `sensitivity`: of the windows sat, the share predicted as sitting; `specificity`: of those not
  sat, the share predicted as not sitting; `balanced_accuracy`: the mean of the two;
- `f1`: the harmonic mean of sensitivity and of the share of windows predicted as sitting that were
  sat; 0 if there were some, and none was predicted;
- `sitting_minutes_true`, `sitting_minutes_predicted`.

What is not defined is left empty: sensitivity and F1 of a subject who never sat, specificity of one
who only sat, balanced accuracy of both. `<DIR>/summary.csv` has a row for each measure: the number
of subjects for which it is defined, their mean and standard deviation (n - 1), and both for the
majority baseline, which predicts for every window the class that most windows of all subjects have.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from csv_files import check_new, write_new

SITTING, NOT_SITTING, NO_LABEL = "sitting", "not-sitting", "no-label"
WINDOW_MINUTES = 10 / 60


def measures(sat: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The measures of one subject, from bool (n,), True for sitting; NaN if not defined."""
    both, neither = int(np.sum(sat & predicted)), int(np.sum(~sat & ~predicted))
    missed, wrongly = int(np.sum(sat & ~predicted)), int(np.sum(~sat & predicted))
    sensitivity = _ratio(both, both + missed)
    specificity = _ratio(neither, neither + wrongly)
    return {
        "windows": len(sat),
        "accuracy": _ratio(both + neither, len(sat)),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1": _ratio(2 * both, 2 * both + missed + wrongly) if both + missed else math.nan,
        "sitting_minutes_true": (both + missed) * WINDOW_MINUTES,
        "sitting_minutes_predicted": (both + wrongly) * WINDOW_MINUTES,
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def per_subject(subjects: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """A row of measures for each subject's labels and predictions."""
    return pd.DataFrame([{"subject": name, **measures(*pair)} for name, pair in subjects.items()])


def summary(subjects: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """A row for each measure: mean and s.d. over subjects, and of the majority baseline."""
    sat = sum(int(np.sum(labels)) for labels, _ in subjects.values())
    majority = sat * 2 >= sum(len(labels) for labels, _ in subjects.values())
    baseline = {
        name: (labels, np.full(len(labels), majority)) for name, (labels, _) in subjects.items()
    }
    model, always = (
        per_subject(predictions).drop(columns=["subject", "windows"])
        for predictions in (subjects, baseline)
    )
    columns = {
        "subjects": model.count(),
        "mean": model.mean(),
        "sd": model.std(),
        "majority_mean": always.mean(),
        "majority_sd": always.std(),
    }
    return pd.DataFrame(columns).rename_axis("measure").reset_index()


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of the windows that have a label, bool (n,), True for sitting.

    Raises `ValueError`, naming the file, for one that `predict.py` did not write, or that has no
    labels.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' own errors are such
        raise ValueError(f"{path} is no CSV file of predictions: {error}") from error
    for name in ("prediction", "label"):
        if name not in table:
            raise ValueError(
                f"{path} has no column {name!r}: evaluate what predict.py writes for data with "
                "labels, and nothing else in that folder"
            )
    for name, known in (
        ("prediction", (SITTING, NOT_SITTING)),
        ("label", (SITTING, NOT_SITTING, NO_LABEL)),
    ):
        unknown = table.loc[~table[name].isin(known), name]
        if len(unknown):
            raise ValueError(
                f"{path}, line {unknown.index[0] + 2}: the {name} {unknown.iloc[0]!r} is none of "
                f"{', '.join(known)}"
            )
    table = table[table["label"] != NO_LABEL]
    return (table["label"] == SITTING).to_numpy(), (table["prediction"] == SITTING).to_numpy()


def main() -> None:
    options = parse_options()
    paths = sorted(options.predictions.glob("*.csv"))
    if not paths:
        raise ValueError(f"{options.predictions} holds no .csv file: run predict.py first")
    if options.out.resolve() == options.predictions.resolve():
        raise ValueError(f"{options.out} is where the predictions are: name another folder")
    targets = [options.out / "per_subject.csv", options.out / "summary.csv"]
    check_new(targets)
    subjects = {path.stem: read_predictions(path) for path in paths}
    tables = per_subject(subjects), summary(subjects)
    for table, target in zip(tables, targets, strict=True):
        write_new(table, target)
        print(f"\n{target}:\n")
        print(table.to_string(index=False, float_format="%.4f", na_rep=""))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate predictions of data with labels.")
    parser.add_argument("predictions", type=Path, help="a folder of CSV files from predict.py")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where the two tables are written"
    )
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(str(error))
