"""Which run a worker holds, and for how long."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from dataclasses import replace

import pytest
from patience import SOON
from worker_side import appears, functions, gone, order

from cerebro import machine
from cerebro.errors import RpcFault


def held(side):
    return side.client.call("describe", SOON)["held"]


@contextlib.contextmanager
def refused(kind):
    with pytest.raises(RpcFault) as info:
        yield info
    assert info.value.kind == kind


def test_open_run_is_idempotent_for_one_ticket(side):
    side.open()
    executor = side.executor()
    side.open()
    side.open()
    assert side.settle() == ["begun"]
    assert side.executor() == executor
    holder = {"host": "driverhost", "pid": 4321, "run_dir": "/runs/one"}
    held_by = held(side)
    assert 0 < held_by.pop("lease_left") <= 60
    assert held_by == {"run": side.ticket["run"], "generation": 1, **holder}


def test_another_run_is_refused_and_told_who_holds_the_worker(shared_worker, side, connect):
    side.open()
    other = connect(shared_worker, run="other")
    with refused("WorkerBusy") as info:
        other.open()
    assert re.search(r"/runs/one.*process 4321 on driverhost", str(info.value))
    side.call("close_run")
    other.open()
    assert held(other)["run"] == "other"


def test_a_run_is_given_up_when_its_driver_is_not_heard_of(shared_worker, side, connect):
    side.open(lease=2.0)
    executor = side.executor()
    assert gone(executor)
    other = connect(shared_worker, run="other")
    other.open()
    assert held(other)["run"] == "other"
    with refused("RunNotHeld"):
        side.fetch(0.0)


def test_calls_renew_the_lease(side):
    side.open(lease=1.5)
    executor = side.executor()
    for _ in range(3):
        side.fetch(0.7)
    assert not gone(executor, 0)
    assert held(side)["run"] == side.ticket["run"]


def test_a_higher_generation_takes_over_and_a_lower_one_is_refused(shared_worker, side, connect):
    side.open()
    executor = side.executor()
    later = connect(shared_worker, generation=2)
    later.open()
    assert gone(executor)
    assert later.executor() != executor
    for call in (side.open, lambda: side.start(1), lambda: side.fetch(0.0)):
        with refused("Superseded"):
            call()
    side.call("close_run")
    assert held(side)["generation"] == 2
    later.call("close_run")
    with refused("Superseded"):
        side.open()
    assert held(side) is None


def test_a_higher_incarnation_takes_over_and_a_lower_one_is_refused(shared_worker, side, connect):
    side.open()
    executor = side.executor()
    again = connect(shared_worker, incarnation=2)
    again.open()
    assert gone(executor)
    with refused("Superseded"):
        side.fetch(0.0)


def test_ranks_of_one_run_say_nothing_of_another(shared_worker, side, connect):
    later = connect(shared_worker, run="later", generation=7)
    later.open()
    later.call("close_run")
    side.open()
    assert held(side)["run"] == side.ticket["run"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("preload", {"items": []}),
        ("stage", {"order": order(1)}),
        ("unstage", {"attempt": 1}),
        ("start", {"order": order(1)}),
        ("forget", {"models": [0]}),
        ("orders", {"orders": [{"method": "unstage", "params": {"attempt": 1}}]}),
        ("events", {"after": 0, "wait": 0.0}),
    ],
)
def test_nothing_is_done_for_a_run_that_is_not_held(side, method, params):
    with refused("RunNotHeld"):
        side.call(method, **params)


def test_close_run_ends_the_executor(shared_worker, side, connect):
    side.open()
    executor = side.executor()
    connect(shared_worker).call("close_run")
    assert gone(executor)
    side.call("close_run")
    assert held(side) is None


def test_close_run_wakes_a_call_that_waits_for_events(shared_worker, side, connect):
    side.open()
    side.executor()
    answers = []

    def wait():
        # Where the run is closed before this call arrives, it is refused: it does not wait either.
        with contextlib.suppress(RpcFault):
            side.fetch(50.0)
        answers.append("back")

    waiting = threading.Thread(target=wait)
    waiting.start()
    connect(shared_worker).call("close_run")
    waiting.join(SOON)
    assert answers == ["back"]


def test_every_run_gets_a_new_executor(shared_worker, connect):
    seen = set()
    for number in range(3):
        side = connect(shared_worker, run=f"run {number}")
        side.open()
        seen.add(side.executor())
        side.call("close_run")
    assert len(seen) == 3
    assert all(gone(pid) for pid in seen)


@pytest.mark.parametrize("training", [False, True])
def test_sigkill_of_the_daemon_ends_its_executor_at_once(own_worker, own_side, tmp_path, training):
    mark = str(tmp_path / "training")

    def train_fn(model, data, train=True):
        import subprocess
        import time

        child = subprocess.Popen(["sleep", "600"])
        with open(mark, "w") as file:
            file.write(str(child.pid))
        while True:
            try:
                time.sleep(0.05)
            except BaseException:
                pass

    own_side.open(functions(train_fn=train_fn))
    executor = own_side.executor()
    children = []
    if training:
        own_side.start(1)
        children.append(int(appears(mark)))
    own_worker.kill()
    assert gone(executor)
    assert all(gone(pid) for pid in children)


def test_the_daemon_answers_while_its_executor_is_stopped(shared_worker, side, connect):
    """More orders than the pipe holds wait outside the daemon's own way."""
    side.open()
    executor = side.executor()
    os.kill(executor, signal.SIGSTOP)
    try:
        for attempt in range(1, 11):
            side.call("stage", order=order(attempt, config={"text": "x" * 200_000}))
        side.start(11)
        other = connect(shared_worker)
        assert held(other)["run"] == side.ticket["run"]
        other.call("close_run")
        assert gone(executor)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(executor, signal.SIGKILL)


def test_probe_storage_writes_a_new_file_and_reads_those_of_others(side, tmp_path):
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    theirs.write_text("theirs")
    absent = tmp_path / "absent"
    answer = side.client.call(
        "probe_storage", SOON, write=str(mine), read=[str(theirs), str(absent)]
    )
    assert (answer["error"], answer["code"]) == ("", "")
    assert answer["missing"] == [str(absent)]
    assert answer["forbidden"] == []
    assert answer["barred"] is None
    assert (answer["uid"], answer["umask"]) == (os.geteuid(), machine.umask())
    assert mine.read_text() == "mine"
    answer = side.client.call("probe_storage", SOON, write=str(mine), read=[])
    assert (answer["error"], answer["code"]) == ("File exists", "EEXIST")


def test_a_copy_with_the_same_id_does_not_end_what_the_original_has_begun(
    shared_worker, connect, tmp_path
):
    """Whatever its generation; once the worker is free, any of the two may hold it."""
    original, copied = tmp_path / "original", tmp_path / "copied"
    original.mkdir()
    copied.mkdir()
    first = connect(shared_worker, run="one id", generation=2, run_dir=original)
    first.open()
    executor = first.executor()
    for generation in (1, 2, 3):
        second = connect(shared_worker, run="one id", generation=generation, run_dir=copied)
        with refused("WorkerBusy") as info:
            second.open()
        assert str(original) in str(info.value)
        assert str(copied) in str(info.value)
    assert first.executor() == executor
    original.rename(tmp_path / "renamed")
    with refused("WorkerBusy"):
        second.open()
    first.call("close_run")
    earlier = connect(shared_worker, run="one id", generation=1, run_dir=copied)
    earlier.open()
    assert held(earlier)["run_dir"] == str(copied)


def test_a_run_that_was_renamed_is_taken_over_by_its_next_driver(shared_worker, connect, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    first = connect(shared_worker, run="renamed", run_dir=before)
    first.open()
    executor = first.executor()
    before.rename(after)
    before.mkdir()  # a new run takes the name
    second = connect(shared_worker, run="renamed", generation=2, run_dir=after)
    second.open()
    assert gone(executor)
    assert held(second)["run_dir"] == str(after)
    with refused("Superseded"):
        first.call("events", after=0, wait=0.0)


def test_a_run_that_was_put_back_from_a_backup_is_not_taken_for_replaced(
    shared_worker, connect, tmp_path
):
    """Its next driver counts a generation again, in the folder that this worker has seen."""
    journal = tmp_path / "journal"
    journal.mkdir()

    def driver(generation, pid=4321):
        (journal / f"{generation:06d}.jsonl").touch()
        side = connect(shared_worker, run="put back", generation=generation, run_dir=tmp_path)
        side.driver = replace(side.driver, pid=pid)
        return side

    first, second, third = (driver(generation) for generation in (1, 2, 3))
    third.open()
    for late in (first, second):
        with refused("Superseded"):
            late.open()
    (journal / "000003.jsonl").unlink()
    again = driver(2, pid=4322)
    with refused("WorkerBusy"):  # the driver before may still be at work
        again.open()
    third.call("close_run")
    again.open()
    executor = again.executor()
    same_ticket = driver(2, pid=4323)  # put back once more, before the lease was over
    same_ticket.open()
    assert gone(executor), "what it holds is of what was there before"
