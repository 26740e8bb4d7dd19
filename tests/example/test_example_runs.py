"""The example as a newcomer runs it: unedited, from another folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cerebro

pytestmark = [pytest.mark.tf, pytest.mark.slow]
SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "behavior_classification.py"


def test_it_learns_and_says_where_everything_lies(tmp_path):
    pytest.importorskip("tensorflow")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--ckpt-root", str(tmp_path / "checkpoints")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
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
