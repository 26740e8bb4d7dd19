"""The dispatch benchmark: its reckoning, a small run of it, and what it refuses."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
from pathlib import Path

import dispatch
import pytest
from patience import PATIENCE

from testbed import requirements
from testbed.dispatch_times import UnitTimes, gaps, plenty_until, quantile

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def unit(worker, model, begin, end, *, decided=None, told=None, save=0.0):
    return UnitTimes(
        worker,
        model,
        begin if decided is None else decided,
        begin,
        end,
        end if told is None else told,
        save,
    )


def test_a_worker_that_has_a_unit_to_run_waits_from_the_end_of_the_one_before():
    units = [
        unit(0, 1, 8.0, 9.0, save=0.5),
        unit(0, 0, 10.0, 12.0, told=12.25),
        unit(0, 1, 13.0, 14.0, decided=12.5),
    ]
    _, gap = gaps(units)
    assert (gap.at, gap.idle, gap.wait) == (12.0, 1.0, 1.0)
    assert (gap.report, gap.choice, gap.order) == (0.25, 0.25, 0.5)


def test_a_worker_without_a_unit_waits_from_when_the_model_that_comes_was_published():
    units = [
        unit(0, 0, 0.0, 2.0, save=5.0),
        unit(1, 1, 0.0, 3.0, save=0.75),
        unit(0, 1, 4.0, 5.0),
    ]
    (gap,) = gaps(units)
    assert (gap.idle, gap.wait) == (2.0, 0.25)


def test_there_is_plenty_until_a_model_begins_its_last_unit():
    units = [unit(0, m, begin, begin + 1) for m, begin in ((0, 0), (1, 1), (0, 2), (1, 5))]
    assert plenty_until(units) == 2


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 2), (0.9, 4), (1.0, 4)])
def test_quantiles(share, value):
    assert quantile([3, 1, 4, 2], share) == value


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_small_run(monkeypatch, capsys):
    monkeypatch.setattr(dispatch, "ROWS", ((2, 4), (2, 2)))
    monkeypatch.setattr(dispatch, "UNITS", 40)
    monkeypatch.setattr(dispatch, "OFFERED", 1200)
    monkeypatch.setattr(dispatch, "PACE_SECONDS", 0.2)
    monkeypatch.setattr(sys, "argv", ["dispatch.py", "--quick"])
    assert dispatch.main() == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows if len(row) == 15 and row[0].isdigit()] == [
        ["2", "4"],
        ["2", "2"],
    ]


def test_what_does_not_hold_is_said():
    gap = dispatch.Gap(0.0, 0.05, 0.05, 0.01, 0.01, 0.03)
    cpu = {"driver": 1.5, "daemons": 0.1, "exec": 0.1}
    row = dispatch.Row(dispatch.LARGEST, 256, 1000, 1500.0, [gap], cpu)
    assert len(dispatch.verdict([row])) == 3


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (requirements.cores(10**6), "cores are needed"),
        (requirements.memory(1e9), "of memory are needed"),
        (requirements.disk(1e9), "of disk are needed"),
        (requirements.disk(0.0, "/no/such/folder"), "no file can be written"),
        (requirements.packages("json", "no_such_package"), "pip install no_such_package"),
    ],
    ids=["cores", "memory", "disk", "no folder", "packages"],
)
def test_what_is_missing_is_named(said, words):
    assert words in said


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert "open files are needed" in requirements.descriptors(10**12)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_there_is_not_mentioned():
    there = [requirements.cores(1), requirements.packages("json"), requirements.disk(0.0)]
    assert there == ["", "", ""]
    requirements.require(*there)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they refuse for that reason")
@pytest.mark.parametrize("command", ["chaos", "dispatch", "fuzz", "soak"])
def test_a_command_ends_before_it_starts_anything_where_memory_is_short(
    command, monkeypatch, tmp_path, capsys
):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000000 kB\nMemAvailable:  104857 kB\n")
    monkeypatch.setattr(requirements, "MEMINFO", meminfo)
    monkeypatch.setattr(sys, "argv", [f"{command}.py"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(command).main()
    assert ended.value.code == requirements.REFUSED
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{command}.py: ")
    assert said.err.endswith("GiB of memory are needed, and 0.1 GiB are available\n")


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it refuses for that reason")
def test_a_machine_that_is_too_small_is_refused_in_one_sentence():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "dispatch.py")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (requirements.REFUSED, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("dispatch.py: ")
    assert "open files are needed, and 64 are allowed" in sentence
