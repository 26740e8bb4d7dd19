"""The time left, and that the live view and `cerebro status` say the same of one run."""

from __future__ import annotations

import pytest
from hand_written_run import WrittenRun
from played_run import PlayedRun

from cerebro.cli import status
from cerebro.journal.time_left import SplitWork, WorkLeft, seconds_left
from cerebro.journal.unit_times import RECENT
from cerebro.progress.layout import lay_out, text_of


class Watched(WrittenRun):
    """After each record, the live view and the status of the same moment are compared."""

    def __init__(self, folder, **changed):
        self.estimates = []
        super().__init__(folder, **changed)

    def say(self, kind, **fields):
        super().say(kind, **fields)
        if self.paths.driver.exists():
            self.compare()

    def compare(self):
        for after in (0.0, 1.25):
            said, view = self.status(after), self.live(after)
            assert said.time_left == view.time_left
            assert said.epoch == view.epoch
            assert (said.progress.units, said.progress.epochs) == (view.units, view.epochs)
            if view.time_left is not None:
                text = view.time_left.text()
                assert text in status.render(said, 200)
                assert text in text_of(lay_out(view, 200, 50)[1])
        self.estimates.append(said.time_left)

    def last(self):
        """The last estimate, 1.25 s after the last record."""
        return self.estimates[-1]


@pytest.fixture
def run(tmp_path):
    run = Watched(tmp_path)
    yield run
    run.journal.close()


def test_both_say_the_same_whatever_happens(run):
    run.ready()
    assert run.last() is None
    run.epoch(0, [0.25, 0.75])
    assert run.last() is None, "nothing is left before the decision"
    run.decide()
    assert run.last().seconds == pytest.approx(6.0), "two train units, then a valid one"
    first = run.start(0, 0, epoch=1, reads=2)
    second = run.start(1, 0, epoch=1, worker=1, reads=2)
    assert run.last().seconds == pytest.approx(4.75), "both have run for 1.25 s"
    run.commit(first, checkpoint="/c/0/3")
    run.say("void", model=0, version=3)
    run.worker(1, "aside", reason="units died there")
    run.say("failed", attempt=second, failure="executor", message="", traceback="", output="")
    assert run.last().seconds == pytest.approx(12.0), "all of it for the other worker"
    run.worker(1, "ready", devices=[])
    assert run.last().seconds == pytest.approx(12.0), "still set aside"
    attempt = run.start(1, 0, epoch=1, worker=1, reads=2)
    run.worker(0, "draining")
    assert run.last().seconds == pytest.approx(10.75), "worker 0 takes no more"
    run.worker(0, "left", reason="it was drained")
    run.worker(2, "added")
    run.worker(2, "joined", facts={})
    assert run.last().seconds == pytest.approx(6.0), "model 0 is not helped by the other one"
    run.say(
        "model_failed", model=1, attempt=attempt, failure="user", error="E", message="no",
        function="train_fn", traceback="", output="",
    )  # fmt: skip
    run.worker(1, "lost", reason="no sign of life")
    run.worker(2, "lost", reason="no sign of life")
    assert run.last() is None, "nobody is there"
    run.worker(1, "joined", facts={})
    run.say("reopened", models=[1], why="retry_failed=True")
    assert run.last().seconds == pytest.approx(12.0)


def test_a_resumed_run_is_estimated_from_what_its_earlier_drivers_measured(run):
    run.ready()
    run.epoch(0, [0.25, 0.75])
    run.decide()
    run.start(0, 0, epoch=1, reads=2)
    assert run.last().seconds == pytest.approx(6.0)
    run.say("interrupted", reason="interrupted")
    run.t += 100.0
    run.drive()
    run.compare()
    assert run.last() is None, "no worker has joined this driver yet"
    run.ready()
    assert run.last().seconds == pytest.approx(6.0), "what was under way is lost"


def test_a_search_that_plans_its_epochs_has_the_whole_run_estimated(tmp_path):
    run = Watched(tmp_path)
    run.drive(totals={"0": [6, 3], "1": [2, 1], "2": [2, 1]})
    run.ready()
    run.commit(run.start(0, 0), checkpoint="/c/0/1")
    assert run.last().at_least, "no valid unit has been measured"
    run.commit(run.start(0, 1, reads=1), checkpoint="/c/0/2")
    run.commit(run.start(0, 0, "valid", reads=2))
    assert run.last().whole_run
    assert not run.last().at_least
    assert run.last().seconds == pytest.approx(12.0), "the two epochs that model 0 has left"
    run.worker(1, "lost", reason="it was stopped")
    assert run.last().seconds == pytest.approx(24.0), "4 epochs of 3 units, of which one is new"
    run.journal.close()


def test_a_partition_that_nobody_present_may_read_makes_it_at_least_that_long(tmp_path):
    run = Watched(tmp_path, train_availability=[[1, 0], [0, 1]], valid_availability=[[1], [1]])
    run.ready()
    run.commit(run.start(0, 0), checkpoint="/c/0/1")
    run.commit(run.start(0, 1, reads=1, worker=1), checkpoint="/c/0/2")
    run.commit(run.start(0, 0, "valid", reads=2))
    assert not run.last().at_least
    run.worker(1, "lost", reason="it was stopped")
    assert run.last().at_least
    run.journal.close()


def test_a_model_whose_valid_units_are_not_measured_is_as_slow_there_as_in_training():
    run = PlayedRun(workers=1, n_train=1, n_valid=1, models=2)
    run.all_ready()
    run.unit(0.0, 2.0, 0, 0, 0)
    run.unit(2.0, 3.0, 0, 0, 0, "valid")
    assert run.view(3.0).time_left.seconds == pytest.approx(2.0 + 1.0), "as model 0"
    run.unit(3.0, 11.0, 0, 1, 0)
    of_all = 2.0 + RECENT * (8.0 - 2.0)
    assert run.view(11.0).time_left.seconds == pytest.approx(1.0 * 8.0 / of_all)


def test_what_a_model_is_held_for_while_it_is_saved_counts_in_its_chain():
    run = PlayedRun(workers=4, n_train=3, n_valid=0, models=1)
    run.all_ready()
    run.commit(10.0, run.start(0.0, 0, 0, 0), ran=2.0)
    assert run.view(10.0).time_left.seconds == pytest.approx(20.0)


def test_other_models_train_while_one_is_saved():
    run = PlayedRun(workers=1, n_train=2, n_valid=0, models=8)
    run.all_ready()
    run.commit(10.0, run.start(0.0, 0, 0, 0), ran=2.0)
    assert run.view(10.0).time_left.seconds == pytest.approx(15 * 2.0)


def test_valid_units_under_way_side_by_side_end_together():
    run = PlayedRun(workers=2, n_train=1, n_valid=2, models=1)
    run.all_ready()
    run.unit(0.0, 2.0, 0, 0, 0)
    first = run.start(2.0, 0, 0, 0, "valid")
    run.commit(12.0, first)
    run.add("void", 12.0, model=0, version=1)
    run.unit(12.0, 14.0, 0, 0, 0)
    for worker in (0, 1):
        run.start(14.0, worker, 0, worker, "valid")
    assert run.view(18.0).time_left.seconds == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("valid", "workers", "expected"), [(5, 2, 3), (5, 8, 1), (10, 2, 6), (7, 5, 2), (0, 3, 0)]
)
def test_valid_units_of_an_epoch_take_turns(valid, workers, expected):
    work = WorkLeft(SplitWork(), SplitWork(valid, busy=0.0, held=1.0), epoch_valid=5)
    assert work.chain(workers) == expected


def test_no_worker_no_estimate():
    work = WorkLeft(SplitWork(3, 1.0, 1.0), SplitWork(), 0)
    assert seconds_left([work], 0) is None
    assert seconds_left([work], 1) == 3.0
    assert seconds_left([work], 1, loads=[5.0]) == 5.0
