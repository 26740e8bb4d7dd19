"""Who is to blame when executors die, and what becomes of work that no longer counts."""

from __future__ import annotations

import pytest

from cerebro.hopper import events as ev
from cerebro.hopper.holdings import FixedHoldings, SharedHoldings
from cerebro.hopper.placement.base import ModelWork, WorkerSlots
from cerebro.hopper.placement.randomized import RandomizedPlacement
from cerebro.hopper.scheduler import IllegalTransition, Scheduler, Slot
from cerebro.hopper.units import Failure, ModelPosition, ModelState, Split, Unit


class Cluster:
    """A scheduler with its workers ready, and the attempts that it has started."""

    def __init__(self, models, workers=1, n_train=4, n_valid=0, **options):
        self.scheduler = Scheduler(
            train=FixedHoldings([[1] * n_train] * workers),
            valid=FixedHoldings([[1] * n_valid] * workers),
            placement=RandomizedPlacement(0),
            positions=[
                ModelPosition(m, 0, 0, frozenset(range(n_train)), frozenset(range(n_valid)))
                for m in range(models)
            ],
            **options,
        )
        self.running = {}
        self.actions = []
        self.tell(*(ev.WorkerJoined(w) for w in range(workers)))
        self.tell(*(ev.WorkerReady(w) for w in range(workers)))

    def tell(self, *events):
        self.actions = self.scheduler.handle(*events)
        self.running.update({a.attempt.worker: a.attempt for a in self.found(ev.Start)})
        return self.actions

    def found(self, kind):
        return [action for action in self.actions if isinstance(action, kind)]

    def complete(self, worker=0):
        """The worker's unit runs to its end and is saved."""
        number = self.running.pop(worker).number
        self.tell(ev.UnitRan(number))
        saved = list(self.actions)
        self.tell(ev.UnitCommitted(number))
        self.actions = [*saved, *self.actions]

    def fail(self, failure, worker=0):
        attempt = self.running.pop(worker)
        self.tell(ev.UnitFailed(attempt.number, failure))
        return attempt

    def wake(self, unit):
        self.tell(ev.Woke(ev.RetryUnit(unit)))

    def state(self, model):
        return next(p.state for p in self.scheduler.positions() if p.model == model)


def test_a_unit_that_kills_three_executors_fails_its_model_while_others_go_on():
    """A single worker that runs other models' units between the deaths is not to blame."""
    order = {(model, 0): range(6) for model in range(2)}
    cluster = Cluster(models=2, n_train=6, visit_order=order)
    guilty = cluster.running[0].unit.model
    for death in range(3):
        assert cluster.state(guilty) is ModelState.RUNNING
        unit = cluster.fail(Failure.EXECUTOR).unit
        if death < 2:
            assert cluster.running[0].unit.model != guilty
            cluster.complete()
            cluster.wake(unit)
            while cluster.running[0].unit.model != guilty:
                cluster.complete()
    assert cluster.state(guilty) is ModelState.FAILED
    assert cluster.running[0].unit.model != guilty


def test_deaths_on_a_worker_that_does_nothing_else_are_the_workers():
    cluster = Cluster(models=3, n_train=1)
    for _ in range(3):
        assert not cluster.found(ev.SetAside)
        cluster.fail(Failure.EXECUTOR)
    assert [a.worker for a in cluster.found(ev.SetAside)] == [0]
    assert not cluster.running
    assert cluster.tell(ev.Woke(ev.ProbeWorker(0))) == []
    assert {cluster.state(m) for m in range(3)} == {ModelState.RUNNING}


def test_a_version_whose_saving_always_ends_the_executor_fails_its_model():
    cluster = Cluster(models=1, n_train=1)
    deaths = 0
    while not cluster.scheduler.ended:
        deaths += 1
        assert deaths <= 3
        number = cluster.running.pop(0).number
        cluster.tell(ev.UnitRan(number))
        cluster.tell(ev.UnitFailed(number, Failure.EXECUTOR))
        cluster.tell(ev.Woke(ev.RetryUnit(Unit(0, 0, Split.TRAIN, 0))))
    assert cluster.state(0) is ModelState.FAILED


def test_an_executor_that_dies_in_a_unit_is_not_blamed_on_the_version_being_saved():
    cluster = Cluster(models=2, n_train=1)
    for _ in range(5):
        saving = cluster.running.pop(0)
        cluster.tell(ev.UnitRan(saving.number))
        ran = cluster.running.pop(0)
        cluster.tell(
            ev.UnitFailed(saving.number, Failure.EXECUTOR),
            ev.UnitFailed(ran.number, Failure.STORAGE),
        )
        assert not cluster.found(ev.ModelFailed)
        first, second = saving.unit, ran.unit
        cluster.wake(first)
        cluster.wake(second)


def test_memory_that_gives_out_counts_by_itself():
    """Trouble with storage before does not make the first lack of memory a death."""
    cluster = Cluster(models=1, n_train=1)
    failures = [Failure.STORAGE] * 4 + [Failure.RESOURCES] * 2
    for failure in failures:
        unit = cluster.fail(failure).unit
        assert [a.failure for a in cluster.found(ev.Retry)] == [failure]
        cluster.wake(unit)
    cluster.fail(Failure.RESOURCES)
    assert [a.failure for a in cluster.found(ev.Retry)] == [Failure.EXECUTOR]


def test_a_unit_that_took_too_long_keeps_its_worker_until_the_executor_has_ended():
    cluster = Cluster(models=2, n_train=2)
    attempt = cluster.fail(Failure.TIMEOUT)
    assert [a.model for a in cluster.found(ev.ModelFailed)] == [attempt.unit.model]
    assert not cluster.found(ev.Start)
    assert not cluster.scheduler.is_live(attempt.number)
    cluster.tell(ev.UnitFailed(attempt.number, Failure.EXECUTOR))
    assert len(cluster.found(ev.Start)) == 1
    assert not cluster.found(ev.SetAside)


def test_valid_units_under_way_elsewhere_are_discarded_when_their_model_fails():
    cluster = Cluster(models=1, workers=2, n_train=1, n_valid=2)
    cluster.complete(next(iter(cluster.running)))
    assert len(cluster.running) == 2
    other = cluster.running[1]
    cluster.fail(Failure.USER, 0)
    assert [a.attempt for a in cluster.found(ev.Discard)] == [other]
    assert cluster.found(ev.End)


def test_valid_units_of_a_void_version_keep_their_workers_and_do_not_count():
    cluster = Cluster(models=2, workers=2, n_train=1, n_valid=2)
    for worker in list(cluster.running):
        cluster.complete(worker)
    damaged, other = cluster.running[0], cluster.running[1]
    while other.unit.model != damaged.unit.model:
        cluster.tell(ev.UnitRan(cluster.running.pop(1).number))
        other = cluster.running[1]
    cluster.fail(Failure.DAMAGED, 0)
    assert [a.attempt for a in cluster.found(ev.Discard)] == [other]
    assert 1 not in {a.attempt.worker for a in cluster.found(ev.Start)}
    assert cluster.scheduler.slot(other.number) is Slot.RUNNING
    cluster.running.pop(1)
    cluster.tell(ev.UnitRan(other.number))
    assert not cluster.found(ev.Commit)


def test_a_unit_that_ran_may_be_said_to_have_run_again():
    cluster = Cluster(models=1, n_train=2)
    number = cluster.running[0].number
    cluster.tell(ev.UnitRan(number))
    assert cluster.tell(ev.UnitRan(number)) == []
    cluster.tell(ev.UnitCommitted(number))
    assert len(cluster.found(ev.Commit)) == 1


def test_what_cannot_happen_is_told_with_what_led_there():
    cluster = Cluster(models=1)
    number = cluster.running[0].number
    with pytest.raises(
        IllegalTransition, match=rf"committed while running(.|\n)*> Start.*{number}"
    ):
        cluster.tell(ev.UnitCommitted(number))


def test_what_is_only_staged_can_neither_have_run_nor_be_committed():
    for event, said in ((ev.UnitRan, "trained"), (ev.UnitCommitted, "committed")):
        cluster = Cluster(models=3, workers=2, n_train=1)
        attempts = cluster.scheduler.live_attempts()
        staged = next(attempt for attempt, slot in attempts if slot is Slot.STAGED)
        with pytest.raises(
            IllegalTransition, match=f"attempt {staged.number} of {staged.unit} {said} while staged"
        ):
            cluster.tell(event(staged.number))


def test_what_is_staged_is_released_where_its_partition_cannot_be_read():
    cluster = Cluster(models=3, workers=2, n_train=1)
    staged = [a for a, slot in cluster.scheduler.live_attempts() if slot is Slot.STAGED]
    assert staged
    cluster.fail(Failure.INPUT, staged[0].worker)
    assert [a.attempt for a in cluster.found(ev.Unstage)] == staged
    assert all(a.attempt.worker != staged[0].worker for a in cluster.found(ev.Start))


def test_a_newcomer_gets_a_share_although_another_worker_can_read_nothing():
    shares = SharedHoldings(4)
    for worker in (0, 1):
        shares.join(worker)
    for partition in range(4):
        shares.unreadable(0, partition)
    shares.join(2)
    assert [len(shares.held(w)) for w in range(3)] == [0, 2, 2]


def test_partitions_that_nobody_present_holds_are_named_with_what_waits_for_them():
    scheduler = Scheduler(
        train=FixedHoldings([[1, 0], [0, 1]]),
        valid=FixedHoldings([[1], [0]]),
        placement=RandomizedPlacement(0),
        positions=[
            ModelPosition(m, 0, 0, frozenset(range(2)), frozenset(range(1))) for m in range(3)
        ],
    )
    scheduler.handle(ev.WorkerJoined(0))
    assert scheduler.stranded() == {(Split.TRAIN, 1): 3}
    scheduler.handle(ev.WorkerJoined(1))
    assert scheduler.stranded() == {}


def test_a_worker_on_which_everything_dies_fails_no_model():
    """Whatever runs on the only worker kills its executor: that says nothing about the models."""
    cluster = Cluster(models=2, n_train=1)
    aside, at = [], []
    for death in range(1, 13):
        unit = cluster.fail(Failure.EXECUTOR).unit
        aside += [a.seconds for a in cluster.found(ev.SetAside)]
        if cluster.found(ev.SetAside):
            assert not cluster.running
            at.append(death)
        cluster.wake(unit)
        if not cluster.running:
            assert cluster.scheduler.live_attempts() == []
            cluster.tell(ev.Woke(ev.ProbeWorker(0)))
    assert {cluster.state(m) for m in range(2)} == {ModelState.RUNNING}
    assert aside[:3] == [10.0, 20.0, 40.0]
    assert at[:3] == [3, 5, 7], "once tried again, two more deaths are enough"
    cluster.complete()
    assert not cluster.found(ev.SetAside)


def test_what_is_staged_on_a_worker_that_is_set_aside_goes_to_others():
    cluster = Cluster(models=8, workers=2, n_train=1)
    for _ in range(2):
        cluster.fail(Failure.EXECUTOR)
        assert not cluster.found(ev.SetAside)
    staged = [
        a for a, slot in cluster.scheduler.live_attempts() if slot is Slot.STAGED and a.worker == 0
    ]
    cluster.fail(Failure.EXECUTOR)
    assert cluster.found(ev.SetAside)
    # What was staged has been started or forgotten: nothing is left on the worker.
    assert staged
    assert all(a.worker == 1 for a, _ in cluster.scheduler.live_attempts())
    cluster.tell(ev.Woke(ev.ProbeWorker(0)))
    assert [a.attempt.worker for a in cluster.found(ev.Start)] == [0]


def test_a_rest_doubles_up_to_its_limit():
    cluster = Cluster(models=1, n_train=1)
    rests = []
    for _ in range(8):
        unit = cluster.fail(Failure.STORAGE).unit
        rests += [a.seconds for a in cluster.found(ev.Wake)]
        cluster.wake(unit)
    assert rests == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_troubles_are_forgotten_when_the_unit_is_committed():
    """Damaged later, it is run again; deaths from before do not count then."""
    cluster = Cluster(models=1, n_train=2)
    for _ in range(2):
        cluster.wake(cluster.fail(Failure.EXECUTOR).unit)
    while cluster.scheduler.positions()[0].version < 1:
        cluster.complete()
    first = cluster.scheduler.positions()[0].last_unit
    cluster.fail(Failure.DAMAGED)
    assert [a.attempt.unit for a in cluster.found(ev.Start)] == [first]
    for _ in range(2):
        cluster.wake(cluster.fail(Failure.EXECUTOR).unit)
        assert cluster.state(0) is ModelState.RUNNING


def test_a_damaged_version_is_made_again_from_the_one_before():
    cluster = Cluster(models=1, n_train=3)
    cluster.complete()
    cluster.complete()
    last = cluster.scheduler.positions()[0].last_unit
    assert cluster.running[0].reads == 2
    cluster.fail(Failure.DAMAGED)
    assert [(a.model, a.version) for a in cluster.found(ev.Void)] == [(0, 2)]
    assert (cluster.running[0].unit, cluster.running[0].reads) == (last, 1)
    cluster.complete()
    assert cluster.running[0].reads == 2
    cluster.complete()
    assert cluster.found(ev.EpochEnded)


def test_a_model_of_which_two_versions_are_damaged_fails():
    cluster = Cluster(models=1, n_train=3)
    cluster.complete()
    cluster.complete()
    cluster.fail(Failure.DAMAGED)
    assert not cluster.found(ev.ModelFailed)
    cluster.fail(Failure.DAMAGED)
    assert cluster.found(ev.ModelFailed)


def shared(workers, models=2, partitions=2):
    scheduler = Scheduler(
        train=SharedHoldings(partitions),
        valid=SharedHoldings(0),
        placement=RandomizedPlacement(0),
        positions=[
            ModelPosition(m, 0, 0, frozenset(range(partitions)), frozenset()) for m in range(models)
        ],
    )
    scheduler.handle(*(ev.WorkerJoined(w) for w in range(workers)))
    return scheduler, scheduler.handle(*(ev.WorkerReady(w) for w in range(workers)))


def test_the_partitions_of_a_lost_worker_are_taken_over():
    scheduler, _ = shared(2)
    actions = scheduler.handle(ev.WorkerLost(1))
    assert [a for a in actions if isinstance(a, ev.Preload)] == [ev.Preload(0, (1,), ())]
    assert scheduler.stranded() == {}


def test_a_worker_works_when_all_that_it_was_told_to_load_is_loaded():
    scheduler, _ = shared(2, models=4, partitions=4)
    scheduler.handle(ev.WorkerJoined(2))
    told = scheduler.handle(ev.WorkerLost(1))
    assert [a.worker for a in told if isinstance(a, ev.Preload)].count(2) == 1
    assert not [a for a in scheduler.handle(ev.WorkerReady(2)) if isinstance(a, ev.Start)]
    started = [a for a in scheduler.handle(ev.WorkerReady(2)) if isinstance(a, ev.Start)]
    assert [a.attempt.worker for a in started] == [2]


def test_a_partition_that_comes_back_to_an_idle_worker_is_worked_on():
    """Its new home was lost before it had loaded: nothing else happens that could wake the old."""
    scheduler = Scheduler(
        train=SharedHoldings(2),
        valid=SharedHoldings(0),
        placement=RandomizedPlacement(0),
        positions=[ModelPosition(0, 0, 1, frozenset({1}), frozenset())],
    )
    scheduler.handle(ev.WorkerJoined(0), ev.WorkerJoined(1))
    scheduler.handle(ev.WorkerReady(0), ev.WorkerReady(1))
    scheduler.handle(ev.WorkerLost(1))
    (started,) = (attempt for attempt, _ in scheduler.live_attempts())
    scheduler.handle(ev.WorkerJoined(1), ev.UnitFailed(started.number, Failure.STORAGE))
    assert scheduler.handle(ev.Woke(ev.RetryUnit(Unit(0, 0, Split.TRAIN, 1)))) == []
    actions = scheduler.handle(ev.WorkerLost(1))
    assert [(a.attempt.worker, a.attempt.unit.partition) for a in actions] == [(0, 1)]


def test_the_order_of_visits_is_shuffled_by_the_seed():
    def first(seed):
        placement = RandomizedPlacement(seed)
        for model in range(50):
            placement.tell_model(model, ModelWork(0, 1, 0, Split.TRAIN, 1, True))
        placement.tell_worker(0, WorkerSlots(((Split.TRAIN, 0),), None, None, True))
        return placement.place(0.0).starts

    assert first(1) == first(1)
    assert len({first(seed)[0] for seed in range(10)}) > 3


def test_a_worker_that_drains_ends_what_it_has_begun_and_is_given_no_more():
    cluster = Cluster(models=2, workers=2, n_train=2)
    begun = cluster.running.pop(0)
    cluster.tell(ev.WorkerDrains(0, (begun.number,)))
    assert cluster.found(ev.Retry) == []
    cluster.tell(ev.UnitRan(begun.number), ev.UnitCommitted(begun.number))
    assert cluster.found(ev.Commit) == [ev.Commit(begun)]
    while not cluster.found(ev.Ask):
        cluster.complete(worker=1)
        assert all(start.attempt.worker == 1 for start in cluster.found(ev.Start))
    cluster.tell(ev.WorkerLost(0))
    assert cluster.actions == []


def test_what_did_not_reach_a_worker_that_drains_is_free_again_at_once():
    """While the version of the unit before is still being saved there."""
    cluster = Cluster(models=3, workers=2, n_train=2)
    saving = cluster.running.pop(0)
    cluster.tell(ev.UnitRan(saving.number))
    unreached = cluster.running[0]
    cluster.tell(ev.WorkerDrains(0, (saving.number,)))
    assert cluster.found(ev.Retry) == [ev.Retry(unreached, None)]
    assert cluster.scheduler.slot(saving.number) is Slot.SAVING
    assert not cluster.scheduler.is_live(unreached.number)
    staged = [
        attempt.worker for attempt, slot in cluster.scheduler.live_attempts() if slot is Slot.STAGED
    ]
    assert 0 not in staged
    again = [cluster.running[1].unit]
    while unreached.unit not in again:
        cluster.complete(worker=1)
        again.append(cluster.running[1].unit)


def test_others_load_the_share_of_a_worker_that_drains():
    scheduler = Scheduler(
        train=SharedHoldings(2),
        valid=SharedHoldings(0),
        placement=RandomizedPlacement(0),
        positions=[ModelPosition(0, 0, 0, frozenset(range(2)), frozenset())],
    )
    scheduler.handle(ev.WorkerJoined(0), ev.WorkerJoined(1))
    (start,) = [
        a for a in scheduler.handle(ev.WorkerReady(0), ev.WorkerReady(1)) if isinstance(a, ev.Start)
    ]
    worker, other = start.attempt.worker, 1 - start.attempt.worker
    actions = scheduler.handle(ev.WorkerDrains(worker, (start.attempt.number,)))
    assert ev.Preload(other, (start.attempt.unit.partition,), ()) in actions
