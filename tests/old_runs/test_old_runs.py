"""Runs that were made before the package took its present shape: they load, resume and replay."""

from __future__ import annotations

import json
import pickle
import platform
import shutil
from pathlib import Path

import pandas
import pytest
from old_functions import RUNS, arguments
from relocate import HERE, ROOT, copy_of

import cerebro
from cerebro.cli.main import main
from cerebro.journal.journal import read_journal
from cerebro.journal.paths import RunPaths

TENSORFLOW = [pytest.mark.slow, pytest.mark.tf]
NAMES = [pytest.param(n, marks=TENSORFLOW if RUNS[n][1] != "python" else ()) for n in RUNS]
ENDED = [param for param in NAMES if param.values[0] != "interrupted"]
SECONDS = ["train_seconds", "valid_seconds"]

MADE_BY = json.loads((HERE / "made_by.json").read_text())
SAME_PYTHON = MADE_BY["python"].split(".")[:2] == platform.python_version().split(".")[:2]
CHANGED = () if SAME_PYTHON else ("input_fn", "model_fn", "train_fn", "search")
"""Bytecode, and so fingerprints, are others in another Python: there they are let differ."""

VALID_ERRORS = {
    "python": [0.08020496284762477, 0.05227590289900272, 0.07566598381107074, 0.052022454493031556],
    "interrupted": [],
    "search": [0.05166859186088839, 0.05165310494536639, 0.12091450885722821],
    "tf": [0.4709441065788269, 0.31362611055374146, 0.7464357614517212, 0.6496912240982056],
    "keras": [0.06192247197031975, 0.03590485826134682, 0.2520174980163574, 0.17791754007339478],
}
BEST = {"python": (1, 1), "search": (0, 1), "tf": (0, 1), "keras": (0, 1)}


@pytest.fixture(scope="module")
def cluster():
    with cerebro.LocalCluster(1, threads=1) as cluster:
        yield cluster


def plans_of(run_dir):
    records, _ = read_journal(RunPaths(run_dir))
    return [record.plan for record in records if record.kind == "plan"]


@pytest.mark.parametrize("name", RUNS)
def test_it_loads(tmp_path, name):
    result = cerebro.load(copy_of(name, tmp_path))
    assert list(result.history["valid_error"]) == VALID_ERRORS[name]
    assert result.complete == (name != "interrupted")
    assert list(result.models["model_id"]) == [0, 1]
    if name == "interrupted":
        assert list(result.models["state"]) == ["RUNNING", "RUNNING"]
        assert list(result.units["outcome"]) == ["committed"] * 3 + ["running"]
        return
    states = ["COMPLETED", "STOPPED" if name == "search" else "COMPLETED"]
    assert list(result.models["state"]) == states
    best = result.best()
    assert (best.model_id, best.epoch) == BEST[name]
    assert best.metrics["valid_error"] == min(VALID_ERRORS[name])
    assert set(result.units["outcome"]) == {"committed"}


@pytest.mark.parametrize("name", RUNS)
def test_it_loads_where_it_was_put(name):
    result = cerebro.load(HERE / "runs" / name)
    assert list(result.history["valid_error"]) == VALID_ERRORS[name]


@pytest.mark.parametrize("name", RUNS)
def test_commands_tell_of_it(tmp_path, capsys, name):
    run_dir = str(copy_of(name, tmp_path))
    main(["status", run_dir])
    said = capsys.readouterr().out
    assert ("stopped" in said) if name == "interrupted" else ("ended" in said)
    assert main(["report", run_dir, "--methods"]) == 0
    page = (tmp_path / name / "report.html").read_text()
    assert plans_of(run_dir)[0].functions["input_fn"][:12] in page


@pytest.mark.skipif(not SAME_PYTHON, reason="another Python compiles to another bytecode")
@pytest.mark.parametrize("name", ["python", "search", "tf", "keras"])
def test_its_functions_are_the_same(tmp_path, cluster, name):
    """An ended one is resumed by the same functions, without `allow_changed`."""
    copy_of(name, tmp_path)
    result = cerebro.schedule(**arguments(name, cluster, tmp_path), run_name=name, resume=True)
    assert list(result.history["valid_error"]) == VALID_ERRORS[name]


def test_the_interrupted_one_ends_as_if_it_had_not_been(tmp_path, cluster):
    """A replay of it, which begins at the start, gives the same bits."""
    run_dir = copy_of("interrupted", tmp_path)
    given = arguments("interrupted", cluster, tmp_path)
    resumed = cerebro.schedule(**given, run_name="interrupted", resume=True, allow_changed=CHANGED)
    assert resumed.complete
    assert list(resumed.units["outcome"]) == ["committed"] * 3 + ["lost"] + ["committed"] * 9
    whole = cerebro.schedule(**given, run_name="whole", replay=run_dir, allow_changed=CHANGED)
    same_metrics(resumed, whole, exactly=True)
    first, second = plans_of(run_dir)
    assert second.fingerprint_version == 1, "a run keeps the version that it began with"
    assert (first.functions == second.functions) == SAME_PYTHON
    cerebro.schedule(**given, run_name="interrupted", resume=True)
    (new,) = plans_of(tmp_path / "whole")
    assert new.fingerprint_version == 3
    assert not first.global_step
    assert not second.global_step
    assert not new.global_step, "a replay does what the run did"
    assert new.functions["input_fn"] != second.functions["input_fn"]
    cerebro.schedule(**given, run_name="whole", replay=run_dir, resume=True)
    assert weights(resumed) == weights(whole)


def test_one_that_lies_elsewhere_than_its_journal_says_is_resumed(tmp_path, cluster):
    """With the absolute paths of before, and beside a folder that has its name now."""
    there = copy_of("interrupted", tmp_path)
    (moved, copy) = (tmp_path / name for name in ("moved", "a copy"))
    shutil.copytree(there, copy)
    there.rename(moved)
    given = arguments("interrupted", cluster, tmp_path)
    first = cerebro.schedule(**given, run_name="moved", resume=True, allow_changed=CHANGED)
    assert first.complete
    moved.rename(there)
    before = weights(cerebro.load(there))
    second = cerebro.schedule(**given, run_name="a copy", resume=True, allow_changed=CHANGED)
    assert second.complete
    for folder, result in ((there, cerebro.load(there)), (copy, second)):
        assert all(folder in Path(path).parents for path in result.models["checkpoint"])
        assert list(result.units["outcome"]) == ["committed"] * 3 + ["lost"] + ["committed"] * 9
    assert weights(cerebro.load(there)) == before
    assert plans_of(copy)[-1].id != plans_of(there)[-1].id == plans_of(there)[0].id


@pytest.mark.parametrize("name", ENDED)
def test_an_ended_one_replays(tmp_path, cluster, name):
    run_dir = copy_of(name, tmp_path)
    again = cerebro.schedule(
        **arguments(name, cluster, tmp_path), run_name="again", replay=run_dir,
        allow_changed=CHANGED,
    )  # fmt: skip
    same_metrics(cerebro.load(run_dir), again, exactly=RUNS[name][1] == "python")


def test_other_functions_are_refused(tmp_path, cluster):
    copy_of("interrupted", tmp_path)
    given = arguments("interrupted", cluster, tmp_path)
    train_fn = given["train_fn"]
    given["train_fn"] = lambda model, data, train=True: train_fn(model, data, train)
    allowed = [name for name in CHANGED if name != "train_fn"]
    with pytest.raises(cerebro.errors.ResumeRefused, match="other train_fn"):
        cerebro.schedule(**given, run_name="interrupted", resume=True, allow_changed=allowed)


def test_a_pickled_best_can_be_read():
    with open(HERE / "best.pickle", "rb") as file:
        best = pickle.load(file)
    assert type(best).__name__ == "Best"
    assert (best.model_id, best.epoch, best.config) == (1, 1, {"rate": 0.1})
    assert best.metrics["valid_error"] == min(VALID_ERRORS["python"])
    assert best.checkpoint.startswith(f"{ROOT}/python/models/1/v000004-")


def same_metrics(first, second, exactly):
    """Every metric is the same; with TensorFlow as far as another CPU gives the same."""
    one, other = (r.history.drop(columns=SECONDS) for r in (first, second))
    pandas.testing.assert_frame_equal(one, other, check_exact=exactly, rtol=1e-4)
    assert list(first.models["state"]) == list(second.models["state"])


def weights(result):
    found = []
    for checkpoint in result.models["checkpoint"]:
        with open(checkpoint, "rb") as file:
            found.append(pickle.load(file))
    return found
