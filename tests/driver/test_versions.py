"""Which versions a driver lets go, as the journal's models begin and go on; what it may delete."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from cerebro.driver.versions import Versions
from cerebro.hopper.units import Split, Unit
from cerebro.journal.ledger import AttemptRecord, ModelRecord
from cerebro.journal.paths import RunPaths


def test_a_version_that_two_models_will_begin_with_is_kept_for_the_second(tmp_path):
    """In a replay, where the first may have read it long before the second begins."""
    source = ModelRecord(0, {}, 0)
    ledger = SimpleNamespace(
        models={0: source}, the_plan=SimpleNamespace(metric="valid_error", mode="min")
    )
    versions = Versions(RunPaths(tmp_path), ledger, lambda: 1, {(0, 1): 2})

    def commit(number):
        source.checkpoints[number] = f"models/0/v{number}/model"
        dropped = versions.committed(0, number)
        for _, version in dropped:
            del source.checkpoints[version]
        return dropped

    commit(1)
    first = source.checkpoints[1]
    for child in (1, 2):
        ledger.models[child] = ModelRecord(child, {}, 0, start_checkpoint=first)
    assert versions.read_by(1, first) == []
    assert versions.released([1]) == []
    assert [commit(2), commit(3), commit(4)] == [[], [], [(0, 2)]]
    assert versions.read_by(2, first) == []
    assert versions.released([2]) == [(0, 1)]
    versions.close()


# --- what is never deleted ----------------------------------------------------------------------


NAME = "v000001-g1-a1"


@pytest.fixture
def kept(tmp_path):
    """A run with a version that counts, made without a journal."""
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    paths.create()
    source = ModelRecord(0, {}, 0)
    source.checkpoints[1] = str(make(paths.models / "0" / NAME))
    ledger = SimpleNamespace(
        models={0: source, 3: ModelRecord(3, {}, 0)},
        the_plan=SimpleNamespace(metric="valid_error", mode="min"),
    )
    versions = Versions(paths, ledger, lambda: 1, {})
    yield SimpleNamespace(paths=paths, versions=versions, source=source)
    versions.close()


def make(folder):
    folder.mkdir(parents=True)
    (folder / "model").write_text("weights")
    return folder / "model"


def everything(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_worker_that_lies_deletes_nothing(kept, tmp_path):
    victim, models = tmp_path / "victim", kept.paths.models
    make(victim / "models" / "0" / NAME)
    make(victim / "thesis")
    make(kept.paths.logs / "3" / NAME)
    (models / "3").symlink_to(victim / "models" / "0")
    (models / "0" / "v000009-g1-a9").symlink_to(victim / "thesis")
    before = everything(tmp_path)
    for path in (
        victim / "thesis" / "model",
        victim / "models" / "0" / NAME / "model",
        models / "0" / NAME / "another name",
        models / "0" / NAME / "..",
        models / "0" / ".." / ".." / ".." / "victim" / "models" / "0" / NAME / "model",
        models / "3" / NAME / "model",
        models / "77" / NAME / "model",
        models / "0" / "v000009-g1-a9" / "model",
        kept.paths.logs / "3" / NAME / "model",
        "",
        "model",
        "/",
    ):
        kept.versions.discard_orphan(str(path))
    kept.versions.close()
    assert everything(tmp_path) == before


def test_an_orphan_is_deleted_and_a_version_that_counts_is_not(kept):
    orphan = make(kept.paths.models / "0" / "v000002-g1-a2")
    kept.versions.discard_orphan(str(orphan))
    kept.versions.discard_orphan(kept.source.checkpoints[1])
    kept.versions.close()
    assert [p.name for p in (kept.paths.models / "0").iterdir()] == [NAME]


def test_what_a_damaged_ledger_names_is_not_deleted(kept, tmp_path):
    victim = make(tmp_path / "victim" / "models" / "0" / NAME)
    thesis = make(tmp_path / "thesis")
    for number, checkpoint in enumerate((victim, thesis, Path("/"), Path("model")), 2):
        kept.source.checkpoints[number] = str(checkpoint)
        kept.versions.committed(0, number)
    for number in (7, 8, 9):
        kept.versions.committed(0, number)
    kept.versions.delete()
    kept.versions.close()
    assert victim.exists()
    assert thesis.exists()
    assert kept.versions._paths.models.exists()


def test_a_sweep_follows_no_link_and_leaves_other_names(kept, tmp_path):
    victim, models = tmp_path / "victim", kept.paths.models
    make(victim / NAME)
    (models / "3").symlink_to(victim)
    (models / "0" / "v000005-g1-a5").symlink_to(victim / NAME)
    inside = make(models / "0" / "v000006-g1-a6")
    (inside.parent / "link").symlink_to(victim)
    make(models / "0" / ".tmp-v000007-g1-a7-0123456789ab")
    make(models / "0" / "notes")
    make(models / "thesis" / NAME)
    kept.versions.sweep()
    assert (victim / NAME / "model").exists()
    names = {p.name for p in (models / "0").iterdir()}
    assert names == {NAME, "v000005-g1-a5", "notes"}
    assert (models / "thesis" / NAME / "model").exists()


def test_the_folder_that_has_taken_the_name_of_one_that_was_moved_is_left_alone(kept, tmp_path):
    make(kept.paths.models / "0" / "v000002-g1-a2")
    kept.paths.root.rename(tmp_path / "moved")
    other = make(kept.paths.models / "0" / "v000002-g1-a2")
    kept.versions.discard_orphan(str(other))
    kept.versions.sweep()
    kept.versions.close()
    assert other.exists()


def test_a_version_counts_only_where_the_worker_was_told_to_publish_it(kept, tmp_path):
    attempt = AttemptRecord(4, Unit(0, 0, Split.TRAIN, 0), 0, reads=1, generation=1, start=0.0)
    right = kept.paths.version(0, 2, 1, 4)
    assert kept.versions.is_of(str(right / "model"), attempt)
    for wrong in (
        kept.paths.version(0, 2, 1, 5) / "model",
        kept.paths.version(3, 2, 1, 4) / "model",
        tmp_path / "victim" / right.relative_to(kept.paths.root) / "model",
        right / "deeper" / "model",
        right / "..",
        right,
    ):
        assert not kept.versions.is_of(str(wrong), attempt)
