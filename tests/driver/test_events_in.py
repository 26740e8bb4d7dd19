"""What is heard of workers: each kind of message has its method, and leads to its events."""

from __future__ import annotations

import typing
from types import SimpleNamespace

import pytest

from cerebro.driver.events_in import EventsIn, LookUp, WorkersListed
from cerebro.driver.worker_connection import DriverReplaced, Notice, WorkerNews
from cerebro.errors import ClusterError, Superseded
from cerebro.hopper import events as ev
from cerebro.hopper.attempt_states import Slot
from cerebro.hopper.units import Failure, Split
from cerebro.protocol.messages import (
    EVENTS,
    AttemptFailed,
    AttemptRan,
    AttemptRunning,
    AttemptTimed,
    AttemptUntimed,
    DrainStarted,
    ExecutorCannotStart,
    ExecutorDied,
    Leaving,
    LoadFailed,
    VersionPublished,
    WorkerEvent,
)

KEPT_BY_THE_WORKER = {AttemptRunning, AttemptTimed, AttemptUntimed}
KEPT_BY_THE_LINK = {Leaving}


class Noted:
    """Takes any call, and notes it."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments, **keywords):
            self.calls.append((name, *arguments))

        return call


@pytest.fixture
def heard():
    parts = SimpleNamespace(
        workers=Noted(), attempt_results=Noted(), progress=Noted(), started=False, slots={}
    )
    parts.workers.url = lambda worker: f"http://w{worker}"
    parts.attempt_results.published = lambda message: True
    parts.events_in = EventsIn(
        workers=parts.workers,
        scheduler=SimpleNamespace(
            is_live=lambda attempt: attempt < 10,
            live_attempts=list,
            slot=parts.slots.get,
            saving_on=lambda worker: next(
                (n for n, s in parts.slots.items() if s is Slot.SAVING), None
            ),
        ),
        ledger=SimpleNamespace(
            attempts={
                3: SimpleNamespace(unit=SimpleNamespace(split=Split.VALID, partition=2), worker=1),
                6: SimpleNamespace(worker=0),
            },
            the_plan=SimpleNamespace(partitions=lambda split: ["/0", "/1", "/2"]),
        ),
        attempt_results=parts.attempt_results,
        progress=parts.progress,
        clock=lambda: 12.5,
        has_started=lambda: parts.started,
    )
    parts.hear = lambda message: parts.events_in.understand(Notice(1, message), [])
    return parts


def test_every_kind_that_reaches_the_driver_has_a_method(heard):
    kinds = set(EVENTS.values()) - KEPT_BY_THE_WORKER - KEPT_BY_THE_LINK
    links = set(typing.get_args(WorkerNews)) - {WorkerEvent}
    assert kinds | links == set(heard.events_in._methods)
    for kind in KEPT_BY_THE_WORKER:
        assert heard.hear(kind(attempt=1)) == []


def ran(attempt):
    return AttemptRan(
        attempt=attempt, loss=1.0, error=0.5, examples=None, phases={"run": 2.0}, output=""
    )


def test_the_result_of_an_attempt_that_is_not_live_is_not_kept(heard):
    assert heard.hear(ran(1)) == [ev.UnitRan(1, 2.0)]
    assert heard.hear(ran(11)) == [ev.UnitRan(11, 2.0)]
    assert heard.attempt_results.calls == [("ran", ran(1), 12.5)]


def test_a_unit_that_ran_for_too_long_has_ended_its_executor(heard):
    message = AttemptFailed(attempt=1, failure=Failure.TIMEOUT, message="too long")
    assert heard.hear(message) == [
        ev.UnitFailed(1, Failure.TIMEOUT),
        ev.UnitFailed(1, Failure.EXECUTOR),
    ]


def test_why_a_partition_could_not_be_read_is_known_from_loading_and_from_units(heard):
    assert heard.events_in.input_problem(Split.TRAIN, 0).message == "unknown"
    heard.hear(LoadFailed(split=Split.TRAIN, partition=0, path="/t0", message="no such file"))
    heard.hear(AttemptFailed(attempt=3, failure=Failure.INPUT, message="cut short"))
    heard.hear(AttemptFailed(attempt=13, failure=Failure.INPUT, message="of a lost attempt"))
    assert heard.events_in.input_problem(Split.TRAIN, 0).message == "no such file"
    assert heard.events_in.input_problem(Split.VALID, 2).message == "cut short"


def test_an_executor_that_was_killed_may_have_wanted_memory(heard):
    died = ExecutorDied(attempts=[4, 5], cause="signal 9 (SIGKILL)", output="last words")
    assert heard.hear(died) == [ev.UnitFailed(n, Failure.EXECUTOR) for n in (4, 5)]
    (_, first, problem), _ = heard.attempt_results.calls
    assert first == 4
    assert problem.message.startswith("the executor on http://w1 ended: signal 9 (SIGKILL); ")
    assert problem.output == "last words"


def test_an_executor_that_cannot_start_ends_a_run_that_has_not_started_and_no_other(heard):
    message = ExecutorCannotStart(message="no such module", output="import it")
    heard.hear(message)
    fatal = heard.events_in.fatal
    assert isinstance(fatal, ClusterError)
    assert str(fatal) == "the worker http://w1 cannot begin: no such module\nimport it"
    heard.events_in.fatal, heard.started = None, True
    heard.hear(message)
    assert heard.events_in.fatal is None
    assert heard.workers.calls == [("reject", 1, "cannot begin: no such module")]


PUBLISHED = VersionPublished(attempt=2, checkpoint="/c", save=0.1)


@pytest.mark.parametrize(
    "message",
    [
        ran(2),
        PUBLISHED,
        AttemptFailed(attempt=6, failure=Failure.USER, message="no"),
        ExecutorDied(attempts=[3, 6], cause="signal 9", output=""),
        DrainStarted(attempts=[6]),
        LoadFailed(split=Split.TRAIN, partition=3, path="/t3", message="no such file"),
    ],
)
def test_a_worker_that_reports_what_cannot_be_is_given_up(heard, message):
    """Of an attempt that it was not to start, or another worker's, or of no partition."""
    heard.slots[2] = Slot.STAGED
    assert heard.hear(message) == []
    assert heard.attempt_results.calls == []
    ((what, worker, reason),) = heard.workers.calls
    assert (what, worker) == ("reject", 1)
    assert reason.startswith("it reports what cannot be: ")


def test_a_worker_saves_one_version_before_the_next_unit_has_run(heard):
    heard.slots.update({2: Slot.SAVING, 4: Slot.RUNNING})
    assert heard.hear(ran(4)) == []
    assert heard.workers.calls[-1][:2] == ("reject", 1)
    assert heard.hear(PUBLISHED) == [ev.UnitCommitted(2)]
    assert heard.hear(ran(4)) == [ev.UnitRan(4, 2.0)]


def test_what_has_run_can_be_published_at_once(heard):
    heard.slots[2] = Slot.RUNNING
    assert heard.hear(PUBLISHED) == []
    assert heard.hear(ran(2)) == [ev.UnitRan(2, 2.0)]
    assert heard.hear(PUBLISHED) == [ev.UnitCommitted(2)]


def test_what_is_not_said_of_a_worker(heard):
    records = []
    assert heard.events_in.understand(LookUp(), records) == []
    assert heard.events_in.understand(WorkersListed(["entry"]), records) == []
    assert heard.workers.calls == [("add", ["entry"], records)]
    assert heard.events_in.fatal is None
    assert heard.events_in.understand(DriverReplaced("by another"), records) == []
    assert isinstance(heard.events_in.fatal, Superseded)
