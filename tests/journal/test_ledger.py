"""What the journal adds up to, where drivers change and versions are made again."""

from __future__ import annotations

from written_records import written

from cerebro.journal.ledger import AttemptRecord, Ledger, ModelRecord
from cerebro.journal.run_plan import RunPlan
from cerebro.results.tables import units

HOST = {"host": "here", "pid": 1}


def plan(n_train=2, n_valid=0):
    content = RunPlan(
        id="id", name="run", workers=["http://w"], train_partitions=list("ab")[:n_train],
        valid_partitions=list("cd")[:n_valid], train_availability=None, valid_availability=None,
        configs=[{}], backend="python", seed=0, deterministic=True, keep_data=True, functions={},
    )  # fmt: skip
    return written("plan", base=0.0, plan=content.to_json())


def began(time, generation=1):
    return written("generation", 5.0, driver=HOST, time=time, generation=generation)


def started(attempt, partition=0, reads=0):
    return written(
        "started", 1.0, attempt=attempt, worker=0, model=0, epoch=0, split="train",
        partition=partition, reads=reads,
    )  # fmt: skip


def committed(attempt, loss):
    return written(
        "committed", 2.0, attempt=attempt, loss=loss, error=loss, examples=1,
        phases={"run": 1.0}, checkpoint=f"/v{attempt}",
    )  # fmt: skip


def test_what_was_under_way_is_lost_when_one_process_takes_its_own_run_up_again():
    """A notebook that was interrupted goes on with the same host and process."""
    ledger = Ledger.from_records(
        [began(1.0), plan(), started(0), began(2.0, 2)], keep_attempts=True
    )
    assert list(units(ledger)["outcome"]) == ["lost"]
    assert len(ledger.generations) == 2


def test_what_is_under_way_goes_on_when_its_driver_goes_on_in_another_file():
    ledger = Ledger.from_records([began(1.0), plan(), started(0), began(1.0, 2)])
    assert ledger.attempts[0].outcome == "running"
    assert len(ledger.generations) == 1


def failure(kind, **fields):
    return written(kind, 2.0, attempt=0, failure="user", message="no", **fields)


def test_an_old_pickle_has_dictionaries_for_records():
    """As version 2.0 wrote them: what failed, where nothing came of it, and where it runs."""
    failed, model_failed = failure("failed"), failure("model_failed", model=0)
    attempt = AttemptRecord.__new__(AttemptRecord)
    state = vars(AttemptRecord(0, None, 0, 0, 1, 1.0))
    attempt.__setstate__({**state, "result": failed.to_json()})
    assert attempt.result == failed
    assert (attempt.message, attempt.committed) == ("no", None)
    attempt.__setstate__({**state, "result": {}})
    assert (attempt.message, attempt.committed) == ("", None)
    model = ModelRecord.__new__(ModelRecord)
    model.__setstate__({**vars(ModelRecord(0, {}, 0)), "failure": model_failed.to_json()})
    assert model.failure == model_failed


def test_an_epochs_metrics_are_those_of_the_versions_that_count():
    """A unit whose version was void counts with what it gave when it was run again."""
    records = [began(1.0), plan(), started(0), committed(0, 1.0)]
    records += [written("void", 3.0, model=0, version=1)]
    records += [started(1), committed(1, 3.0), started(2, 1, 1), committed(2, 5.0)]
    ledger = Ledger.from_records(records, keep_attempts=True)
    assert [e.train_loss for e in ledger.models[0].epochs] == [4.0]
    assert list(units(ledger)["outcome"]) == ["void", "committed", "committed"]
