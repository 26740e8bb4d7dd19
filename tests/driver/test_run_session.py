"""One driver's turn at a run, as far as it can be seen without workers."""

from __future__ import annotations

import pytest

from cerebro.driver.run_session import claim
from cerebro.errors import NotARun, RunFailed, RunHeld, RunInterrupted, StorageError, Superseded
from cerebro.journal import ownership
from cerebro.journal.ownership import read_holder
from cerebro.journal.paths import RunPaths


@pytest.fixture
def paths(tmp_path):
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    paths.create()
    return paths


def fail(paths, error, meanwhile):
    """A turn that ends with this error, after something has happened to the run."""
    with claim(paths, None, None) as session:
        meanwhile(session)
        raise error


def replaced(session):
    session.paths.generation(2).touch()


def test_a_session_holds_the_run_as_long_as_the_block_lasts(paths):
    with claim(paths, None, None) as session:
        assert paths.generations() == [1]
        assert session.paths is paths
        assert session.ledger.plan is None
        assert read_holder(paths)["released"] is False
        session.check_ownership()
    assert read_holder(paths)["released"] is True


@pytest.mark.parametrize("error", [NotARun("it never began"), RunFailed("every one"), KeyError(3)])
def test_what_fails_in_a_driver_that_was_replaced_is_that_it_was_replaced(paths, error):
    with pytest.raises(Superseded, match="the driver of generation 2") as caught:
        fail(paths, error, replaced)
    assert caught.value.__cause__ is error


def test_a_driver_that_was_replaced_is_told_before_it_speaks_of_results(paths):
    with claim(paths, None, None) as session:
        replaced(session)
        with pytest.raises(Superseded, match="another driver has taken up the run"):
            session.check_ownership()


@pytest.mark.parametrize(
    "error", [RunHeld("by process 7"), Superseded("by another"), RunInterrupted("by Ctrl-C")]
)
def test_an_error_that_says_who_stopped_it_stays(paths, error):
    with pytest.raises(type(error)) as caught:
        fail(paths, error, replaced)
    assert caught.value is error


def test_errors_of_the_driver_that_holds_the_run_are_its_own(paths):
    error = RunFailed("every model failed")
    with pytest.raises(RunFailed) as caught:
        fail(paths, error, lambda session: None)
    assert caught.value is error


def test_storage_that_cannot_tell_whose_the_run_is_hides_no_error(paths, monkeypatch):
    def read_holder(paths):
        raise StorageError("gone")

    def broken(session):
        monkeypatch.setattr(ownership, "read_holder", read_holder)
        session.check_ownership()

    error = RunFailed("every model failed")
    with pytest.raises(RunFailed) as caught:
        fail(paths, error, broken)
    assert caught.value is error
