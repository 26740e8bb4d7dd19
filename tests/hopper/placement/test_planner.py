"""A plan ends at the lower bound where one can, is kept while it does, and given up when not."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from cerebro.hopper.placement.base import ModelWork, WorkerSlots
from cerebro.hopper.placement.board import Board
from cerebro.hopper.placement.estimates import Estimates
from cerebro.hopper.placement.planner import Planner
from cerebro.hopper.placement.planning import Shop
from cerebro.hopper.placement.rows import Rows
from cerebro.hopper.placement.workload import Workload
from cerebro.hopper.units import Split, Unit

TRAIN = Split.TRAIN


class Known(Estimates):
    """Estimates that are given, and sure: models' costs, workers' slowness."""

    def __init__(self, costs, slowness):
        super().__init__()
        self._costs, self._slowness = costs, slowness

    def knows(self, model, split):
        return True

    def cost(self, model, split):
        return self._costs[model]

    def slowness(self, worker):
        return self._slowness[worker]

    def deviation(self):
        return 0.0


@dataclass
class Cluster:
    """Workers that run train units for as long as they are expected to, by what a planner says.

    `holders` are the workers that hold each partition, `horizon` when all could end at best.
    """

    costs: list[float]
    slowness: list[float]
    holders: list[list[int]]
    horizon: float
    now: float = 0.0
    unit: float = 1.0
    ends: dict[int, float] = field(default_factory=dict)
    overdue: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.random = random.Random(0)
        self.board = Board(self.random)
        self.estimates = Known(self.costs, self.slowness)
        every = (1 << len(self.holders)) - 1
        self.load = Workload(self.estimates, len(self.holders), 0)
        self.models = Rows({Split.TRAIN: every, Split.VALID: 0})
        self.rows = self.models.rows
        self.running: dict[int, int] = {}
        for worker in range(len(self.slowness)):
            held = tuple((TRAIN, p) for p, able in enumerate(self.holders) if worker in able)
            self.board.tell_worker(worker, WorkerSlots(held, None, None, True))
            self.load.tell_worker(worker, held)
        for model in range(len(self.costs)):
            self.tell(model, ModelWork(0, every, 0, TRAIN, every, True))
        self.load.settle(lambda _: 0.0)
        self.planner = Planner(self)

    def tell(self, model: int, work: ModelWork) -> None:
        self.board.tell_model(model, work)
        self.load.tell_model(model, work.train, work.valid)
        self.models.rows[self.models.enter(model)].work = work

    def is_overdue(self, worker: int) -> bool:
        return worker in self.overdue

    def free(self) -> list[int]:
        return [w for w in range(len(self.slowness)) if w not in self.ends]

    def due(self) -> dict[int, tuple[int, int]]:
        """The (model, partition) that is next on each free worker whose next may start."""
        steps = self.planner.due(self.free())
        return {
            worker: (step.model, step.part[1])
            for worker, step in steps.items()
            if self.board.work[step.model].idle
        }

    def start(self, worker: int, model: int, partition: int) -> None:
        assert worker in self.holders[partition]
        left = self.board.work[model].train & ~(1 << partition)
        self.tell(model, ModelWork(0, left, 0, TRAIN, left, False))
        held = self.board.workers[worker].held
        unit = Unit(model, 0, TRAIN, partition)
        self.board.tell_worker(worker, WorkerSlots(held, unit, None, True))
        seconds = self.costs[model] * self.slowness[worker]
        row = self.models.row(model)
        row.end, row.seconds = self.now + seconds, seconds
        self.ends[worker], self.running[worker] = self.now + seconds, model

    def pass_time(self) -> None:
        """Go on to the moment when the next unit ends."""
        self.now = min(self.ends.values())
        for worker in [w for w, end in self.ends.items() if end <= self.now]:
            del self.ends[worker]
            model = self.running.pop(worker, None)
            if model is not None:
                self.tell(model, self.board.work[model]._replace(idle=True))
            held = self.board.workers[worker].held
            self.board.tell_worker(worker, WorkerSlots(held, None, None, True))

    def finish(self) -> float:
        """Run all that is left, and return when it ended."""
        while True:
            assert self.planner.renew()
            for worker, (model, partition) in self.due().items():
                self.start(worker, model, partition)
            if not self.ends:
                assert self.load.left == 0
                return self.now
            self.pass_time()


@pytest.fixture
def plans_made(monkeypatch):
    """Which plans are made, in turn."""
    made = []
    for name in ("forward", "by_chains"):
        real = getattr(Shop, name)

        def counted(shop, *, real=real, name=name, **options):
            made.append(name)
            return real(shop, **options)

        monkeypatch.setattr(Shop, name, counted)
    return made


EVERYWHERE = [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("costs", "slowness", "holders", "bound"),
    [
        # Each worker has two units of 1 s, and each model.
        ([1, 1], [1, 1], [[0], [1]], 2.0),
        # The chain of model 0 (2 x 4 s) is longer than any load; it must never wait.
        ([4, 1, 1, 1], [1, 1], [[0], [1]], 8.0),
        # The most loaded worker: four units of 1 s at half the speed.
        ([1, 1, 1, 1], [1, 2], [[0], [1]], 8.0),
        # The long chain has to be on the fast worker throughout, the short one on the slow one.
        ([3, 1], [1, 3], EVERYWHERE, 6.0),
        # 12 s of work on two workers.
        ([2, 2, 2], [1, 1], EVERYWHERE, 6.0),
        # Nothing is worth doing on worker 1.
        ([5], [1, 4], EVERYWHERE, 10.0),
    ],
)
def test_small_instances_end_at_their_lower_bound(costs, slowness, holders, bound):
    assert Cluster(costs, slowness, holders, bound).finish() == bound


def test_a_worker_waits_where_a_long_chain_needs_it_soon():
    """Model 0 needs worker 0 from 1 s on, for 4 s: model 1 (2 s) is left to worker 2.

    Worker 0 could run model 1's unit at once; but then model 0 would end at 6 s, not at 5 s.
    """
    cluster = Cluster([4, 2], [1, 1, 1], [[1], [0, 2]], horizon=5.0)
    cluster.tell(1, ModelWork(0, 0b10, 0, TRAIN, 0b10, True))
    cluster.start(1, 0, 0)
    cluster.ends[1] = cluster.models.row(0).end = 1.0
    cluster.ends[2] = 2.0
    assert cluster.planner.renew()
    assert cluster.free() == [0]
    assert cluster.due() == {}
    assert cluster.finish() == 5.0


def test_a_plan_is_kept_while_it_ends_as_early_as_anything_can(plans_made):
    cluster = Cluster([1, 1, 1], [1, 1], [[0], [1], [0]], horizon=6.0)
    assert cluster.planner.renew()
    assert plans_made
    due = cluster.due()
    plans_made.clear()
    assert cluster.planner.renew()
    assert cluster.due() == due
    for worker, (model, partition) in due.items():
        cluster.start(worker, model, partition)
    assert cluster.planner.renew()
    cluster.pass_time()
    assert cluster.planner.renew()
    assert plans_made == []


def test_a_plan_that_no_longer_ends_as_early_is_given_up(plans_made):
    """The holder that was to run the other unit is late: the one that is free runs it."""
    cluster = Cluster([1, 1], [1, 1], EVERYWHERE, horizon=2.0)
    assert cluster.planner.renew()
    ((first, (model, partition)), (late, other)) = cluster.due().items()
    cluster.start(first, model, partition)
    cluster.start(late, *other)
    cluster.ends[late] = cluster.models.row(other[0]).end = 10.0
    cluster.pass_time()
    plans_made.clear()
    assert cluster.planner.renew()
    assert plans_made
    assert cluster.due() == {first: (model, 1 - partition)}


def test_a_unit_is_due_once_it_is_the_next_of_its_worker_and_of_its_model():
    cluster = Cluster([1], [1, 1], [[0], [1]], horizon=2.0)
    assert cluster.planner.renew()
    ((worker, (_, partition)),) = cluster.due().items()
    assert cluster.planner.due([1 - worker]) == {}, "the model is to be elsewhere first"
    cluster.start(worker, 0, partition)
    assert [step.part[1] for step in cluster.planner.due([1 - worker]).values()] == [1 - partition]


def test_what_cannot_be_done_by_anybody_is_not_planned():
    cluster = Cluster([1], [1, 1], [[0], [1]], horizon=2.0)
    held = cluster.board.workers[1].held
    cluster.board.tell_worker(1, WorkerSlots(held, None, None, False))
    assert not cluster.planner.renew()
    assert cluster.due() == {}


def test_nothing_is_planned_while_something_takes_much_longer_than_expected():
    cluster = Cluster([1, 1], [1, 1], [[0], [1]], horizon=2.0)
    assert cluster.planner.renew()
    for worker, (model, partition) in cluster.due().items():
        cluster.start(worker, model, partition)
    cluster.overdue = {0}
    assert not cluster.planner.renew()


def test_nothing_is_planned_while_a_model_may_not_go_where_it_has_to():
    """One of its units rests after a failure."""
    cluster = Cluster([1, 1], [1, 1], [[0], [1]], horizon=2.0)
    cluster.tell(0, ModelWork(0, 0b11, 0, TRAIN, 0b01, True))
    assert not cluster.planner.renew()
