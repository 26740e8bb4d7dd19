"""Drivers that are killed at every point, or stopped and replaced: nothing is lost, all exact."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from driver_script import EPOCHS
from exact import check_exact
from patience import PATIENCE
from toy import partitions

import cerebro
from cerebro.journal.journal import read_journal
from cerebro.journal.paths import RunPaths

SCRIPT = Path(__file__).parents[1] / "helpers" / "driver_script.py"


def start(cluster, tmp_path, *, resume="auto", kill_at=0):
    partitions(tmp_path / "data", 3)
    partitions(tmp_path / "data", 2, "valid")
    command = [sys.executable, str(SCRIPT), str(tmp_path), cluster.secret_file, resume]
    return subprocess.Popen(
        [*command, str(kill_at), *cluster.urls],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, text):
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the driver ended without saying {text!r}")


def check(tmp_path):
    """The run is complete and exact, and nothing is left that does not count."""
    paths = RunPaths(tmp_path / "ckpt" / "r")
    result = cerebro.load(paths.root)
    assert result.complete
    check_exact(result, EPOCHS)
    kept = {str(Path(c).parent) for c in result.models["checkpoint"]}
    for folder in paths.models.iterdir():
        versions = {str(path) for path in folder.iterdir()}
        assert versions & kept
        assert len(versions) <= 3, "newest, the one before, best: nothing else is left"
    assert not list(paths.root.rglob(".tmp-*"))


def test_a_driver_may_be_killed_before_and_after_every_record(cluster, tmp_path):
    """Each driver dies one append later than the one before, so that the run comes to its end."""
    at = 0
    while True:
        at += 1
        process = start(cluster, tmp_path, kill_at=at if at % 2 else -at)
        output, messages = process.communicate(timeout=PATIENCE)
        if "complete" in output:
            break
        assert process.returncode == -signal.SIGKILL, messages
    check(tmp_path)
    records, _ = read_journal(RunPaths(tmp_path / "ckpt" / "r"))
    asked = [r for r in records if r.kind == "decision"]
    assert len(asked) == EPOCHS, "each epoch was decided about once"
    assert at > 8, "it was killed often enough to mean something"


def test_a_stopped_driver_that_was_replaced_and_wakes_does_no_harm(cluster, tmp_path):
    stale = start(cluster, tmp_path)
    wait_for(stale, "epoch 0 ended")
    stale.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, stale.pid, os.WSTOPPED)
    fresh = start(cluster, tmp_path, resume="yes")
    wait_for(fresh, "epoch 1 ended")
    stale.send_signal(signal.SIGCONT)
    _, words = stale.communicate(timeout=PATIENCE)
    assert stale.returncode == 1
    assert "Superseded: " in words
    # Whether a worker said so first, or `driver.json`.
    assert re.search("another driver has taken (this run up|up the run)", words)
    output, messages = fresh.communicate(timeout=PATIENCE)
    assert "complete" in output, messages
    check(tmp_path)
    provenance = json.loads(RunPaths(tmp_path / "ckpt" / "r").provenance.read_text())
    assert [d["pid"] for d in provenance["drivers"]] == [stale.pid, fresh.pid]


def test_a_stopped_driver_may_wake_when_the_run_has_ended(cluster, tmp_path):
    stale = start(cluster, tmp_path)
    wait_for(stale, "epoch 0 ended")
    stale.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, stale.pid, os.WSTOPPED)
    fresh = start(cluster, tmp_path, resume="yes")
    output, messages = fresh.communicate(timeout=PATIENCE)
    assert "complete" in output, messages
    before = cerebro.load(tmp_path / "ckpt" / "r").units
    stale.send_signal(signal.SIGCONT)
    stale.communicate(timeout=PATIENCE)
    assert stale.returncode == 1
    check(tmp_path)
    assert cerebro.load(tmp_path / "ckpt" / "r").units.equals(before)


def test_of_two_drivers_that_begin_one_run_together_one_goes_on(cluster, tmp_path):
    partitions(tmp_path / "data", 3)
    both = [start(cluster, tmp_path, resume="no") for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE) for process in both]
    complete = [i for i, (output, _) in enumerate(outputs) if "complete" in output]
    assert len(complete) == 1, outputs
    assert "cerebro.errors." in outputs[1 - complete[0]][1]
    check(tmp_path)
