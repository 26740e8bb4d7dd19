"""A clock that goes off in the moment in which its unit ends."""

from __future__ import annotations

import threading

import pytest
from patience import SOON
from worker_side import DRIVER, run_options

from cerebro.protocol.messages import AttemptTimed, AttemptUntimed, ExecutorSetup, Ticket
from cerebro.worker import session
from cerebro.worker.session import WorkerSession
from cerebro.worker.unit_timeout import UnitTimeout


class PlayedExecutor:
    """Says what it is told to say, and notes whether it was killed."""

    def __init__(self, setup, functions, environment, on_event, on_exit):
        self.say = on_event
        self.killed = 0

    def kill(self):
        self.killed += 1

    def join(self, seconds):
        pass


class PlayedClock:
    """Goes off when a test says so, as late as it likes."""

    def __init__(self, seconds, expired):
        self.expired = expired

    def start(self, attempt):
        pass

    def stop(self):
        pass


@pytest.fixture
def held(monkeypatch):
    monkeypatch.setattr(session, "ExecutorProcess", PlayedExecutor)
    monkeypatch.setattr(session, "UnitTimeout", PlayedClock)
    setup = ExecutorSetup(run_options(unit_timeout=1.0), 1, None, None, 20)
    held = WorkerSession(Ticket("run", 1, 1), DRIVER, setup, {}, b"")
    yield held
    held.close()


def test_a_unit_that_runs_for_too_long_ends_with_its_executor(held):
    held._executor.say(AttemptTimed(attempt=1))
    held._timeout.expired(1)
    assert held._executor.killed == 1


def test_a_clock_that_goes_off_as_its_unit_ends_kills_nobody(held):
    for last in (AttemptUntimed, AttemptTimed):
        held._executor.say(AttemptTimed(attempt=1))
        held._executor.say(last(attempt=2))
        held._timeout.expired(1)
    assert held._executor.killed == 0


def test_what_goes_off_may_start_and_stop_the_clock():
    gone_off = threading.Event()

    def expired(attempt):
        clock.stop()
        clock.start(2)
        clock.stop()
        gone_off.set()

    clock = UnitTimeout(0.01, expired)
    clock.start(1)
    assert gone_off.wait(timeout=SOON)
