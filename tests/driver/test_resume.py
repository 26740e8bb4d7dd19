"""Going on with a run, from wherever its driver stopped, and however its folder is named."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from played_run import plan
from toy import functions, partitions
from written_records import written

import cerebro
from cerebro import errors
from cerebro.driver import launch
from cerebro.driver.changes import named
from cerebro.driver.resume import comparable
from cerebro.journal import ownership
from cerebro.journal.journal import Journal, read_journal
from cerebro.journal.paths import RunPaths
from cerebro.journal.run_plan import RunPlan
from cerebro.metrics.rules import EXACT, MEANS
from cerebro.shipping import FINGERPRINT_VERSION, fingerprint


def search(cluster, tmp_path, *, fns=None, root="ckpt", configs=({"rate": 0.5},), **options):
    return cerebro.schedule(
        cluster,
        partitions(tmp_path / "data", 2),
        partitions(tmp_path / "data", 1, "valid"),
        None,
        None,
        *(fns or functions(2))[:3],
        list(configs),
        (fns or functions(2))[3],
        ckpt_root=str(tmp_path / root),
        backend="python",
        **options,
    )


def stop_after_one_epoch(state):
    raise RuntimeError("enough for today")


@pytest.fixture
def interrupted(cluster, tmp_path):
    """A run that has stopped at the end of its first epoch."""
    with pytest.raises(errors.UserFunctionError):
        search(cluster, tmp_path, fns=(*functions(2)[:3], stop_after_one_epoch), run_name="r")
    return tmp_path / "ckpt" / "r"


def test_a_run_keeps_its_rules_for_metrics():
    """One of before has means, and its error as Keras gives it: so it goes on, and is replayed."""
    before, now = plan(), replace(plan(), metric_rules=EXACT)
    assert before.metric_rules == MEANS
    assert comparable(before, now, lambda version: {}).metric_rules == MEANS
    assert comparable(now, now, lambda version: {}).metric_rules == EXACT


def test_versions_survive_when_the_folder_is_reached_by_another_path(
    cluster, tmp_path, interrupted
):
    os.symlink(tmp_path / "ckpt", tmp_path / "other name é")
    result = search(cluster, tmp_path, root="other name é", run_name="r", resume=True)
    assert list(result.units["outcome"]) == ["committed"] * 6
    assert os.path.isfile(result.models["checkpoint"][0])


def test_what_the_driver_before_wrote_while_it_was_watched_counts(
    cluster, tmp_path, interrupted, monkeypatch
):
    """Its last records come while the one that resumes still waits for it to be gone."""
    journal = RunPaths(interrupted).generation(1)
    whole = journal.read_bytes()
    journal.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))

    def watched(paths, **_):
        journal.write_bytes(whole)

    monkeypatch.setattr(launch, "check_free", watched)
    result = search(cluster, tmp_path, run_name="r", resume=True)
    assert list(result.units["outcome"]) == ["committed"] * 6
    records, _ = read_journal(RunPaths(interrupted))
    started = [r.generation for r in records if r.kind == "started"]
    assert started == [1, 1, 1, 2, 2, 2]


def left_empty(paths):
    pass


def left_without_a_claim(paths):
    paths.create()


def left_with_an_empty_claim(paths):
    paths.create()
    paths.generation(1).touch()


def left_without_a_plan(paths):
    paths.create()
    journal = Journal(paths)
    journal.inherit()
    journal.begin(written("generation"))
    journal.close()


@pytest.mark.parametrize("resume", [False, "auto"])
@pytest.mark.parametrize(
    "left", [left_empty, left_without_a_claim, left_with_an_empty_claim, left_without_a_plan]
)
def test_a_run_whose_driver_died_before_it_began_is_started(cluster, tmp_path, left, resume):
    paths = RunPaths(tmp_path / "ckpt" / "r")
    paths.root.mkdir(parents=True)
    left(paths)
    with pytest.raises(errors.NotARun):
        search(cluster, tmp_path, run_name="r", resume=True)
    with pytest.raises(errors.NotARun):
        cerebro.load(paths.root)
    result = search(cluster, tmp_path, run_name="r", resume=resume)
    assert result.complete
    assert len(result.units) == 6


def test_a_folder_that_is_no_run_is_not_taken(cluster, tmp_path):
    (tmp_path / "ckpt" / "r").mkdir(parents=True)
    (tmp_path / "ckpt" / "r" / "thesis.txt").write_text("do not touch")
    with pytest.raises(errors.RunError, match="exists already"):
        search(cluster, tmp_path, run_name="r")


def test_tables_that_were_not_written_any_more_are_made_when_the_run_is_resumed(cluster, tmp_path):
    result = search(cluster, tmp_path, run_name="r")
    (Path(result.run_dir) / "units.csv").unlink()
    search(cluster, tmp_path, run_name="r", resume=True)
    assert (Path(result.run_dir) / "units.csv").is_file()


def test_provenance_names_every_driver(cluster, tmp_path, interrupted):
    search(cluster, tmp_path, run_name="r", resume=True)
    content = json.loads((interrupted / "provenance.json").read_text())
    assert [d["pid"] for d in content["drivers"]] == [os.getpid()] * 2


def test_logs_that_cannot_be_written_do_not_stop_a_run(cluster, tmp_path):
    input_fn, model_fn, train_fn, eval_fn = functions(2)
    calls = []

    def breaking(state):
        if not calls:
            logs = tmp_path / "ckpt" / "r" / "logs"
            shutil.rmtree(logs)
            logs.write_text("no folder any more")
        calls.append(1)
        return eval_fn(state)

    result = search(cluster, tmp_path, fns=(input_fn, model_fn, train_fn, breaking), run_name="r")
    assert result.complete


def test_a_checkpoint_may_be_named_from_the_drivers_own_folder(cluster, tmp_path, monkeypatch):
    first = search(cluster, tmp_path)
    monkeypatch.chdir(tmp_path)
    name = os.path.relpath(first.models["checkpoint"][0], tmp_path)
    result = search(cluster, tmp_path, configs=[{"rate": 0.5, "init_ckpt_path": name}])
    assert list(result.models["state"]) == ["COMPLETED"]


def test_a_later_driver_is_known_by_its_generation(tmp_path):
    paths = RunPaths(tmp_path)
    assert not ownership.replaced(paths, lambda: 1)
    paths.driver.write_text(json.dumps({"generation": 2}))
    assert ownership.replaced(paths, lambda: 1)
    assert not ownership.replaced(paths, lambda: 2)


def test_a_run_with_fingerprints_of_a_later_version_is_refused(cluster, tmp_path, monkeypatch):
    later_version = FINGERPRINT_VERSION + 1
    with monkeypatch.context() as later:
        later.setattr(
            RunPlan, "to_json", lambda plan: {**asdict(plan), "fingerprint_version": later_version}
        )
        first = search(cluster, tmp_path, run_name="r")
    for options in ({"run_name": "r", "resume": True}, {"replay": first.run_dir}):
        with pytest.raises(errors.RunTooNew, match=f"fingerprints of version {later_version}"):
            search(cluster, tmp_path, **options)
    assert cerebro.load(first.run_dir).complete


@pytest.mark.parametrize("known", [True, False])
def test_the_global_step_is_passed_as_it_was_when_the_run_started(
    cluster, tmp_path, monkeypatch, known
):
    """Plans of before have no such field: they are resumed and replayed without passing it."""

    def before(plan):
        return {name: value for name, value in asdict(plan).items() if name != "global_step"}

    def passed(name):
        records, _ = read_journal(RunPaths(tmp_path / "ckpt" / name))
        return [record.plan.global_step for record in records if record.kind == "plan"]

    fns = functions(2)
    with monkeypatch.context() as older:
        if not known:
            older.setattr(RunPlan, "to_json", before)
        with pytest.raises(errors.UserFunctionError):
            search(cluster, tmp_path, fns=(*fns[:3], stop_after_one_epoch), run_name="r")
    first = search(cluster, tmp_path, fns=fns, run_name="r", resume=True)
    search(cluster, tmp_path, fns=fns, run_name="again", replay=first.run_dir)
    assert passed("r") == [known, known]
    assert passed("again") == [known]


def test_a_refusal_says_which_variable_has_changed_from_what_to_what(cluster, tmp_path, capsys):
    first = search(cluster, tmp_path, run_name="r")
    other = functions(2, seconds=0.001)
    said = "other train_fn: closure seconds changed from 0.0 to 0.001: resume it with the same"
    with pytest.raises(errors.ResumeRefused, match=said):
        search(cluster, tmp_path, fns=other, run_name="r", resume=True)
    with pytest.raises(errors.ReplayRefused, match=r"closure seconds changed from 0\.0 to 0\.001"):
        search(cluster, tmp_path, fns=other, run_name="again", replay=first.run_dir)
    with pytest.raises(errors.ResumeRefused, match="other seed: changed from 0 to 1"):
        search(cluster, tmp_path, run_name="r", resume=True, seed=1)
    with pytest.raises(
        errors.ResumeRefused,
        match="seed, train_fn: seed: changed from 0 to 1; train_fn: closure seconds changed",
    ):
        search(cluster, tmp_path, fns=other, run_name="r", resume=True, seed=1)
    capsys.readouterr()
    search(cluster, tmp_path, fns=functions(3), run_name="r", resume=True, progress="plain")
    assert "mst_eval_fn has changed (closure epochs changed from 2 to 3)" in capsys.readouterr().err


def test_nan_in_a_configuration_is_the_same_as_before(cluster, tmp_path):
    configs = [{"rate": 0.5, "momentum": math.nan, "steps": [1, {"a": math.nan}]}]
    search(cluster, tmp_path, run_name="r", configs=configs)
    again = [{"steps": [1, {"a": float("nan")}], "momentum": np.float64("nan"), "rate": 0.5}]
    assert search(cluster, tmp_path, run_name="r", resume=True, configs=again).complete
    for momentum in (0.5, None, "nan"):
        other = [{**again[0], "momentum": momentum}]
        with pytest.raises(errors.ResumeRefused, match="configuration 0 is"):
            search(cluster, tmp_path, run_name="r", resume=True, configs=other)


def test_a_run_with_fingerprints_of_version_2_is_compared_by_it(cluster, tmp_path, monkeypatch):
    def recorded(plan):
        given = dict(
            zip(("input_fn", "model_fn", "train_fn", "mst_eval_fn"), functions(2), strict=True)
        )
        prints = {role: fingerprint(function, 2) for role, function in given.items()}
        return {
            k: v
            for k, v in {**asdict(plan), "functions": prints, "fingerprint_version": 2}.items()
            if k != "parts"
        }

    with monkeypatch.context() as before:
        before.setattr(RunPlan, "to_json", recorded)
        search(cluster, tmp_path, run_name="r")
    assert search(cluster, tmp_path, run_name="r", resume=True).complete
    other = functions(2, seconds=0.001)
    with pytest.raises(errors.ResumeRefused, match=r"other train_fn \(of a function, its code"):
        search(cluster, tmp_path, fns=other, run_name="r", resume=True)


def test_what_a_plan_says_of_parts_is_shown_as_plain_text():
    before = {"global \x1b[31mX": ["a", "\x1b[2J", None]}
    plans = [
        replace(hand_written_plan(), functions={"train_fn": digest}, parts={"train_fn": parts})
        for digest, parts in (("1", before), ("2", {"global \x1b[31mX": ["b", "2", None]}))
    ]
    assert named(["train_fn"], *plans) == ("train_fn: global \\x1b[31mX changed from \\x1b[2J to 2")


def hand_written_plan():
    return RunPlan("r", "r", [], [], [], None, None, [], "python", 0, True, True, {})
