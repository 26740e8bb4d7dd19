"""What the view says of a run, from its records and what the driver heard."""

from __future__ import annotations

import math

import pytest
from played_run import PlayedRun

from cerebro.progress.view import WorkerActivity


def states(view):
    return [worker.state.value for worker in view.workers]


def test_a_worker_from_its_first_sign_to_its_loss():
    run = PlayedRun(tally={"absent": {1}})
    assert states(run.view(0.0)) == ["connecting", "absent"]
    run.worker(0, "joined", 1.0, facts={})
    run.tally.loading(0, 3)
    run.tally.loaded(0)
    worker = run.view(4.0).workers[0]
    assert (worker.state, worker.seconds) == (WorkerActivity.LOADING, 3.0)
    assert worker.detail == "1 of 3 partitions loaded"
    run.worker(0, "ready", 5.0, devices=[])
    assert states(run.view(6.0))[0] == "idle"
    first = run.start(6.0, 0, 1, 0)
    worker = run.view(8.0).workers[0]
    assert (worker.state, worker.seconds, worker.detail) == (WorkerActivity.TRAINING, 2.0, "")
    assert (worker.unit.model, worker.unit.partition) == (1, 0)
    run.tally.ran(first, 9.0)
    worker = run.view(9.5).workers[0]
    assert (worker.state, worker.unit, worker.saves) == (WorkerActivity.SAVING, None, (1,))
    run.start(10.0, 0, 0, 1)
    worker = run.view(10.0).workers[0]
    assert (worker.state, worker.unit.model, worker.saves) == (WorkerActivity.TRAINING, 0, (1,))
    run.commit(11.0, first, ran=9.0)
    assert run.view(11.0).workers[0].saves == ()
    run.worker(0, "lost", 12.0, reason="no sign of life for 30 s")
    worker = run.view(15.0).workers[0]
    assert (worker.state, worker.seconds) == (WorkerActivity.LOST, 3.0)
    assert (worker.unit, worker.detail) == (None, "no sign of life for 30 s")
    run.worker(0, "joined", 16.0, facts={})
    assert states(run.view(16.0))[0] == "idle"


def test_a_worker_that_has_left_is_absent_and_no_work_is_counted_on_it():
    run = PlayedRun()
    run.all_ready()
    run.unit(0.0, 10.0, 0, 0, 0)
    before = run.view(10.0).time_left.seconds
    run.worker(1, "draining", 10.0)
    run.worker(1, "left", 10.0, reason="it was told to drain")
    view = run.view(10.0)
    assert states(view) == ["idle", "absent"]
    assert view.workers[1].detail == "it was told to drain"
    assert view.time_left.seconds > before


def test_a_worker_set_aside_stays_so_until_it_is_given_a_unit():
    run = PlayedRun()
    run.all_ready()
    attempt = run.start(0.0, 0, 0, 0)
    run.worker(0, "aside", 1.0, reason="died")
    run.add("failed", 1.0, attempt=attempt, failure="executor", message="", output="")
    assert states(run.view(5.0)) == ["set aside", "idle"]
    run.start(11.0, 0, 0, 0)
    assert states(run.view(11.0)) == ["training", "idle"]


def test_a_worker_that_takes_partitions_over_is_loading_where_it_has_no_unit():
    run = PlayedRun()
    run.all_ready()
    run.start(0.0, 0, 0, 0)
    run.tally.loading(0, 1)
    run.tally.loading(1, 1)
    assert states(run.view(1.0)) == ["training", "loading"]
    assert run.view(1.0).workers[0].detail == "0 of 1 partition loaded"


def test_units_epochs_and_what_ended_models_wait_for():
    run = PlayedRun()
    run.all_ready()
    run.unit(0.0, 1.0, 0, 0, 0)
    run.unit(1.0, 2.0, 0, 0, 1)
    view = run.view(2.0)
    assert (view.epoch.first, view.epoch.last, view.epoch.done, view.epoch.units) == (0, 0, 2, 6)
    assert (view.units, view.epochs, view.waits) == (2, 0, ())
    run.unit(2.0, 3.0, 0, 0, 0, "valid")
    view = run.view(3.0)
    assert (view.units, view.epochs) == (3, 1)
    (wait,) = view.waits
    assert wait.startswith("1 model has ended the epoch")
    for n, split in enumerate(["train", "train", "valid"]):
        run.unit(n, n + 1.0, 1, 1, n % 2, split)
    assert run.view(6.0).waits == ()
    run.decide(6.0, [0, 1], stop=[1])
    view = run.view(6.0)
    assert (view.epoch.first, view.epoch.done, view.epoch.units) == (1, 0, 3)
    assert view.models == (("RUNNING", 1), ("COMPLETED", 1))
    assert (view.units, view.epochs) == (6, 2)


def test_models_that_are_decided_on_one_by_one_wait_for_nobody():
    run = PlayedRun(tally={"together": False})
    for n, split in enumerate(["train", "train", "valid"]):
        run.unit(n, n + 1.0, 0, 0, n % 2, split)
    view = run.view(3.0)
    assert view.waits == ()
    assert view.models == (("RUNNING", 1), ("waiting for a decision", 1))


def test_the_best_model_and_nan_never_is():
    run = PlayedRun(n_train=1)
    assert run.view(0.0).best is None
    for model, error in ((0, math.nan), (1, 0.25)):
        run.unit(0.0, 1.0, 0, model, 0)
        run.unit(1.0, 2.0, 0, model, 0, "valid", error=error)
    best = run.view(2.0).best
    assert (best.model, best.epoch, best.value, best.config) == (1, 0, 0.25, {"rate": 1})
    run.decide(2.0, [0, 1])
    run.unit(2.0, 3.0, 0, 0, 0, epoch=1)
    run.unit(3.0, 4.0, 0, 0, 0, "valid", epoch=1, error=0.125)
    assert run.view(4.0).best.epoch == 1


def test_a_failed_model_has_no_units_any_more():
    run = PlayedRun()
    run.all_ready()
    attempt = run.start(0.0, 0, 0, 0)
    run.add("model_failed", 1.0, model=0, attempt=attempt, failure="user", message="no", output="")
    view = run.view(1.0)
    assert view.models == (("RUNNING", 1), ("FAILED", 1))
    assert (view.epoch.units, states(view)) == (3, ["idle", "idle"])


def test_a_voided_version_brings_its_unit_back():
    run = PlayedRun(models=1)
    run.unit(0.0, 1.0, 0, 0, 0)
    run.add("void", 1.0, model=0, version=1)
    assert run.view(1.0).epoch.done == 0
    run.unit(1.0, 2.0, 0, 0, 0)
    assert run.view(2.0).epoch.done == 1


def test_a_run_that_goes_on_counts_what_was_done_before():
    run = PlayedRun()
    for model in (0, 1):
        for n, split in enumerate(["train", "train", "valid"]):
            run.unit(n, n + 1.0, 0, model, n % 2, split)
    run.decide(3.0, [0, 1], stop=[1])
    run.unit(3.0, 4.0, 0, 0, 1, epoch=1)
    before = run.view(4.0)
    run.follow(now=100.0)
    after = run.view(100.0)
    assert (after.units, after.epochs, after.epoch) == (7, 2, before.epoch)
    assert after.best == before.best
    assert states(after) == ["connecting", "connecting"]


# --- the time left -------------------------------------------------------------------------------


def test_no_time_is_given_before_a_unit_was_measured():
    run = PlayedRun()
    run.all_ready()
    run.start(0.0, 0, 0, 0)
    assert run.view(5.0).time_left is None


def test_the_time_left_of_the_epoch():
    run = PlayedRun(workers=2, n_train=3, n_valid=2, models=4)
    run.all_ready()
    run.unit(0.0, 10.0, 0, 0, 0)
    left = run.view(10.0).time_left
    assert left.seconds == pytest.approx(11 * 10 / 2)
    assert left.at_least
    assert not left.whole_run, "nobody knows what mst_eval_fn will say"
    run.unit(10.0, 20.0, 0, 0, 1)
    run.unit(20.0, 30.0, 0, 0, 2)
    run.unit(30.0, 34.0, 0, 0, 0, "valid")
    left = run.view(34.0).time_left
    assert left.seconds == pytest.approx((9 * 10 + 7 * 4) / 2)
    assert not left.at_least


def test_what_units_under_way_have_taken_counts():
    run = PlayedRun(workers=1, n_train=2, n_valid=0, models=1)
    run.all_ready()
    run.unit(0.0, 10.0, 0, 0, 0)
    run.start(10.0, 0, 0, 1)
    assert run.view(13.0).time_left.seconds == pytest.approx(7)
    assert run.view(40.0).time_left.seconds == 0


def test_one_model_is_not_helped_by_more_workers():
    run = PlayedRun(workers=8, n_train=4, n_valid=0, models=1)
    run.all_ready()
    run.unit(0.0, 10.0, 0, 0, 0)
    assert run.view(10.0).time_left.seconds == pytest.approx(30)


def test_lost_workers_do_nothing():
    run = PlayedRun(workers=2, n_train=1, n_valid=0, models=5)
    run.all_ready()
    run.unit(0.0, 10.0, 0, 0, 0)
    assert run.view(10.0).time_left.seconds == pytest.approx(20)
    run.worker(1, "lost", 10.0, reason="")
    assert run.view(10.0).time_left.seconds == pytest.approx(40)
    run.worker(0, "lost", 10.0, reason="")
    assert run.view(10.0).time_left is None


def test_the_only_holder_of_a_slow_partition_is_waited_for():
    run = PlayedRun(workers=2, n_train=2, n_valid=0, models=4, matrix=[[1, 0], [0, 1]],
                    valid_matrix=[[], []])  # fmt: skip
    run.all_ready()
    run.unit(0.0, 1.0, 0, 0, 0)
    run.unit(0.0, 9.0, 1, 1, 1)
    assert run.view(9.0).time_left.seconds >= 3 * 9


def test_the_whole_run_where_its_end_is_known():
    run = PlayedRun(workers=1, n_train=1, n_valid=0, models=1, totals={"0": [5, 0], "1": [2, 0]})
    run.all_ready()
    run.unit(0.0, 10.0, 0, 0, 0)
    left = run.view(10.0).time_left
    assert left.whole_run
    assert left.seconds == pytest.approx((4 + 2) * 10), "model 1 is added later"
