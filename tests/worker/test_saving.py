"""Versions on storage that refuses them for a while: kept in memory, published later, once."""

from __future__ import annotations

import errno
import os
import pickle

import pytest
from worker_side import functions, order

from cerebro import storage
from cerebro.protocol.messages import SaveWaits, UnitOrder, VersionPublished
from cerebro.worker import saver


def counting(mark):
    """Functions that leave a line for each time they train."""

    def train_fn(model, data, train=True):
        with open(mark, "a") as file:
            file.write(f"{data}\n")
        model.append(data)
        return 1.0, 0.5

    return functions(train_fn=train_fn)


def block(place):
    """Make a folder impossible by a file of that name."""
    place.write_text("in the way")


def test_a_save_waits_for_storage_and_nothing_is_trained_again(side, tmp_path):
    place, mark = tmp_path / "models", tmp_path / "mark"
    block(place)
    side.open(counting(mark))
    side.start(1, writes=place / "v1", path="a")
    waits = side.until("save_waits", attempt=1)
    assert waits["path"] == str(place / "v1")
    assert f"{place} is a file, where a folder must be" in waits["cause"]
    place.unlink()
    checkpoint = side.until("committed", attempt=1)["checkpoint"]
    with open(checkpoint, "rb") as file:
        assert pickle.load(file) == ["a"]
    assert mark.read_text() == "a\n"
    assert os.listdir(place) == ["v1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="a read-only folder does not stop root")
def test_a_read_only_folder(side, tmp_path):
    place, mark = tmp_path / "models", tmp_path / "mark"
    place.mkdir(mode=0o500)
    side.open(counting(mark))
    side.start(1, writes=place / "v1")
    assert "Permission denied" in side.until("save_waits")["cause"]
    place.chmod(0o700)
    side.until("committed", attempt=1)


def test_a_missing_folder_is_made(side, tmp_path):
    side.open()
    side.start(1, writes=tmp_path / "not" / "yet" / "v1")
    side.until("committed", attempt=1)
    assert (tmp_path / "not" / "yet" / "v1").is_dir()


def test_one_version_is_saved_at_a_time_and_the_next_unit_waits_for_the_slot(side, tmp_path):
    """The second unit trains, but its `ran`, which frees the worker, waits for the first save.

    That is no part of the time that it may run for.
    """
    place, mark = tmp_path / "models", tmp_path / "mark"
    block(place)
    side.open(counting(mark), unit_timeout=0.5)
    side.start(1, writes=place / "v1", path="a")
    side.until("save_waits", attempt=1)
    side.start(2, writes=tmp_path / "good" / "v2", path="b")
    side.until("save_waits", attempt=1)
    seconds_try = [e for e in side.seen if e["kind"] == "save_waits"]
    while len(seconds_try) < 2:
        side.fetch(5.0)
        seconds_try = [e for e in side.seen if e["kind"] == "save_waits"]
    assert mark.read_text() == "a\nb\n"
    assert [e.get("attempt") for e in side.seen if e["kind"] == "ran"] == [1]
    assert not (tmp_path / "good").exists()
    place.unlink()
    side.until("committed", attempt=2)
    order_of_events = [(e["kind"], e["attempt"]) for e in side.seen if "attempt" in e]
    assert [e for e in order_of_events if e[0] != "save_waits"] == [
        ("ran", 1), ("committed", 1), ("ran", 2), ("committed", 2)
    ]  # fmt: skip
    assert mark.read_text() == "a\nb\n"


def test_an_executor_that_dies_while_a_save_waits_reports_that_attempt_too(side, tmp_path):
    place = tmp_path / "models"
    block(place)

    def train_fn(model, data, train=True):
        import os

        if data == "deadly":
            os._exit(9)
        return 1.0, 0.5

    side.open(functions(train_fn=train_fn))
    side.start(1, writes=place / "v1")
    side.until("save_waits", attempt=1)
    side.start(2, path="deadly")
    died = side.until("executor_died")
    assert (died["attempts"], died["cause"]) == ([1, 2], "exit status 9")


def test_an_unforeseen_error_ends_the_executor_although_a_save_waits(side, tmp_path):
    """Ending in the ordinary way would wait for a save that storage may never take."""
    place = tmp_path / "models"
    block(place)

    def train_fn(model, data, train=True):
        import cerebro.worker.output_capture

        if data == "breaks":
            cerebro.worker.output_capture.OutputCapture.text = None
        return 1.0, 0.5

    side.open(functions(train_fn=train_fn))
    side.start(1, writes=place / "v1")
    side.until("save_waits", attempt=1)
    side.start(2, path="breaks")
    place.unlink()
    died = side.until("executor_died")
    assert 2 in died["attempts"]
    assert "the executor cannot go on" in died["output"]


class Writer:
    """A handler that can only write; `recycled` has what it was given back."""

    def __init__(self):
        self.recycled = []

    def recycle(self, state):
        self.recycled.append(state)

    def write(self, state, directory):
        assert not self.recycled
        with open(os.path.join(directory, "model"), "w") as file:
            file.write(state)
        return "model"


@pytest.fixture
def publish(monkeypatch, tmp_path):
    """Publishes `v1` by a saver that tries again at once, but not for ever; gives its reports."""
    monkeypatch.setattr(saver, "RETRY_SECONDS", 0.01)

    def run():
        reports = []

        def report(event):
            reports.append(type(event))
            assert reports.count(SaveWaits) < 4

        writer = Writer()
        publisher = saver.Saver(writer, report, lambda: None)
        publisher.save(UnitOrder.from_json(order(1, writes=tmp_path / "v1")), "weights")
        publisher.wait_until_free()
        assert writer.recycled == ["weights"]
        return reports

    return run


def test_a_rename_whose_success_was_not_heard_of_is_found_out(publish, tmp_path, monkeypatch):
    """A network file system may carry a rename out and report a failure all the same."""
    rename = os.rename

    def renames_and_fails(source, target):
        rename(source, target)
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "rename", renames_and_fails)
    assert publish() == [VersionPublished]
    assert (tmp_path / "v1" / "model").read_text() == "weights"


def test_what_has_a_versions_name_already_is_not_taken_for_it(tmp_path, monkeypatch):
    """A folder that was moved while it was driven, and a new run in its place, use the same names.

    So does whoever else may write there.
    """
    monkeypatch.setattr(saver, "RETRY_SECONDS", 0.01)
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1/model").write_text("other weights")
    reports = []

    def report(event):
        reports.append(event)
        if len(reports) == 2:
            (tmp_path / "v1").rename(tmp_path / "aside")

    publisher = saver.Saver(Writer(), report, lambda: None)
    publisher.save(UnitOrder.from_json(order(1, writes=tmp_path / "v1")), "weights")
    publisher.wait_until_free()
    assert [type(event) for event in reports[:2]] == [SaveWaits, SaveWaits]
    assert "v1 is there already, and is no version of this run" in reports[0].cause
    assert (tmp_path / "aside/model").read_text() == "other weights"
    assert (tmp_path / "v1/model").read_text() == "weights"


def test_a_version_whose_folder_could_not_be_synced_is_committed_later(
    publish, tmp_path, monkeypatch
):
    sync_folder, failures = storage.sync_folder, [2]

    def sometimes(path):
        if str(path) == str(tmp_path) and failures[0]:
            failures[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        sync_folder(path)

    monkeypatch.setattr(storage, "sync_folder", sometimes)
    monkeypatch.setattr(saver, "sync_folder", sometimes)
    assert publish() == [SaveWaits, VersionPublished]
    assert os.listdir(tmp_path) == ["v1"]
