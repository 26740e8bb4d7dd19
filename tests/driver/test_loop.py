"""The driver's loop with workers that are played: no process, no network, a clock set by hand."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from written_records import written

import cerebro
from cerebro.driver.decisions import EvalProcedure
from cerebro.driver.loop import Driver
from cerebro.driver.trusted import Trust
from cerebro.driver.worker_connection import Connected, Disconnected, Notice
from cerebro.hopper.units import Failure
from cerebro.journal.journal import Journal, read_journal
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths
from cerebro.journal.run_plan import RunPlan
from cerebro.progress import Reporter
from cerebro.progress.plain import Plain
from cerebro.protocol.messages import (
    AttemptFailed,
    AttemptRan,
    LoadsDone,
    Method,
    SaveWaits,
    VersionPublished,
)
from cerebro.results.tables import units


class PlayedWorker:
    """A link whose worker does at once what it is told, unless `play` does something else.

    `play(worker, order)` returns None, or the messages to give instead.
    """

    url = "http://played"

    def __init__(self, worker, notify, play):
        self.worker = worker
        self._notify = notify
        self._play = play
        self.orders = []

    def say(self, *messages):
        for message in messages:
            self._notify(Notice(self.worker, message))

    def start(self):
        self.say(Connected({}, 1))

    def joined(self, incarnation):
        pass

    def close(self):
        pass

    def send(self, method, **params):
        self.orders.append((method, params))
        if method == Method.PRELOAD:
            self.say(LoadsDone())
        elif method == Method.START:
            played = self._play(self, params["order"])
            self.say(*(ordinary(params["order"]) if played is None else played))


def ordinary(order):
    """What a worker says of an attempt that succeeds; its version is published."""
    number = order["attempt"]
    result = {"loss": 1.0, "error": 0.5, "examples": 1, "phases": {"run": 1.0}, "output": ""}
    messages = [AttemptRan(attempt=number, **result)]
    if order["writes"]:
        Path(order["writes"]).mkdir(parents=True)
        checkpoint = Path(order["writes"]) / "model"
        checkpoint.write_text("weights")
        published = VersionPublished(attempt=number, checkpoint=str(checkpoint), save=0.1)
        messages.append(published)
    return messages


def failed(order, failure):
    return [AttemptFailed(attempt=order["attempt"], failure=failure, message="as played")]


class Play:
    """One run of played workers."""

    def __init__(self, tmp_path, *, workers=1, n_train=1, n_valid=0, models=1, eval_fn=None):
        self.paths = RunPaths(tmp_path)
        self.paths.create()
        self.now = 0.0
        self.out = io.StringIO()
        plan = RunPlan(
            id="id", name="run", workers=[f"http://w{n}" for n in range(workers)],
            train_partitions=[f"/t{p}" for p in range(n_train)],
            valid_partitions=[f"/v{p}" for p in range(n_valid)],
            train_availability=[[1] * n_train] * workers,
            valid_availability=[[1] * n_valid] * workers,
            configs=[{"rate": m} for m in range(models)], backend="python", seed=0,
            deterministic=True, keep_data=True, functions={},
        )  # fmt: skip
        self.journal = Journal(self.paths)
        self.journal.inherit()
        self.journal.begin(written("generation"))
        self.ledger = Ledger()
        record = written("plan", plan=plan.to_json(), base=0.0)
        self.journal.append([record])
        self.ledger.add(record)
        self.eval_fn = eval_fn or (lambda state: (list(state), []))
        self.links = {}

    def run(self, play=lambda link, order: None, procedure=None, **options):
        def make_link(worker, url, notify):
            self.links[worker] = PlayedWorker(worker, notify, play)
            return self.links[worker]

        self.driver = Driver(
            paths=self.paths,
            ledger=self.ledger,
            journal=self.journal,
            make_link=make_link,
            absent=set(),
            procedure=procedure or EvalProcedure(self.eval_fn, "as played"),
            progress=Reporter(Plain(self.out)),
            trust=Trust(loads_pickles=True, anyway=True),
            clock=lambda: self.now,
            **options,
        )
        self.driver.run()
        records, _ = read_journal(self.paths)
        return Ledger.from_records(records, keep_attempts=True)

    def folders(self, model):
        return sorted(p.name for p in (self.paths.models / str(model)).iterdir())


def test_a_run_of_played_workers(tmp_path):
    play = Play(tmp_path, workers=2, n_train=3, n_valid=2, models=3)
    ledger = play.run()
    assert ledger.ended
    assert [len(m.epochs) for m in ledger.models.values()] == [1, 1, 1]
    assert all(len(play.folders(model)) == 2 for model in range(3))
    assert not play.ledger.attempts


def test_a_childs_first_version_is_made_again_from_the_parents(tmp_path):
    """The parent goes on meanwhile, and would have dropped what the child began with."""
    held, read = [], []

    def eval_fn(state):
        if len(state) == 1:
            child = {"rate": 9, "init_mst_id": 0, "init_ckpt_path": state[0]["ckpt_path"]}
            return [], [child]
        return [0, 1] if state[1]["epoch"] >= 2 else [], []

    def play(link, order):
        if order["model"] == 1:
            read.append((order["reads"], os.path.exists(order["reads"])))
            if "/1/v000001" in order["reads"] and not held:
                held.append((link, order))
                return []
        elif order["reads"] and "/0/v000005" in order["reads"]:
            child, damaged = held[0]
            child.say(*failed(damaged, Failure.DAMAGED))
        return None

    run = Play(tmp_path, workers=2, n_train=3, eval_fn=eval_fn)
    ledger = run.run(play)
    assert ["/0/v000003" in path for path, _ in read[:3]] == [True, False, True]
    assert all(there for _, there in read)
    assert [m.state.value for m in ledger.models.values()] == ["COMPLETED"] * 2
    assert not any(name.startswith("v000003") for name in run.folders(0)), "nobody needs it now"


def test_a_version_that_is_reported_again_later_stays(tmp_path):
    def play(link, order):
        messages = ordinary(order)
        link.say(*messages, *reported[-1:])
        reported.append(messages[1])
        return []

    reported = []
    run = Play(tmp_path, n_train=3)
    ledger = run.run(play)
    assert all(os.path.exists(c) for c in ledger.models[0].checkpoints.values())
    assert len(run.folders(0)) == 2


def test_attempts_of_a_model_that_failed_end_in_the_journal_too(tmp_path):
    def play(link, order):
        if order["split"] == "valid" and order["model"] == 0:
            return failed(order, Failure.USER) if order["partition"] == 0 else []
        return None

    run = Play(tmp_path, workers=2, n_valid=2)
    ledger = run.run(play)
    outcomes = units(ledger)["outcome"].tolist()
    assert "discarded" in outcomes
    assert "running" not in outcomes
    assert "discarded" not in ledger.faults
    assert not run.ledger.attempts
    assert "is run again" not in run.out.getvalue()


def test_waits_are_told_also_while_other_things_happen(tmp_path):
    started = []

    def play(link, order):
        run.now += 2.0
        started.append(link.worker)
        if started.count(1) == 1 and link.worker == 1:
            link.say(Disconnected("gone"))
            return []
        if link.worker == 0 and started.count(0) == 3 * 7:
            run.links[1].say(Connected({}, 1))
        return None

    run = Play(tmp_path, workers=2, n_train=8, models=3)
    plan = run.ledger.the_plan
    object.__setattr__(plan, "train_availability", [[1] * 7 + [0], [0] * 7 + [1]])
    ledger = run.run(play)
    assert ledger.ended
    assert "units wait for a worker that may read train partition 7" in run.out.getvalue()


def test_a_save_that_waits_is_told_once_and_ends_aloud(tmp_path):
    """Also when something else that was waited for has come meanwhile."""

    def play(link, order):
        waits = SaveWaits(attempt=order["attempt"], path="/ckpt", cause="disk full")
        if link.worker == 0 and order["reads"] is None:
            ran, published = ordinary(order)
            link.say(ran, waits)
            run.links[1].say(Disconnected("gone"))
            run.links[1].say(Connected({}, 1))
            link.say(waits, published)
            return []
        return None

    run = Play(tmp_path, workers=2, n_train=2)
    assert run.run(play).ended
    said = run.out.getvalue()
    assert said.count("saving waits") == 1
    assert said.count("has saved what waited") == 1


def test_a_save_that_waits_is_over_when_its_worker_is_lost(tmp_path):
    def play(link, order):
        if link.worker == 0 and not lost:
            lost.append(order)
            waits = SaveWaits(attempt=order["attempt"], path="/ckpt", cause="disk full")
            link.say(ordinary(order)[0], waits, Disconnected("gone"), Connected({}, 1))
            return []
        return None

    lost = []
    run = Play(tmp_path, n_train=2)
    assert run.run(play).ended
    assert "has saved what waited" not in run.out.getvalue()


def test_units_that_rest_until_the_same_moment_are_both_run_again(tmp_path):
    def play(link, order):
        orders.append((order["model"], order["partition"]))
        if len(orders) <= 2:
            return failed(order, Failure.STORAGE)
        run.now += 1.0
        return None

    orders = []
    run = Play(tmp_path, workers=2, n_train=2, models=2)
    assert run.run(play).ended
    assert [orders.count(order) for order in orders[:2]] == [2, 2]
    assert len(orders) == 2 * 2 + 2


def test_a_driver_that_was_replaced_deletes_nothing(tmp_path):
    entry = {"host": "elsewhere", "pid": 1, "counter": 1, "generation": 2}
    run = Play(tmp_path, n_train=4)
    run.paths.driver.write_text(json.dumps(entry))
    run.run()
    assert len(run.folders(0)) == 4


@pytest.mark.parametrize("lie", ["victim", "another attempt", "the folder above"])
def test_a_version_that_is_not_where_it_should_be_does_not_count(tmp_path, lie):
    """And nothing that a worker names elsewhere is deleted."""
    victim = tmp_path / "victim" / "models" / "0" / "v000001-g1-a0"
    victim.mkdir(parents=True)
    (victim / "model").write_text("thesis")
    (tmp_path / "run").mkdir()
    play = Play(tmp_path / "run", n_train=2)
    lies = {
        "victim": str(victim / "model"),
        "another attempt": str(play.paths.version(0, 1, 1, 7) / "model"),
        "the folder above": str(play.paths.models / "model"),
    }

    def lying(link, order):
        if order["attempt"] != 0:
            play.now += 1.0
            return None
        ran, published = ordinary(order)
        return [ran, VersionPublished(attempt=0, checkpoint=lies[lie], save=published.save)]

    ledger = play.run(lying)
    first, *others = ledger.attempts.values()
    assert first.outcome == "executor"
    assert [attempt.outcome for attempt in others] == ["committed"] * 2
    assert "which is not where it was told to" in first.message
    assert lies[lie] in first.message
    assert (victim / "model").read_text() == "thesis"
    assert len(cerebro.load(play.paths.root).models["checkpoint"]) == 1
