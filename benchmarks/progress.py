"""What the live view costs a run: the same search of many short units with it and without.

    python benchmarks/progress.py
    python benchmarks/progress.py --units 200 --rounds 1

Workers of the plain backend run units that sleep. The driver is a process of its own whose standard
error is a terminal of 160 columns; it is asked in turns for the live view, for plain lines, and for
nothing. CPU seconds are all that the driver's process has used, its start included, where the live
view also imports rich; medians over the rounds. If the view adds more than 1 % of a core, for as
long as the run lasts, the exit status is 1. The makespan is the shortest of the rounds: where
others use the machine it says little.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cerebro
from cerebro.rpc import create_secret
from testbed.dispatch_driver import Spec
from testbed.requirements import cores, memory, packages, require
from testbed.workers import Worker

MODES = ("off", "plain", "live")
WORKERS = 4
PARTITIONS = 10
UNIT_SECONDS = 0.2
SIZE = struct.pack("HHHH", 40, 160, 0, 0)
"""Rows and columns, as a terminal is told them."""

ALLOWED = 0.01


@dataclass(frozen=True)
class Cost:
    """Seconds of one run: what its driver used of a CPU, first unit's start to last commit."""

    cpu: float
    makespan: float


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--units", type=int, default=1000, help="units of a run (%(default)s)")
    parse.add_argument("--rounds", type=int, default=3, help="runs of each kind (%(default)s)")
    return parse


@contextlib.contextmanager
def terminal() -> Iterator[int]:
    """The descriptor of a terminal whose other end is read, and forgotten."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, SIZE)

    def read() -> None:
        with contextlib.suppress(OSError):  # the end, on Linux
            while os.read(ours, 65536):
                pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield theirs
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


def drive(spec: Spec) -> Cost:
    """Run a driver to its end. Raises `RuntimeError` if it does not end well."""
    with terminal() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed.dispatch_driver", json.dumps(asdict(spec))],
            cwd=Path(__file__).parent,
            stderr=stderr,
            env={**os.environ, "TERM": "xterm-256color", "OPENBLAS_NUM_THREADS": "1"},
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the driver ended with status {process.returncode}")
    units = cerebro.load(Path(spec.ckpt_root) / spec.run_name).units
    makespan = float(units["end"].max() - units["start"].min())
    return Cost(used.ru_utime + used.ru_stime, makespan)


def measure(units: int, rounds: int) -> dict[str, list[Cost]]:
    """The costs of runs of each kind, in turns."""
    costs: dict[str, list[Cost]] = {mode: [] for mode in MODES}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cerebro-progress-")))
        secret = folder / "secret"
        create_secret(str(secret))
        workers = [
            stack.enter_context(Worker(folder / f"worker{number}", secret))
            for number in range(WORKERS)
        ]
        for turn in range(rounds):
            for mode in MODES:
                spec = Spec(
                    workers=[worker.url for worker in workers],
                    secret_file=str(secret),
                    partitions=[str(folder / f"partition{n}") for n in range(PARTITIONS)],
                    ckpt_root=str(folder / "shared"),
                    run_name=f"{mode}-{turn}",
                    models=max(1, units // PARTITIONS),
                    seconds=UNIT_SECONDS,
                    progress=mode,
                )
                costs[mode].append(drive(spec))
    return costs


def main() -> int:
    """Measure, and print a table."""
    options = parser().parse_args()
    require(cores(2), memory(1.0), packages("rich"))
    costs = measure(options.units, options.rounds)
    cpu = {mode: statistics.median(cost.cpu for cost in costs[mode]) for mode in MODES}
    makespan = {mode: min(cost.makespan for cost in costs[mode]) for mode in MODES}
    print(f"{'progress':10}{'driver CPU s':>14}{'makespan s':>12}{'CPU added':>11}{'longer':>9}")
    worst = 0.0
    for mode in MODES:
        added = (cpu[mode] - cpu["off"]) / makespan["off"]
        longer = makespan[mode] / makespan["off"] - 1.0
        print(f"{mode:10}{cpu[mode]:14.2f}{makespan[mode]:12.2f}{added:11.2%}{longer:9.2%}")
        worst = max(worst, added)
    print(f"(CPU added: of one core, while the run lasts; at most {ALLOWED:.0%} is allowed)")
    return 1 if worst > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
