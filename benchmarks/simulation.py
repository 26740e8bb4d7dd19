"""The paper's simulation: makespan over the lower bound by placement policy, and cost at scale.

    python benchmarks/simulation.py
    python benchmarks/simulation.py --quick
    python benchmarks/simulation.py --only scale

Everything runs through the real scheduler, on simulated time, with one partition a worker (each on
one, two or three workers), saving in no time. The shops and the bound are those of
`testbed/open_shop.py`. Every figure is a makespan divided by the bound of the times as they
really were. The bound is the most loaded worker or the longest chain; with replicas it is that of
the best assignment of units to holders: LP with divided units, or MILP with whole ones where that
is higher (looked for without noise only). The table without noise says how often it was which.

*randomized* is the paper's policy, *learned* the default one that begins without knowing any
time, and *known* the same one after it has measured an epoch of the same configurations on the same
workers. The noise of a unit is drawn anew for every epoch, and so is known to nobody.

What is promised without noise is for *known*. With replicas *learned* cannot keep it: what starts
first is anybody's guess, and where the longest chain is the bound, it is exceeded by what its first
unit takes longer on a slow worker. *blind* is the mean of that for units that start at random.

Four tables: without noise (mean and largest of 5 seeds); with noise of 20 % (means of 30 paired
seeds); three epochs with validation (a quarter of a train unit's seconds); and scale: CPU
microseconds inside `Scheduler.handle`, and memory by units of the epoch. A *decision* there is a
unit placed, with all that goes with it: the call that tells that the unit before it ran, in which
it is started and the next one staged, and the call that tells that it is published. The limit is
held against that; what a call costs, about half of it, is printed beside it.

The exit status is 1 if a limit is passed. `--quick` takes 2 seeds, 10 paired ones, and 20,000
units, and proves nothing.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import Counter
from itertools import product
from statistics import fmean

from testbed.open_shop import Shop, blind, draw
from testbed.requirements import packages, require
from testbed.shop_runs import Scale, large_run, makespan, policy, teach

CELLS = [(models, workers) for models in (16, 256) for workers in (8, 16)]
REPLICAS = (1, 2, 3)
FEW = 16
LIMIT = 1.01
NOISE = 0.2
NOISY_LIMIT = 1.03
VALID = 0.25
SIZES = ((1_000, 100, 100_000), (3_000, 300, 900_000), (10_000, 1_000, 1_000_000))
MICROSECONDS = 50.0
SPREAD = 1.15
"""Of measured times: growth is held to that of the logarithm times this."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--quick", action="store_true", help="fewer seeds and units: no proof")
    parse.add_argument(
        "--only", choices=["exact", "noise", "epochs", "scale"], help="one of the tables"
    )
    return parse


def ratios(shop: Shop, before: Shop, bound: float, seed: int) -> tuple[float, float, float]:
    """(randomized, learned, known), each over the bound; `before` is what was measured."""
    knowing = policy("critical", seed)
    teach(knowing, before, seed)
    return (
        makespan(shop, policy("randomized", seed)) / bound,
        makespan(shop, policy("critical", seed)) / bound,
        makespan(shop, knowing) / bound,
    )


def named(heterogeneous: bool) -> str:
    return "heterogeneous" if heterogeneous else "homogeneous"


def exact(seeds: int) -> list[str]:
    """Without noise."""
    print(f"\nwithout noise: mean (largest) of {seeds} seeds, over the bound")
    print(
        "replicas  shop           configs  workers  randomized        learned           "
        "known            blind   bounds"
    )
    failed = []
    for replicas, heterogeneous, (models, workers) in product(REPLICAS, (False, True), CELLS):
        found, blinds, names = [], [], Counter[str]()
        for seed in range(seeds):
            shop = draw(models, workers, heterogeneous=heterogeneous, replicas=replicas, seed=seed)
            bound = shop.bound()
            names[bound.name] += 1
            blinds.append(blind(shop, bound.seconds, random.Random(seed)) / bound.seconds)
            found.append(ratios(shop, shop, bound.seconds, seed))
        columns = list(zip(*found, strict=True))
        cell = f"{replicas:8}  {named(heterogeneous):13}  {models:7}  {workers:7}"
        texts = (f"{fmean(c):.4f} ({max(c):.4f})" for c in columns)
        bounds = ", ".join(f"{name} {count}" for name, count in sorted(names.items()))
        print(cell, *texts, f"{fmean(blinds):.4f}", bounds, sep="  ", flush=True)
        _, learned, known = (fmean(column) for column in columns)
        for how, mean in (("learned", learned), ("known", known)):
            if mean > LIMIT and (how == "known" or replicas == 1):
                failed.append(f"{' '.join(cell.split())}: {how} {mean:.4f}")
    return failed


def noisy(seeds: int) -> list[str]:
    """With noise; several replicas where there are few configurations."""
    print(f"\nwith noise of {NOISE:.0%}: means of {seeds} paired seeds, over the bound")
    print(
        "replicas  shop           configs  workers  randomized  learned  known   known - randomized"
    )
    failed = []
    for replicas, heterogeneous, (models, workers) in product(REPLICAS, (False, True), CELLS):
        if replicas > 1 and models > FEW:
            continue
        found = []
        for seed in range(seeds):
            before, shop = (
                draw(
                    models,
                    workers,
                    heterogeneous=heterogeneous,
                    replicas=replicas,
                    noise=NOISE,
                    seed=seed,
                    epoch=epoch,
                )
                for epoch in range(2)
            )
            bound = shop.bound(whole=False).seconds
            found.append(ratios(shop, before, bound, seed))
        randomized, learned, known = (fmean(column) for column in zip(*found, strict=True))
        cell = f"{replicas:8}  {named(heterogeneous):13}  {models:7}  {workers:7}"
        print(
            f"{cell}  {randomized:10.4f}  {learned:7.4f}  {known:.4f}  {known - randomized:+.5f}",
            flush=True,
        )
        for how, mean in (("learned", learned), ("known", known)):
            if mean > randomized + 1e-9:
                failed.append(f"{' '.join(cell.split())}: {how} is above randomized")
            if replicas == 1 and models == 2 * workers and mean > NOISY_LIMIT:
                failed.append(f"{' '.join(cell.split())}: {how} {mean:.4f}")
    return failed


def several_epochs(seeds: int) -> list[str]:
    """Three epochs with validation; what the policy learns in the first it uses in the others."""
    print(
        f"\nthree epochs with validation, noise of {NOISE:.0%}: default / randomized, {seeds} seeds"
    )
    print("shop           configs  workers  makespan")
    failed = []
    for heterogeneous in (False, True):
        for models, workers in CELLS[:2]:
            quotients = []
            for seed in range(seeds):
                shop = draw(models, workers, heterogeneous=heterogeneous, noise=NOISE, seed=seed)
                ours, theirs = (
                    makespan(shop, policy(name, seed), epochs=3, valid=VALID)
                    for name in ("critical", "randomized")
                )
                quotients.append(ours / theirs)
            cell = f"{named(heterogeneous):13}  {models:7}  {workers:7}"
            print(f"{cell}  {fmean(quotients):.4f}", flush=True)
            if fmean(quotients) > 1.0:
                failed.append(f"{' '.join(cell.split())}: {fmean(quotients):.4f} in three epochs")
    return failed


def scale(most: int) -> list[str]:
    """Cost of a decision, and how it grows."""
    print(
        "\nscale: CPU time inside Scheduler.handle, events one at a time; a decision is a unit "
        f"placed, for which\nthere are two calls, and {MICROSECONDS:g} us are allowed"
    )
    print(
        "configs  workers      units  us a decision  us a call  longest call, ms  bytes a unit"
        "  peak, MiB"
    )
    runs: list[Scale] = []
    for models, workers, units in SIZES:
        run = large_run(models, workers, min(units, most))
        runs.append(run)
        print(
            f"{models:7}  {workers:7}  {run.units:9}  {run.microseconds_a_unit:13.1f}  "
            f"{run.microseconds_a_call:9.1f}  {1e3 * run.slowest_call:16.1f}  "
            f"{run.bytes_a_unit:12.1f}  {run.peak / 2**20:9.0f}",
            flush=True,
        )
    failed = []
    last, first = runs[-1], runs[0]
    if last.microseconds_a_unit > MICROSECONDS:
        failed.append(f"a decision costs {last.microseconds_a_unit:.1f} us")
    allowed = SPREAD * math.log(last.models) / math.log(first.models)
    growth = last.microseconds_a_unit / first.microseconds_a_unit
    if growth > allowed:
        failed.append(f"a decision's cost grows by {growth:.2f}, the logarithm by {allowed:.2f}")
    return failed


def main() -> int:
    """Run the tables; the exit status."""
    options = parser().parse_args()
    require(packages("scipy"))
    seeds, paired, units = (2, 10, 20_000) if options.quick else (5, 30, 1_000_000)
    tables = {
        "exact": lambda: exact(seeds),
        "noise": lambda: noisy(paired),
        "epochs": lambda: several_epochs(paired),
        "scale": lambda: scale(units),
    }
    failed: list[str] = []
    for name, table in tables.items():
        if options.only in (None, name):
            failed += table()
    if options.quick:
        print("\nthis was a quick run, which proves nothing")
    for what in failed:
        print(f"not held: {what}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
