"""Storage that fails while a search is under way: nothing is lost, nothing trained twice.

The storage of the run is a small disk or a folder with faults, mounted for one test. Most faults
begin at the end of the first epoch and end when the user has been told of them.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from exact import check_exact
from patience import PATIENCE
from toy import functions, partitions

import cerebro
from cerebro import errors
from cerebro.progress import plain
from cerebro.protocol.messages import SaveWaits, UnitOrder, VersionPublished
from cerebro.worker import saver
from testbed.storage import FaultyFolder, Tmpfs, faulty_folder_available, tmpfs_available

CONFIGS = [{"rate": 0.5}, {"rate": 0.1}, {"rate": 0.01}]
EPOCHS = 2


class Listener(io.StringIO):
    """Standard error, which does a deed, on a thread, when a line matches for the first time."""

    def __init__(self):
        super().__init__()
        self.text = ""
        self.failed = []
        self._deeds = []

    def when(self, pattern, deed):
        self._deeds.append((re.compile(pattern), deed))

    def write(self, text):
        self.text += text
        for entry in list(self._deeds):
            if entry[0].search(self.text):
                self._deeds.remove(entry)
                threading.Thread(target=self._do, args=(entry[1],)).start()
        return len(text)

    def _do(self, deed):
        try:
            deed()
        except Exception as error:
            self.failed.append(error)


@pytest.fixture
def said(monkeypatch):
    """What the user is told."""
    listener = Listener()
    # Not sys.stderr itself, which pytest sets anew when the test begins.
    monkeypatch.setattr(plain, "sys", SimpleNamespace(stderr=listener))
    yield listener
    assert not listener.failed


@pytest.fixture
def disk(tmp_path):
    """A small disk for the whole `ckpt_root`."""
    if why := tmpfs_available():
        pytest.skip(why)
    with Tmpfs(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def disk_of_models(tmp_path):
    """A small disk for the versions of the run `r` alone; the rest lies beside it."""
    if why := tmpfs_available():
        pytest.skip(why)
    run = tmp_path / "disk" / "r"
    (run / "journal").mkdir(parents=True)
    with Tmpfs(run / "models") as disk:
        yield disk


@pytest.fixture
def faulty(tmp_path):
    """A folder with faults for the whole `ckpt_root`."""
    if why := faulty_folder_available():
        pytest.skip(why)
    with FaultyFolder(tmp_path / "disk", tmp_path / "backing") as faulty:
        yield faulty


def counting(mark, fns):
    """The functions, where each training of a unit leaves a line in a file."""
    input_fn, model_fn, train_fn, eval_fn = fns

    def counted(model, data, train=True):
        if train:
            with open(mark, "a") as file:
                file.write(f"{model['rate']} {data[0]}\n")
        return train_fn(model, data, train)

    return input_fn, model_fn, counted, eval_fn


def at_epoch_end(fns, *deeds):
    """The functions, where the driver does a deed at the end of each of the first epochs."""
    *others, eval_fn = fns
    left = list(deeds)

    def doing(state):
        if left:
            left.pop(0)(state)
        return eval_fn(state)

    return (*others, doing)


def search(cluster, tmp_path, fns, **changed):
    input_fn, model_fn, train_fn, eval_fn = fns
    arguments = {
        "initial_msts": CONFIGS,
        "ckpt_root": str(tmp_path / "disk"),
        "backend": "python",
        "run_name": "r",
        "heartbeat": 60.0,
        **changed,
    }
    return cerebro.schedule(
        cluster,
        partitions(tmp_path / "data", 3),
        partitions(tmp_path / "data", 2, "valid"),
        None,
        None,
        input_fn=input_fn,
        model_fn=model_fn,
        train_fn=train_fn,
        mst_eval_fn=eval_fn,
        **arguments,
    )


def run_through(cluster, tmp_path, begin, **changed):
    """A search during which `begin` is called at the end of the first epoch; checks its outcome."""
    mark = tmp_path / "mark"
    remains = []

    def look(state):
        """Before the driver sweeps, at its end, what workers have left."""
        remains.extend((tmp_path / "disk" / "r" / "models").glob("*/.tmp-*"))

    fns = counting(str(mark), functions(EPOCHS))
    fns = at_epoch_end(fns, lambda state: begin(), look)
    result = search(cluster, tmp_path, fns, **changed)
    check_exact(result, EPOCHS)
    trained = mark.read_text().split("\n")[:-1]
    assert len(trained) == len(CONFIGS) * EPOCHS * 3, "no unit was trained again"
    nothing_temporary_is_left(tmp_path)
    assert not remains
    return result


def nothing_temporary_is_left(tmp_path):
    names = [name for _, folders, files in os.walk(tmp_path / "disk") for name in folders + files]
    assert not [name for name in names if name.startswith(".tmp-")]


def save_waits(cause):
    """The message of a version that waits to be saved."""
    return rf"saving waits: \S*/disk/r/models/\d/v\d+-g\d+-a\d+ cannot be written by .*{cause}"


# --- the versions' storage ---------------------------------------------------------------------


@pytest.mark.privileged
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Tmpfs.fill, "No space left on device"),
        (Tmpfs.use_up_inodes, "No space left on device"),
        (Tmpfs.make_read_only, "Read-only file system"),
    ],
)
def test_versions_wait_in_memory_for_a_disk(cluster, tmp_path, disk_of_models, said, fault, cause):
    said.when(save_waits(cause), disk_of_models.heal)
    result = run_through(cluster, tmp_path, lambda: fault(disk_of_models))
    assert re.search(save_waits(cause), said.text)
    assert set(result.units["outcome"]) == {"committed"}


@pytest.mark.privileged
@pytest.mark.parametrize(
    ("operation", "number"),
    [
        ("create", errno.ESTALE),
        ("write", errno.EIO),
        ("fsync", errno.EIO),
        ("rename", errno.EIO),
    ],
)
def test_versions_wait_in_memory_for_an_operation(
    cluster, tmp_path, faulty, said, operation, number
):
    said.when(save_waits(os.strerror(number)), faulty.heal)
    begin = partial(faulty.fail, operation, error=number, where="/r/models/*")
    result = run_through(cluster, tmp_path, begin)
    assert any(hit.startswith(operation) for hit in faulty.hits)
    assert set(result.units["outcome"]) == {"committed"}


@pytest.mark.privileged
def test_what_a_failed_save_could_not_remove_is_removed_later(cluster, tmp_path, faulty, said):
    """A storage that takes nothing and lets nothing go; then it heals, and room is made again."""

    def look_and_heal():
        left = [name for name in os.listdir(tmp_path / "disk/r/models/0") if ".tmp-" in name]
        seen.extend(left)
        faulty.heal()

    seen = []
    said.when(save_waits("Input/output error"), look_and_heal)

    def begin():
        for operation in ("fsync", "unlink", "rmdir"):
            faulty.fail(operation, where="/r/models/0/.tmp-*")

    run_through(cluster, tmp_path, begin)
    assert seen


@pytest.mark.privileged
def test_short_writes_change_nothing(cluster, tmp_path, faulty, said):
    faulty.shorten_writes()
    run_through(cluster, tmp_path, lambda: None)
    assert any("models" in hit for hit in faulty.hits)
    assert any("journal" in hit for hit in faulty.hits)


@pytest.mark.privileged
def test_a_disk_that_is_not_mounted_any_more_is_waited_for(cluster, tmp_path, faulty, said):
    """What is not there for now is neither damaged, nor made in another place."""
    said.when("No such file or directory", faulty.heal)
    operations = ("open", "getattr", "readdir", "mkdir")
    begin = partial(faulty.fail, *operations, error=errno.ENOENT, where="/r/models*")
    result = run_through(cluster, tmp_path, begin)
    assert set(result.units["outcome"]) <= {"committed", "storage"}


@pytest.mark.privileged
@pytest.mark.parametrize(
    ("operation", "number"),
    [
        ("read", errno.EIO),
        ("open", errno.ESTALE),
        ("open", errno.ENOENT),
    ],
)
def test_a_version_that_storage_does_not_give_is_not_taken_for_damage(
    cluster, tmp_path, faulty, said, operation, number
):
    message = rf"run again.*cannot read \S*/disk/r/models/\S*: {os.strerror(number)}"
    said.when(message, faulty.heal)
    begin = partial(faulty.fail, operation, error=number, where="/r/models/*/model.*")
    result = run_through(cluster, tmp_path, begin)
    assert set(result.units["outcome"]) == {"committed", "storage"}
    assert re.search(message, said.text)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_a_version_that_may_not_be_read_is_not_taken_for_damage(cluster, tmp_path, said):
    paths = []

    def begin(state):
        paths.extend(Path(model["ckpt_path"]) for model in state.values())
        for path in paths:
            path.chmod(0)

    said.when("cannot read .*Permission denied", lambda: [p.chmod(0o600) for p in paths])
    result = search(cluster, tmp_path, at_epoch_end(functions(EPOCHS), begin))
    check_exact(result, EPOCHS)
    assert set(result.units["outcome"]) == {"committed", "storage"}


def test_a_version_is_not_published_where_its_run_is_missing(tmp_path, monkeypatch):
    """On a worker that has lost the mount, it would lie where nobody else can read it."""
    monkeypatch.setattr(saver, "RETRY_SECONDS", 0.01)
    run = tmp_path / "run"
    happened = []

    class Writer:
        def write(self, state, directory):
            Path(directory, "model").write_text(state)
            return "model"

        def recycle(self, state):
            """Nothing is taken back."""

    def report(event):
        happened.append(event)
        if isinstance(event, SaveWaits):
            assert not run.exists()
            run.mkdir()

    fields = {"attempt": 1, "model": 0, "epoch": 0, "split": "train", "partition": 0, "path": "p"}
    fields |= {"config": {}, "seed": 0, "reads": None, "writes": str(run / "models" / "0" / "v1")}
    publisher = saver.Saver(Writer(), report, lambda: None)
    publisher.save(UnitOrder.from_json(fields), "weights")
    publisher.wait_until_free()
    assert [type(event) for event in happened] == [SaveWaits, VersionPublished]
    assert str(run) in happened[0].cause
    assert (run / "models" / "0" / "v1" / "model").read_text() == "weights"


# --- damage --------------------------------------------------------------------------------------


def truncate(path):
    os.truncate(path, os.path.getsize(path) // 2)


def flip(path):
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 0x40
    Path(path).write_bytes(content)


def version_files(run, model):
    """The files of a model's versions, oldest version first."""
    folders = sorted((run / "models" / str(model)).iterdir())
    return [sorted(folder.iterdir()) for folder in folders]


@pytest.mark.parametrize("damage", [truncate, flip])
def test_a_damaged_version_is_made_again_from_the_one_before(cluster, tmp_path, said, damage):
    def begin(state):
        damage(state[1]["ckpt_path"])

    fns = counting(str(tmp_path / "mark"), functions(EPOCHS))
    result = search(cluster, tmp_path, at_epoch_end(fns, begin))
    check_exact(result, EPOCHS)
    trained = (tmp_path / "mark").read_text().split("\n")[:-1]
    assert len(trained) == len(CONFIGS) * EPOCHS * 3 + 1
    assert re.search(r"disk/r/models/1/v000003\S*/model.pickle", said.text)
    nothing_temporary_is_left(tmp_path)


@pytest.mark.parametrize("damage", [truncate, flip])
def test_two_damaged_versions_fail_their_model_only(cluster, tmp_path, said, damage):
    def begin(state):
        for files in version_files(tmp_path / "disk" / "r", 1)[-2:]:
            damage(files[0])

    result = search(cluster, tmp_path, at_epoch_end(functions(EPOCHS), begin))
    assert list(result.models["state"]) == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "disk/r/models/1/v000002" in result.models["failure"][1]
    assert "model 1 FAILED" in said.text
    nothing_temporary_is_left(tmp_path)


# --- TensorFlow ----------------------------------------------------------------------------------


def counting_model_fn(data, config):
    """A model that counts its training steps."""
    import tensorflow.compat.v1 as tf

    x = tf.constant(data, tf.float32)
    loss = tf.reduce_mean(tf.square(tf.get_variable("w", [], tf.float32) - x))
    steps = tf.get_variable("steps", [], tf.int64, tf.zeros_initializer(), trainable=False)
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_add(steps, 1))
    return tf.train.MomentumOptimizer(config["rate"], 0.9), loss, loss


def search_with_tensorflow(cluster, tmp_path, begin):
    """A search with TensorFlow during which `begin` is called at the end of the first epoch.

    Returns the result and how often a unit was trained.
    """
    mark = str(tmp_path / "mark")
    input_fn, _, _, eval_fn = functions(EPOCHS)

    def train_fn(session, train_step, loss, error, train=True):
        if train:
            with open(mark, "a") as file:
                file.write("trained\n")
        return session.run([loss, error] + ([train_step] if train else []))[:2]

    fns = at_epoch_end((input_fn, counting_model_fn, train_fn, eval_fn), begin)
    result = search(cluster, tmp_path, fns, backend="tf")
    nothing_temporary_is_left(tmp_path)
    return result, len(Path(mark).read_text().splitlines())


def check_steps(result):
    """Every model that is complete has made one step on each partition in each epoch."""
    import tensorflow as tf

    complete = result.models[result.models["state"] == "COMPLETED"]
    for checkpoint in complete["checkpoint"]:
        assert tf.train.load_checkpoint(checkpoint).get_tensor("steps") == 3 * EPOCHS
    committed = result.units[result.units["outcome"] == "committed"]
    assert not committed.duplicated(["model_id", "epoch", "split", "partition"]).any()
    return list(result.models["state"])


@pytest.mark.privileged
@pytest.mark.slow
@pytest.mark.tf
def test_tensorflow_waits_for_storage(one_worker, tmp_path, faulty, said):
    """One fault after the other: each comes when the one before has been said, and is over."""
    pytest.importorskip("tensorflow")
    faults = [
        ("write", errno.ENOSPC, "saving waits: .*cannot write the checkpoint .*No space"),
        ("read", errno.EIO, r"cannot read \S*/model\.\S*: Input/output error"),
        ("open", errno.ESTALE, r"cannot read \S*/model\.\S*: Stale file handle"),
    ]

    def begin(state=None):
        faulty.heal()
        if left:
            operation, number, message = left.pop(0)
            said.when(message, begin)
            faulty.fail(operation, error=number, where="/r/models/*/model*")

    left = list(faults)
    result, trained = search_with_tensorflow(one_worker, tmp_path, begin)
    assert check_steps(result) == ["COMPLETED"] * len(CONFIGS)
    for _, _, message in faults:
        assert re.search(message, said.text)
    assert not left
    assert trained == len(CONFIGS) * EPOCHS * 3, "no unit was trained again"
    assert set(result.units["outcome"]) <= {"committed", "storage"}


@pytest.mark.privileged
@pytest.mark.slow
@pytest.mark.tf
def test_short_writes_change_nothing_with_tensorflow(one_worker, tmp_path, faulty, said):
    pytest.importorskip("tensorflow")
    faulty.shorten_writes()
    result, trained = search_with_tensorflow(one_worker, tmp_path, lambda state: None)
    assert check_steps(result) == ["COMPLETED"] * len(CONFIGS)
    assert trained == len(CONFIGS) * EPOCHS * 3
    assert any("/model." in hit for hit in faulty.hits)


@pytest.mark.slow
@pytest.mark.tf
@pytest.mark.parametrize(("damage", "versions"), [(flip, 1), (truncate, 2)])
def test_damaged_checkpoints_of_tensorflow(one_worker, tmp_path, said, damage, versions):
    """The last one is made again; with the one before it damaged as well, the model fails."""
    pytest.importorskip("tensorflow")

    def begin(state):
        for files in version_files(tmp_path / "disk" / "r", 1)[-versions:]:
            damage(next(path for path in files if ".data-" in path.name))

    result, trained = search_with_tensorflow(one_worker, tmp_path, begin)
    states = ["COMPLETED", "COMPLETED" if versions == 1 else "FAILED", "COMPLETED"]
    assert check_steps(result) == states
    if versions == 1:
        assert trained == len(CONFIGS) * EPOCHS * 3 + 1
        assert set(result.units["outcome"]) == {"committed", "damaged", "void"}
    assert re.search(r"the checkpoint \S*/disk/r/models/1/v\S*/model cannot be read", said.text)


# --- the driver's own files ----------------------------------------------------------------------


@pytest.mark.privileged
@pytest.mark.parametrize("fault", [Tmpfs.fill, Tmpfs.use_up_inodes])
def test_a_run_waits_for_a_disk_with_all_it_has(cluster, tmp_path, disk, said, fault):
    said.when(r"disk/r/(journal|models)/.*No space left on device", disk.heal)
    run_through(cluster, tmp_path, lambda: fault(disk))
    assert "No space left on device" in said.text


@pytest.mark.privileged
@pytest.mark.parametrize(
    ("operation", "number"), [("write", errno.ENOSPC), ("write", errno.EROFS), ("fsync", errno.EIO)]
)
def test_a_run_waits_for_its_journal(cluster, tmp_path, faulty, said, operation, number):
    cause = os.strerror(number)
    said.when(f"journal.*{cause}", faulty.heal)

    def begin():
        faulty.fail(operation, error=number, where="/r/journal*")
        faulty.fail("create", error=number, where="/r/journal*")

    run_through(cluster, tmp_path, begin)
    assert re.search(f"disk/r/journal.*{cause}", said.text)


@pytest.mark.privileged
@pytest.mark.parametrize("operation", ["create", "fsync"])
def test_a_record_whose_sync_failed_is_written_again(cluster, tmp_path, faulty, said, operation):
    """Nobody knows what the file holds, so another one goes on, if need be at the second try."""

    def begin():
        faulty.fail("fsync", where="/r/journal/000001.jsonl", times=1)
        faulty.fail(operation, where="/r/journal/000002.jsonl", times=1)

    run_through(cluster, tmp_path, begin)
    assert len(faulty.hits) == 2


@pytest.mark.privileged
def test_files_that_follow_from_the_journal_never_stop_a_run(cluster, tmp_path, faulty, said):
    """Logs, tables, provenance: they can be made again at any time."""

    def begin():
        faulty.fail("create", "open", "write", error=errno.ENOSPC, where="/r/logs/*")
        for name in ("provenance.json", "history.csv", "models.csv", "units.csv"):
            faulty.fail("write", error=errno.ENOSPC, where=f"/r/.tmp-{name}-*")

    result = run_through(cluster, tmp_path, begin)
    assert len(result.history) == len(CONFIGS) * EPOCHS
    faulty.heal()
    search(cluster, tmp_path, counting(str(tmp_path / "mark"), functions(EPOCHS)), resume=True)
    for name in ("history.csv", "models.csv", "units.csv"):
        assert (tmp_path / "disk" / "r" / name).stat().st_size, name


@pytest.mark.privileged
def test_a_run_that_has_ended_is_given_although_nothing_can_be_swept(
    cluster, tmp_path, faulty, said
):
    begin = partial(faulty.fail, "readdir", where="/r/models*")
    fns = at_epoch_end(functions(1), lambda state: begin())
    check_exact(search(cluster, tmp_path, fns), 1)


@pytest.mark.privileged
def test_a_driver_goes_on_while_it_cannot_say_that_it_lives(cluster, tmp_path, faulty, said):
    begin = partial(faulty.fail, "create", error=errno.ENOSPC, where="/r/.tmp-driver*")
    run_through(cluster, tmp_path, begin)


# --- the beginning -------------------------------------------------------------------------------


@pytest.mark.privileged
@pytest.mark.parametrize("fault", [Tmpfs.fill, Tmpfs.use_up_inodes, Tmpfs.make_read_only])
def test_no_run_begins_on_a_disk_that_takes_nothing(cluster, tmp_path, disk, said, fault):
    mark = tmp_path / "mark"
    fns = counting(str(mark), functions(EPOCHS))
    fault(disk)
    before = sorted(os.listdir(disk.path))
    with pytest.raises(errors.StorageError, match=rf"{disk.path}.*: (No space|Read-only)"):
        search(cluster, tmp_path, fns)
    assert sorted(os.listdir(disk.path)) == before, "nothing is left behind"
    disk.heal()
    check_exact(search(cluster, tmp_path, fns), EPOCHS)


@pytest.mark.privileged
@pytest.mark.parametrize("folder", ["r", "r/models"])
def test_a_folder_that_cannot_be_made_leaves_no_other_behind(
    cluster, tmp_path, faulty, said, folder
):
    faulty.fail("mkdir", error=errno.ENOSPC, where=f"/{folder}")
    with pytest.raises(errors.StorageError, match=rf"{faulty.path}.*: No space"):
        search(cluster, tmp_path, functions(EPOCHS))
    assert os.listdir(faulty.path) == []


@pytest.mark.privileged
@pytest.mark.parametrize(
    ("operation", "place"),
    [
        ("fsync", "probe/*driver*"),
        ("create", "probe/worker*"),
        ("create", "journal/*"),
        ("fsync", "journal/*"),
        ("write", ".tmp-driver*"),
    ],
)
def test_no_run_begins_where_a_file_cannot_be_written(
    cluster, tmp_path, faulty, said, operation, place
):
    """A clear error before any work, and the same call works once the storage does."""
    mark = tmp_path / "mark"
    fns = counting(str(mark), functions(EPOCHS))
    faulty.fail(operation, where=f"/r/{place}")
    with pytest.raises((errors.StorageError, errors.StorageNotShared), match="Input/output error"):
        search(cluster, tmp_path, fns)
    assert not mark.exists()
    nothing_temporary_is_left(tmp_path)
    if "probe" in place:
        assert os.listdir(faulty.path) == []
    faulty.heal()
    check_exact(search(cluster, tmp_path, fns), EPOCHS)


# --- stopping and going on -----------------------------------------------------------------------

DRIVER = """
import sys
sys.path[:0] = {tests!r}
from pathlib import Path
from toy import functions
import test_storage_faults as here

def pause(state):
    print("epoch", flush=True)
    sys.stdin.readline()

fns = here.at_epoch_end(here.counting({mark!r}, functions({epochs})), pause)
here.search({urls!r}, Path({tmp_path!r}), fns, secret_file={secret!r}, resume="auto")
print("complete")
"""
"""A driver that waits for a line at the end of its first epoch."""


def start_driver(cluster, tmp_path):
    script = tmp_path / "driver.py"
    here = Path(__file__).parent
    script.write_text(
        textwrap.dedent(DRIVER).format(
            tests=[str(here), str(here.parent / "helpers")],
            mark=str(tmp_path / "mark"),
            epochs=EPOCHS,
            urls=cluster.urls,
            tmp_path=str(tmp_path),
            secret=cluster.secret_file,
        )
    )
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(here.parents[1])},
    )


def read_until(process, pattern):
    lines = []
    for line in process.stderr:
        lines.append(line)
        if re.search(pattern, line):
            return
    raise AssertionError(f"the driver ended without saying {pattern!r}: {''.join(lines)}")


@pytest.mark.privileged
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whole"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGKILL, True)]
)
def test_a_run_that_was_stopped_on_a_full_disk_goes_on(cluster, tmp_path, request, number, whole):
    disk = request.getfixturevalue("disk" if whole else "disk_of_models")
    process = start_driver(cluster, tmp_path)
    try:
        assert process.stdout.readline() == "epoch\n"
        disk.fill()
        process.stdin.write("go on\n")
        process.stdin.flush()
        read_until(process, r"disk/r/(journal|models)/.*No space left on device")
        process.send_signal(number)
        _, messages = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    if number == signal.SIGTERM:
        assert "run_name='r', resume=True" in messages
    disk.heal()
    fns = counting(str(tmp_path / "mark"), functions(EPOCHS))
    result = search(cluster, tmp_path, fns, resume=True)
    check_exact(result, EPOCHS)
    nothing_temporary_is_left(tmp_path)
