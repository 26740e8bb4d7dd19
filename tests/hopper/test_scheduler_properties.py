"""The paper's invariants, and exactly once, over random clusters, faults and decisions.

The monitor looks only at what goes in and comes out of the scheduler, never into it.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cerebro.hopper import events as ev
from cerebro.hopper.holdings import FixedHoldings, SharedHoldings
from cerebro.hopper.placement.registry import ONE_BY_ONE, POLICIES
from cerebro.hopper.scheduler import Scheduler
from cerebro.hopper.simulator import Simulation
from cerebro.hopper.units import Failure, ModelPosition, ModelState, Split


class Monitor:
    """Checks every batch of events and actions against the invariants.

    A worker is busy from `Start` until it says itself that the attempt is over, or is lost:
    no action of the scheduler makes it free.
    """

    def __init__(self, readable, n_train: int, models: int, per_model: bool) -> None:
        self.known = set(range(models))
        self.per_model = per_model
        self.readable = readable
        self.n_train = n_train
        self.busy: dict[int, int] = {}
        self.staged: dict[int, int] = {}
        self.saving: dict[int, int] = {}
        self.attempts: dict[int, object] = {}
        self.open: set[int] = set()
        self.under_way: dict[int, object] = {}
        self.held_models: dict[int, int] = {}
        self.versions: Counter = Counter()
        self.history: dict[int, Counter] = defaultdict(Counter)
        self.order: dict[int, list] = defaultdict(list)
        self.closed: set = set()
        self.ended: dict[int, ModelState] = {}
        self.present: set[int] = set()
        self.loading: Counter = Counter()
        self.ready: set[int] = set()
        self.told: dict[int, set] = defaultdict(set)
        self.aside: set[int] = set()
        self.draining: set[int] = set()
        self.rests: set[ev.WakeTarget] = set()
        self.asked: set[int] = set()
        self.unreadable: set = set()
        self.over = False

    def __call__(self, events, actions) -> None:
        assert not self.over or not actions, "something is done after the end"
        for event in events:
            self.event(event)
        for action in actions:
            self.action(action)

    # --- what the workers say --------------------------------------------------------------------

    def event(self, event) -> None:
        if isinstance(event, ev.WorkerLost):
            self.present.discard(event.worker)
            self.draining.discard(event.worker)
            self.aside.discard(event.worker)
            self.loading.pop(event.worker, None)
            self.ready.discard(event.worker)
            self.told.pop(event.worker, None)
            for number, attempt in list(self.under_way.items()):
                if attempt.worker == event.worker:
                    self.vacate(number)
            number = self.staged.pop(event.worker, None)
            self.let_go(number)
        elif isinstance(event, ev.WorkerDrains):
            self.draining.add(event.worker)
            for number, attempt in list(self.under_way.items()):
                if attempt.worker == event.worker and number not in event.attempts:
                    self.vacate(number)
        elif isinstance(event, ev.WorkerJoined):
            self.present.add(event.worker)
            # A new process may find what the one before could not read.
            self.unreadable = {entry for entry in self.unreadable if entry[0] != event.worker}
        elif isinstance(event, ev.WorkerReady):
            self.loading[event.worker] -= 1
            if event.worker in self.present and self.loading[event.worker] <= 0:
                self.ready.add(event.worker)
        elif isinstance(event, ev.UnitRan):
            self.ran(event.attempt)
        elif isinstance(event, ev.UnitCommitted):
            self.vacate(event.attempt)
        elif isinstance(event, ev.UnitFailed) and event.failure is not Failure.TIMEOUT:
            attempt = self.under_way.get(event.attempt)
            # In the same moment its worker may have said that it drains, and will not run it.
            if attempt and event.attempt in self.open and event.failure is Failure.INPUT:
                self.unreadable.add((attempt.worker, attempt.unit.split, attempt.unit.partition))
            self.vacate(event.attempt)
        elif isinstance(event, ev.Decided):
            self.ended.update({m: state for m, state in event.stop.items() if m not in self.ended})
            self.known.update(new.model for new in event.add)
            self.asked.difference_update(event.asked)
        elif isinstance(event, ev.Woke):
            self.woke(event.target)

    def ran(self, number) -> None:
        attempt = self.under_way.get(number)
        if attempt is None or self.busy.get(attempt.worker) != number:
            return
        del self.busy[attempt.worker]
        if attempt.unit.split is Split.TRAIN and number in self.open:
            assert attempt.worker not in self.saving, "two versions saving on one worker"
            self.saving[attempt.worker] = number
        else:
            del self.under_way[number]

    def vacate(self, number) -> None:
        """A worker has nothing to do with an attempt any more."""
        attempt = self.under_way.pop(number, None)
        for slot in (self.busy, self.saving):
            if attempt is not None and slot.get(attempt.worker) == number:
                del slot[attempt.worker]
        self.let_go(number)

    def let_go(self, number) -> None:
        """An attempt does not hold its model any more."""
        self.held_models = {m: n for m, n in self.held_models.items() if n != number}

    def woke(self, target) -> None:
        if isinstance(target, ev.ProbeWorker):
            self.aside.discard(target.worker)
        self.rests.discard(target)

    # --- what the scheduler wants ----------------------------------------------------------------

    def action(self, action) -> None:
        if isinstance(action, ev.Preload):
            assert action.worker in self.present
            self.loading[action.worker] += 1
            self.told[action.worker].update((Split.TRAIN, p) for p in action.train)
            self.told[action.worker].update((Split.VALID, p) for p in action.valid)
        elif isinstance(action, ev.Stage):
            self.check_attempt(action.attempt)
            self.check_readable(action.attempt)
            assert action.attempt.worker in self.busy, "staged on an idle worker"
            assert action.attempt.worker not in self.staged
            self.staged[action.attempt.worker] = action.attempt.number
        elif isinstance(action, ev.Start):
            self.start(action.attempt)
        elif isinstance(action, ev.Unstage):
            assert self.staged.pop(action.attempt.worker, None) == action.attempt.number
            self.let_go(action.attempt.number)
        elif isinstance(action, (ev.Retry, ev.Discard)):
            self.end_attempt(action.attempt)
            self.let_go(action.attempt.number)
        elif isinstance(action, ev.Commit):
            self.commit(action.attempt)
        elif isinstance(action, ev.Void):
            self.void(action.model, action.version)
        elif isinstance(action, ev.EpochEnded):
            assert action.version == self.versions[action.model]
            assert (action.model, action.epoch) not in self.closed, "an epoch ends twice"
            self.closed.add((action.model, action.epoch))
        elif isinstance(action, ev.ModelFailed):
            self.end_attempt(action.attempt)
            assert action.model not in self.ended
            self.ended[action.model] = ModelState.FAILED
        elif isinstance(action, ev.SetAside):
            self.aside.add(action.worker)
        elif isinstance(action, ev.Wake):
            assert action.seconds > 0
            self.rests.add(action.target)
        elif isinstance(action, ev.Ask):
            assert not self.asked.intersection(action.models), "asked twice about a model"
            assert not any(model in self.ended for model in action.models)
            left = self.known - self.ended.keys()
            expected = 1 if self.per_model and left else len(left - self.asked)
            self.asked.update(action.models)
            assert len(action.models) == expected, "asked too early, or not about all"
        elif isinstance(action, ev.End):
            assert not self.open, "an attempt that never ended in the journal"
            self.over = True

    def check_readable(self, attempt) -> None:
        """Shares that move leave what is staged where it is."""
        assert self.readable(attempt.worker, attempt.unit.split, attempt.unit.partition)

    def check_attempt(self, attempt) -> None:
        unit = attempt.unit
        assert unit.model not in self.ended, "a unit of a model that has ended"
        assert unit.model not in self.asked, "a unit of a model that waits for a decision"
        assert attempt.worker in self.present, "a unit for a lost worker"
        assert attempt.worker in self.ready, "a unit for a worker that has not loaded"
        assert attempt.worker not in self.draining, "a unit for a worker that takes no more"
        assert (unit.split, unit.partition) in self.told[attempt.worker], "data never told of"
        assert attempt.worker not in self.aside, "a unit for a worker that is set aside"
        assert (attempt.worker, unit.split, unit.partition) not in self.unreadable
        assert attempt.reads == self.versions[unit.model], "not the newest version"
        key = (unit.epoch, unit.split, unit.partition)
        assert self.history[unit.model][key] == 0, "a unit that is committed already"
        assert ev.RetryUnit(unit) not in self.rests, "a unit that rests"
        running = [self.attempts[n].unit for n in self.open if n != attempt.number]
        assert unit not in running, "one unit in two attempts that count"
        if unit.split is Split.VALID:
            trained = {
                p for e, s, p in +self.history[unit.model] if (e, s) == (unit.epoch, "train")
            }
            assert trained == set(range(self.n_train)), "validated before it was trained"
        else:
            holder = self.held_models.get(unit.model)
            assert holder in (None, attempt.number), "model isolation"
            self.held_models[unit.model] = attempt.number
            validating = [u for u in running if u.model == unit.model]
            assert not validating, "trained while it is validated"

    def start(self, attempt) -> None:
        if self.staged.get(attempt.worker) == attempt.number:
            del self.staged[attempt.worker]
        else:
            self.check_readable(attempt)
        self.check_attempt(attempt)
        assert attempt.number not in self.attempts, "started twice"
        assert attempt.worker not in self.busy, "worker exclusive access"
        self.attempts[attempt.number] = attempt
        self.under_way[attempt.number] = attempt
        self.open.add(attempt.number)
        self.busy[attempt.worker] = attempt.number

    def end_attempt(self, attempt) -> None:
        assert attempt.number in self.open, "an attempt that ends without beginning, or twice"
        self.open.discard(attempt.number)

    def commit(self, attempt) -> None:
        unit = attempt.unit
        self.end_attempt(attempt)
        self.let_go(attempt.number)
        assert unit.model not in self.ended, "a model that has ended goes on"
        self.history[unit.model][(unit.epoch, unit.split, unit.partition)] += 1
        assert self.history[unit.model][(unit.epoch, unit.split, unit.partition)] == 1
        self.order[unit.model].append(unit)
        assert attempt.reads == self.versions[unit.model], "a result of another version"
        if unit.split is Split.TRAIN:
            self.versions[unit.model] += 1

    def void(self, model, version) -> None:
        assert version == self.versions[model]
        self.versions[model] -= 1
        lost = next(u for u in reversed(self.order[model]) if u.split is Split.TRAIN)
        measured = [
            u
            for u in self.order[model]
            if u.split is Split.VALID and (model, u.epoch) not in self.closed
        ]
        self.rests = {
            t for t in self.rests if not (isinstance(t, ev.RetryUnit) and t.unit.model == model)
        }
        for unit in (lost, *measured):
            self.history[model][(unit.epoch, unit.split, unit.partition)] -= 1
            self.order[model].remove(unit)


def either_policy(seed):
    """One policy or the other, so that the examples are shared out among them."""
    return list(POLICIES.values())[seed % len(POLICIES)](seed)


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
            add.append(ev.AddedModel(self.known, epoch))
            self.first_epoch[self.known] = epoch
            self.known += 1
        return ev.Decided(ask.models, stop, tuple(add))


class Holding(Procedure):
    """Random decisions that leave models waiting, and let them go on with another one's."""

    def __init__(self, rng: random.Random, models: int, epochs: int) -> None:
        super().__init__(rng, models, epochs)
        self.waiting: set[int] = set()
        self.idle_asks = 0

    def __call__(self, ask: ev.Ask) -> ev.Decided:
        self.idle_asks += not ask.models
        self.waiting.update(ask.models)
        let = [m for m in sorted(self.waiting) if self.rng.random() < 0.3]
        decided = super().__call__(ev.Ask(tuple(let)))
        self.waiting.difference_update(let)
        if self.waiting.issuperset(set(self.first_epoch) - set(self.finished)):
            # Nothing is in flight whose end of an epoch would be another chance.
            stop = dict.fromkeys(self.waiting, ModelState.STOPPED)
            self.finished.update({model: self.asked[model] + 1 for model in self.waiting})
            asked = (*decided.asked, *self.waiting)
            self.waiting.clear()
            return ev.Decided(asked, decided.stop | stop, decided.add)
        return decided


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

    monitor = Monitor(readable, n_train, models, per_model)
    procedure = Procedure(rng, models, epochs)
    scheduler = Scheduler(
        train=train_holdings,
        valid=valid_holdings,
        placement=either_policy(seed),
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
@given(clusters(), st.integers(0, 6), st.integers(1, 4), st.booleans(), st.integers(0, 2**32))
def test_a_model_that_no_answer_names_waits_until_one_does(
    cluster, models, epochs, per_model, seed
):
    """Waiting models take no worker, nobody is asked about them again, and none is forgotten."""
    workers, n_train, n_valid, train, valid = cluster
    rng = random.Random(seed)
    train_holdings, valid_holdings = holdings(train, n_train), holdings(valid, n_valid)

    def readable(worker, split, partition):
        held = train_holdings if split is Split.TRAIN else valid_holdings
        return partition in held.held(worker)

    monitor = Monitor(readable, n_train, models, per_model)
    procedure = Holding(rng, models, epochs)
    scheduler = Scheduler(
        train=train_holdings,
        valid=valid_holdings,
        placement=either_policy(seed),
        positions=[fresh(m, n_train, n_valid) for m in range(models)],
        per_model=per_model,
        asks_when_idle=True,
    )
    simulation = Simulation(
        scheduler,
        run_seconds=lambda _: rng.choice([0.0, 1.0, rng.expovariate(1.0)]),
        save_seconds=lambda _: rng.choice([0.0, rng.expovariate(2.0)]),
        decide=procedure,
        observe=monitor,
    )
    simulation.run(range(workers))
    assert scheduler.ended
    assert procedure.idle_asks >= 1, "asked for more before the end"
    assert set(procedure.finished) == set(procedure.first_epoch), "a model left waiting"
    check_complete(monitor, procedure, n_train, n_valid)


class Unreadable(Exception):
    """Nobody can read a partition: the driver ends such a run."""


@SETTINGS
@given(clusters(), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 2**32))
@example(  # a unit cannot read its partition, and at that moment its version is found damaged
    (
        4, 5, 3,
        [[1, 1, 1, 1, 0], [0] * 5, [0] * 5, [0, 0, 0, 0, 1]],
        [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]],
    ),
    1, 2, False, 13056,
)  # fmt: skip
def test_exactly_once_whatever_fails(cluster, models, epochs, per_model, seed):
    """Workers are lost and return, units fail in every way, events come late and twice."""
    workers, n_train, n_valid, train, valid = cluster
    rng = random.Random(seed)
    procedure = Procedure(rng, models, epochs)
    train_holdings, valid_holdings = holdings(train, n_train), holdings(valid, n_valid)

    def readable(worker, split, partition):
        held = train_holdings if split is Split.TRAIN else valid_holdings
        return partition in held.held(worker)

    monitor = Monitor(readable, n_train, models, per_model)
    scheduler = Scheduler(
        train=train_holdings,
        valid=valid_holdings,
        placement=either_policy(seed),
        positions=[fresh(m, n_train, n_valid) for m in range(models)],
        per_model=per_model,
    )
    troubles = [rng.randint(5, 30)]
    down: set[int] = set()

    def outcome(attempt, event):
        if troubles[0] <= 0:
            return event
        draw = rng.random()
        if draw < 0.2:
            troubles[0] -= 1
            if rng.random() < 0.5:  # reported as well, too late
                simulation.at(rng.expovariate(0.5), event)
            kinds = [Failure.EXECUTOR, Failure.RESOURCES, Failure.STORAGE, Failure.DAMAGED]
            if rng.random() < 0.2:
                kinds = [Failure.USER, Failure.TIMEOUT, Failure.INPUT]
            failure = rng.choice(kinds)
            if failure is Failure.TIMEOUT:  # the driver's verdict, which the worker carries out
                executor_died = ev.UnitFailed(attempt.number, Failure.EXECUTOR)
                simulation.at(1e3 + rng.expovariate(0.5), executor_died)
            return ev.UnitFailed(attempt.number, failure)
        if draw < 0.3:
            troubles[0] -= 1
            worker = rng.randrange(workers)
            if worker not in down:
                down.add(worker)
                simulation.at(rng.random(), ev.WorkerLost(worker))
                simulation.at(1.0 + rng.expovariate(0.2), ev.WorkerJoined(worker))
        elif draw < 0.35:
            troubles[0] -= 1
            worker = rng.randrange(workers)
            if worker not in down:
                down.add(worker)
                taken = [n for n, a in monitor.under_way.items() if a.worker == worker]
                reached = tuple(n for n in taken if rng.random() < 0.7)
                simulation.at(0.0, ev.WorkerDrains(worker, reached))
                left = rng.expovariate(0.5)
                simulation.at(left, ev.WorkerLost(worker))
                simulation.at(left + rng.expovariate(0.2), ev.WorkerJoined(worker))
        elif draw < 0.4:  # said twice
            simulation.at(rng.expovariate(0.5), event)
        return event

    def observe(events, actions):
        for event in events:
            if isinstance(event, ev.WorkerJoined):
                down.discard(event.worker)
        monitor(events, actions)
        if any(isinstance(action, ev.Unreachable) for action in actions):
            raise Unreadable

    simulation = Simulation(
        scheduler,
        run_seconds=lambda _: rng.choice([0.0, rng.expovariate(1.0)]),
        save_seconds=lambda _: rng.choice([0.0, rng.expovariate(2.0)]),
        decide=procedure,
        outcome=outcome,
        observe=observe,
    )
    try:
        simulation.run(range(workers))
    except Unreadable:
        return
    assert scheduler.ended
    assert monitor.over
    check_complete(monitor, procedure, n_train, n_valid)


@SETTINGS
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32))
def test_a_given_visit_order_is_kept(workers, models, n_train, seed):
    rng = random.Random(seed)
    order = {(m, e): rng.sample(range(n_train), n_train) for m in range(models) for e in range(2)}
    scheduler = Scheduler(
        train=SharedHoldings(n_train),
        valid=SharedHoldings(1),
        placement=either_policy(seed),
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
            placement=either_policy(seed + first),
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
def test_users_shares_differ_by_one_at_most_and_move_little(workers, partitions):
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
        placement=either_policy(0),
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


@pytest.mark.parametrize("shared", [True, False])
def test_where_models_come_and_go_the_oldest_are_served_first(shared):
    """No epoch takes much longer than others, though new models begin as long as it goes on."""
    workers, n_train, in_flight, models = 4, 4, 24, 200
    rng = random.Random(1)
    seconds = {model: rng.uniform(1.0, 4.0) for model in range(models)}

    def own():
        matrix = [[int(w == p) for p in range(n_train)] for w in range(workers)]
        return SharedHoldings(n_train) if shared else FixedHoldings(matrix)

    begun = [in_flight]

    def decide(ask):
        new = [n for n in range(begun[0], begun[0] + len(ask.models)) if n < models]
        begun[0] += len(new)
        stop = dict.fromkeys(ask.models, ModelState.COMPLETED)
        return ev.Decided(ask.models, stop, tuple(ev.AddedModel(n) for n in new))

    simulation = Simulation(
        Scheduler(
            train=own(),
            valid=own(),
            placement=POLICIES[ONE_BY_ONE](0),
            positions=[fresh(m, n_train, n_train) for m in range(in_flight)],
            per_model=True,
        ),
        run_seconds=lambda attempt: seconds[attempt.unit.model],
        decide=decide,
    )
    simulation.run(range(workers))
    spans: dict[int, list[float]] = {}
    for visit in simulation.visits:
        span = spans.setdefault(visit.attempt.unit.model, [visit.start, visit.end])
        span[1] = max(span[1], visit.end)
    lengths = sorted(end - start for start, end in spans.values())
    assert len(lengths) == models
    assert lengths[-1] < 3 * lengths[len(lengths) // 2]
