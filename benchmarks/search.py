"""Search procedures: the papers' tables, TPE against random search, and workers that never wait.

    python benchmarks/search.py
    python benchmarks/search.py --quick
    python benchmarks/search.py --only barrier

Nothing is trained, and nothing runs but the procedures and, on simulated time, the scheduler.

*tables* holds procedures to what was worked by hand from the papers (`testbed/hand_worked.py`):
Hyperband's brackets, and whom ASHA and successive halving promote on given learning curves.

*tpe* gives TPE and random search the same number of evaluations, one after another, of two test
functions whose minimum is known. Each seed is a pair, which begins with the same configurations.
TPE has to be better in the median.

*barrier* is a cluster of 8 workers with 8 train partitions on which a unit takes from 1 to 10 s,
log-uniform, by its configuration, and up to 5 % more or less by itself; a valid unit takes a
quarter of that. By *matrix* each worker has one train and one valid partition; on *shared* storage
there are 4 valid partitions, each of which two workers read. First ASHA draws configurations until
a deadline: the share of the time until then in which workers are busy, without a barrier, and with
one, where the procedure is asked when all models in flight have ended the epoch. Without one, and
with 64 models in flight, it has to be 97 %. Then a grid of 64 configurations for 10 epochs: its
makespan by the lower bound, and with a barrier by without one.

The exit status is 1 if something does not hold. `--quick` takes fewer seeds, less
simulated time and a smaller grid, and proves nothing.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from statistics import median, quantiles
from typing import Any

from cerebro.hopper.holdings import FixedHoldings, Holdings, SharedHoldings
from cerebro.hopper.placement.registry import ONE_BY_ONE, POLICIES, TOGETHER
from cerebro.hopper.units import Attempt, ModelState, Split
from cerebro.search import ASHA, TPE, GridSearch, LogUniform, RandomSearch, Trial, Trials, Uniform
from cerebro.search.full_training import FullTraining
from testbed.hand_worked import check_asha, check_brackets, check_halving
from testbed.optimization import FUNCTIONS, Function
from testbed.simulated_search import SimulatedSearch

EVALUATIONS = 50
SEEDS = 20
QUICK_SEEDS = 4

WORKERS = 8
TRAIN_PARTITIONS = 8
FEW_VALID = 4
VALID = 0.25
NOISE = 0.05
FASTEST, SLOWEST = 1.0, 10.0
MAX_EPOCHS = 27
BUSY = 0.97
"""Of the workers' time, with so many in flight as in the first row, and no barrier."""

ROWS = ((64, 1200.0, 5), (32, 600.0, 3), (16, 600.0, 3), (8, 600.0, 3))
"""(in flight, deadline in seconds, seeds)."""

QUICK_ROWS = ((64, 300.0, 1), (8, 60.0, 1))

GRIDS = ((64, 10, 3), (16, 2, 3))
"""(configurations, epochs, seeds)."""

QUICK_GRIDS = ((16, 2, 1),)


class ASHAWithBarrier(ASHA):
    """Is asked when all models in flight have ended the epoch."""

    per_model = False


class GridWithoutBarrier(GridSearch):
    """Is asked at each model's own end of an epoch."""

    per_model = True


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--quick", action="store_true", help="fewer seeds, less time: no proof")
    parse.add_argument("--only", choices=["tables", "tpe", "barrier"], help="one of the sections")
    return parse


# --- tables ----------------------------------------------------------------------------------


def tables() -> list[str]:
    """The procedures against what was worked by hand."""
    print("\nagainst the papers, worked by hand")
    print("what                                        checked  differ")
    failed = []
    for name, check in (
        ("Hyperband's brackets, R = 81, eta = 3", check_brackets),
        ("ASHA, 12 curves, rungs 1, 3, 9: answers", check_asha),
        ("successive halving, same curves: answers", check_halving),
    ):
        checked, wrong = check()
        print(f"{name:42}  {checked:7}  {len(wrong):6}", flush=True)
        failed += [f"{name}: {what}" for what in wrong]
    return failed


# --- tpe -------------------------------------------------------------------------------------


def best_found(procedure: FullTraining, function: Function, evaluations: int) -> float:
    """The lowest of so many values, each known before the next configuration is drawn."""
    trials: dict[int, Trial] = {}
    for number in range(evaluations):
        config = procedure.propose(number, Trials(dict(trials)))
        value = function.value(config)
        trials[number] = Trial(number, config, (value,), ModelState.COMPLETED)
    return min(trial.values[0] for trial in trials.values())


def tpe(seeds: int) -> list[str]:
    """TPE against random search."""
    print(f"\nTPE and random search: lowest of {EVALUATIONS} values, {seeds} paired seeds")
    print("function     minimum   procedure  quartile    median  quartile  TPE better")
    failed = []
    for function in FUNCTIONS:
        found = {
            name: [
                best_found(make(function.space, EVALUATIONS, 1, seed=seed), function, EVALUATIONS)
                for seed in range(seeds)
            ]
            for name, make in (("random", RandomSearch), ("TPE", TPE))
        }
        wins = sum(
            ours < theirs for ours, theirs in zip(found["TPE"], found["random"], strict=True)
        )
        for name, values in found.items():
            low, middle, high = quantiles(values, n=4, method="inclusive")
            text = f"{wins} of {seeds}" if name == "TPE" else ""
            print(
                f"{function.name:11}  {function.minimum:8.5f}  {name:9}  {low:8.3f}  {middle:8.3f}"
                f"  {high:8.3f}  {text}".rstrip(),
                flush=True,
            )
        ours, theirs = (median(found[name]) for name in ("TPE", "random"))
        if ours >= theirs:
            failed.append(f"{function.name}: TPE's median is {ours:.3f}, random's {theirs:.3f}")
    return failed


# --- barrier ---------------------------------------------------------------------------------

SPACE = {
    "seconds": LogUniform(FASTEST, SLOWEST),
    "floor": Uniform(0.05, 0.5),
    "pace": Uniform(0.3, 1.5),
}
"""`seconds` a train unit takes; the error falls from 1 towards `floor` by a power of epochs."""


def curve(config: Mapping[str, Any], epochs: int) -> float:
    """A learning curve with a little noise."""
    noise = random.Random(f"{config} {epochs}").gauss(0.0, 0.01)
    return config["floor"] + (1 - config["floor"]) * epochs ** -config["pace"] + noise


def seconds(config: Mapping[str, Any], attempt: Attempt) -> float:
    """How long a unit takes; the same whichever procedure asks for it."""
    unit = attempt.unit
    rng = random.Random(f"{config} {unit.epoch} {unit.split.value} {unit.partition}")
    whole = config["seconds"] * rng.uniform(1 - NOISE, 1 + NOISE)
    return whole if unit.split is Split.TRAIN else VALID * whole


def holdings(shared: bool) -> tuple[Holdings, Holdings]:
    """Who holds which train and which valid partition."""
    if shared:
        return SharedHoldings(TRAIN_PARTITIONS), SharedHoldings(FEW_VALID)
    own = [[int(p == w) for p in range(TRAIN_PARTITIONS)] for w in range(WORKERS)]
    return FixedHoldings(own), FixedHoldings(own)


def searched(procedure: Any, shared: bool, seed: int) -> SimulatedSearch:
    """A search that has ended."""
    train, valid = holdings(shared)
    together = not procedure.per_model or procedure.begins_together()
    policy = POLICIES[TOGETHER if together else ONE_BY_ONE](seed)  # as `schedule` chooses it
    search = SimulatedSearch(procedure, train, valid, policy, curve, seconds)
    search.run(WORKERS)
    return search


def named(shared: bool) -> str:
    return "shared" if shared else "matrix"


def busy_until(rows: Sequence[tuple[int, float, int]]) -> list[str]:
    """ASHA until a deadline, with and without a barrier."""
    print(f"\nASHA on {WORKERS} workers: share of the time until the deadline that they are busy")
    print(
        "storage  in flight  deadline, s  seeds  no barrier: median    worst  "
        "with barrier: median    worst"
    )
    failed = []
    for (in_flight, deadline, seeds), shared in product(rows, (False, True)):
        shares: dict[type[ASHA], list[float]] = {}
        for make in (ASHA, ASHAWithBarrier):
            shares[make] = []
            for seed in range(seeds):
                procedure = make(
                    SPACE,
                    MAX_EPOCHS,
                    max_seconds=deadline,
                    in_flight=in_flight,
                    seed=seed,
                )
                shares[make].append(searched(procedure, shared, seed).busy(deadline))
        free, held = shares.values()
        print(
            f"{named(shared):7}  {in_flight:9}  {deadline:11g}  {seeds:5}  {median(free):18.2%}"
            f"  {min(free):7.2%}  {median(held):20.2%}  {min(held):7.2%}",
            flush=True,
        )
        if in_flight == rows[0][0] and min(free) < BUSY:
            failed.append(f"{named(shared)}, {in_flight} in flight: busy for {min(free):.2%}")
    return failed


def grids(configs: int, epochs: int, seeds: int) -> None:
    """A grid, with and without a barrier. Nothing is promised."""
    print(f"\na grid of {configs} configurations for {epochs} epochs: medians of {seeds} seeds")
    print("storage  makespan / bound: no barrier  with barrier  with / without")
    width = math.log(SLOWEST / FASTEST)
    for shared in (False, True):
        ratios, quotients = [], []
        for seed in range(seeds):
            rng = random.Random(seed)
            times = [FASTEST * math.exp(rng.random() * width) for _ in range(configs)]
            space = {"seconds": times, "floor": 0.1, "pace": 1.0}
            free = searched(GridWithoutBarrier(space, epochs), shared, seed)
            held = searched(GridSearch(space, epochs), shared, seed)
            ratios.append((free.seconds / free.bound(), held.seconds / held.bound()))
            quotients.append(held.seconds / free.seconds)
        ours, theirs = (median(column) for column in zip(*ratios, strict=True))
        print(
            f"{named(shared):7}  {ours:28.4f}  {theirs:12.4f}  {median(quotients):14.4f}",
            flush=True,
        )


def barrier(
    rows: Sequence[tuple[int, float, int]], of_grids: Sequence[tuple[int, int, int]]
) -> list[str]:
    """All tables."""
    failed = busy_until(rows)
    for grid in of_grids:
        grids(*grid)
    return failed


def main() -> int:
    """Run the sections; the exit status."""
    options = parser().parse_args()
    rows, of_grids = (QUICK_ROWS, QUICK_GRIDS) if options.quick else (ROWS, GRIDS)
    sections = {
        "tables": tables,
        "tpe": lambda: tpe(QUICK_SEEDS if options.quick else SEEDS),
        "barrier": lambda: barrier(rows, of_grids),
    }
    failed: list[str] = []
    for name, section in sections.items():
        if options.only in (None, name):
            failed += section()
    if options.quick:
        print("\nthis was a quick run, which proves nothing")
    for what in failed:
        print(f"not held: {what}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
