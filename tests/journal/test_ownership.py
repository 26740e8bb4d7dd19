"""Who drives a run: refused while the holder lives, taken over when it is gone."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading

import pytest
from patience import PATIENCE

from cerebro.errors import RunHeld, Superseded
from cerebro.journal import ownership as holder_module
from cerebro.journal.ownership import Ownership, check_free, process_start, read_holder
from cerebro.journal.paths import RunPaths


@pytest.fixture
def paths(tmp_path):
    paths = RunPaths(tmp_path)
    paths.create()
    return paths


def one():
    """The generation that the drivers of these tests have claimed."""
    return 1


def hold(paths):
    """A process of its own that holds the run until its input ends."""
    code = (
        "import sys\nfrom cerebro.journal.ownership import Ownership\n"
        "from cerebro.journal.paths import RunPaths\n"
        "holder = Ownership(RunPaths(sys.argv[1]), lambda: 1)\n"
        "print('holds', flush=True)\nsys.stdin.read()\nholder.release()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(paths.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    return process


def test_a_living_process_on_this_host_holds_the_run(paths):
    holder = Ownership(paths, one)
    with pytest.raises(RunHeld, match=f"process {os.getpid()}"):
        check_free(paths, say=print)
    holder.release()
    check_free(paths, say=print)


@pytest.mark.processes
def test_a_process_that_is_gone_is_taken_over_at_once(paths):
    code = (
        "import os, sys\nfrom cerebro.journal.ownership import Ownership\n"
        "from cerebro.journal.paths import RunPaths\n"
        "Ownership(RunPaths(sys.argv[1]), lambda: 1)\nos._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(paths.root)], timeout=PATIENCE, check=False)
    assert read_holder(paths)["released"] is False
    check_free(paths, say=print, wait=lambda seconds: pytest.fail("waited"))


@pytest.mark.processes
def test_a_stopped_process_is_taken_over_from_when_it_stays_so(paths):
    process = hold(paths)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    now = [0.0]

    def wait(seconds):
        now[0] += seconds

    check_free(paths, say=print, clock=lambda: now[0], wait=wait)
    assert now[0] == 60.0
    process.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, process.pid, os.WCONTINUED)
    with pytest.raises(RunHeld, match=str(process.pid)):
        check_free(paths, say=print, wait=lambda seconds: pytest.fail("waited"))
    process.communicate(timeout=PATIENCE)


@pytest.mark.processes
def test_a_process_that_was_killed_and_not_waited_for_holds_nothing(paths):
    process = hold(paths)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    check_free(paths, say=print, wait=lambda seconds: pytest.fail("waited"))
    process.communicate(timeout=PATIENCE)


def test_another_container_on_this_host_is_not_this_host(paths):
    Ownership(paths, one).release()
    entry = {**read_holder(paths), "released": False, "here": "another", "pid": 2**22 + 1}
    paths.driver.write_text(json.dumps(entry))
    with pytest.raises(RunHeld):
        check_free(
            paths, say=print, wait=lambda _: paths.driver.write_text(
                json.dumps({**entry, "counter": 9})
            ),
        )  # fmt: skip


def test_a_process_id_that_was_given_out_again_does_not_hold_it(paths):
    Ownership(paths, one).release()
    entry = {**read_holder(paths), "released": False}
    entry["process_start"] = "0"
    paths.driver.write_text(json.dumps(entry))
    check_free(paths, say=print, wait=lambda seconds: pytest.fail("waited"))


def on_another_host(paths, counter):
    entry = {"host": "elsewhere", "pid": 1, "process_start": "1", "counter": counter}
    paths.driver.write_text(json.dumps(entry))


def test_another_host_is_watched_and_refused_while_its_counter_moves(paths):
    on_another_host(paths, 1)
    with pytest.raises(RunHeld, match="elsewhere"):
        check_free(paths, say=print, wait=lambda seconds: on_another_host(paths, 2))


def test_another_host_is_taken_over_when_its_counter_stands_still(paths):
    on_another_host(paths, 1)
    now, said = [0.0], []

    def wait(seconds):
        now[0] += seconds

    check_free(paths, say=said.append, clock=lambda: now[0], wait=wait)
    assert now[0] == 60.0
    assert "elsewhere" in said[0]


def test_a_process_start_identifies_a_process():
    assert process_start(os.getpid()) == process_start(os.getpid()) is not None
    assert process_start(2**22 + 1) is None


def test_a_driver_that_was_replaced_is_told_and_writes_no_more(paths, monkeypatch):
    monkeypatch.setattr(holder_module, "RENEW_SECONDS", 0.01)
    told = queue.SimpleQueue()
    holder = Ownership(paths, one)
    holder.tell(told.put)
    paths.generation(2).touch()
    assert "another driver" in told.get(timeout=PATIENCE)
    entry = {**read_holder(paths), "generation": 2, "pid": 7}
    paths.driver.write_text(json.dumps(entry))
    holder.release()
    assert read_holder(paths) == entry


def test_a_driver_that_was_replaced_can_say_by_whom(paths):
    holder = Ownership(paths, one)
    try:
        holder.check()
        paths.generation(2).touch()
        with pytest.raises(Superseded, match="the driver of generation 2"):
            holder.check()
        entry = {**read_holder(paths), "generation": 2, "pid": 7, "host": "far"}
        paths.driver.write_text(json.dumps(entry))
        with pytest.raises(Superseded, match="process 7 on far"):
            holder.check()
    finally:
        holder.release()


def test_a_driver_that_was_replaced_before_it_listened_is_told(paths, monkeypatch):
    monkeypatch.setattr(holder_module, "RENEW_SECONDS", 0.01)
    looked = threading.Semaphore(0)
    replaced = holder_module.replaced

    def watched(*args):
        looked.release()
        return replaced(*args)

    monkeypatch.setattr(holder_module, "replaced", watched)
    told = queue.SimpleQueue()
    holder = Ownership(paths, one)
    try:
        paths.generation(2).touch()
        for _ in range(5):
            assert looked.acquire(timeout=PATIENCE)
        holder.tell(told.put)
        assert "another driver" in told.get(timeout=PATIENCE)
    finally:
        holder.release()


def test_a_claim_that_was_overtaken_before_it_was_held_is_refused(paths):
    paths.generation(2).touch()
    with pytest.raises(RunHeld, match="another driver"):
        Ownership(paths, one)
    assert read_holder(paths) is None


def test_a_generation_that_this_driver_is_about_to_claim_replaces_nobody(paths):
    paths.generation(2).touch()
    assert not holder_module.replaced(paths, lambda: 2)
    assert holder_module.replaced(paths, lambda: 1)
