"""Commands that watch a long run, attack a worker, and open a report, run briefly."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and uses 127.0.0.0/8"),
]


def ended(command, *arguments):
    """A command that has ended, with its status and what it printed."""
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / command), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def run(command, *arguments):
    """What a command printed; it must have ended well."""
    done = ended(command, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def table(output, first):
    """The rows of a table by their first columns' text, from the line that begins with `first`."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    return [line.split() for line in lines[start + 1 :]]


def test_soak():
    output = run("soak.py", "--units", "60", "--backend", "python")
    rows = table(output, "process")
    watched = {" ".join(row[:-3]) for row in rows if len(row) >= 5 and row[-3].isdigit()}
    for process in ("driver", "daemon 0", "executor 1"):
        for gauge in ("resident", "files", "sockets", "threads", "children"):
            assert f"{process} {gauge}" in watched
    assert "units committed (of 60): 64" in output
    assert "temporary folders: 0" in output


def test_fuzz():
    output = run("fuzz.py", "--requests", "500", "--seed", "3")
    rows = table(output, "kind")
    names = {" ".join(row) for row in rows}
    for kind in ("wrong secret", "cut in the body", "pipelined", "signed, bad parameters", "slow"):
        assert any(name.startswith(kind) for name in names), kind
    assert [row[0] for row in rows if row[:1] == ["resident"]]
    floods = dict(re.findall(r"^(held|rapid): (\d+) connections opened", output, re.MULTILINE))
    assert int(floods["held"]) >= 400
    assert int(floods["rapid"]) >= 400
    assert "nothing wrong" in output


def test_report():
    if shutil.which("chromium") is None:
        pytest.skip("no Chromium is installed")
    size = ["--models", "4", "--workers", "2", "--partitions", "4", "--epochs", "2"]
    done = ended("report.py", *size, "--repeat", "1")
    rows = dict(re.split(r"\s{2,}", line) for line in done.stdout.splitlines()[1:])
    assert rows["bars"] == str(4 * 2 * (4 + 4)), done.stderr
    assert set(rows) >= {"file, MB", "drawn, s", "whole browser, s"}
    too_slow = float(rows["whole browser, s"]) > float(rows["allowed, s"])
    assert done.returncode == int(too_slow), "the status is the verdict on this machine as it is"
