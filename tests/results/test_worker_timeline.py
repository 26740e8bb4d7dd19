"""When workers were there, and what they did with their time."""

from __future__ import annotations

import pytest
from written_records import written

from cerebro.journal.ledger import Ledger
from cerebro.journal.run_plan import RunPlan
from cerebro.report.contents import PARTS
from cerebro.results.tables import PHASES
from cerebro.results.time_spent import bars, seconds_by_part
from cerebro.results.worker_timeline import WorkerTimeline

UNTIL = 100.0
PLAN = RunPlan(
    id="id", name="run", workers=["http://w0", "http://w1"], train_partitions=["a", "b"],
    valid_partitions=[], train_availability=None, valid_availability=None, configs=[{}],
    backend="python", seed=0, deterministic=True, keep_data=True, functions={},
)  # fmt: skip


class Played:
    """Records, as a driver would write them."""

    def __init__(self):
        self.timeline = WorkerTimeline()
        self.ledger = Ledger(keep_attempts=True)
        self.ledger.listeners.append(self.timeline)
        self.driver(0.0)
        self.add("plan", 0.0, plan=PLAN.to_json(), base=0.0)

    def add(self, kind, t, **fields):
        self.ledger.add(written(kind, t, **fields))

    def driver(self, t, time=0.0):
        self.add("generation", t, driver={"host": "h", "pid": 1}, time=time)

    def worker(self, state, t, number=0, **fields):
        self.add("worker", t, worker=number, url=f"http://w{number}", state=state, **fields)

    def start(self, t, attempt, worker=0, partition=0, reads=0):
        self.add(
            "started", t, attempt=attempt, worker=worker, model=0, epoch=0, split="train",
            partition=partition, reads=reads,
        )  # fmt: skip

    def commit(self, t, attempt, ran, **phases):
        seconds = {**dict.fromkeys(PHASES, 0.0), **phases}
        self.add(
            "committed", t, attempt=attempt, loss=1.0, error=1.0, examples=1, phases=seconds,
            output="", ran=ran, checkpoint=f"/v{attempt}",
        )  # fmt: skip

    def spent(self, worker=0):
        done = bars((a for a in self.ledger.attempts.values() if a.worker == worker), UNTIL)
        away = self.timeline.away(worker, UNTIL)
        return seconds_by_part(done, away, self.timeline.loading(worker, UNTIL), UNTIL)


@pytest.fixture
def run():
    return Played()


def test_a_worker_is_away_until_it_joins_and_loads_until_it_is_ready(run):
    run.worker("joined", 2.0, facts={})
    run.worker("ready", 5.0)
    assert run.timeline.away(0, UNTIL) == [(0.0, 2.0)]
    assert run.timeline.loading(0, UNTIL) == [(2.0, 5.0)]


@pytest.mark.parametrize("state", ["lost", "left"])
def test_a_worker_that_goes_is_away_until_it_joins_again(run, state):
    run.worker("joined", 0.0, facts={})
    run.worker("ready", 1.0)
    run.worker(state, 10.0, reason="no sign of life")
    assert run.timeline.away(0, UNTIL) == [(10.0, UNTIL)]
    run.worker("joined", 30.0, facts={})
    run.worker("ready", 31.0)
    assert run.timeline.away(0, UNTIL) == [(10.0, 30.0)]
    assert run.timeline.loading(0, UNTIL) == [(0.0, 1.0), (30.0, 31.0)]


def test_a_worker_that_is_added_and_lost_before_it_joins_was_away_all_the_time(run):
    run.worker("added", 3.0)
    run.worker("lost", 4.0, reason="nobody answers")
    run.worker("joined", 9.0, facts={})
    assert run.timeline.away(0, UNTIL) == [(0.0, 9.0)]


def test_a_worker_set_aside_is_away_until_its_next_unit(run):
    run.worker("joined", 0.0, facts={})
    run.worker("ready", 0.0)
    run.worker("aside", 10.0, reason="its executor died")
    run.start(20.0, attempt=0)
    assert run.timeline.away(0, UNTIL) == [(10.0, 20.0)]
    assert run.timeline.troubles == [(10.0, 0, "aside", "its executor died")]


def test_a_worker_set_aside_that_loads_more_is_away_all_the_same(run):
    run.worker("joined", 0.0, facts={})
    run.worker("ready", 0.0)
    run.worker("aside", 10.0, reason="its executor died")
    run.worker("ready", 15.0)
    run.start(20.0, attempt=0)
    assert run.timeline.away(0, UNTIL) == [(10.0, 20.0)]


def test_a_worker_that_loads_more_while_it_works_is_not_away(run):
    run.worker("joined", 0.0, facts={})
    run.worker("ready", 1.0)
    run.worker("ready", 50.0)
    run.worker("draining", 60.0)
    assert run.timeline.away(0, UNTIL) == []
    assert run.timeline.loading(0, UNTIL) == [(0.0, 1.0)]


def test_another_driver_finds_every_worker_away(run):
    run.worker("joined", 0.0, facts={})
    run.worker("ready", 0.0)
    run.add("interrupted", 10.0, reason="interrupted")
    assert run.timeline.interrupted == "interrupted"
    run.driver(10.0, time=500.0)
    run.worker("joined", 12.0, facts={})
    assert run.timeline.restarts == [10.0]
    assert run.timeline.interrupted is None
    assert run.timeline.away(0, UNTIL) == [(10.0, 12.0)]


def test_the_same_driver_in_another_file_changes_nothing(run):
    run.worker("joined", 0.0, facts={})
    run.worker("ready", 0.0)
    run.driver(10.0)
    assert run.timeline.restarts == []
    assert run.timeline.away(0, UNTIL) == []


def test_each_second_is_in_its_part(run):
    run.worker("joined", 2.0, facts={})
    run.worker("ready", 5.0)
    run.start(10.0, attempt=0)
    run.commit(22.0, 0, ran=20.0, run=6.0, build=2.0, restore=1.0, save=2.0)
    run.start(20.0, attempt=1, partition=1, reads=1)
    run.add("failed", 25.0, attempt=1, failure="executor", message="died")
    run.worker("lost", 90.0)
    spent = run.spent()
    assert set(spent) == set(PARTS)
    expected = {
        "training": 6.0, "build": 2.0, "restore": 1.0, "orders": 1.0, "void": 5.0, "loading": 3.0,
        "away": 2.0 + 10.0, "idle": 5.0 + 65.0,
    }  # fmt: skip
    assert {name: seconds for name, seconds in spent.items() if seconds} == expected


def test_phases_count_as_far_as_the_unit_kept_its_worker_busy(run):
    """A version that was read while the worker was at another unit costs this one nothing."""
    run.start(10.0, attempt=0)
    run.commit(14.0, 0, ran=14.0, run=3.0, restore=7.0)
    spent = run.spent()
    assert (spent["training"], spent["restore"], spent["orders"]) == (3.0, 1.0, 0.0)


def test_what_was_under_way_lasts_to_the_end(run):
    run.start(90.0, attempt=0)
    ((bar, _),) = bars(run.ledger.attempts.values(), UNTIL)
    assert (bar.start, bar.end, bar.outcome) == (90.0, UNTIL, "running")
    assert run.spent()["void"] == 10.0
