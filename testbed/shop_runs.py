"""Runs of a simulated shop, and of a large one, through the real scheduler."""

from __future__ import annotations

import gc
import heapq
import random
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from cerebro.hopper import events as ev
from cerebro.hopper.holdings import FixedHoldings
from cerebro.hopper.placement.base import Placement
from cerebro.hopper.placement.registry import POLICIES
from cerebro.hopper.scheduler import Scheduler
from cerebro.hopper.simulator import Simulation
from cerebro.hopper.units import Attempt, ModelPosition, ModelState, Split, Unit
from testbed.open_shop import GPUS, Shop, population

SAVE_SECONDS = 5.0


def policy(name: str, seed: int) -> Placement:
    """A placement policy that knows nothing yet."""
    return POLICIES[name](seed)


def teach(placement: Placement, before: Shop, seed: int) -> None:
    """Have a policy see every unit of an epoch once, each on one of its holders."""
    rng = random.Random(seed)
    for model in range(before.models):
        for partition in range(before.workers):
            worker = rng.choice(before.holders(partition))
            unit = Unit(model, 0, Split.TRAIN, partition)
            placement.observe(unit, worker, before.seconds(model, partition, worker))


def makespan(shop: Shop, placement: Placement, *, epochs: int = 1, valid: float = 0.0) -> float:
    """Seconds from the first start to the last end.

    `valid` is how long a valid unit takes of what a train unit does; 0: there are none.
    """
    workers = range(shop.workers)
    nothing: list[list[int]] = [[] for _ in workers]
    left = frozenset(workers)

    def seconds(attempt: Attempt) -> float:
        unit = attempt.unit
        whole = shop.seconds(unit.model, unit.partition, attempt.worker)
        return whole if unit.split is Split.TRAIN else valid * whole

    asked = 0

    def decide(ask: ev.Ask) -> ev.Decided:
        nonlocal asked
        asked += 1
        over = asked == epochs
        return ev.Decided(
            ask.models, dict.fromkeys(ask.models, ModelState.COMPLETED) if over else {}
        )

    scheduler = Scheduler(
        train=FixedHoldings(shop.matrix()),
        valid=FixedHoldings(shop.matrix() if valid else nothing),
        placement=placement,
        positions=[
            ModelPosition(m, 0, 0, left, left if valid else frozenset()) for m in range(shop.models)
        ],
    )
    simulation = Simulation(scheduler, run_seconds=seconds, decide=decide)
    simulation.run(workers)
    if not scheduler.ended:
        raise RuntimeError("the simulation stopped before the run had ended")
    return max(visit.end for visit in simulation.visits)


@dataclass(frozen=True)
class Scale:
    """What a large run cost. Times are CPU seconds inside `Scheduler.handle`.

    What it takes to read the clock is not counted.

    `memory` is what the scheduler took, `peak` the most that the process has held so far.
    """

    models: int
    workers: int
    units: int
    seconds: float
    calls: int
    slowest_call: float
    memory: int
    peak: int

    @property
    def microseconds_a_unit(self) -> float:
        return 1e6 * self.seconds / self.units

    @property
    def microseconds_a_call(self) -> float:
        return 1e6 * self.seconds / self.calls

    @property
    def bytes_a_unit(self) -> float:
        """Of memory taken for the scheduler and its calendar, by all units of the epoch."""
        return self.memory / (self.models * self.workers)


def large_run(models: int, workers: int, units: int) -> Scale:
    """Start `units` units of an epoch with one partition a worker; events come one at a time.

    Costs and workers are heterogeneous, with noise of 20 %, and a version takes `SAVE_SECONDS`.
    """
    rng = random.Random(models)
    known = population()
    costs = [rng.choice(known) for _ in range(models)]
    slowness = [1.0 / rng.choice(GPUS) for _ in range(workers)]
    own = [[int(p == w) for p in range(workers)] for w in range(workers)]
    train, valid = FixedHoldings(own), FixedHoldings([[] for _ in range(workers)])
    every = frozenset(range(workers))
    positions = [ModelPosition(m, 0, 0, every, frozenset()) for m in range(models)]
    gc.collect()
    before = _resident()
    scheduler = Scheduler(
        train=train, valid=valid, placement=policy("critical", 0), positions=positions
    )
    calendar: list[tuple[float, int, ev.Event]] = []
    started = calls = entries = 0
    reading = _clock_seconds()
    now = spent = slowest = 0.0

    def tell(*events: ev.Event) -> None:
        nonlocal started, calls, entries, spent, slowest
        began = time.process_time()
        actions: Sequence[ev.Action] = scheduler.handle(*events, now=now)
        took = time.process_time() - began - reading
        spent, slowest, calls = spent + took, max(slowest, took), calls + 1
        for action in actions:
            if isinstance(action, ev.Start):
                attempt = action.attempt
                seconds = costs[attempt.unit.model] * slowness[attempt.worker]
                seconds *= rng.uniform(0.8, 1.2)
                started += 1
                entries += 1
                event = ev.UnitRan(attempt.number, seconds)
                heapq.heappush(calendar, (now + seconds, entries, event))
            elif isinstance(action, ev.Wake):
                entries += 1
                heapq.heappush(calendar, (now + action.seconds, entries, ev.Woke(action.target)))

    tell(*(ev.WorkerJoined(worker) for worker in range(workers)))
    tell(*(ev.WorkerReady(worker) for worker in range(workers)))
    while calendar and started < units:
        now, _, event = heapq.heappop(calendar)
        tell(event)
        if isinstance(event, ev.UnitRan):
            entries += 1
            saved = ev.UnitCommitted(event.attempt)
            heapq.heappush(calendar, (now + SAVE_SECONDS, entries, saved))
    memory = _resident() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Scale(models, workers, started, spent, calls, slowest, memory, peak)


def _clock_seconds() -> float:
    """What lies between two readings of the clock with nothing between them: the median."""
    times = [time.process_time() for _ in range(1_001)]
    return median(after - before for before, after in pairwise(times))


def _resident() -> int:
    """Bytes of memory that the process holds (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
