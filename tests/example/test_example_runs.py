"""The example as a newcomer runs it: unedited, from another folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from patience import PATIENCE

import cerebro

pytestmark = [pytest.mark.tf, pytest.mark.slow]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPT = EXAMPLES / "behavior_classification.py"
SPLITS = ("train", "valid")


def test_it_learns_and_says_where_everything_lies(tmp_path):
    pytest.importorskip("tensorflow")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--ckpt-root", str(tmp_path / "checkpoints")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run_dir,) = (tmp_path / "checkpoints").iterdir()
    result = cerebro.load(run_dir)
    assert list(result.models["epochs"]) == [10] * 4
    best = result.best()
    for text in (best.checkpoint, str(run_dir / "logs"), str(run_dir / "history.csv")):
        assert text in done.stdout
    assert re.search(rf"Best: model {best.model_id}\b", done.stdout)
    # About 40 % of the windows are not sitting: guessing the majority errs that often.
    assert best.metrics["valid_error"] < 0.2
    history = result.history
    for _, curve in history.groupby("model_id"):
        assert curve["valid_error"].iloc[-1] < 0.7 * curve["valid_error"].iloc[0]
    assert len(list((run_dir / "tensorboard").iterdir())) == 4
    check_predictions(run_dir, tmp_path)


def test_asha_finds_a_good_model_in_half_of_the_units_of_the_grid(tmp_path):
    """On half of the data, which is enough for that."""
    pytest.importorskip("tensorflow")
    files = [f"--{split}={EXAMPLES.parent}/data/{split}/{split}_0.txt" for split in SPLITS]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--search", "asha", *files, "--ckpt-root", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run_dir,) = tmp_path.iterdir()
    result = cerebro.load(run_dir)
    grid_units = 4 * 10 * len(SPLITS)
    assert len(result.units) <= grid_units / 2
    assert not (result.models["state"] == "RUNNING").any()
    assert "STOPPED" in set(result.models["state"])
    best = result.best()
    assert re.search(rf"Best: model {best.model_id}\b", done.stdout)
    assert best.metrics["valid_error"] < 0.2


def check_predictions(run_dir, folder):
    """The best model, applied to the subjects it was validated with, is as good as its run says."""
    subjects = [str(EXAMPLES.parent / "data" / "sample" / name) for name in ("S05", "S08")]
    for words in (
        ["predict.py", str(run_dir), *subjects, "--out", "predictions", "--padding", "wrap"],
        ["evaluate.py", "predictions", "--out", "evaluation"],
    ):
        command = [sys.executable, str(EXAMPLES / words[0]), *words[1:]]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (folder / "predictions").iterdir()) == ["S05.csv", "S08.csv"]
    table = pd.read_csv(folder / "evaluation" / "per_subject.csv")
    # Three days each, of at least 140 windows with a label while awake.
    assert (table["windows"] >= 3 * 140).all()
    assert (table["balanced_accuracy"] > 0.75).all()
    summary = pd.read_csv(folder / "evaluation" / "summary.csv").set_index("measure")
    assert summary.loc["accuracy", "mean"] > summary.loc["accuracy", "majority_mean"] + 0.1
