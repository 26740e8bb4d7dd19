"""A run's folder from somebody else is data: looking at it runs nothing; nothing else changes."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
from hand_written_run import WrittenRun

import cerebro
from cerebro.backends.checksum import with_checksum
from cerebro.backends.plain_model import naming_code
from cerebro.cli import main
from cerebro.errors import CerebroError, InputError, UnsafePath

DIGEST = "ab" * 32


class Payload:
    """Unpickled, it leaves a folder."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def foreign(tmp_path):
    """A run with an epoch, whose pickles leave a folder when they are loaded."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/mine").write_text("a secret of mine")
    run = WrittenRun(theirs)
    body = pickle.dumps(Payload(tmp_path / "proof"))
    run.paths.code.mkdir()
    run.paths.code_file(DIGEST).write_bytes(with_checksum(body))
    run.ready()
    for model, error in enumerate((0.5, 0.4)):
        for partition in (0, 1):
            attempt = run.start(model, partition, reads=partition)
            folder = run.paths.version(model, partition + 1, 1, attempt)
            folder.mkdir(parents=True)
            (folder / "model.pickle").write_bytes(with_checksum(naming_code(body, DIGEST)))
            run.commit(attempt, checkpoint=str(folder / "model.pickle"))
        run.commit(run.start(model, 0, "valid", reads=2), error)
    run.decide(**{"0": "COMPLETED", "1": "COMPLETED"})
    run.journal.close()
    return run.paths


def state(folder):
    """Every path below a folder, with its content and when it was changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path)] = content, path.lstat().st_mtime_ns
    return found


def test_looking_at_it_runs_nothing_and_writes_only_where_it_is_told(foreign, tmp_path, capsys):
    run, modules = str(foreign.root), set(sys.modules)
    before = state(foreign.root)
    assert main.main(["status", run]) == 0
    result = cerebro.load(run)
    assert result.best().model_id == 1
    result.report(tmp_path / "report.html")
    result.export(1, tmp_path / "export")
    assert state(foreign.root) == before
    assert not (tmp_path / "proof").exists()
    assert {name for name in set(sys.modules) - modules if "theirs" in name} == set()
    result.report()
    result.save_tables()
    made = {path.name for path in foreign.root.iterdir() if str(path) not in before}
    assert made == {"report.html", "history.csv", "models.csv", "units.csv"}
    assert (tmp_path / "outside/mine").read_text() == "a secret of mine"


def plant(foreign, path, kind, outside):
    """Put something in the place of a file or folder of the run."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        folder = path.suffix == "" and path.parent == foreign.root
        path.symlink_to(outside if folder else outside / "mine")


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("name", ["journal", "journal/000001.jsonl", "driver.json"])
def test_no_link_is_read_and_no_pipe_waited_for(foreign, tmp_path, name, kind, capsys):
    plant(foreign, foreign.root / name, kind, tmp_path / "outside")
    if name != "driver.json":
        with pytest.raises(CerebroError):
            cerebro.load(foreign.root)
    assert main.main(["status", str(foreign.root)]) != 0
    assert "a secret of mine" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_report_without_provenance_is_one(foreign, tmp_path, kind):
    plant(foreign, foreign.provenance, kind, tmp_path / "outside")
    report = cerebro.load(foreign.root).report()
    assert "a secret of mine" not in Path(report).read_text()


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("name", ["history.csv", "models.csv", "units.csv"])
def test_tables_replace_nothing_that_is_no_file(foreign, tmp_path, name, kind):
    plant(foreign, foreign.root / name, kind, tmp_path / "outside")
    with pytest.raises(UnsafePath, match=name):
        cerebro.load(foreign.root).save_tables()
    assert (tmp_path / "outside/mine").read_text() == "a secret of mine"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_event_files_are_not_written_elsewhere(foreign, tmp_path, kind):
    plant(foreign, foreign.tensorboard, kind, tmp_path / "outside")
    with pytest.raises(UnsafePath, match=f"tensorboard is a {kind}"):
        cerebro.load(foreign.root).tensorboard()
    assert os.listdir(tmp_path / "outside") == ["mine"]


@pytest.mark.parametrize(("kind", "error"), [("link", InputError), ("pipe", UnsafePath)])
@pytest.mark.parametrize("default", [True, False])
def test_a_report_replaces_nothing_that_is_no_file(foreign, tmp_path, kind, error, default):
    plant(foreign, foreign.report, kind, tmp_path / "outside")
    with pytest.raises(error, match=r"report\.html is a"):
        cerebro.load(foreign.root).report(None if default else foreign.report)
    assert (tmp_path / "outside/mine").read_text() == "a secret of mine"


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize(
    "name",
    ["models", "models/1", "models/1/{version}", "models/1/{version}/model.pickle", "code/{code}"],
)
def test_an_export_has_no_files_of_this_hosts(foreign, tmp_path, name, kind):
    result = cerebro.load(foreign.root)
    version = os.path.basename(os.path.dirname(result.best().checkpoint))
    path = foreign.root / name.format(version=version, code=DIGEST)
    plant(foreign, path, kind, tmp_path / "outside")
    with pytest.raises(UnsafePath, match=rf"{path} is a {kind}"):
        result.export(1, tmp_path / "export")
    assert not (tmp_path / "export").exists()
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(
    "name", ["models", "models/1/{version}/model.pickle", "code", "code/{code}"]
)
def test_a_model_is_not_loaded_through_links_of_a_run(foreign, tmp_path, name):
    checkpoint = cerebro.load(foreign.root).best().checkpoint
    path = foreign.root / name.format(version=Path(checkpoint).parent.name, code=DIGEST)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(UnsafePath, match=f"{path} is a link"):
        cerebro.load_model(checkpoint, trust_folder=True)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "../mine", "..", ""])
def test_an_export_names_only_files_of_its_own(foreign, tmp_path, name):
    folder = tmp_path / "export"
    cerebro.load(foreign.root).export(1, folder)
    description = (folder / "export.json").read_text()
    (folder / "export.json").write_text(description.replace('"model.pickle"', f'"{name}"'))
    with pytest.raises(InputError, match="the name of a file in"):
        cerebro.load_model(folder)


def test_a_plain_model_that_strangers_can_write_is_not_loaded(foreign, tmp_path):
    folder = tmp_path / "export"
    result = cerebro.load(foreign.root)
    result.export(1, folder)
    for file, opened in (
        (result.best().checkpoint, foreign.root),
        (result.best().checkpoint, foreign.code),
        (result.best().checkpoint, foreign.code_file(DIGEST)),
        (result.best().checkpoint, foreign.models / "1"),
        (folder, folder),
        (folder / "model.pickle", folder / "model.pickle"),
    ):
        mode = opened.stat().st_mode
        opened.chmod(0o777)
        with pytest.raises(cerebro.errors.UntrustedFolder, match=f"{opened} can be written by ev"):
            cerebro.load_model(file)
        opened.chmod(mode)
    assert not (tmp_path / "proof").exists()
    folder.chmod(0o757)
    with contextlib.suppress(CerebroError):  # what was loaded is no code
        cerebro.load_model(folder, trust_folder=True)
    assert (tmp_path / "proof").exists()
