"""The wish to stop a run: between two rounds, at once, and while it waits for storage."""

from __future__ import annotations

import threading

import pytest

from cerebro.driver.interruption import Interruption

PATIENCE = 60.0


def test_the_first_call_is_obeyed_between_rounds_and_the_second_at_once():
    interruption = Interruption()
    interruption.check()
    interruption.ask()
    with pytest.raises(KeyboardInterrupt):
        interruption.check()
    with pytest.raises(KeyboardInterrupt):
        interruption.ask()


def test_user_code_in_the_driver_is_stopped_at_once():
    interruption = Interruption()
    with pytest.raises(KeyboardInterrupt), interruption.immediate():
        interruption.ask()
    with pytest.raises(KeyboardInterrupt):  # while the run's end is cleaned up
        interruption.ask()


def test_after_user_code_the_first_call_waits_again():
    interruption = Interruption()
    with interruption.immediate():
        pass
    interruption.ask()


def test_a_pause_ends_early_when_the_run_is_to_stop():
    interruption = Interruption()
    interruption.pause(0.0)

    def stop():
        interruption.ask()
        interruption.wake()

    threading.Timer(0.05, stop).start()
    with pytest.raises(KeyboardInterrupt):
        interruption.pause(PATIENCE)
