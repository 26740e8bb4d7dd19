"""Exactly once, through the whole driver, whatever the network and the processes do.

Each example is one history of one run on the cluster of `simulated_cluster`, from one seed:
messages are lost, doubled, late and out of order; drivers, daemons and executors are killed,
stopped and replaced; cables are cut and mended; versions are damaged; the journal's disk is full.
While it goes on, every record that counts is compared with what is on storage; at its end every
version with what its visits make of it.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from simulated_cluster import (
    ACTIONS,
    HEARTBEAT,
    MOMENTS,
    SEARCHES,
    Fault,
    Noise,
    Shape,
    simulate,
)

from cerebro.hopper.placement.registry import POLICIES

SECONDS = (0.5, 3.0, 9.0, 30.0, 90.0)
"""How long what is cut, stopped or down stays so: from below the heartbeat to above the lease."""

QUIET = Noise()

OF_WORKERS = [a for a in ACTIONS if "daemon" in a or a in ("kill executor", "cut", "damage")]

shapes = st.builds(
    Shape,
    workers=st.integers(1, 3),
    models=st.integers(1, 3),
    train=st.integers(1, 3),
    valid=st.integers(0, 2),
    epochs=st.integers(1, 2),
    replicated=st.booleans(),
    child=st.booleans(),
    placement=st.sampled_from(list(POLICIES)),
)
noises = st.sampled_from([QUIET, Noise(3, 3, 3), Noise(10, 10, 5)])


def faults(moments=MOMENTS, actions=ACTIONS):
    return st.builds(
        Fault,
        moment=st.sampled_from(moments),
        count=st.integers(1, 6) | st.integers(1, 40),
        action=st.sampled_from(actions),
        worker=st.integers(0, 2),
        seconds=st.sampled_from(SECONDS),
    )


def exactly_once(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return tmp_path_factory.mktemp("histories")


def happen(storage, shape, noise=QUIET, faults=(), seed=0):
    return simulate(pytest.MonkeyPatch.context, storage, shape, noise, faults, seed)


@exactly_once(80)
@given(shape=shapes, noise=noises, faults=st.lists(faults(), max_size=6), seed=st.integers(0, 999))
def test_every_unit_counts_once_whatever_happens(storage, shape, noise, faults, seed):
    happen(storage, shape, noise, faults, seed)


searches = st.builds(
    Shape,
    workers=st.integers(1, 3),
    train=st.integers(1, 4),
    valid=st.integers(1, 2),
    replicated=st.booleans(),
    search=st.sampled_from(list(SEARCHES)),
)


@exactly_once(80)
@given(
    shape=searches, noise=noises, faults=st.lists(faults(), max_size=5), seed=st.integers(0, 999)
)
def test_a_search_is_decided_by_its_journal_alone(storage, shape, noise, faults, seed):
    """Whichever driver decides, and whatever fails: nothing is lost, repeated or left waiting."""
    happen(storage, shape, noise, faults, seed)


@pytest.mark.parametrize("seed", [24, 38])
def test_a_copy_begins_where_the_others_last_epoch_ended(storage, seed):
    """Also where that is several versions ago, because the other has gone on."""
    happen(storage, Shape(workers=1 + seed % 3, train=4, search="population"), seed=seed)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_goes_to_its_end(storage, search):
    happen(storage, Shape(search=search))


@exactly_once(60)
@given(
    shape=shapes,
    noise=noises,
    faults=st.lists(
        faults(actions=("kill driver", "tear record", "stop driver", "fill disk")),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 999),
)
@example(
    # The first driver is stopped before it writes its plan, the second killed before it writes
    # another. What the first one does then counts nothing: the run has not begun.
    shape=Shape(workers=1, models=1, train=1, valid=0, epochs=1, replicated=False),
    noise=QUIET,
    faults=[
        Fault("write", 2, "stop driver", 0, 90.0),
        Fault("write", 4, "kill driver", 0, 0.5),
        Fault("write", 5, "kill driver", 0, 0.5),
    ],
    seed=0,
)
def test_of_several_drivers_one_counts_at_a_time(storage, shape, noise, faults, seed):
    happen(storage, shape, noise, faults, seed)


@exactly_once(60)
@given(
    shape=shapes,
    noise=noises,
    faults=st.lists(
        faults(
            ("delivered", "starts", "ran", "saving", "published", "reported"),
            OF_WORKERS,
        ),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 999),
)
def test_what_workers_do_late_or_twice_does_not_count(storage, shape, noise, faults, seed):
    happen(storage, shape, noise, faults, seed)


@exactly_once(60)
@given(
    shape=shapes,
    count=st.integers(6, 25),
    later=st.integers(1, 4),
    action=st.sampled_from(["kill driver", "tear record", "stop driver"]),
    seed=st.integers(0, 999),
)
def test_a_version_made_again_outlives_its_driver(storage, shape, count, later, action, seed):
    disturbed = [
        Fault("written", count, "damage", 0, 0.5),
        Fault("written", count + later, action, 0, 30.0),
    ]
    happen(storage, shape, QUIET, disturbed, seed)


@exactly_once(40)
@given(
    shape=shapes,
    drains=st.lists(
        faults(
            ("written", "order", "delivered", "starts", "ran", "saving", "published", "reported"),
            ("drain daemon",),
        ),
        min_size=1,
        max_size=3,
    ),
    seed=st.integers(0, 999),
)
def test_a_worker_that_is_drained_ends_by_itself_and_nothing_is_trained_again(
    storage, shape, drains, seed
):
    world = happen(storage, shape, QUIET, drains, seed)
    assert set(world.trained.values()) == {1}


@pytest.mark.parametrize("moment", ["starts", "ran", "saving", "published"])
@pytest.mark.parametrize("replicated", [True, False])
def test_a_drained_worker_is_not_waited_for(storage, moment, replicated):
    """It leaves as soon as its unit is published, and the other one goes on without it."""
    shape = Shape(workers=2, models=3, train=3, replicated=replicated)
    world = happen(storage, shape, faults=[Fault(moment, 3, "drain daemon", 0, 500.0)])
    said = [r for r in world.oracle.records if r.kind == "worker" and r.worker == 0]
    assert [record.state.value for record in said[-2:]] == ["draining", "left"]
    assert said[-1].t - said[-2].t < HEARTBEAT
    assert len(world.drained) == 1
    assert set(world.trained.values()) == {1}


@pytest.mark.slow
@exactly_once(250)
@given(shape=shapes, noise=noises, faults=st.lists(faults(), max_size=10), seed=st.integers())
def test_every_unit_counts_once_in_long_histories(storage, shape, noise, faults, seed):
    happen(storage, shape, noise, faults, seed)


@pytest.mark.parametrize("moment", ["write", "written"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seconds", [9.0, 90.0])
def test_a_driver_that_was_stopped_as_it_began_changes_nothing(storage, moment, count, seconds):
    """Another one begins or takes over, and may be at work or have ended when it wakes."""
    happen(storage, Shape(epochs=2), faults=[Fault(moment, count, "stop driver", 0, seconds)])


@pytest.mark.parametrize("count", [8, 11, 14])
def test_a_driver_that_wakes_while_another_takes_over_takes_nothing_away(storage, count):
    """It goes on when the other has read the journal, and still waits for a worker to answer."""
    disturbed = [
        Fault("written", count, "stop driver", 0, 64.0),
        Fault("written", count, "cut", 1, 90.0),
    ]
    happen(storage, Shape(models=1, train=3), faults=disturbed, seed=3)


def test_the_same_seed_gives_the_same_history(storage):
    shape, noise = Shape(workers=3, models=3, child=True), Noise(10, 10, 5)
    disturbed = [Fault("saving", 3, "cut", 1, 9.0), Fault("written", 20, "kill driver", 0, 0.5)]
    first, second = (happen(storage, shape, noise, disturbed, 7) for _ in range(2))
    assert [line.partition(" ")[0] for line in first.log] == [
        line.partition(" ")[0] for line in second.log
    ]
    assert first.kernel.now == second.kernel.now
    assert set(first.done) == {"cut", "kill driver"}
