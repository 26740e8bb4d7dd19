"""Dispatch: how soon a worker that has become free runs its next unit, and what that costs.

    python benchmarks/dispatch.py
    python benchmarks/dispatch.py --quick

Up to 128 workers are started by their command on 127.0.0.1, and a driver in a process of its own
trains models of the plain backend on them, whose units sleep. Units take from half to one and a
half times their average, which is chosen so that all workers together offer `OFFERED` units a
minute; every worker may read every partition, and versions are saved below the temporary folder.
Each unit gives the moments at which its `train_fn` begins and ends, by the host's monotonic clock.

*Idle* is the time from a unit's end on a worker to the beginning of the next one there. *Wait*
counts from when there was a unit to give, too: when the model that comes had been published (the
end of its unit before, plus the seconds of its save). The two are the same where there are twice
as many models as workers, so that a unit is staged for every worker. Where models are as many as
workers nothing can be staged, and a free worker waits for its own model's save or for another's;
there *wait* is the full round trip: report, event, decision, journal, order. Gaps count as long as
every model has a unit left. The columns *report*, *choice* and *order* are medians of the parts of
*idle*: until the driver took the report of the end in hand, until it had decided (with models as
many as workers the save lies in it), until the unit ran (the journal's sync lies in it).

The exit status is 1 if the median of *wait* is not below `LIMIT_MS` in the rows with 128 workers,
if fewer than `LEAST` units a minute are reached there, or if the driver takes a core or more.
`--quick` runs the smaller rows only, and is no proof of that. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cerebro.journal.paths import RunPaths
from cerebro.rpc import create_secret
from testbed import requirements
from testbed.cpu_time import CpuTimes, children_of
from testbed.dispatch_driver import Spec
from testbed.dispatch_times import Gap, UnitTimes, gaps, plenty_until, quantile, read_units
from testbed.workers import Worker

OFFERED = 2_400
LEAST = 2_000
LIMIT_MS = 10.0
LARGEST = 128
ROWS = ((8, 16), (32, 64), (LARGEST, 2 * LARGEST), (LARGEST, LARGEST))
"""Workers, and models."""
UNITS = 1_536
"""Units of a row, about; a multiple of its models."""
END_SECONDS = 240.0
PACE_SECONDS = 2.0
WORKER_GIB = 0.08
"""Memory of a daemon with its executor, and something to spare."""


@dataclass(frozen=True)
class Row:
    """What one run gave; times in seconds, CPU in cores."""

    workers: int
    models: int
    units: int
    a_minute: float
    gaps: list[Gap]
    cpu: dict[str, float]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--quick", action="store_true", help="only the rows below 128 workers")
    return parse


@contextlib.contextmanager
def started(number: int, folder: Path, secret: Path) -> Iterator[list[Worker]]:
    """Workers, started together and ended together."""
    workers = [Worker(folder / f"worker{i}", secret) for i in range(number)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.wait_until_listening()
        yield workers
    finally:
        for worker in workers:
            if worker.alive:
                worker.signal(signal.SIGTERM)
        for worker in workers:
            worker.stop()


def measure(workers: list[Worker], models: int, folder: Path, secret: Path) -> Row:
    """Run one row. Raises `RuntimeError` if the run does not end well."""
    name = f"{len(workers)}-workers-{models}-models"
    partitions = [str(folder / f"partition{number}") for number in range(UNITS // models)]
    spec = Spec(
        workers=[worker.url for worker in workers],
        secret_file=str(secret),
        partitions=partitions,
        ckpt_root=str(folder / "shared"),
        run_name=name,
        models=models,
        seconds=60.0 * len(workers) / OFFERED,
    )
    run = folder / "shared" / name
    cpu = drive(spec, [worker.process.pid for worker in workers], run, folder / f"{name}.log")
    units = read_units(run)
    if len(units) != models * len(partitions):
        raise RuntimeError(f"{len(units)} units are committed of {models * len(partitions)}")
    return summary(len(workers), models, units, cpu)


def drive(spec: Spec, daemons: list[int], run: Path, log: Path) -> CpuTimes:
    """Run a driver to its end, reading CPU times while units are committed."""
    with open(log, "w") as messages:
        driver = subprocess.Popen(
            [sys.executable, "-m", "testbed.dispatch_driver", json.dumps(asdict(spec))],
            cwd=Path(__file__).parent,
            stderr=messages,
            # The thread pools of NumPy's libraries, which pandas brings, are none of the driver's.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
    cpu: CpuTimes | None = None
    told, expires = 0.0, time.monotonic() + END_SECONDS
    with driver:
        try:
            while time.monotonic() < expires:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(PACE_SECONDS)
                    break
                committed = count_committed(run)
                if cpu is None and committed:
                    executors = children_of(daemons)
                    cpu = CpuTimes({"driver": [driver.pid], "daemons": daemons, "exec": executors})
                if cpu is not None:
                    cpu.sample()
                if time.monotonic() > told + 10.0:
                    told = time.monotonic()
                    print(f"  {run.name}: {committed} units", flush=True)
        finally:
            if driver.poll() is None:
                driver.kill()
    if driver.returncode != 0 or cpu is None:
        raise RuntimeError(f"{run.name}: the driver ended with {driver.returncode}: {tail(log)}")
    return cpu


def count_committed(run: Path) -> int:
    """The units that the run's journal has as committed so far."""
    journal = RunPaths(run).generation(1)
    return journal.read_bytes().count(b'"kind":"committed"') if journal.exists() else 0


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text()[-3_000:]


def summary(workers: int, models: int, units: list[UnitTimes], cpu: CpuTimes) -> Row:
    """What is to be said of a run's units, while there was plenty of them."""
    first, until = max(first_begins(units)), plenty_until(units)
    ended = [unit.end for unit in units if first <= unit.end <= until]
    return Row(
        workers,
        models,
        len(units),
        60.0 * len(ended) / (until - first),
        [gap for gap in gaps(units) if gap.at <= until],
        cpu.cores(first, until),
    )


def first_begins(units: list[UnitTimes]) -> list[float]:
    """When each worker began its first unit."""
    found: dict[int, float] = {}
    for unit in units:
        found[unit.worker] = min(found.get(unit.worker, unit.begin), unit.begin)
    return list(found.values())


def show(rows: list[Row]) -> None:
    """Print the table."""
    print(
        f"\n{'':<16}{'':>8}{'units':>8}{'wait, ms':>10}{'':>24}{'idle':>8}"
        f"{'parts of idle (p50)':>24}{'cores':>8}\n"
        f"{'workers':>7}{'models':>8} {'gaps':>8}{'a min':>8}"
        f"{'p50':>10}{'p90':>8}{'p99':>8}{'max':>8}{'p50':>8}"
        f"{'report':>8}{'choice':>8}{'order':>8}{'driver':>8}{'daemons':>9}{'exec':>6}"
    )
    for row in rows:
        waits = [1e3 * gap.wait for gap in row.gaps]
        shares = "".join(f"{quantile(waits, q):>8.1f}" for q in (0.9, 0.99, 1.0))
        parts = "".join(
            f"{1e3 * quantile([getattr(gap, part) for gap in row.gaps], 0.5):>8.1f}"
            for part in ("idle", "report", "choice", "order")
        )
        print(
            f"{row.workers:>7}{row.models:>8} {len(row.gaps):>8}{row.a_minute:>8.0f}"
            f"{quantile(waits, 0.5):>10.1f}{shares}{parts}"
            f"{row.cpu['driver']:>8.2f}{row.cpu['daemons']:>9.2f}{row.cpu['exec']:>6.2f}"
        )


def verdict(rows: list[Row]) -> list[str]:
    """What was promised and does not hold."""
    wrong = []
    for row in (row for row in rows if row.workers == LARGEST):
        name = f"{row.workers} workers, {row.models} models"
        median = 1e3 * quantile([gap.wait for gap in row.gaps], 0.5)
        if median >= LIMIT_MS:
            wrong.append(f"{name}: a median wait of {median:.1f} ms, {LIMIT_MS:g} is the limit")
        if row.a_minute < LEAST:
            wrong.append(f"{name}: {row.a_minute:.0f} units a minute, {LEAST} are the least")
        if row.cpu["driver"] >= 1.0:
            wrong.append(f"{name}: the driver takes {row.cpu['driver']:.2f} cores")
    return wrong


def main() -> int:
    """Run the benchmark; returns the exit status."""
    arguments = parser().parse_args()
    chosen = [row for row in ROWS if row[0] < LARGEST or not arguments.quick]
    number = max(workers for workers, _ in chosen)
    requirements.require(
        requirements.linux(),
        requirements.cores(2),
        requirements.memory(1.0 + WORKER_GIB * number),
        requirements.disk(1.0),
        requirements.descriptors(512 + 16 * number),
    )
    folder = Path(tempfile.mkdtemp(prefix="cerebro-dispatch-"))
    rows = []
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        secret = folder / "secret"
        create_secret(str(secret))
        print(f"starting {number} workers", flush=True)
        workers = stack.enter_context(started(number, folder, secret))
        for count, models in chosen:
            rows.append(measure(workers[:count], models, folder, secret))
    show(rows)
    for text in (wrong := verdict(rows)):
        print(f"WRONG: {text}")
    if arguments.quick:
        print(f"this is no proof for {LARGEST} workers: run it without --quick")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
