"""A worker that is told to drain, or asked what it does."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
from patience import SOON
from worker_side import appears, functions, order

from cerebro.errors import RpcFault


@contextlib.contextmanager
def refused_for_leaving():
    with pytest.raises(RpcFault, match="takes no more") as info:
        yield
    assert info.value.kind == "WorkerLeaving"


def waiting_for(release, mark):
    """Functions whose unit says that it runs, and waits until it is let go on."""
    release, mark = str(release), str(mark)

    def train_fn(model, data, train=True):
        import os
        import time

        with open(mark, "a") as file:
            file.write(f"{os.getpid()}\n")
        while not os.path.exists(release):
            time.sleep(0.01)
        model.append(data)
        return 1.0, 0.5

    return functions(train_fn=train_fn)


def inspect(side):
    return side.client.call("inspect", SOON)


def drain(side):
    return side.client.call("drain", SOON)


def test_a_worker_without_a_run_ends_at_once_and_answers(own_worker, own_side):
    assert drain(own_side) == {}
    assert own_worker.process.wait(SOON) == 0


def test_a_unit_under_way_is_published_and_told_of_before_the_worker_leaves(
    own_worker, own_side, connect, tmp_path
):
    release, mark = tmp_path / "release", tmp_path / "mark"
    own_side.open(waiting_for(release, mark))
    own_side.start(1, writes=tmp_path / "0" / "v1")
    assert appears(mark)
    drain(own_side)
    drain(own_side)
    for call in (
        lambda: own_side.start(2),
        lambda: own_side.call("stage", order=order(3)),
        lambda: own_side.call("preload", items=[]),
        lambda: own_side.call(
            "orders", orders=[{"method": "start", "params": {"order": order(4)}}]
        ),
        connect(own_worker, run="another").open,
    ):
        with refused_for_leaving():
            call()
    assert inspect(own_side)["draining"] is True
    assert not [e for e in own_side.seen if e["kind"] == "leaving"]
    release.touch()
    assert own_side.until("leaving")["drained"] is True
    told = [e for e in own_side.seen if e["kind"] != "begun"]
    assert [e["kind"] for e in told] == ["draining", "ran", "committed", "leaving"]
    assert told[0]["attempts"] == [1]
    assert os.path.exists(told[2]["checkpoint"])
    assert own_worker.process.poll() is None, "it waits until its driver knows"
    own_side.call("close_run")
    assert own_worker.process.wait(SOON) == 0


def test_a_unit_that_dies_is_the_last(own_worker, own_side, tmp_path):
    mark = tmp_path / "mark"
    own_side.open(waiting_for(tmp_path / "never", mark))
    own_side.start(1)
    executor = int(appears(mark))
    drain(own_side)
    os.kill(executor, signal.SIGKILL)
    own_side.until("leaving")
    kinds = [e["kind"] for e in own_side.seen]
    assert kinds == ["begun", "draining", "executor_died", "leaving"], "no executor follows"
    own_side.call("close_run")
    assert own_worker.process.wait(SOON) == 0


def test_a_worker_whose_driver_is_gone_ends_when_its_lease_is_over(own_worker, own_side):
    own_side.open(lease=1.0)
    drain(own_side)
    assert own_worker.process.wait(SOON) == 0


@pytest.mark.timing
def test_a_signal_ends_a_worker_that_drains_at_once(own_worker, own_side, tmp_path):
    mark = tmp_path / "mark"
    own_side.open(waiting_for(tmp_path / "never", mark))
    own_side.start(1)
    assert appears(mark)
    drain(own_side)
    own_worker.process.send_signal(signal.SIGTERM)
    assert own_worker.process.wait(5) == 0


def test_a_free_worker_says_what_it_is(shared_worker, side):
    said = inspect(side)
    assert said.items() >= side.client.call("describe", SOON).items()
    assert said["pid"] == shared_worker.process.pid
    assert (said["held"], said["work"], said["draining"]) == (None, None, False)
    assert said["devices"] == []
    assert 5e6 < said["memory"] < 5e8


def test_a_worker_at_work_says_what_it_does(side, tmp_path):
    release, mark = tmp_path / "release", tmp_path / "mark"
    side.open(waiting_for(release, mark))
    items = [{"split": "train", "partition": p, "path": f"p{p}"} for p in (1, 0)]
    side.call("preload", items=items)
    side.start(1, model=3, epoch=2, partition=4, path="p4")
    executor = int(appears(mark))
    side.start(2, model=5, partition=1)
    work = inspect(side)["work"]
    first, second = work["units"]
    seconds = first.pop("seconds")
    named = {"epoch": 2, "split": "valid", "partition": 4, "state": "runs"}
    assert first == {"model": 3, **named}
    assert (second["model"], second["state"], second["seconds"]) == (5, "waits", None)
    assert work["cached"] == [["train", 0], ["train", 1]]
    assert work["loading"] == 0
    assert work["executor_pid"] == executor
    assert 5e6 < work["executor_memory"] < 2e9
    assert inspect(side)["work"]["units"][0]["seconds"] > seconds >= 0
    release.touch()
    side.until("ran", attempt=2)
    work = inspect(side)["work"]
    assert work["units"] == []
    assert work["cached"] == [["train", 0], ["train", 1], ["valid", 1], ["valid", 4]]


def test_a_version_that_is_being_saved_is_told_of(side, tmp_path):
    """Its folder cannot be made yet: the run's is missing, as where storage is not mounted."""
    models = tmp_path / "storage" / "models"
    side.open()
    side.start(1, writes=models / "0" / "v1")
    side.until("save_waits")
    (unit,) = inspect(side)["work"]["units"]
    assert unit["state"] == "saves"
    models.parent.mkdir()
    models.mkdir()
    side.until("committed")
    assert inspect(side)["work"]["units"] == []
