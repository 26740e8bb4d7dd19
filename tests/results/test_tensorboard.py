"""Event files: what TensorBoard reads there is what the journal says, once."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from patience import SOON
from written_records import written

from cerebro import errors
from cerebro.journal.ledger import Ledger
from cerebro.journal.run_plan import RunPlan

tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.tf

CONFIGS = [
    {"rate": 0.1, "units": 300, "name": "é", "bias": True, "layers": [1, 2], "x" * 200: 1},
    {"rate": 0.01, "units": 8, "init_ckpt_path": "/somewhere"},
    {"rate": 0.01, "units": 8},
]
METRICS = ("train_loss", "train_error", "valid_loss", "valid_error")


class Journal:
    """Makes a run's records: units of one train and one valid partition."""

    def __init__(self, run="0123456789abcdef", n_valid=1):
        plan = RunPlan(
            id=run, name="run", workers=["http://w"], train_partitions=["a"],
            valid_partitions=["b"][:n_valid], train_availability=None, valid_availability=None,
            configs=CONFIGS, backend="python", seed=0, deterministic=True, keep_data=True,
            functions={},
        )  # fmt: skip
        self.splits = ("train", "valid")[: 1 + n_valid]
        self.attempts = 0
        self.ledger = Ledger()
        self.began(0.0, 1_700_000_000.0)
        self.add("plan", 0.0, base=1_700_000_000.0, plan=plan.to_json())

    def add(self, kind, t, **content):
        self.ledger.add(written(kind, t, **content))

    def began(self, t, time):
        self.add("generation", t, driver={"host": "node", "pid": int(time)}, time=time)

    def epoch(self, model, epoch, values, t):
        """An epoch with these metrics, whose last unit is committed at `t`."""
        for split, loss, error in zip(self.splits, values[::2], values[1::2], strict=False):
            unit = {"attempt": self.attempts, "worker": 0, "model": model, "epoch": epoch}
            reads = self.ledger.models[model].version
            self.add("started", t, split=split, partition=0, reads=reads, **unit)
            self.add(
                "committed", t, attempt=self.attempts, loss=loss, error=error, examples=None,
                phases={"run": 1.0}, output="",
                checkpoint="/runs/models/0/v/model" if split == "train" else None,
            )  # fmt: skip
            self.attempts += 1

    def decided(self, *asked, add=()):
        self.add("decision", 0.0, asked=list(asked), stop={}, add=list(add))


def write(journal, folder):
    from cerebro.results.tensorboard import write_events

    write_events(journal.ledger, folder)


def events(folder):
    """All events of a model, in the order in which TensorBoard reads them."""
    return [
        event
        for path in sorted(folder.glob("*tfevents*"))
        for event in tf.compat.v1.train.summary_iterator(str(path))
    ]


def curves(folder):
    """(tag, step, value) of every point, and the times of the points by step."""
    points, times = [], {}
    for event in events(folder):
        for value in event.summary.value:
            if not value.HasField("metadata"):
                points.append((value.tag, event.step, value.simple_value))
                times[event.step] = event.wall_time
    return points, times


def expected(*rows, metrics=METRICS):
    return [
        (name, step, pytest.approx(value, nan_ok=True))
        for step, values in enumerate(rows)
        for name, value in zip(metrics, values, strict=False)
    ]


def test_every_model_has_its_metrics_by_epoch(tmp_path):
    journal = Journal()
    rows = [(0.5, 0.4, 0.6, 0.3), (0.25, 0.2, math.nan, 0.1)]
    journal.epoch(0, 0, rows[0], 10.0)
    journal.epoch(1, 0, rows[1], 11.0)
    journal.decided(0, 1)
    journal.epoch(0, 1, rows[1], 20.0)
    write(journal, tmp_path / "tb")
    # The third has ended no epoch yet.
    assert sorted(p.name for p in (tmp_path / "tb").iterdir()) == ["model-0", "model-1"]
    points, times = curves(tmp_path / "tb" / "model-0")
    assert points == expected(*rows)
    assert times == {0: 1_700_000_010.0, 1: 1_700_000_020.0}
    assert curves(tmp_path / "tb" / "model-1")[0] == expected(rows[1])
    assert events(tmp_path / "tb" / "model-0")[0].file_version == "brain.Event:2"


def test_writing_again_adds_what_is_new_and_nothing_twice(tmp_path):
    journal, folder = Journal(), tmp_path / "model-0"
    rows = [(0.5, 0.4, 0.6, 0.3), (0.25, 0.2, 0.4, 0.1), (0.2, 0.2, 0.3, 0.1)]
    journal.epoch(0, 0, rows[0], 10.0)
    write(journal, tmp_path)
    (first,) = folder.iterdir()
    content = first.read_bytes()
    journal.decided(0)
    journal.epoch(0, 1, rows[1], 20.0)
    # Another driver goes on after an hour, which its `t` leaves out.
    journal.began(21.0, 1_700_003_621.0)
    journal.decided(0)
    journal.epoch(0, 2, rows[2], 31.0)
    for _ in range(2):
        write(journal, tmp_path)
    assert len(list(folder.iterdir())) == 2
    assert first.read_bytes() == content
    points, times = curves(folder)
    assert points == expected(*rows)
    assert times == {0: 1_700_000_010.0, 1: 1_700_000_020.0, 2: 1_700_003_631.0}
    # Made anew elsewhere, it says the same.
    write(journal, tmp_path / "anew")
    assert curves(tmp_path / "anew" / "model-0") == (points, times)


def test_a_child_has_its_parents_epochs_before_its_own(tmp_path):
    journal = Journal()
    rows = [(0.5, 0.4, 0.6, 0.3), (0.25, 0.2, 0.4, 0.1)]
    journal.epoch(0, 0, rows[0], 10.0)
    child = {"model": 3, "mst": {"rate": 1}, "epoch": 1, "parent": 0, "checkpoint": "/c"}
    journal.decided(0, add=[child])
    journal.epoch(3, 1, rows[1], 20.0)
    write(journal, tmp_path)
    points, times = curves(tmp_path / "model-3")
    assert points == expected(*rows)
    assert times == {0: 1_700_000_010.0, 1: 1_700_000_020.0}


def test_without_validation_there_are_no_curves_of_it(tmp_path):
    journal = Journal(n_valid=0)
    journal.epoch(0, 0, (0.5, 0.4), 10.0)
    write(journal, tmp_path)
    assert curves(tmp_path / "model-0")[0] == expected((0.5, 0.4), metrics=METRICS[:2])


def test_files_of_another_run_are_left_alone(tmp_path):
    for run in ("a" * 32, "b" * 32):
        journal = Journal(run)
        journal.epoch(0, 0, (0.5, 0.4, 0.6, 0.3), 10.0)
        if run[0] == "a":
            write(journal, tmp_path)
            before = [path.name for path in tmp_path.glob("*/*")]
    with pytest.raises(errors.InputError, match="of another run"):
        write(journal, tmp_path)
    assert [path.name for path in tmp_path.glob("*/*")] == before


@pytest.mark.parametrize("content", [b"short", b"\x40" + bytes(11) + b"\xff" * 64], ids=len)
def test_a_file_that_is_no_event_file_is_named(tmp_path, content):
    from cerebro.results.tensorboard import _last_step

    file = tmp_path / "events.out.tfevents.0000000000.0123456789ab"
    file.write_bytes(content)
    with pytest.raises(errors.InputError, match=f"{file} is damaged, or no event file"):
        _last_step(tf, file)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "tb").write_text("a file")
    journal = Journal()
    journal.epoch(0, 0, (0.5, 0.4, 0.6, 0.3), 10.0)
    with pytest.raises(errors.StorageError, match=r"event files to .*tb"):
        write(journal, tmp_path / "tb")


def hyperparameters(folder):
    """The content of the HParams plugin's summary, which stands in a folder once."""
    (value,) = [
        value
        for event in events(folder)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    assert value.tag == "_hparams_/session_start_info"
    assert value.HasField("tensor")
    return value.metadata.plugin_data.content


def test_hyperparameters_are_what_the_plugin_takes(tmp_path):
    """Parsed with the plugin's message, declared here as it is in the package tensorboard."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

    file = descriptor_pb2.FileDescriptorProto(
        name="hparams_of_this_test.proto", package="mine", syntax="proto3",
        dependency=["google/protobuf/struct.proto"],
    )  # fmt: skip
    start = file.message_type.add(name="SessionStartInfo")
    entry = start.nested_type.add(name="HparamsEntry", options={"map_entry": True})
    entry.field.add(name="key", number=1, type=9, label=1)
    entry.field.add(
        name="value", number=2, type=11, label=1, type_name=".google.protobuf.Value"
    )  # fmt: skip
    start.field.add(
        name="hparams", number=1, type=11, label=3, type_name=".mine.SessionStartInfo.HparamsEntry"
    )
    start.field.add(name="group_name", number=4, type=9, label=1)
    start.field.add(name="start_time_secs", number=5, type=1, label=1)
    data = file.message_type.add(name="HParamsPluginData")
    data.field.add(name="version", number=1, type=5, label=1)
    data.field.add(
        name="session_start_info", number=3, type=11, label=1, type_name=".mine.SessionStartInfo"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("mine.HParamsPluginData"))

    journal = Journal()
    for model in (0, 1, 2):
        journal.epoch(model, 0, (0.5, 0.4, 0.6, 0.3), 10.0)
    journal.decided(0)
    write(journal, tmp_path)
    journal.epoch(0, 1, (0.5, 0.4, 0.6, 0.3), 20.0)
    write(journal, tmp_path)

    def read(model):
        found = message.FromString(hyperparameters(tmp_path / f"model-{model}"))
        assert found.version == 0
        return found.session_start_info

    first = read(0)
    assert first.start_time_secs == 1_700_000_010.0
    kinds = {name: value.WhichOneof("kind") for name, value in first.hparams.items()}
    assert {name: getattr(first.hparams[name], kind) for name, kind in kinds.items()} == {
        "rate": 0.1, "units": 300, "name": "é", "bias": True, "layers": "[1, 2]", "x" * 200: 1,
    }  # fmt: skip
    assert kinds["bias"] == "bool_value"
    assert set(read(1).hparams) == {"rate", "units"}
    # Models of one configuration are not averaged.
    assert read(1).group_name != read(2).group_name


@pytest.mark.slow
def test_tensorboard_shows_all_models(tmp_path):
    places = [str(Path(sys.executable).parent), os.environ["PATH"]]
    command = shutil.which("tensorboard", path=os.pathsep.join(places))
    if command is None:
        pytest.skip("tensorboard is not installed")
    journal = Journal()
    for model in (0, 1, 2):
        journal.epoch(model, 0, (0.5, 0.4, 0.6, 0.3), 10.0)
    write(journal, tmp_path / "tb")
    log = tmp_path / "log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            [command, "--logdir", str(tmp_path / "tb"), "--host", "127.0.0.1", "--port", "0"],
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + SOON
        runs = ""
        while "model-2" not in runs and time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            _, _, rest = log.read_text().partition("http://127.0.0.1:")
            if rest:
                url = f"http://127.0.0.1:{rest.split('/')[0]}/data/runs"
                try:
                    with urllib.request.urlopen(url, timeout=10) as answer:
                        runs = answer.read().decode()
                except urllib.error.URLError:
                    pass
            time.sleep(0.2)
        for model in (0, 1, 2):
            assert f"model-{model}" in runs
    finally:
        process.terminate()
        process.wait(SOON)


def test_no_link_is_followed_below_the_folder(tmp_path):
    journal = Journal()
    journal.epoch(0, 0, (0.5, 0.4, 0.6, 0.3), 10.0)
    write(journal, tmp_path / "tb")
    (event_file,) = (tmp_path / "tb/model-0").iterdir()
    content = event_file.read_bytes()
    journal.decided(0)
    journal.epoch(0, 1, (0.5, 0.4, 0.6, 0.3), 11.0)
    for path in (event_file, event_file.parent):
        path.rename(tmp_path / "mine")
        path.symlink_to(tmp_path / "mine")
        with pytest.raises(errors.UnsafePath, match=f"{path} is a link"):
            write(journal, tmp_path / "tb")
        path.unlink()
        (tmp_path / "mine").rename(path)
    assert [(path, path.read_bytes()) for path in event_file.parent.iterdir()] == [
        (event_file, content)
    ]
