"""The paper's invariants, and exactly once, over random clusters, faults and decisions.

The monitor looks only at what goes in and comes out of the scheduler, never into it.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cerebro.hopper import events as ev
from cerebro.hopper.holdings import FixedHoldings, SharedHoldings
from cerebro.hopper.placement import RandomizedPlacement
from cerebro.hopper.scheduler import Scheduler
from cerebro.hopper.simulator import Simulation
from cerebro.hopper.units import Failure, ModelPosition, ModelState, Split


class Monitor:
    """Checks every batch of events and actions against the invariants."""

    def __init__(self, readable) -> None:
        self.readable = readable
        self.on_worker: dict[int, object] = {}
        self.staged: dict[int, int] = {}
        self.saving: dict[int, object] = {}
        self.held_models: dict[int, int] = {}
        self.versions: Counter = Counter()
        self.history: dict[int, Counter] = defaultdict(Counter)
        self.order: dict[int, list] = defaultdict(list)
        self.ended: dict[int, ModelState] = {}
        self.live: dict[int, object] = {}
        self.down: set[int] = set()

    def forget(self, number: int) -> None:
        attempt = self.live.pop(number, None)
        if attempt is None:
            return
        if self.on_worker.get(attempt.worker) is attempt:
            del self.on_worker[attempt.worker]
        if self.saving.get(attempt.worker) is attempt:
            del self.saving[attempt.worker]
        if self.staged.get(attempt.worker) == number:
            del self.staged[attempt.worker]
        if self.held_models.get(attempt.unit.model) == number:
            del self.held_models[attempt.unit.model]

    def __call__(self, events, actions) -> None:
        for event in events:
            self.event(event)
        for action in actions:
            self.action(action)

    def event(self, event) -> None:
        if isinstance(event, ev.WorkerLost):
            self.down.add(event.worker)
            for number, attempt in list(self.live.items()):
                if attempt.worker == event.worker:
                    self.forget(number)
        elif isinstance(event, ev.WorkerJoined):
            self.down.discard(event.worker)
        elif isinstance(event, ev.UnitRan) and event.attempt in self.live:
            attempt = self.live[event.attempt]
            del self.on_worker[attempt.worker]
            if attempt.unit.split is Split.TRAIN:
                assert attempt.worker not in self.saving, "two versions saving on one worker"
                self.saving[attempt.worker] = attempt
        elif isinstance(event, ev.UnitFailed):
            self.forget(event.attempt)
        elif isinstance(event, ev.Decided):
            self.ended.update(event.stop)

    def action(self, action) -> None:
        if isinstance(action, (ev.Stage, ev.Start)):
            attempt = action.attempt
            unit = attempt.unit
            assert unit.model not in self.ended, "a unit of a model that has ended"
            assert attempt.worker not in self.down, "a unit for a lost worker"
            assert self.readable(attempt.worker, unit.split, unit.partition)
            assert attempt.reads == self.versions[unit.model], "not the newest version"
            key = (unit.epoch, unit.split, unit.partition)
            assert self.history[unit.model][key] == 0, "a unit that is committed already"
            self.live[attempt.number] = attempt
            if unit.split is Split.TRAIN:
                holder = self.held_models.get(unit.model)
                assert holder in (None, attempt.number), "model isolation"
                self.held_models[unit.model] = attempt.number
            if isinstance(action, ev.Stage):
                assert attempt.worker in self.on_worker, "staged on an idle worker"
                assert attempt.worker not in self.staged
                self.staged[attempt.worker] = attempt.number
            else:
                assert attempt.worker not in self.on_worker, "worker exclusive access"
                self.on_worker[attempt.worker] = attempt
                if self.staged.get(attempt.worker) == attempt.number:
                    del self.staged[attempt.worker]
        elif isinstance(action, (ev.Unstage, ev.Retry)):
            self.forget(action.attempt.number)
        elif isinstance(action, ev.Commit):
            unit = action.attempt.unit
            self.forget(action.attempt.number)
            self.history[unit.model][(unit.epoch, unit.split, unit.partition)] += 1
            assert self.history[unit.model][(unit.epoch, unit.split, unit.partition)] == 1
            self.order[unit.model].append(unit)
            if unit.split is Split.TRAIN:
                assert action.attempt.reads == self.versions[unit.model]
                self.versions[unit.model] += 1
        elif isinstance(action, ev.Void):
            assert action.version == self.versions[action.model]
            self.versions[action.model] -= 1
            lost = next(u for u in reversed(self.order[action.model]) if u.split is Split.TRAIN)
            self.history[action.model][(lost.epoch, lost.split, lost.partition)] -= 1
            open_epoch = [
                u
                for u in self.order[action.model]
                if u.split is Split.VALID and (action.model, u.epoch) not in self.closed
            ]
            for unit in open_epoch:
                self.history[action.model][(unit.epoch, unit.split, unit.partition)] -= 1
                self.order[action.model].remove(unit)
            self.order[action.model].remove(lost)
        elif isinstance(action, ev.EpochEnded):
            self.closed.add((action.model, action.epoch))
        elif isinstance(action, ev.ModelFailed):
            self.ended[action.model] = ModelState.FAILED

    @property
    def closed(self) -> set:
        return self.__dict__.setdefault("_closed", set())


def fresh(model: int, n_train: int, n_valid: int) -> ModelPosition:
    return ModelPosition(model, 0, 0, frozenset(range(n_train)), frozenset(range(n_valid)))


@st.composite
def matrices(draw, workers: int, partitions: int):
    """A matrix in which every partition has at least one holder."""
    rows = [[0] * partitions for _ in range(workers)]
    for partition in range(partitions):
        holders = draw(st.sets(st.integers(0, workers - 1), min_size=1, max_size=workers))
        for worker in holders:
            rows[worker][partition] = 1
    return rows


@st.composite
def clusters(draw):
    workers = draw(st.integers(1, 5))
    n_train, n_valid = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    shared = draw(st.booleans())
    train = None if shared else draw(matrices(workers, n_train))
    valid = None if shared else draw(matrices(workers, n_valid))
    return workers, n_train, n_valid, train, valid


def holdings(matrix, partitions):
    if matrix is None or not partitions:
        return SharedHoldings(partitions)
    return FixedHoldings(matrix)


class Procedure:
    """Random decisions: stops, additions, and an end after `epochs`."""

    def __init__(self, rng: random.Random, models: int, epochs: int) -> None:
        self.rng = rng
        self.epochs = epochs
        self.known = models
        self.first_epoch: dict[int, int] = dict.fromkeys(range(models), 0)
        self.asked: Counter = Counter()
        self.finished: dict[int, int] = {}

    def __call__(self, ask: ev.Ask) -> ev.Decided:
        stop, add = {}, []
        for model in ask.models:
            self.asked[model] += 1
            if self.asked[model] >= self.epochs or self.rng.random() < 0.2:
                stop[model] = ModelState.COMPLETED
                self.finished[model] = self.asked[model]
        while self.known < 12 and self.rng.random() < 0.3:
            epoch = self.rng.choice([0, 3])
            add.append(ev.NewModel(self.known, epoch))
            self.first_epoch[self.known] = epoch
            self.known += 1
        return ev.Decided(ask.models, stop, tuple(add))


def check_complete(monitor, procedure, n_train, n_valid) -> None:
    """Every model that was not failed has each (epoch, split, partition) exactly once."""
    for model, first in procedure.first_epoch.items():
        if monitor.ended.get(model) is ModelState.FAILED:
            continue
        expected = Counter()
        for epoch in range(first, first + procedure.finished[model]):
            expected.update((epoch, Split.TRAIN, p) for p in range(n_train))
            expected.update((epoch, Split.VALID, p) for p in range(n_valid))
        assert +monitor.history[model] == expected


SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=False
)


@SETTINGS
@given(clusters(), st.integers(1, 6), st.integers(1, 3), st.booleans(), st.integers(0, 2**32))
def test_every_model_sees_every_partition_once_an_epoch(cluster, models, epochs, per_model, seed):
    workers, n_train, n_valid, train, valid = cluster
    rng = random.Random(seed)
    train_holdings, valid_holdings = holdings(train, n_train), holdings(valid, n_valid)

    def readable(worker, split, partition):
        held = train_holdings if split is Split.TRAIN else valid_holdings
        return partition in held.held(worker)

    monitor = Monitor(readable)
    procedure = Procedure(rng, models, epochs)
    scheduler = Scheduler(
        train=train_holdings,
        valid=valid_holdings,
        placement=RandomizedPlacement(seed),
        positions=[fresh(m, n_train, n_valid) for m in range(models)],
        per_model=per_model,
    )
    simulation = Simulation(
        scheduler,
        run_seconds=lambda _: rng.choice([0.0, 1.0, rng.expovariate(1.0)]),
        save_seconds=lambda _: rng.choice([0.0, rng.expovariate(2.0)]),
        load_seconds=lambda _: rng.random(),
        decide=procedure,
        observe=monitor,
    )
    simulation.run(range(workers))
    assert scheduler.ended
    assert scheduler.live_attempts() == []
    check_complete(monitor, procedure, n_train, n_valid)


@SETTINGS
@given(clusters(), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32))
def test_exactly_once_whatever_fails(cluster, models, epochs, seed):
    """Workers are lost and return, units fail in every way, events come late and twice."""
    workers, n_train, n_valid, train, valid = cluster
    rng = random.Random(seed)
    procedure = Procedure(rng, models, epochs)
    train_holdings, valid_holdings = holdings(train, n_train), holdings(valid, n_valid)
    monitor = Monitor(lambda worker, split, p: True)
    scheduler = Scheduler(
        train=train_holdings,
        valid=valid_holdings,
        placement=RandomizedPlacement(seed),
        positions=[fresh(m, n_train, n_valid) for m in range(models)],
    )
    troubles = [rng.randint(5, 30)]
    down: set[int] = set()

    def outcome(attempt, event):
        if troubles[0] <= 0:
            return event
        draw = rng.random()
        if draw < 0.2:
            troubles[0] -= 1
            if rng.random() < 0.5:  # reported as well, too late or twice
                simulation.at(rng.expovariate(0.5), event)
            kinds = [Failure.EXECUTOR, Failure.RESOURCES, Failure.STORAGE, Failure.DAMAGED]
            if rng.random() < 0.1:
                kinds = [Failure.USER]
            return ev.UnitFailed(attempt.number, rng.choice(kinds))
        if draw < 0.3:
            troubles[0] -= 1
            worker = rng.randrange(workers)
            if worker not in down:
                down.add(worker)
                simulation.at(rng.random(), ev.WorkerLost(worker))
                simulation.at(1.0 + rng.expovariate(0.2), ev.WorkerJoined(worker))
        return event

    def observe(events, actions):
        for event in events:
            if isinstance(event, ev.WorkerJoined):
                down.discard(event.worker)
        monitor(events, actions)

    simulation = Simulation(
        scheduler,
        run_seconds=lambda _: rng.choice([0.0, rng.expovariate(1.0)]),
        save_seconds=lambda _: rng.choice([0.0, rng.expovariate(2.0)]),
        decide=procedure,
        outcome=outcome,
        observe=observe,
    )
    simulation.run(range(workers))
    assert scheduler.ended
    check_complete(monitor, procedure, n_train, n_valid)


@SETTINGS
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32))
def test_a_given_visit_order_is_kept(workers, models, n_train, seed):
    rng = random.Random(seed)
    order = {(m, e): rng.sample(range(n_train), n_train) for m in range(models) for e in range(2)}
    scheduler = Scheduler(
        train=SharedHoldings(n_train),
        valid=SharedHoldings(1),
        placement=RandomizedPlacement(seed),
        positions=[fresh(m, n_train, 1) for m in range(models)],
        visit_order=order,
    )
    procedure = Procedure(random.Random(0), models, 2)
    procedure.rng.random = lambda: 1.0
    simulation = Simulation(scheduler, run_seconds=lambda _: rng.random(), decide=procedure)
    simulation.run(range(workers))
    assert scheduler.ended
    for (model, epoch), expected in order.items():
        visited = [p for e, s, p in simulation.committed(model) if e == epoch and s is Split.TRAIN]
        assert visited == expected


@SETTINGS
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32), st.integers(1, 30))
def test_a_run_resumed_anywhere_ends_complete(workers, models, seed, cut):
    """Positions are all that a new scheduler needs: whatever was not committed is run again."""
    rng = random.Random(seed)
    n_train, n_valid, history = 3, 2, Counter()

    def go_on(positions, steps, first):
        scheduler = Scheduler(
            train=SharedHoldings(n_train),
            valid=SharedHoldings(n_valid),
            placement=RandomizedPlacement(seed + first),
            positions=positions,
            first_attempt=first,
        )
        procedure = Procedure(random.Random(0), models, 1)
        procedure.rng.random = lambda: 1.0
        seen = []

        class Cut(Exception):
            pass

        def observe(events, actions):
            seen.extend(events)
            if len(seen) >= steps:
                raise Cut

        simulation = Simulation(
            scheduler, run_seconds=lambda _: rng.random(), decide=procedure, observe=observe
        )
        try:
            simulation.run(range(workers))
        except Cut:
            pass
        # What the last batch committed is known to the scheduler, not to the cut simulation.
        return scheduler, simulation

    scheduler, _ = go_on([fresh(m, n_train, n_valid) for m in range(models)], cut, 0)
    for position in scheduler.positions():
        if position.epoch == 0:
            history.update(
                (position.model, Split.TRAIN, p) for p in set(range(n_train)) - position.train_left
            )
            history.update(
                (position.model, Split.VALID, p) for p in set(range(n_valid)) - position.valid_left
            )
    positions = scheduler.positions()
    if all(p.state is not ModelState.RUNNING for p in positions):
        return
    resumed, simulation = go_on(positions, 10**9, 1000)
    assert resumed.ended
    for visit in simulation.visits:
        unit = visit.attempt.unit
        if unit.epoch == 0:
            history[(unit.model, unit.split, unit.partition)] += 1
    assert history == Counter(
        {(m, Split.TRAIN, p): 1 for m in range(models) for p in range(n_train)}
    ) + Counter({(m, Split.VALID, p): 1 for m in range(models) for p in range(n_valid)})


@pytest.mark.parametrize("workers", [1, 3, 5])
@pytest.mark.parametrize("partitions", [1, 3, 5, 7])
def test_home_shares_differ_by_one_at_most_and_move_little(workers, partitions):
    shares = SharedHoldings(partitions)
    for worker in range(workers):
        shares.join(worker)
    sizes = [len(shares.held(w)) for w in range(workers)]
    assert {p for w in range(workers) for p in shares.held(w)} == set(range(partitions))
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    if workers > 1:
        before = {w: set(shares.held(w)) for w in range(1, workers)}
        shares.leave(0)
        assert {p for w in range(1, workers) for p in shares.held(w)} == set(range(partitions))
        for worker in range(1, workers):
            assert before[worker] <= set(shares.held(worker)) or partitions < workers


def test_nothing_starts_before_everything_was_loaded():
    """Also when a partition that one worker cannot read is loaded by another."""
    scheduler = Scheduler(
        train=SharedHoldings(2),
        valid=SharedHoldings(0),
        placement=RandomizedPlacement(0),
        positions=[fresh(m, 2, 0) for m in range(3)],
    )
    actions = scheduler.handle(ev.WorkerJoined(0), ev.WorkerJoined(1))
    assert [(a.worker, a.train) for a in actions] == [(0, (0,)), (1, (1,))]
    assert scheduler.handle(ev.WorkerReady(0)) == []
    actions = scheduler.handle(ev.PartitionUnreadable(1, Split.TRAIN, 1), ev.WorkerReady(1))
    assert [(type(a), a.worker) for a in actions] == [(ev.Preload, 0), (ev.Preload, 1)]
    actions = scheduler.handle(ev.WorkerReady(1))
    assert actions == []
    actions = scheduler.handle(ev.PartitionUnreadable(0, Split.TRAIN, 1), ev.WorkerReady(0))
    assert ev.Unreachable(Split.TRAIN, 1) in actions
