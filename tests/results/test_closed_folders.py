"""What this user may not look into, or write to, is named, and not taken for missing or empty."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hand_written_run import WrittenRun

import cerebro
from cerebro.cli import main
from cerebro.driver import decisions, permissions
from cerebro.errors import ConfigurationError, NotARun, StorageError, StorageForbidden
from cerebro.journal.journal import has_begun
from cerebro.journal.paths import runs_in
from cerebro.storage import is_folder, names_in

NOBODY = 65534
CLOSED, NOT_TO_WRITE, OPEN = 0o000, 0o555, 0o755


@pytest.fixture
def place():
    """A folder that every user reaches, as `tmp_path` is not."""
    folder = Path(tempfile.mkdtemp(prefix="cerebro-closed-"))
    folder.chmod(OPEN)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def run(place):
    """The paths of a run with a model that has weights."""
    written = WrittenRun(place)
    written.ready()
    for model in (0, 1):
        for partition in (0, 1):
            attempt = written.start(model, partition, reads=partition)
            file = written.paths.version(model, partition + 1, 1, attempt) / "model.pickle"
            file.parent.mkdir(parents=True)
            file.write_bytes(b"weights")
            written.commit(attempt, checkpoint=str(file))
        written.commit(written.start(model, 0, "valid", reads=2), 0.5)
    written.decide(**{"0": "COMPLETED", "1": "COMPLETED"})
    written.journal.close()
    # What is loaded late would be looked for as another user.
    cerebro.load(written.paths.root).report(place / "before.html")
    return written.paths


@contextlib.contextmanager
def closed(folder, mode=CLOSED):
    """Close a folder to this process, which is another user's meanwhile if it is root's."""
    folder.chmod(mode)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(OPEN)


def denied(path):
    return f"{re.escape(str(path))}: Permission denied"


@pytest.mark.parametrize("name", [".", "journal"])
def test_a_run_that_is_closed_is_not_taken_for_none(run, name, capsys):
    with closed(run.root / name):
        for look in (cerebro.load, lambda _: has_begun(run)):
            with pytest.raises(StorageError, match=denied(run.journal)):
                look(run.root)
        assert [main.main([command, str(run.root)]) for command in ("status", "report")] == [2, 2]
    said = capsys.readouterr().err
    assert said.count(f"cerebro: cannot read {run.journal}: Permission denied") == 2


def test_among_others_a_closed_run_is_passed_over(run, capsys):
    (run.root.parent / "theirs/journal").mkdir(parents=True)
    assert runs_in(run.root.parent) == ["grid", "theirs"]
    with closed(run.root.parent / "theirs"):
        assert runs_in(run.root.parent) == ["grid"]
        assert main.main(["status", str(run.root.parent)]) == 0
    assert "grid is the only run there" in capsys.readouterr().err


def test_weights_that_are_closed_are_not_taken_for_missing(run, place):
    result = cerebro.load(run.root)
    checkpoint = result.best().checkpoint
    with closed(run.models):
        with pytest.raises(StorageError, match=f"cannot read {denied(checkpoint)}"):
            cerebro.load_model(checkpoint)
        with pytest.raises(StorageError, match=f"cannot read {denied(checkpoint)}"):
            result.export(0, place / "exported")
        with pytest.raises(ConfigurationError, match=denied(os.path.dirname(checkpoint))):
            decisions.check_there([{"init_ckpt_path": checkpoint}], "configs")
    decisions.check_there([{"init_ckpt_path": checkpoint}], "configs")
    decisions.check_there([{"init_ckpt_path": checkpoint[:-3]}], "configs")
    with pytest.raises(ConfigurationError, match="does not exist: name a checkpoint"):
        decisions.check_there([{"init_ckpt_path": checkpoint + "s"}], "configs")


def test_where_nothing_may_be_written_the_way_out_is_named(run, place):
    permissions.check_writable(run.root)
    result = cerebro.load(run.root)
    with closed(run.root, NOT_TO_WRITE):
        with pytest.raises(
            StorageError, match=rf"{denied(run.report)}: name another file, .*--out"
        ):
            result.report()
        with pytest.raises(StorageForbidden, match=r"may not write in .*mode 0555.* resume a copy"):
            permissions.check_writable(run.root)


def test_what_cannot_be_seen_is_no_answer(place):
    (place / "file").touch()
    assert names_in(place) == ["file"]
    assert is_folder(place)
    for missing in (place / "none", place / "file", place / "file/below", "a\0b"):
        assert names_in(missing) == []
        assert not is_folder(missing)
    (place / "loop").symlink_to("loop")
    for unseen in (place / ("x" * 300), place / "loop"):
        for look in (names_in, is_folder):
            with pytest.raises(StorageError, match=f"cannot read {unseen}: "):
                look(unseen)
    with pytest.raises(NotARun):
        cerebro.load(place / "none")
    with pytest.raises(StorageError, match="File name too long"):
        cerebro.load(place / ("x" * 300))
