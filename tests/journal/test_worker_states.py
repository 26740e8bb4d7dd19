"""What the records of a worker add up to."""

from __future__ import annotations

import itertools
import pickle

import pytest
from written_records import written

from cerebro.journal.ledger import Ledger, WorkerRecord
from cerebro.journal.run_plan import RunPlan
from cerebro.journal.worker_states import PRESENT, WorkerCondition, WorkerState

ADDED, JOINED, READY, DRAINING, LEFT, LOST, ASIDE, UNREADABLE = WorkerState


def fold(*states, since=0.0):
    """The condition after these records, a second between two, each with its state as reason."""
    condition = WorkerCondition()
    for t, state in enumerate(states, start=1):
        condition = condition.after(state, since + t, f"why {state.value}")
    return condition


def test_values_on_disk():
    assert [state.value for state in WorkerState] == [
        "added", "joined", "ready", "draining", "left", "lost", "aside", "unreadable",
    ]  # fmt: skip


def test_a_worker_that_nobody_has_heard_of():
    condition = WorkerCondition()
    assert condition.state is None
    assert not condition.is_present
    assert not condition.may_get_units


@pytest.mark.parametrize(
    ("states", "present", "units"),
    [
        ([ADDED], False, False),
        ([ADDED, JOINED], True, False),
        ([JOINED, READY], True, True),
        ([JOINED, READY, READY], True, True),
        ([JOINED, READY, DRAINING], True, False),
        ([JOINED, READY, DRAINING, LEFT], False, False),
        ([JOINED, READY, DRAINING, LOST], False, False),
        ([JOINED, READY, DRAINING, LEFT, JOINED], True, False),
        ([JOINED, READY, DRAINING, LEFT, JOINED, READY], True, True),
        ([JOINED, LOST], False, False),
        ([JOINED, LOST, JOINED, READY], True, True),
        ([JOINED, READY, ASIDE], True, False),
        ([JOINED, READY, ASIDE, UNREADABLE], True, False),
        ([JOINED, READY, UNREADABLE], True, True),
        ([JOINED, UNREADABLE], True, False),
        ([JOINED, READY, ASIDE, LOST], False, False),
        ([JOINED, READY, ASIDE, LOST, JOINED, READY], True, True),
    ],
)
def test_whether_it_is_there_and_may_get_units(states, present, units):
    condition = fold(*states)
    assert (condition.is_present, condition.may_get_units) == (present, units)


def test_since_when_and_why_are_those_of_its_state():
    condition = fold(JOINED, READY, LOST)
    assert (condition.state, condition.since, condition.reason) == (LOST, 3.0, "why lost")


@pytest.mark.parametrize("remark", [ASIDE, UNREADABLE])
def test_a_remark_changes_neither_its_state_nor_since_when(remark):
    before, after = fold(JOINED, READY), fold(JOINED, READY, remark)
    assert (after.state, after.since, after.reason) == (before.state, before.since, before.reason)
    assert after.remarks == ((remark, f"why {remark.value}"),)


def test_a_worker_set_aside_stays_so_when_it_has_loaded_more():
    condition = fold(JOINED, READY, ASIDE, READY)
    assert condition.is_aside
    assert not condition.may_get_units
    assert condition.remarks == ((ASIDE, "why aside"),)


def test_a_unit_shows_that_it_is_not_aside_any_more():
    condition = fold(JOINED, READY, ASIDE).given_unit(9.0)
    assert condition.may_get_units
    assert condition.since == 2.0, "it was ready all the time"
    assert condition.remarks == ((ASIDE, "why aside"),), "until it joins again"


def test_a_unit_on_a_worker_that_drains_changes_nothing():
    condition = fold(JOINED, READY, DRAINING)
    assert condition.given_unit(9.0) == condition


def test_a_unit_shows_that_it_is_ready():
    condition = WorkerCondition().given_unit(9.0)
    assert (condition.state, condition.since) == (READY, 9.0)


@pytest.mark.parametrize("state", [ADDED, JOINED, LEFT, LOST])
def test_what_was_said_of_it_ends_when_it_goes_or_joins(state):
    condition = fold(JOINED, READY, UNREADABLE, ASIDE, state)
    assert condition.remarks == ()
    assert not condition.is_aside


def test_what_was_said_of_it_stays_while_it_does():
    condition = fold(JOINED, UNREADABLE, READY, DRAINING)
    assert condition.remarks == ((UNREADABLE, "why unreadable"),)


def test_units_go_only_to_workers_that_are_there():
    """Whatever the order of three records."""
    for states in itertools.product(WorkerState, repeat=3):
        condition = fold(*states)
        assert condition.is_present == (condition.state in PRESENT)
        assert condition.is_present or not condition.may_get_units
        assert condition.state not in (ASIDE, UNREADABLE)


# --- in the ledger -------------------------------------------------------------------------------

PLAN = RunPlan(
    id="id", name="run", workers=["http://w0", "http://w1"], train_partitions=["a"],
    valid_partitions=[], train_availability=None, valid_availability=None, configs=[{}],
    backend="python", seed=0, deterministic=True, keep_data=True, functions={},
)  # fmt: skip


def ledger_of(*records):
    first = [written("generation"), written("plan", base=0.0, plan=PLAN.to_json())]
    return Ledger.from_records([*first, *records])


def said(state, t, **fields):
    return written("worker", t, worker=0, url="http://w0", state=state, **fields)


def started(t, worker=0):
    return written(
        "started", t, attempt=0, worker=worker, model=0, epoch=0, split="train", partition=0,
        reads=0,
    )  # fmt: skip


def test_the_ledger_follows_each_worker():
    ledger = ledger_of(said("joined", 1.0, facts={"host": "n"}), said("lost", 2.0, reason="gone"))
    assert ledger.workers[0].condition == WorkerCondition(LOST, 2.0, "gone")
    assert ledger.workers[0].facts == {"host": "n"}
    assert ledger.faults == {"worker lost": 1}


def test_another_driver_has_heard_of_nobody():
    again = written("generation", 5.0, time=9.0, generation=2)
    ledger = ledger_of(said("joined", 1.0, facts={}), again)
    assert ledger.workers[0].condition == WorkerCondition(since=5.0)


def test_the_same_driver_in_another_file_has():
    ledger = ledger_of(said("joined", 1.0, facts={}), written("generation", 5.0, generation=2))
    assert ledger.workers[0].condition.state is JOINED


def test_a_unit_ends_that_a_worker_is_aside():
    records = [said("joined", 1.0, facts={}), said("ready", 2.0), said("aside", 3.0, reason="died")]
    assert not ledger_of(*records).workers[0].condition.may_get_units
    assert ledger_of(*records, started(4.0)).workers[0].condition.may_get_units


def test_a_unit_on_a_worker_that_said_nothing():
    assert ledger_of(started(4.0, worker=1)).workers[1].url == "http://w1"


@pytest.mark.parametrize(
    ("last", "state"), [("joined", JOINED), ("lost", LOST), ("aside", None), ("unknown", None)]
)
def test_a_worker_of_an_old_pickle(last, state):
    worker = WorkerRecord.__new__(WorkerRecord)
    worker.__setstate__({"url": "http://w0", "state": last, "facts": {"host": "n"}})
    assert worker.condition.state is state
    assert not hasattr(worker, "state")
    assert pickle.loads(pickle.dumps(worker)) == worker
