"""What the journal adds up to, where drivers change and versions are made again."""

from __future__ import annotations

from cerebro.journal.ledger import Ledger
from cerebro.journal.run_plan import RunPlan
from cerebro.results.tables import units

HOST = {"host": "here", "pid": 1}


def plan(n_train=2, n_valid=0):
    content = RunPlan(
        id="id", name="run", workers=["http://w"], train_partitions=list("ab")[:n_train],
        valid_partitions=list("cd")[:n_valid], train_availability=None, valid_availability=None,
        configs=[{}], backend="python", seed=0, deterministic=True, keep_data=True, functions={},
    )  # fmt: skip
    return {"kind": "plan", "t": 0.0, "base": 0.0, "plan": content.to_json()}


def began(time, generation=1):
    return {"kind": "generation", "t": 5.0, "driver": HOST, "time": time, "generation": generation}


def started(attempt, partition=0, reads=0):
    return {
        "kind": "started", "t": 1.0, "generation": 1, "attempt": attempt, "worker": 0, "model": 0,
        "epoch": 0, "split": "train", "partition": partition, "reads": reads,
    }  # fmt: skip


def committed(attempt, loss):
    return {
        "kind": "committed", "t": 2.0, "attempt": attempt, "loss": loss, "error": loss,
        "examples": 1, "phases": {"run": 1.0}, "output": "", "checkpoint": f"/v{attempt}",
    }  # fmt: skip


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


def test_an_epochs_metrics_are_those_of_the_versions_that_count():
    """A unit whose version was void counts with what it gave when it was run again."""
    records = [began(1.0), plan(), started(0), committed(0, 1.0)]
    records += [{"kind": "void", "t": 3.0, "model": 0, "version": 1}]
    records += [started(1), committed(1, 3.0), started(2, 1, 1), committed(2, 5.0)]
    ledger = Ledger.from_records(records, keep_attempts=True)
    assert [e.train_loss for e in ledger.models[0].epochs] == [4.0]
    assert list(units(ledger)["outcome"]) == ["void", "committed", "committed"]
