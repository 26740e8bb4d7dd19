"""A run's folder, written by hand as a driver would write it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from written_records import written

from cerebro.journal.journal import Journal, read_journal
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths
from cerebro.journal.processes import here, process_start
from cerebro.journal.run_plan import RunPlan
from cerebro.progress.tally import Tally
from cerebro.results.status import run_status

ME = {
    "host": socket.gethostname(),
    "here": here(),
    "pid": os.getpid(),
    "process_start": process_start(os.getpid()),
    "generation": 1,
    "counter": 3,
    "released": False,
}
BEGAN = 1_700_000_000.0
PHASES = {"run": 2.0}


class WrittenRun:
    """A run's folder, written by hand. Attempts take 2 s on worker 0 or 1, in turn."""

    def __init__(self, folder, **changed):
        self.paths = RunPaths(folder / "grid")
        self.paths.root.mkdir()
        self.paths.create()
        self.t = 0.0
        self.attempts = 0
        self.writes = {}
        plan = RunPlan(
            id="id", name="grid", workers=["http://a:7777", "http://b:7777"],
            train_partitions=["/d/0", "/d/1"], valid_partitions=["/v/0"],
            train_availability=None, valid_availability=None,
            configs=[{"rate": 0.5}, {"rate": 0.1}], backend="python", seed=0, deterministic=True,
            keep_data=True, functions={},
        ).to_json()  # fmt: skip
        self.plan = {**plan, **changed}
        self.journal = None
        self.drive(base=BEGAN)

    def drive(self, **first):
        if self.journal is not None:
            self.journal.close()
        self.journal = Journal(self.paths)
        self.journal.inherit()
        self.journal.begin(written("generation", self.t, time=BEGAN + self.t))
        self.say("plan", plan=self.plan, **first)
        self.holder(**ME)

    def holder(self, **entry):
        self.paths.driver.write_text(json.dumps(entry))

    def say(self, kind, **fields):
        self.journal.append([written(kind, self.t, **fields)])

    def worker(self, number, state, **fields):
        url = f"http://{'abc'[number]}:7777"
        self.say("worker", worker=number, url=url, state=state, **fields)

    def ready(self):
        for number in (0, 1):
            self.worker(number, "joined", facts={})
            self.worker(number, "ready", devices=["CPU"])

    def start(self, model, partition, split="train", *, epoch=0, worker=0, reads=0):
        self.attempts += 1
        self.writes[self.attempts] = model, reads + 1
        self.say(
            "started", attempt=self.attempts, worker=worker, model=model, epoch=epoch, split=split,
            partition=partition, reads=reads,
        )  # fmt: skip
        return self.attempts

    def commit(self, attempt, error=0.5, **fields):
        self.t += 2.0
        if "checkpoint" in fields:  # where exactly is up to the run: a folder for each attempt
            folder = self.paths.version(*self.writes[attempt], 1, attempt)
            if Path(fields["checkpoint"]).parent != folder:
                fields["checkpoint"] = str(folder / "model")
        self.say(
            "committed", attempt=attempt, loss=1.0, error=error, examples=None, phases=PHASES,
            output="", ran=self.t, **fields,
        )  # fmt: skip

    def newest(self, model, version):
        """The attempt that wrote a version last."""
        return max(a for a, written in self.writes.items() if written == (model, version))

    def epoch(self, number, errors):
        """All models end an epoch, with these validation errors."""
        for model, error in enumerate(errors):
            for partition in (0, 1):
                reads = 2 * number + partition
                attempt = self.start(model, partition, epoch=number, reads=reads)
                self.commit(attempt, checkpoint=f"/c/{model}/{reads + 1}")
            self.commit(self.start(model, 0, "valid", epoch=number, reads=2 * number + 2), error)

    def decide(self, **stop):
        self.say("decision", asked=[0, 1], stop=stop, add=[])

    def status(self, after=0.0):
        """Its status so many seconds after the last record."""
        return run_status(self.paths.root, clock=lambda: BEGAN + self.t + after)

    def live(self, after=0.0):
        """What the present driver's live view shows then."""
        records, _ = read_journal(self.paths)
        begins = max(n for n, record in enumerate(records) if record.kind == "plan") + 1
        ledger = Ledger.from_records(records[:begins])
        tally = Tally("grid", ledger, ledger.last_t)
        ledger.listeners.append(tally.add)
        for record in records[begins:]:
            ledger.add(record)
        return tally.view(self.t + after)
