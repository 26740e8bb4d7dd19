"""A run that is played: records go into a ledger and a tally, as the driver would have them."""

from __future__ import annotations

from written_records import written

from cerebro.hopper.units import Split
from cerebro.journal.ledger import Ledger
from cerebro.journal.run_plan import RunPlan
from cerebro.progress.tally import Tally


def plan(workers=2, n_train=2, n_valid=1, models=2, matrix=None, valid_matrix=None):
    return RunPlan(
        id="id", name="run", workers=[f"http://node{n}:7777" for n in range(workers)],
        train_partitions=[f"/t{p}" for p in range(n_train)],
        valid_partitions=[f"/v{p}" for p in range(n_valid)],
        train_availability=matrix, valid_availability=valid_matrix,
        configs=[{"rate": m, "depth": 3, "init_ckpt_path": None} for m in range(models)],
        backend="python", seed=0, deterministic=True, keep_data=True, functions={},
    )  # fmt: skip


class PlayedRun:
    """`unit` runs one from start to commit; single records go by `add`."""

    def __init__(self, *, tally=None, totals=None, **shape):
        self.ledger = Ledger()
        self.plan = plan(**shape)
        self.attempts = 0
        self.tally = None
        self.add("plan", 0.0, plan=self.plan.to_json(), base=0.0, totals=totals)
        self.follow(**(tally or {}))

    def follow(self, now=0.0, **options):
        self.tally = Tally("run", self.ledger, now, **options)

    def add(self, kind, t, **fields):
        record = written(kind, t, **fields)
        self.ledger.add(record)
        if self.tally is not None:
            self.tally.add(record, self.ledger)

    def worker(self, number, state, t=0.0, **fields):
        url = f"http://node{number}:7777"
        self.add("worker", t, worker=number, url=url, state=state, **fields)

    def all_ready(self, t=0.0):
        for number in range(len(self.plan.workers)):
            self.worker(number, "joined", t, facts={})
            self.worker(number, "ready", t, devices=[])

    def start(self, t, worker, model, partition, split="train", epoch=0):
        self.attempts += 1
        version = self.ledger.models[model].version
        self.add("started", t, attempt=self.attempts, worker=worker, model=model, epoch=epoch,
                 split=split, partition=partition, reads=version)  # fmt: skip
        return self.attempts

    def commit(self, t, attempt, error=0.5, ran=None):
        unit = self.ledger.attempts[attempt].unit
        checkpoint = {"checkpoint": f"/c/{attempt}/model"} if unit.split is Split.TRAIN else {}
        result = {"loss": 1.0, "error": error, "examples": None, "phases": {"run": 1.0}}
        ran = t if ran is None else ran
        self.add("committed", t, attempt=attempt, output="", ran=ran, **result, **checkpoint)

    def unit(self, begin, end, worker, model, partition, split="train", epoch=0, error=0.5):
        self.commit(end, self.start(begin, worker, model, partition, split, epoch), error)

    def decide(self, t, asked, stop=(), add=()):
        self.add(
            "decision",
            t,
            asked=list(asked),
            stop={str(n): "COMPLETED" for n in stop},
            add=list(add),
        )

    def view(self, now, **others):
        return self.tally.view(now, **others)
