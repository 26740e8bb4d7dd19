"""Paths of checkpoints: relative to the run's folder on disk, by its present place in memory."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
from hand_written_run import WrittenRun
from written_records import written

import cerebro
from cerebro import errors
from cerebro.driver.resume import follow_moved
from cerebro.journal.checkpoint_paths import CheckpointPaths
from cerebro.journal.journal import decode, encode, read_journal
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths, relative_in_run

VERSION = "models/0/v000002-g1-a2/model"
START = "init_ckpt_path"


def two_epochs(folder):
    """A run with two epochs of two models, a child of one of them, and a warm start elsewhere."""
    run = WrittenRun(folder)
    run.ready()
    run.epoch(0, [0.5, 0.6])
    own = str(run.paths.version(0, 2, 1, run.newest(0, 2)) / "model")
    parent = {"rate": 0.5, START: own}
    new = [
        {"model": 2, "mst": {"rate": 1, START: own, "init_mst": parent}, "epoch": 1, "parent": 0,
         "checkpoint": own},
        {"model": 3, "mst": {"rate": 2, START: "/elsewhere/model"}, "epoch": 0, "parent": None,
         "checkpoint": "/elsewhere/model"},
    ]  # fmt: skip
    run.say("decision", asked=[0, 1], stop={}, add=new)
    run.epoch(1, [0.4, 0.3])
    run.journal.close()
    return run


def lines_of(paths):
    content = paths.generation(1).read_bytes().splitlines(keepends=True)
    return [decode(line) for line in content]


def rewrite(paths, change):
    """Write the journal anew, as an earlier version or somebody else would have."""
    changed = [change(record) for record in lines_of(paths)]
    paths.generation(1).write_bytes(b"".join(map(encode, changed)))


def absolute(folder):
    """What makes a record as earlier versions have written it, in a run in `folder`."""

    def change(record):
        text = json.dumps(record).replace('"models/', f'"{folder}/models/')
        return {**json.loads(text), **({"format": 1} if "format" in record else {})}

    return change


def ledger_of(root):
    return Ledger.from_records(read_journal(RunPaths(root))[0])


def places(ledger):
    """Every path that a ledger gives."""
    models = ledger.models.values()
    found = [path for model in models for path in model.checkpoints.values()]
    return found + [m.start_checkpoint for m in models if m.start_checkpoint]


def test_nothing_on_disk_names_the_runs_folder_but_where_it_was_driven(tmp_path):
    run = two_epochs(tmp_path)
    text = json.dumps([{**record, "folder": None} for record in lines_of(run.paths)])
    assert str(tmp_path) not in text
    assert text.count('"/elsewhere/model"') == 2
    committed = [r["checkpoint"] for r in lines_of(run.paths) if "checkpoint" in r]
    assert len(committed) == 8
    assert all(relative_in_run(path) == path for path in committed)


@pytest.mark.parametrize("old", [False, True])
def test_wherever_the_folder_is_moved_after_any_record_its_paths_follow(tmp_path, old):
    """Those of versions; a warm start from elsewhere stays."""
    run = two_epochs(tmp_path)
    root = run.paths.root
    before = ledger_of(root)
    if old:
        rewrite(run.paths, absolute(root))
        assert ledger_of(root).models == before.models
        assert ledger_of(root).folders == (str(root),)
    lines = run.paths.generation(1).read_bytes().splitlines(keepends=True)
    moved = RunPaths(tmp_path / "moved" / "by hand")
    moved.root.parent.mkdir()
    root.rename(moved.root)
    whole = ledger_of(moved.root)
    expected = [p.replace(str(root), str(moved.root)) for p in places(before)]
    assert places(whole) == expected
    assert whole.models[2].mst[START] == whole.models[2].start_checkpoint
    assert whole.models[2].mst["init_mst"][START] == whole.models[2].start_checkpoint
    assert whole.models[3].mst[START] == whole.models[3].start_checkpoint == "/elsewhere/model"
    for kept in range(2, len(lines)):
        moved.generation(1).write_bytes(b"".join(lines[:kept]))
        for path in places(ledger_of(moved.root)):
            assert path == "/elsewhere/model" or path in expected


def test_paths_are_absolute_where_the_folder_is_named_by_a_relative_one(tmp_path, monkeypatch):
    run = two_epochs(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = places(ledger_of("grid"))
    assert all(map(os.path.isabs, found))
    assert found == places(ledger_of(run.paths.root))
    newest = [m.checkpoint() for m in ledger_of(run.paths.root).models.values()]
    assert cerebro.load("grid").models["checkpoint"].tolist() == newest


@pytest.mark.parametrize(
    "checkpoint",
    [
        "/victim/thesis/model.pickle",
        "/victim/models/0/thesis/model",
        "/victim/models/../v000001-g1-a1/model",
        "/victim/models/0/v000001-g1-a1/..",
        "/victim/models/0/v000001-g1-a1/",
        "/victim/models/0/.tmp-v000001-g1-a1-00ff/model",
        "/victim/models/-1/v000001-g1-a1/model",
        "/victim/models/٣/v000001-g1-a1/model",
        "../other/models/0/v000001-g1-a1/model",
        "v000001-g1-a1/model",
        "",
    ],
)
def test_what_is_committed_and_is_no_version_is_damage(tmp_path, checkpoint):
    run = two_epochs(tmp_path)
    number = next(n for n, r in enumerate(lines_of(run.paths), 1) if "checkpoint" in r)
    seq = lines_of(run.paths)[number - 1]["seq"]
    rewrite(run.paths, lambda r: {**r, "checkpoint": checkpoint} if r["seq"] == seq else r)
    where = re.escape(f"{run.paths.generation(1)}, line {number}")
    with pytest.raises(errors.JournalDamaged, match=f"{where}: .*checkpoint"):
        read_journal(run.paths)


def test_a_model_cannot_begin_with_a_relative_path_that_is_no_version(tmp_path):
    run = two_epochs(tmp_path)

    def change(record):
        if record["kind"] == "decision":
            record["add"][0]["checkpoint"] = "../other/model"
        return record

    rewrite(run.paths, change)
    with pytest.raises(errors.JournalDamaged, match=r"model 2 begins with is '\.\./other/model'"):
        read_journal(run.paths)


def test_a_version_of_another_folder_is_never_written_as_one_of_the_run(tmp_path):
    paths = RunPaths(tmp_path / "run")
    other = str(tmp_path / "other" / VERSION)
    result = {"attempt": 1, "loss": 1.0, "error": 1.0, "examples": 1, "phases": {"run": 1.0}}
    with pytest.raises(ValueError, match="is not a version of this run"):
        CheckpointPaths(paths).written(written("committed", checkpoint=other, **result))


def test_a_version_of_the_run_is_known_by_another_name_of_its_folder(tmp_path):
    run = two_epochs(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(run.paths.root)
    new = {"model": 9, "mst": {START: str(link / VERSION)}, "epoch": 0, "parent": None}
    record = written(
        "decision", asked=[], stop={}, add=[{**new, "checkpoint": str(run.paths.root / VERSION)}]
    )
    (entry,) = CheckpointPaths(run.paths).written(record).add
    assert (entry.checkpoint, entry.mst[START]) == (VERSION, VERSION)


def test_a_script_may_name_a_version_by_the_old_place_or_the_new_one(tmp_path):
    """What the run has begun with is the same; what is new is taken at its word where it is."""
    old, new = tmp_path / "exp", tmp_path / "old"
    new.mkdir()
    moved, present = str(old / VERSION), str(new / VERSION)
    link = tmp_path / "link"
    link.symlink_to(new)
    recorded = [{START: present}, {START: "/elsewhere/model"}]

    def named(*paths):
        configs = [{START: path} for path in paths]
        return [c[START] for c in follow_moved(configs, recorded, (str(old),), new)]

    for given in (moved, present, str(link / VERSION)):
        assert named(given, "/elsewhere/model", given) == [present, "/elsewhere/model", present]
    assert named(present, moved) == [present, moved], "another one than is recorded"
    third = tmp_path / "third" / VERSION
    assert named(str(third)) == [present], "a place in between, where nothing is"
    third.parent.mkdir(parents=True)
    assert named(str(third)) == [str(third)]
    (old / VERSION).parent.mkdir(parents=True)
    assert named(moved, "/elsewhere/model", moved) == [present, "/elsewhere/model", moved]


def test_old_and_new_generations_of_one_journal_go_together(tmp_path):
    """An old run is resumed where it was moved to."""
    run = two_epochs(tmp_path)
    rewrite(run.paths, absolute("/old-runs/grid"))
    run.drive()
    attempt = run.start(2, 0, epoch=1)
    run.commit(attempt, checkpoint="its own")
    run.journal.close()
    copy = tmp_path / "copy"
    shutil.copytree(run.paths.root, copy)
    ledger = ledger_of(copy)
    found = [path for path in places(ledger) if path != "/elsewhere/model"]
    assert all(path.startswith(f"{copy}/models/") for path in found)
    assert ledger.folders == ("/old-runs/grid",)
