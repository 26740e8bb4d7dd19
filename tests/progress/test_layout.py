"""A view as lines: never wider or longer than the terminal, what matters first."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cerebro.hopper.units import Split, Unit
from cerebro.journal.run_progress import EpochProgress
from cerebro.journal.time_left import TimeLeft
from cerebro.progress.layout import lay_out, text_of
from cerebro.progress.view import BestView, View, WorkerActivity, WorkerView

LONG = "http://a-rather-long-name-of-a-node.cluster.example.org:7777"


def busy(number, seconds=1.0):
    unit = Unit(number, 3, Split.TRAIN, 2)
    return WorkerView(number, LONG, WorkerActivity.TRAINING, seconds, unit, saves=(number + 1,))


def large(workers=64):
    """A view of many workers, of which number 40 is lost and number 50 long at its unit."""
    rows = [busy(n) for n in range(workers)]
    rows[40] = WorkerView(40, LONG, WorkerActivity.LOST, 5.0, detail="no sign of life for 30 s")
    rows[50] = busy(50, seconds=5000.0)
    return View(
        name="run-20260101-120000",
        seconds=7000.0,
        units=1234,
        epochs=56,
        epoch=EpochProgress(3, 3, 100, 320),
        time_left=TimeLeft(754.0),
        models=(("RUNNING", 60), ("FAILED", 4)),
        best=BestView(7, 2, "valid_error", 0.0731, {f"hyperparameter_{n}": n for n in range(9)}),
        disk="up to 3 versions of 64 models, 5.9 MB each: 1.1 GB; 68 GB free",
        waits=tuple(f"waiting for {LONG} to load its partitions, number {n}" for n in range(6)),
        workers=tuple(rows),
    )


def shown(view, width=80, height=24):
    return [text_of(line) for line in lay_out(view, width, height)]


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("height", [1, 3, 8, 12, 24, 60, 100])
@pytest.mark.parametrize("workers", [60, 64])
def test_nothing_is_beyond_the_terminal(width, height, workers):
    lines = shown(large(workers), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("run     run-20260101-120000  1 h 57 min")


@pytest.mark.parametrize("width", [80, 160])
def test_of_many_workers_those_that_matter_are_shown_and_the_rest_counted(width):
    lines = shown(large(), width)
    rows = [line for line in lines if re.match(r"w\d+ ", line)]
    assert rows[0].startswith("w40 "), "the lost one first"
    assert "lost" in rows[0]
    assert rows[1].startswith("w50 "), "then the one that has been at its unit for longest"
    rest = re.match(r" +and (\d+) more: (\d+) training", lines[-1])
    assert int(rest[1]) == int(rest[2]) == 64 - len(rows)


def test_all_workers_are_shown_in_turn_where_there_is_room():
    lines = shown(large(), height=100)
    assert [line.split()[0] for line in lines[-64:]] == [f"w{n}" for n in range(64)]


@pytest.mark.parametrize("width", [80, 160])
def test_workers_can_be_told_apart_by_the_beginning_and_the_port(width):
    urls = [f"http://node{n}.{'cluster.' * 9}org:777{n}" for n in range(3)]
    workers = tuple(WorkerView(n, url, WorkerActivity.IDLE, 1.0) for n, url in enumerate(urls))
    rows = shown(replace(large(), workers=workers), width)[-3:]
    for number, row in enumerate(rows):
        assert f" node{number}." in row
        assert f":777{number} " in row


def test_waits_are_counted_too_and_may_take_two_lines():
    lines = shown(large())
    start = next(n for n, line in enumerate(lines) if line.startswith("waiting for http://a-"))
    assert "number 0" in lines[start] + lines[start + 1]
    assert any(line.strip() == "and 4 more" for line in lines)


def test_the_time_left_says_what_it_is_of():
    view = large()
    assert "about 13 min left in this epoch" in shown(view, 160)[1]
    whole = replace(view, time_left=TimeLeft(754.0, whole_run=True))
    assert "about 13 min left in this run" in shown(whole, 160)[1]
    least = replace(view, time_left=TimeLeft(754.0, at_least=True))
    assert "at least 13 min left" in shown(least, 160)[1]
    assert "left" not in shown(replace(view, time_left=None), 160)[1]


def test_before_a_run_begins_what_the_driver_is_at():
    lines = shown(View(seconds=7.0, doing=(("contacting 3 workers", 6.6),)))
    assert lines == ["run     starting  7 s", "waiting contacting 3 workers (for 7 s)"]


def test_the_outcome_stands_at_the_top():
    assert shown(replace(large(), outcome="interrupted"))[0].endswith("interrupted")
