"""Runs whose folders are moved, renamed and copied between their drivers.

With one partition there is one order to visit it in, so whatever happens to the folder, the bits
are those of a run that stays where it is.
"""

from __future__ import annotations

import itertools
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from toy import functions, partitions

import cerebro
from cerebro import errors
from cerebro.journal.journal import read_journal
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths
from cerebro.search import LogUniform, PopulationBasedTraining

CONFIGS = ({"rate": 0.5}, {"rate": 0.1})
EPOCHS = 3
METRICS = ["train_loss", "train_error", "valid_loss", "valid_error"]


def deciding(stops=None):
    """Trains for some epochs, after the first also a child; stops the driver at an epoch's end."""

    def eval_fn(state):
        epoch = max(s["epoch"] for s in state.values())
        if epoch == stops:
            raise RuntimeError("enough for today")
        own = state[0]["ckpt_path"]
        child = {"rate": 0.2, "init_mst_id": 0, "init_ckpt_path": own, "init_mst": state[0]["mst"]}
        new = [child] if len(state) == len(CONFIGS) else []
        return [i for i, s in state.items() if s["epoch"] + 1 >= EPOCHS], new

    return eval_fn


def search(cluster, base, name, eval_fn=None, *, root="runs", configs=CONFIGS, **options):
    if "search" not in options:
        options = {**options, "initial_msts": list(configs), "mst_eval_fn": eval_fn or deciding()}
    return cerebro.schedule(
        cluster,
        partitions(base / "data", 1),
        partitions(base / "data", 1, "valid"),
        None,
        None,
        *functions()[:3],
        ckpt_root=base / root,
        backend="python",
        run_name=name,
        **options,
    )


def stopped(cluster, base, name, after, **options):
    with pytest.raises(errors.UserFunctionError, match="enough for today"):
        search(cluster, base, name, deciding(after), **options)


def bits(result):
    """All metrics and the last weights; what tells of a folder is left out."""
    history = result.history.sort_values(["model_id", "epoch"])
    weights = [pickle.loads(Path(path).read_bytes()) for path in result.models["checkpoint"]]
    return history[["model_id", "epoch", *METRICS]].to_numpy().tolist(), weights


def inside(folder):
    """Every file of versions in a folder, with its content."""
    files = [path for path in (folder / "models").rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files}


def ids(folder):
    """The run's id by each of its drivers."""
    records, _ = read_journal(RunPaths(folder))
    return [record.run for record in records if record.kind == "generation"]


def starts_of(result):
    """What the configurations begin with, as the run has them."""
    records, _ = read_journal(RunPaths(result.run_dir))
    return [config.get("init_ckpt_path") for config in Ledger.from_records(records).configs]


def lies_in(result, folder):
    paths = [*result.models["checkpoint"], result.best().checkpoint]
    return all(folder / "models" in Path(path).parents for path in paths)


@pytest.fixture(scope="module")
def whole(one_worker, tmp_path_factory):
    """A run that stays where it is."""
    base = tmp_path_factory.mktemp("whole")
    return search(one_worker, base, "whole")


def test_a_run_is_moved_renamed_and_copied_and_nothing_is_lost(one_worker, tmp_path, whole, capsys):
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    stopped(one_worker, tmp_path, "exp", 0)
    (runs / "exp").rename(runs / "old")
    new = search(one_worker, tmp_path, "exp")
    kept = inside(runs / "exp")
    assert bits(new) == bits(whole)

    stopped(one_worker, tmp_path, "old", 1, resume=True)
    said = capsys.readouterr().err
    assert f"{runs / 'old'} was driven as {runs / 'exp'} before, and moved" in said
    assert inside(runs / "exp") == kept
    assert len(set(ids(runs / "old"))) == 1

    elsewhere.mkdir()
    shutil.copytree(runs / "old", elsewhere / "copy")
    shutil.copytree(runs / "old", elsewhere / "late")
    original = inside(runs / "old")
    stopped(one_worker, tmp_path, "copy", 1, resume=True, root="elsewhere")
    copied = search(one_worker, tmp_path, "copy", resume=True, root="elsewhere")
    said = capsys.readouterr().err
    assert f"{elsewhere / 'copy'} is a copy of {runs / 'old'}: it continues as a run of its" in said
    assert said.count("is a copy of") == 1, "it is not asked again"
    assert inside(runs / "old") == original
    first, second, own, own_again = ids(elsewhere / "copy")
    assert first == second == ids(runs / "old")[0] != own == own_again

    resumed = search(one_worker, tmp_path, "old", resume=True)
    assert "is a copy of" not in capsys.readouterr().err
    assert len(set(ids(runs / "old"))) == 1
    shutil.rmtree(runs / "old")
    late = search(one_worker, tmp_path, "late", resume=True, root="elsewhere")
    assert len(set(ids(elsewhere / "late"))) == 1, "it takes the place of what is gone"
    assert bits(late) == bits(copied) == bits(whole)
    assert lies_in(copied, elsewhere / "copy")
    assert lies_in(late, elsewhere / "late")
    assert len(resumed.models) == 3
    assert inside(runs / "exp") == kept

    # What reads a run, where it lies now.
    again = search(one_worker, tmp_path, "again", replay=elsewhere / "copy")
    assert bits(again) == bits(whole)
    moved = runs / "at last"
    (elsewhere / "copy").rename(moved)
    result = cerebro.load(moved)
    assert lies_in(result, moved)
    exported = result.export(2, tmp_path / "exported")
    assert cerebro.load_model(exported) == cerebro.load_model(result.models["checkpoint"][2])
    assert Path(result.report()).is_relative_to(moved)
    with pytest.raises(errors.ResumeRefused, match="was started with replay="):
        search(one_worker, tmp_path, "again", replay=runs / "exp", resume=True)
    resumed = search(one_worker, tmp_path, "again", replay=moved, resume=True)
    assert bits(resumed) == bits(whole)


def copying(eval_fn, folder, copies):
    """Copies the run's folder whenever the run is asked about, while its driver lives."""

    def watched(state):
        shutil.copytree(folder, copies / f"copy {max(s['epoch'] for s in state.values())}")
        return eval_fn(state)

    return watched


def test_a_run_can_be_copied_while_it_is_driven(one_worker, tmp_path, whole):
    """The copy carries the process id of a driver that lives: of this process."""
    runs = tmp_path / "runs"
    eval_fn = copying(deciding(), runs / "run", tmp_path)
    result = search(one_worker, tmp_path, "run", eval_fn)
    original = inside(runs / "run")
    assert bits(result) == bits(whole)
    for epoch in range(EPOCHS):
        name = f"copy {epoch}"
        (runs / "run" / "driver.json").write_text((tmp_path / name / "driver.json").read_text())
        (tmp_path / name).rename(runs / name)
        copied = search(one_worker, tmp_path, name, resume=True)
        assert bits(copied) == bits(whole)
        assert lies_in(copied, runs / name)
        assert len(set(ids(runs / name))) == 2
        assert inside(runs / "run") == original


def test_a_population_whose_models_are_copies_is_copied_itself(one_worker, tmp_path):
    procedure = PopulationBasedTraining(
        {"rate": LogUniform(1e-3, 0.9)}, population=4, epochs=3, fraction=0.5
    )
    whole = search(one_worker, tmp_path, "whole", search=procedure)
    original = inside(Path(whole.run_dir))
    folder = tmp_path / "elsewhere" / "copy"
    shutil.copytree(whole.run_dir, folder)
    longer = replace(procedure, epochs=4)
    options = {"resume": True, "allow_changed": ["search"]}
    copy = search(one_worker, tmp_path, "copy", search=longer, root="elsewhere", **options)
    assert inside(Path(whole.run_dir)) == original
    whole = search(one_worker, tmp_path, "whole", search=longer, **options)
    assert bits(copy) == bits(whole)
    original = inside(Path(whole.run_dir))
    assert lies_in(copy, folder)
    records, _ = read_journal(RunPaths(folder))
    entries = itertools.chain(*(r.add for r in records if r.kind == "decision"))
    starts = [new.checkpoint for new in entries if new.checkpoint is not None]
    assert starts
    assert all(folder / "models" in Path(path).parents for path in starts)
    assert inside(Path(whole.run_dir)) == original


def test_a_script_names_a_version_of_the_run_by_the_old_place_or_the_new_one(one_worker, tmp_path):
    """Appended configurations that begin with it are those of the run, wherever it lies; so is one
    whose version has been deleted since: its model has begun.
    """
    runs = tmp_path / "runs"
    first = search(one_worker, tmp_path, "exp")
    own = first.models["checkpoint"][0]
    other = search(one_worker, tmp_path, "other").models["checkpoint"][0]
    gone = tmp_path / "gone"
    shutil.copytree(Path(other).parent, gone)
    configs = [*CONFIGS, {"rate": 0.3, "init_ckpt_path": own},
               {"rate": 0.3, "init_ckpt_path": str(gone / "model.pickle")}]  # fmt: skip
    extend = {"resume": True, "allow_changed": ["configs"]}
    search(one_worker, tmp_path, "exp", configs=configs, **extend)
    shutil.rmtree(gone)
    (runs / "exp").rename(runs / "new")
    new = own.replace("/exp/", "/new/")
    for path in (own, new):
        configs[2] = {"rate": 0.3, "init_ckpt_path": path}
        again = search(one_worker, tmp_path, "new", configs=configs, resume=True)
        assert starts_of(again)[2:4] == [new, str(gone / "model.pickle")]
    shutil.copytree(runs / "other", runs / "exp")
    with pytest.raises(errors.ConfigurationError, match=r"initial_msts\[4\].*does not exist"):
        search(one_worker, tmp_path, "new", configs=[*configs, configs[3]], **extend)
    more = [*configs, {"rate": 0.3, "init_ckpt_path": other}, {"rate": 0.3, "init_ckpt_path": new}]
    result = search(one_worker, tmp_path, "new", configs=more, **extend)
    assert starts_of(result)[-2:] == [other, new]


def test_a_copy_without_its_versions_is_refused_until_they_are_there(
    one_worker, tmp_path, whole, capsys
):
    runs = tmp_path / "runs"
    stopped(one_worker, tmp_path, "run", 1)
    shutil.copytree(runs / "run", runs / "copy", ignore=shutil.ignore_patterns("models"))
    with pytest.raises(errors.ResumeRefused, match=r"copy/models holds none of the versions"):
        search(one_worker, tmp_path, "copy", resume=True)
    assert len(ids(runs / "copy")) == 1
    stale = runs / "copy" / "models" / "0" / "v000001-g1-a999"
    stale.mkdir(parents=True)
    with pytest.raises(errors.ResumeRefused, match=r"copy/models holds none of the versions"):
        search(one_worker, tmp_path, "copy", resume=True)
    assert stale.is_dir(), "it may be all that is left"
    shutil.copytree(runs / "run" / "models", runs / "copy" / "models", dirs_exist_ok=True)
    shutil.copytree(runs / "copy", runs / "part", ignore=shutil.ignore_patterns("0"))
    assert bits(search(one_worker, tmp_path, "copy", resume=True)) == bits(whole)
    shutil.copytree(runs / "copy", runs / "ended", ignore=shutil.ignore_patterns("models"))
    stale = runs / "ended" / "models" / "0" / "v000001-g1-a999"
    stale.mkdir(parents=True)
    capsys.readouterr()
    search(one_worker, tmp_path, "ended", resume=True)
    assert "ended/models holds none of the" in capsys.readouterr().err
    assert stale.is_dir(), "of a run that has ended, too"
    part = search(one_worker, tmp_path, "part", resume=True)
    assert list(part.models["state"]) == ["FAILED", "COMPLETED", "COMPLETED"]


def test_what_a_model_begins_with_must_be_there_when_the_run_is_resumed(one_worker, tmp_path):
    runs = tmp_path / "runs"
    other = search(one_worker, tmp_path, "other").models["checkpoint"][0]
    configs = [{"rate": 0.3, "init_ckpt_path": other}]
    stopped(one_worker, tmp_path, "run", 0, configs=configs)
    records, _ = read_journal(RunPaths(runs / "run"))
    begun = next(n for n, record in enumerate(records) if record.kind == "started")
    journal = runs / "run" / "journal" / "000001.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:begun]))
    (runs / "other").rename(runs / "away")
    with pytest.raises(errors.ConfigurationError, match=r"model 0 of the run.*does not exist"):
        search(one_worker, tmp_path, "run", configs=configs, resume=True)
    (runs / "away").rename(runs / "other")
    search(one_worker, tmp_path, "run", configs=configs, resume=True)


def test_a_folder_that_was_named_by_a_path_with_dots_is_followed(one_worker, tmp_path):
    (tmp_path / "scripts").mkdir()
    runs = tmp_path / "runs"

    def run(name, configs, **options):
        root = "scripts/../runs"
        return search(one_worker, tmp_path, name, root=root, configs=configs, **options)

    own = run("exp", CONFIGS).models["checkpoint"][0]
    configs = [*CONFIGS, {"rate": 0.3, "init_ckpt_path": own}]
    run("exp", configs, resume=True, allow_changed=["configs"])
    whole = bits(run("replay", configs, replay=tmp_path / "scripts/../runs/exp"))
    (runs / "exp").rename(runs / "new")
    for path in (own, own.replace("/exp/", "/new/"), own.replace("/exp/", "/in between/")):
        configs[2] = {"rate": 0.3, "init_ckpt_path": path}
        run("new", configs, resume=True)
        again = run("replay", configs, replay=tmp_path / "scripts/../runs/new", resume=True)
        assert bits(again) == whole
