"""`cerebro status`: what it says follows from journal and `driver.json`, and nothing changes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hand_written_run import ME, WrittenRun
from patience import SOON
from written_records import written

from cerebro.cli import status
from cerebro.cli.main import main
from cerebro.journal.journal import Journal, encode
from cerebro.journal.ownership import Ownership, process_start
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import FORMAT


class Run(WrittenRun):
    """With what `cerebro status` shows of it."""

    def shown(self, after=0.0, columns=80):
        return status.render(self.status(after), columns)

    def line(self, name, after=0.0):
        """What stands behind a name, on one line."""
        return paragraphs(self.shown(after))[name]


def paragraphs(text):
    """What is shown behind each name, each in one line."""
    found, name = {}, ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            name, _, line = line.partition("  ")
        found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return found


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    yield run
    run.journal.close()


def test_a_run_under_way(run):
    run.ready()
    run.epoch(0, [0.25, 0.75])
    run.decide()
    attempt = run.start(0, 1, epoch=1, reads=2)
    run.commit(attempt, checkpoint="/c/0/3")
    run.start(1, 0, epoch=1, worker=1, reads=2)
    text = run.shown(after=5.0)
    folder = str(run.paths.root)
    assert all(len(line) <= 80 for line in text.splitlines() if folder not in line)
    assert "\x1b" not in text
    said = paragraphs(text)
    assert f"process {os.getpid()} on" in said["driver"]
    assert "is alive" in said["driver"]
    assert said["epochs"] == (
        "2 epochs of models ended; epoch 1 in progress, 1 of 6 units done (16 %)"
    )
    assert said["best"] == "model 0, epoch 0: valid error 0.25 (rate 0.5)"
    assert "2 models (2 RUNNING), 2 train and 1 valid partitions" in said["run"]
    assert "http://a:7777 has no unit" in said["0"].replace("  ", " ")
    assert "model 1, epoch 1, train partition 0, since" in said["1"]
    assert said["1"].endswith("(5 s)")
    assert "next" not in said


def test_the_pace_is_that_of_the_units_that_are_committed(run):
    run.ready()
    assert run.line("pace") == "no unit of this driver is committed yet"
    run.commit(run.start(0, 0), checkpoint="/c/0/1")
    said = run.line("pace", after=2.0)
    assert said == "15 units per minute; at least 4 s left in this epoch", "valid units not counted"
    run.commit(run.start(0, 1, reads=1), checkpoint="/c/0/2")
    run.commit(run.start(0, 0, "valid", reads=2))
    # 3 units in 6 s; 3 more of 2 s, one after another.
    assert run.line("pace") == "30 units per minute; about 6 s left in this epoch"
    # Nothing for 6 s: half the pace, and as much left as before.
    assert run.line("pace", after=6.0) == "15 units per minute; about 6 s left in this epoch"


def test_an_estimate_is_not_below_what_the_last_model_needs(run):
    run.ready()
    for worker in (0, 1):
        run.commit(run.start(0, worker, worker=worker, reads=worker), checkpoint=f"/c/0/{worker}")
        run.t -= 1.9  # both workers at once
    run.commit(run.start(0, 0, "valid", reads=2))
    left = run.status().time_left.seconds
    assert left == pytest.approx(6.0), "two train units and a valid one, each of 2 s"


def test_after_a_resume_only_the_present_driver_counts(run):
    run.ready()
    run.commit(run.start(0, 0), checkpoint="/c/0/1")
    run.start(1, 0, worker=1)
    run.say("interrupted", reason="interrupted")
    run.drive()
    said = paragraphs(run.shown())
    assert said["pace"] == "no unit of this driver is committed yet"
    assert "has not joined" in said["0"]
    assert "has not joined" in said["1"]
    assert "stopped" not in said["driver"]


@pytest.mark.processes
def test_a_driver_that_was_killed(run):
    run.ready()
    run.start(0, 0)
    ended = subprocess.Popen(["true"])
    pid, start = ended.pid, process_start(ended.pid)
    ended.wait()
    run.holder(**{**ME, "pid": pid, "process_start": start or "1"})
    said = paragraphs(run.shown())
    assert f"process {pid} on" in said["driver"]
    assert "is gone: it was killed, or crashed" in said["driver"]
    assert said["next"] == (
        f"schedule(..., ckpt_root={str(run.paths.root.parent)!r}, run_name='grid', resume=True); "
        "what is committed is not trained again"
    )
    assert "pace" not in said
    assert "model 0, epoch 0, train partition 0, since" in said["0"]
    assert "STATE WHEN LAST SEEN" in said["WORKER"]


def test_a_driver_that_has_let_go(run):
    run.say("interrupted", reason="ZeroDivisionError: division by zero")
    run.holder(**{**ME, "released": True})
    assert "has let the run go" in run.line("driver")
    assert "stopped: ZeroDivisionError: division by zero" in run.line("driver")
    assert "resume=True" in run.line("next")


@pytest.mark.processes
def test_a_driver_that_is_stopped(run):
    stopped = subprocess.Popen(["sleep", "600"])
    try:
        stopped.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED)
        start = process_start(stopped.pid)
        run.holder(**{**ME, "pid": stopped.pid, "process_start": start})
        assert "is stopped (SIGSTOP or Ctrl-Z)" in run.line("driver")
    finally:
        stopped.kill()
        stopped.wait()


def test_the_driver_of_another_host_is_judged_by_its_signs(run):
    run.holder(**{**ME, "host": "head", "here": "head 1"})
    assert "on head gave a sign of life" in run.line("driver")
    assert "next" not in paragraphs(run.shown())
    hour_ago = time.time() - 3600
    os.utime(run.paths.driver, (hour_ago, hour_ago))
    assert "has given no sign of life for 36" in run.line("driver")
    assert "resume=True" in run.line("next")


def test_without_driver_json(run):
    run.paths.driver.unlink()
    assert "driver.json is not there" in run.line("driver")


def test_workers_that_are_not_at_work(run):
    run.ready()
    run.worker(0, "unreadable", reason="/d/1: FileNotFoundError: no such file")
    run.worker(0, "aside", reason="its executor died in unit after unit")
    run.worker(1, "lost", reason="no sign of life for 30 s")
    run.worker(2, "added")
    said = paragraphs(run.shown())
    assert "has no unit cannot read: /d/1: FileNotFoundError" in said["0"]
    assert "set aside: its executor died" in said["0"]
    assert "lost at" in said["1"]
    assert "no sign of life for 30 s" in said["1"]
    assert "listed in workers.json, has not joined" in said["2"]
    run.worker(0, "draining")
    saving = run.start(0, 0)
    run.start(1, 0)
    said = paragraphs(run.shown())
    assert "saving model 0, epoch 0, train partition 0" in said["0"]
    assert "draining since" in said["0"]
    run.commit(saving, checkpoint="/c/0/1")
    run.worker(0, "left", reason="it was drained")
    assert "it was drained" in paragraphs(run.shown())["0"]


def test_models_that_failed(run):
    run.ready()
    attempt = run.start(1, 0)
    run.say(
        "model_failed", model=1, attempt=attempt, failure="user", error="ValueError",
        message="train_fn raised ValueError: no number\nand more", function="train_fn",
        traceback="", output="",
    )  # fmt: skip
    said = paragraphs(run.shown())
    assert said["failed"] == "model 1: train_fn raised ValueError: no number (see logs/1.log)"
    assert "1 RUNNING, 1 FAILED" in said["run"]
    assert "0 of 3 units done" in said["epochs"]


def test_what_is_waited_for(run):
    assert run.line("waits").startswith("for a worker, as none is connected (http://a:7777")
    run.worker(0, "joined", facts={})
    assert run.line("waits") == "for http://a:7777 to load its partitions"
    run.worker(0, "ready", devices=[])
    assert "waits" not in paragraphs(run.shown())
    run.epoch(0, [0.25, 0.75])
    assert run.line("waits").startswith("for eval_fn, which is asked")


def test_a_partition_that_nobody_there_may_read_is_waited_for(tmp_path):
    run = Run(tmp_path, train_availability=[[1, 0], [0, 1]], valid_availability=[[1], [0]])
    run.ready()
    assert "waits" not in paragraphs(run.shown())
    run.worker(1, "lost", reason="it was stopped")
    assert run.line("waits") == "for http://b:7777, for 2 units on train partition 1 (/d/1)"
    run.journal.close()


def test_a_run_that_has_ended(run):
    run.ready()
    run.epoch(0, [0.25, 0.75])
    run.decide(**{"0": "COMPLETED", "1": "COMPLETED"})
    run.say("end")
    run.holder(**{**ME, "released": True})
    said = paragraphs(run.shown())
    assert said["driver"] == "none, the run has ended, after 12 s"
    assert said["epochs"] == "2 epochs of models ended"
    assert said["next"] == f"cerebro.load({str(run.paths.root)!r}) gives the results"
    assert not {"pace", "waits", "WORKER"} & said.keys()


@pytest.mark.parametrize("cut", [1, 20])
def test_a_last_line_that_is_being_written_is_left_out(run, cut):
    run.ready()
    before = run.shown()
    line = encode({"kind": "end", "t": 0.0, "seq": 99})
    with open(run.paths.generation(1), "ab") as file:
        file.write(line[:-cut])
    assert run.shown() == before


def test_nothing_is_written(run):
    run.ready()
    files = {path: path.stat().st_mtime_ns for path in run.paths.root.rglob("*")}
    run.shown()
    assert {path: path.stat().st_mtime_ns for path in run.paths.root.rglob("*")} == files


# --- bad input ---------------------------------------------------------------------------------


def refused(capsys, folder):
    assert main(["status", str(folder)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    return shown.err


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert "is not a folder: name the folder of a run" in refused(capsys, tmp_path / "nothing")
    assert "holds no run: there is no journal" in refused(capsys, tmp_path)
    RunPaths(tmp_path / "begun").root.mkdir()
    RunPaths(tmp_path / "begun").create()
    assert "holds runs and is not one itself: name one of begun" in refused(capsys, tmp_path)


@pytest.mark.parametrize("command", ["status", "report"])
def test_of_a_folder_of_runs_the_latest_is_taken_and_named(tmp_path, capsys, command):
    (tmp_path / "notes").mkdir()
    runs = {}
    for name in ("zero", "one"):
        (tmp_path / "made").mkdir()
        runs[name] = Run(tmp_path / "made")
        runs[name].paths.root.rename(tmp_path / name)
        runs[name].paths = RunPaths(tmp_path / name)
        (tmp_path / "made").rmdir()
    for after, latest in ((10, "one"), (20, "zero")):
        runs[latest].t = after
        runs[latest].drive()  # it is resumed
        runs[latest].paths.generation(9).touch()  # the claim of a driver that died at once
        assert main([command, str(tmp_path)]) == 0
        shown = capsys.readouterr()
        assert f"cerebro: {tmp_path / latest} is the latest of 2 runs there" in shown.err
        assert str(tmp_path / latest) in shown.out
        runs[latest].paths.generation(9).unlink()
    (tmp_path / "theirs/journal").mkdir(parents=True)
    os.mkfifo(tmp_path / "theirs/journal/000001.jsonl")
    assert main([command, str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert f"cerebro: {tmp_path / 'theirs'} is left out" in shown.err
    assert str(tmp_path / "zero") in shown.out
    assert main([command, str(tmp_path / "one")]) == 0
    assert "latest" not in capsys.readouterr().err
    for run in runs.values():
        run.journal.close()


def test_a_run_that_has_not_begun(tmp_path, capsys):
    paths = RunPaths(tmp_path)
    paths.create()
    journal = Journal(paths)
    journal.begin(written("generation"))
    journal.close()
    assert "never started: its journal has no plan" in refused(capsys, tmp_path)


def test_a_run_of_a_later_version(run, capsys):
    """Whatever the records look like behind the first one."""
    content = encode(
        {"kind": "generation", "seq": 1, "t": 0.0, "format": FORMAT + 1,
         "versions": {"cerebro": "9.1.0"}, "predecessor": None}
    )  # fmt: skip
    run.paths.generation(1).write_bytes(content + b"something else\n" * 2)
    said = refused(capsys, run.paths.root)
    assert "written by cerebro-dl 9.1.0" in said
    assert "install cerebro-dl 9.1.0 or later here" in said


def test_a_journal_that_cannot_be_read(run, capsys):
    path = run.paths.generation(1)
    path.unlink()
    path.mkdir()
    assert f"{path} is a folder, where a file must be" in refused(capsys, run.paths.root)


# --- a real driver -----------------------------------------------------------------------------

SCRIPT = """
    import os, sys, time
    import cerebro

    folder = sys.argv[1]

    def input_fn(path):
        return path

    def model_fn(data, config):
        return []

    def train_fn(model, data, train=True):
        if not train:
            open(os.path.join(folder, "reached"), "w").close()
            time.sleep(3600)
        return 1.0, 0.5

    if __name__ == "__main__":
        with cerebro.LocalCluster(1, threads=1) as cluster:
            cerebro.schedule(
                cluster, ["a", "b"], ["v"], None, None, input_fn, model_fn, train_fn, [{}],
                lambda state: (list(state), []), ckpt_root=folder, run_name="grid",
                backend="python",
            )
"""


@pytest.mark.processes
def test_while_a_driver_writes_and_after_it_was_killed(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    driver = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stderr=subprocess.PIPE)
    try:
        expires = time.monotonic() + SOON
        while not (tmp_path / "reached").exists():
            assert time.monotonic() < expires
            assert driver.poll() is None, driver.stderr.read()
            time.sleep(0.05)
        assert main(["status", str(tmp_path / "grid")]) == 0
        said = paragraphs(capsys.readouterr().out)
        assert f"process {driver.pid} on {socket.gethostname()} is alive" in said["driver"]
        assert "epoch 0 in progress, 2 of 3 units done" in said["epochs"]
        assert "model 0, epoch 0, valid partition 0, since" in said["0"]
    finally:
        driver.kill()
        driver.communicate()
    assert main(["status", str(tmp_path / "grid")]) == 0
    said = paragraphs(capsys.readouterr().out)
    assert "is gone: it was killed, or crashed" in said["driver"]
    assert "run_name='grid', resume=True" in said["next"]


def test_the_present_drivers_own_file_is_understood(run):
    """What `Ownership` writes is what is looked for."""
    run.paths.driver.unlink()
    holder = Ownership(run.paths, lambda: 1)
    assert "is alive" in run.line("driver")
    holder.release()
    assert "has let the run go" in run.line("driver")
    assert Path(run.paths.driver).exists()
