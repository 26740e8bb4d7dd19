"""A run is not driven where strangers can lie in wait, and follows no link out of its folder."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hand_written_run import WrittenRun
from toy import functions, partitions

import cerebro
from cerebro.driver import launch
from cerebro.driver.launch import Launch
from cerebro.driver.request import Arguments, checked
from cerebro.errors import (
    StorageNotShared,
    UnsafePath,
    UntrustedFolder,
    WorkerUnreachable,
)
from cerebro.journal.paths import RunPaths
from cerebro.storage import remove_below, temporary_beside

OTHER = 54321
NOBODY = "http://127.0.0.1:1"
"""A worker that does not answer: what is refused before it is called needs none."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as two users")


@pytest.fixture
def arguments(tmp_path):
    """The arguments of a small search, with what a test wants to be different."""
    input_fn, model_fn, train_fn, eval_fn = functions(1)
    (tmp_path / "secret").write_text("a secret of this test, long enough")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "runs").mkdir(mode=0o755)
    given = {
        "train_partitions": partitions(tmp_path / "data", 2),
        "valid_partitions": partitions(tmp_path / "data", 1, "valid"),
        "train_availability": None,
        "valid_availability": None,
        "input_fn": input_fn,
        "model_fn": model_fn,
        "train_fn": train_fn,
        "initial_msts": [{"rate": 0.5}, {"rate": 0.1}],
        "mst_eval_fn": eval_fn,
        "ckpt_root": tmp_path / "runs",
        "backend": "python",
        "run_name": "grid",
        "secret_file": str(tmp_path / "secret"),
        "progress": "off",
    }
    return lambda **changed: {**given, **changed}


@pytest.fixture
def resume(arguments):
    """Resumes the run `grid`; one that is not refused finds that it was another script's."""

    def run(**changed):
        try:
            cerebro.schedule([NOBODY], **arguments(resume=True, **changed))
        except cerebro.errors.ResumeRefused:
            return True

    return run


@pytest.fixture
def create(arguments):
    """Makes the folder of a new run, as the first thing after its workers have answered."""
    rest = {
        "worker_ips": [NOBODY], "preload_data_to_mem": True, "search": None, "resume": False,
        "allow_changed": (), "retry_failed": False, "trust_folder": False, "takeover_wait": 0.0,
        "replay": None,
        "seed": 0, "deterministic": True, "heartbeat": 30.0, "unit_timeout": None,
        "placement": None, "error_metric": None,
    }  # fmt: skip

    def make(**changed):
        request = checked(Arguments(**{**rest, **arguments(**changed)}))
        return Launch(request)._create(request.plan.name)

    return make


@pytest.fixture
def written(tmp_path, arguments):
    """The run `grid`, which a driver has begun and let go."""
    run = WrittenRun(tmp_path / "runs", workers=[NOBODY])
    run.ready()
    folder = run.paths.version(0, 1, 1, 1)
    run.commit(run.start(0, 0), checkpoint=str(folder / "model.pickle"))
    folder.mkdir(parents=True)
    (folder / "model.pickle").write_bytes(b"weights")
    run.paths.code.mkdir()
    run.paths.code_file("ab" * 32).write_bytes(b"code")
    run.paths.tensorboard.mkdir()
    (run.paths.logs / "0.log").write_text("lines\n")
    run.holder(released=True)
    run.journal.close()
    return run.paths


# --- links -----------------------------------------------------------------------------------

FOLDERS = ["journal", "logs", "models", "models/0", "code", "probe", "tensorboard"]
FILES = [
    "driver.json",
    "workers.json",
    "provenance.json",
    "history.csv",
    "report.html",
    "journal/000001.jsonl",
    "journal/000002.jsonl",
    "logs/0.log",
    "logs/scheduler.log",
    "models/0/v000001-g1-a1",
    "models/0/v000001-g1-a1/model.pickle",
    "models/0/v000001-g1-a1/probe.bin",
    "models/0/.tmp-v000002-g1-a2-0123456789ab",
    "tensorboard/model-0",
    "probe/driver-0123",
]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "link") for name in (*FOLDERS, *FILES)),
        *((name, "pipe") for name in (FOLDERS[0], FOLDERS[1], *FILES[::5])),
    ],
)
def test_a_run_with_a_link_is_not_resumed_and_nothing_outside_changes(
    written, resume, tmp_path, name, kind
):
    path, outside = written.root / name, tmp_path / "outside"
    if path.exists():
        shutil.move(path, outside)
    else:
        outside.write_text("mine")
    before = {p: p.lstat().st_mtime_ns for p in [outside, *outside.rglob("*")]}
    if kind == "link":
        path.symlink_to(outside)
    else:
        os.mkfifo(path)
    with pytest.raises((UnsafePath, cerebro.errors.NotARun)) as raised:
        resume()
    assert name == "journal" or f"{path} is a {kind}" in str(raised.value)
    assert {p: p.lstat().st_mtime_ns for p in [outside, *outside.rglob("*")]} == before


def test_links_of_the_users_own_do_no_harm(written, resume, tmp_path):
    (written.root / "notes").symlink_to(tmp_path)
    written.root.rename(tmp_path / "scratch")
    written.root.symlink_to(tmp_path / "scratch")
    assert resume()


def test_folders_without_end_are_refused(written, resume):
    """They were more than Python's stack can hold."""
    outermost, aside = written.root / "models/0/v000001-g1-a1/d", written.root / "aside"
    at = os.open(outermost.parent, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    try:
        with pytest.raises(UnsafePath, match="lies deeper than anything that a run holds"):
            resume()
        assert not remove_below(written.root, ("models", "0", "v000001-g1-a1"), None)
    finally:  # pytest cannot remove it
        while outermost.exists():
            if (outermost / "d").exists():
                (outermost / "d").rename(aside)
            outermost.rmdir()
            if aside.exists():
                aside.rename(outermost)


def test_of_what_is_written_aside_only_the_runs_own_is_swept(written):
    ours = [temporary_beside(written.driver), temporary_beside(written.generation(2))]
    for path in (*ours, written.root / ".tmp-mine", written.journal / ".tmp-notes-2026"):
        path.touch()
    assert sorted(written.temporary()) == sorted(ours)


# --- whom a run has to be trusted to ---------------------------------------------------------


@pytest.mark.parametrize("name", ["", "journal", "models/0", "models/0/v000001-g1-a1/model.pickle"])
def test_a_plain_run_that_strangers_can_write_is_resumed_only_if_it_is_trusted(
    written, resume, name
):
    assert resume()
    (written.root / name).chmod(0o777)
    with pytest.raises(UntrustedFolder, match=r"can be written by everybody .*trust_folder=True"):
        resume()
    assert resume(trust_folder=True)
    assert resume(backend="tf")


def test_what_changes_while_another_driver_is_waited_for_is_seen(written, resume, monkeypatch):
    monkeypatch.setattr(launch, "check_free", lambda paths, **_: paths.models.chmod(0o777))
    with pytest.raises(UntrustedFolder, match=r"models can be written by everybody"):
        resume()


@pytest.mark.privileged
@needs_root
@pytest.mark.parametrize("name", ["", "code", "models"])
def test_a_plain_run_of_another_user_is_resumed_only_if_it_is_trusted(written, resume, name):
    os.chown(written.root / name, OTHER, OTHER)
    with pytest.raises(UntrustedFolder, match=f"belongs to user {OTHER}"):
        resume()
    assert resume(trust_folder=True)
    assert resume(backend="tf")


@pytest.mark.privileged
@needs_root
@pytest.mark.parametrize("backend", ["python", "tf"])
@pytest.mark.parametrize("how", [True, "auto"])
def test_a_run_that_was_planted_is_not_resumed_whatever_the_backend(
    written, arguments, backend, how
):
    written.root.parent.chmod(0o1777)
    os.chown(written.root, OTHER, OTHER)
    with pytest.raises(UntrustedFolder, match="where everybody may make folders"):
        cerebro.schedule([NOBODY], **arguments(resume=how, backend=backend))


def test_a_checkpoint_that_strangers_can_write_is_no_beginning(tmp_path, arguments):
    checkpoint = tmp_path / "model.pickle"
    checkpoint.write_bytes(b"weights")
    checkpoint.chmod(0o666)
    begins = {"initial_msts": [{"rate": 0.1, "init_ckpt_path": str(checkpoint)}]}
    with pytest.raises(UntrustedFolder, match=f"{checkpoint} can be written by everybody"):
        cerebro.schedule([NOBODY], **arguments(**begins))
    for trusted in ({"trust_folder": True}, {"backend": "tf"}):
        with pytest.raises(WorkerUnreachable):
            cerebro.schedule([NOBODY], **arguments(**begins, **trusted))


# --- a new run's folder ----------------------------------------------------------------------


def test_a_new_folder_is_made_for_its_owner_and_group(create, tmp_path):
    before = os.umask(0)
    try:
        paths = create(ckpt_root=tmp_path / "runs/more")
    finally:
        os.umask(before)
    made = [paths.root.parent, paths.root, *paths.root.rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o775}


@pytest.mark.parametrize("backend", ["python", "tf"])
def test_a_folder_that_a_driver_of_ones_own_has_left_is_used(create, backend):
    assert create(backend=backend).root == create(backend=backend).root


@pytest.mark.parametrize(
    "name",
    [
        "journal/monday.md",
        "probe/recording.bin",
        "logs/0.log",
        "models/resnet.h5",
        "history.csv",
        "report.html",
        "provenance.json",
        "code/main.py",
    ],
)
def test_a_folder_of_the_users_with_a_journal_is_not_taken_for_a_run(
    create, arguments, tmp_path, name
):
    grid = tmp_path / "runs/grid"
    for folder in (grid / "journal", (grid / name).parent):
        folder.mkdir(parents=True, exist_ok=True)
    (grid / name).write_text("mine")
    before = sorted(grid.rglob("*"))
    assert create() is None
    assert (sorted(grid.rglob("*")), (grid / name).read_text()) == (before, "mine")


@pytest.mark.parametrize("what", ["file", "pipe", "link"])
def test_a_name_that_is_taken_by_something_else_is_no_leftover(create, tmp_path, what):
    grid = tmp_path / "runs/grid"
    if what == "file":
        grid.write_text("mine")
    elif what == "pipe":
        os.mkfifo(grid)
    else:
        grid.symlink_to(tmp_path / "gone")
    assert create() is None
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_start_that_fails_removes_what_it_has_made_and_nothing_else(
    arguments, monkeypatch, tmp_path, is_there
):
    grid = tmp_path / "runs/grid"
    if is_there:
        grid.mkdir()

    def refuse(_, contacts, probe):
        (grid / "probe/driver-0123456789ab").touch()
        (grid / "probe/mine").touch()
        (grid / "notes").touch()
        if not is_there:
            (grid / "probe/mine").unlink()
            (grid / "notes").unlink()
        raise StorageNotShared("refused")

    monkeypatch.setattr(Launch, "_contact", lambda self, plan: [])
    monkeypatch.setattr(Launch, "_check_held", lambda self, plan, contacts: None)
    monkeypatch.setattr(Launch, "_check_storage", refuse)
    with pytest.raises(StorageNotShared):
        cerebro.schedule([NOBODY], **arguments())
    left = [str(path.relative_to(grid)) for path in sorted(grid.rglob("*"))]
    assert left == (["notes", "probe", "probe/mine"] if is_there else [])
    assert grid.is_dir() is is_there


@pytest.mark.privileged
@pytest.mark.processes
@needs_root
@pytest.mark.parametrize("how", [True, False, "auto"])
def test_a_run_that_this_user_may_not_read_is_named(create, arguments, open_place, tmp_path, how):
    create(ckpt_root=tmp_path / "own")  # imports what the other user could not
    (open_place / "grid/journal").mkdir(parents=True)
    (open_place / "grid").chmod(0o700)
    secret = open_place / "secret"
    shutil.move(tmp_path / "secret", secret)
    os.chown(secret, OTHER, OTHER)
    given = arguments(ckpt_root=open_place, secret_file=str(secret), resume=how)
    if how is False:
        said = in_child_as_other(lambda: create(ckpt_root=open_place, secret_file=str(secret)))
    else:
        said = in_child_as_other(lambda: cerebro.schedule([NOBODY], **given))
    assert said.startswith(f"StorageError: cannot read {open_place}/grid"), said
    with pytest.raises(cerebro.errors.NotARun):
        cerebro.load(open_place / "grid")
    said = in_child_as_other(lambda: cerebro.load(open_place / "grid"))
    assert said.startswith(f"StorageError: cannot read {open_place}/grid"), said


@pytest.mark.parametrize("backend", ["python", "tf"])
def test_a_folder_that_is_there_and_open_to_all_is_refused(create, tmp_path, backend):
    (tmp_path / "runs/grid").mkdir()
    (tmp_path / "runs/grid").chmod(0o777)
    with pytest.raises(UntrustedFolder, match="grid can be written by everybody"):
        create(backend=backend)
    assert os.listdir(tmp_path / "runs/grid") == []
    assert create(backend=backend, trust_folder=True)


def test_a_plain_run_is_not_begun_where_its_folder_could_be_swapped(create, tmp_path):
    (tmp_path / "runs").chmod(0o777)
    with pytest.raises(UntrustedFolder, match=r"not sticky.*chmod o-w"):
        create()
    assert os.listdir(tmp_path / "runs") == []
    assert create(backend="tf")
    assert create(trust_folder=True)
    (tmp_path / "runs").chmod(0o1777)
    assert create(run_name="other")


@pytest.mark.parametrize("name", ["logs", "probe", "models"])
def test_a_folder_with_a_link_is_not_used(create, tmp_path, name):
    paths = create()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/mine").touch()
    (paths.root / name).rmdir()
    (paths.root / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafePath, match=f"{paths.root / name} is a link"):
        create()
    assert os.listdir(tmp_path / "outside") == ["mine"]


def in_child_as_other(deed):
    """Do something as another user; returns what it has raised, as text."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            os.setgroups([])
            os.setresgid(OTHER, OTHER, OTHER)
            os.setresuid(OTHER, OTHER, OTHER)
            os.umask(0)
            deed()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(theirs, said.encode()[:4000])
        os._exit(0)
    os.close(theirs)
    with open(ours) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def open_place():
    """A folder like /tmp, which others reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="cerebro-users-") as folder:
        os.chmod(folder, 0o1777)
        yield Path(folder)


@pytest.mark.privileged
@pytest.mark.processes
@needs_root
@pytest.mark.parametrize("backend", ["python", "tf"])
@pytest.mark.parametrize("what", ["folder", "link", "root", "journal"])
def test_what_another_user_has_made_first_in_a_place_for_all_is_refused(
    create, open_place, backend, what
):
    def lie_in_wait():
        if what == "root":
            (open_place / "runs").mkdir()
            return
        target = open_place / ("grid" if what != "link" else "theirs")
        target.mkdir()
        if what == "link":
            (open_place / "grid").symlink_to(target)
        if what == "journal":
            RunPaths(target).create()

    assert in_child_as_other(lie_in_wait) == "nothing"
    root = open_place / "runs" if what == "root" else open_place
    before = sorted(open_place.rglob("*"))
    with pytest.raises(UntrustedFolder, match=f"belongs to user {OTHER}"):
        create(ckpt_root=root, backend=backend)
    assert sorted(open_place.rglob("*")) == before


@pytest.mark.privileged
@pytest.mark.processes
@needs_root
def test_another_user_can_do_nothing_in_a_run_of_ones_own(create, open_place):
    before = os.umask(0)
    try:
        run = create(ckpt_root=open_place).root
    finally:
        os.umask(before)
    deeds = [
        lambda: run.rename(open_place / "away"),
        lambda: (run / "logs").rename(run / "away"),
        lambda: (run / "logs/scheduler.log").symlink_to("/etc/passwd"),
        lambda: (run / "models/0").mkdir(),
        lambda: (run / "journal/000001.jsonl").touch(),
    ]
    assert [in_child_as_other(deed).partition(":")[0] for deed in deeds] == ["PermissionError"] * 5


@pytest.mark.privileged
@pytest.mark.processes
@needs_root
def test_a_user_who_is_not_root_is_protected_likewise(create, open_place, tmp_path):
    create(ckpt_root=tmp_path / "own")  # imports what the other user could not
    (open_place / "grid").mkdir()  # root's, so trusted, but nothing can be made in it
    secret = open_place / "secret"
    shutil.move(tmp_path / "secret", secret)
    os.chown(secret, OTHER, OTHER)
    said = in_child_as_other(lambda: create(ckpt_root=open_place, secret_file=str(secret)))
    assert said.startswith("StorageError: cannot create"), said
    os.chown(open_place / "grid", OTHER + 1, OTHER + 1)
    (open_place / "grid").chmod(0o777)
    said = in_child_as_other(lambda: create(ckpt_root=open_place, secret_file=str(secret)))
    assert said.startswith("UntrustedFolder"), said
    assert f"belongs to user {OTHER + 1}" in said
