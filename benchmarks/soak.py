"""Memory, files and threads of a long run: whatever grows with the units is a leak.

    python benchmarks/soak.py --units 5000 --backend python
    python benchmarks/soak.py --units 5000 --backend tf

Two workers are started by their command and a driver in a process of its own. At every decision
one model ends and another begins, every second one from the weights of a model that goes on; with
TensorFlow every second graph has dropout, so that it is built anew for every unit.

At every decision, when nothing runs, resident memory, open files, sockets, threads and child
processes of driver, daemons and executors are read from /proc. The table compares their medians
over `SAMPLES` decisions from unit `MARK` on with those of the last ones. Growth of `LIMIT` per
cent or more, a version that nobody needs, a temporary folder or a thread that is left over, make
the exit status 1. Below `DECIDING_UNITS` units growth is printed and decides nothing: processes
are still settling. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cerebro
from cerebro.rpc import create_secret
from cerebro.storage import TEMPORARY
from testbed import requirements
from testbed.gauges import Gauges, children, median, read_gauges, rows
from testbed.soak_driver import Spec
from testbed.workers import Worker

WORKERS = 2
MODELS = 4
TRAIN_PARTITIONS = 6
VALID_PARTITIONS = 2
MARK = 500
SAMPLES = 17
LIMIT = 3.0
DECIDING_UNITS = 1_000
VERSIONS_KEPT = 3  # newest, the one before, best
END_SECONDS = 120.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--units", type=int, default=5000, help="units to commit (%(default)s)")
    parse.add_argument("--backend", choices=["python", "tf"], default="python")
    return parse


def partitions(folder: Path, split: str, number: int) -> list[str]:
    """Small files of numbers."""
    paths = [folder / f"{split}_{i}.txt" for i in range(number)]
    for i, path in enumerate(paths):
        path.write_text("".join(f"{i + j / 100}\n" for j in range(100)))
    return [str(path) for path in paths]


@contextlib.contextmanager
def started(spec: Spec, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The driver, killed at the end of the block if it is not done."""
    with open(folder / "driver.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed.soak_driver", json.dumps(asdict(spec))],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # The thread pools of NumPy's libraries, which pandas brings, are none of the driver's.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()


def processes(driver: int, daemons: list[Worker]) -> dict[str, int]:
    """The process ids to watch, by name."""
    found = {"driver": driver}
    for number, worker in enumerate(daemons):
        found[f"daemon {number}"] = worker.process.pid
        for child in children(worker.process.pid):
            found[f"executor {number}"] = child
    return found


Samples = list[tuple[int, dict[str, Gauges]]]


def watch(driver: subprocess.Popen[str], daemons: list[Worker], units: int) -> tuple[Samples, Any]:
    """(units and gauges at every decision, what the driver said at its end)."""
    assert driver.stdin is not None
    assert driver.stdout is not None
    samples: Samples = []
    watched: dict[str, int] = {}
    told, begun = 0, time.monotonic()
    for line in driver.stdout:
        message = json.loads(line)
        if "units" not in message:
            return samples, message
        done = message["units"]
        found = processes(driver.pid, daemons)
        watched = watched or found
        if found != watched:
            raise RuntimeError(f"the processes are {found}, and were {watched}")
        samples.append((done, {name: read_gauges(pid) for name, pid in found.items()}))
        if done >= told + max(units // 20, 1):
            told = done
            resident = ", ".join(f"{n} {g.resident:.0f}" for n, g in samples[-1][1].items())
            print(f"{done} units, {time.monotonic() - begun:.0f} s; KiB: {resident}", flush=True)
        driver.stdin.write("\n")
        driver.stdin.flush()
    raise RuntimeError("the driver ended before the run did")


def compare(samples: Samples) -> list[tuple[str, str, float, float, float]]:
    """Rows of the table: medians after `MARK` units, and at the end."""
    mark = min(MARK, samples[-1][0] // 2)
    early = [gauges for units, gauges in samples if units >= mark][:SAMPLES]
    late = [gauges for _, gauges in samples][-SAMPLES:]
    return [
        row
        for name in samples[0][1]
        for row in rows(name, median([s[name] for s in early]), median([s[name] for s in late]))
    ]


def left_on_disk(run: Path) -> tuple[int, int, int]:
    """(models, most versions of one model, temporary folders) of a run that has ended."""
    models = [folder for folder in (run / "models").iterdir() if folder.is_dir()]
    versions = [sum(1 for path in model.iterdir() if path.name[0] == "v") for model in models]
    temporary = sum(1 for path in run.rglob(f"{TEMPORARY}*"))
    return len(models), max(versions), temporary


def committed_once(run: Path) -> int:
    """How many units are committed; `RuntimeError` if one is twice, or any attempt failed."""
    units = cerebro.load(run).units
    if set(units["outcome"]) != {"committed"}:
        raise RuntimeError(f"not all attempts were committed: {units['outcome'].value_counts()}")
    if units.duplicated(["model_id", "epoch", "split", "partition"]).any():
        raise RuntimeError("a unit is committed twice")
    return len(units)


def main() -> int:
    """Run the soak; returns the exit status."""
    arguments = parser().parse_args()
    with_tf = arguments.backend == "tf"
    requirements.require(
        requirements.linux(),
        requirements.packages("tensorflow") if with_tf else "",
        requirements.memory(3.0 if with_tf else 0.5),
        requirements.disk(0.5),
    )
    folder = Path(tempfile.mkdtemp(prefix="cerebro-soak-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        secret = folder / "secret"
        create_secret(str(secret))
        daemons = [
            stack.enter_context(Worker(folder / f"worker{number}", secret))
            for number in range(WORKERS)
        ]
        spec = Spec(
            workers=[worker.url for worker in daemons],
            secret_file=str(secret),
            train=partitions(folder, "train", TRAIN_PARTITIONS),
            valid=partitions(folder, "valid", VALID_PARTITIONS),
            ckpt_root=str(folder / "shared"),
            run_name="soak",
            backend=arguments.backend,
            models=MODELS,
            units=arguments.units,
        )
        driver = stack.enter_context(started(spec, folder))
        try:
            samples, after = watch(driver, daemons, arguments.units)
            driver.wait(END_SECONDS)
        except Exception:
            print((folder / "driver.log").read_text()[-5_000:], file=sys.stderr)
            raise
        run = folder / "shared" / "soak"
        units = committed_once(run)
        models, versions, temporary = left_on_disk(run)
        executors = sum(len(children(worker.process.pid)) for worker in daemons)
    table = compare(samples)
    print(f"\n{'process':<12}{'gauge':<10}{'early':>10}{'end':>10}{'growth %':>10}")
    for name, gauge, early, late, growth in table:
        print(f"{name:<12}{gauge:<10}{early:>10.0f}{late:>10.0f}{growth:>10.2f}")
    first, last = after["threads"]
    facts = [
        (f"units committed (of {arguments.units})", units, units >= arguments.units),
        (f"most versions of one of {models} models", versions, versions <= VERSIONS_KEPT),
        ("temporary folders", temporary, temporary == 0),
        (f"driver's threads after schedule(), {first} before", last, last <= first),
        ("executors after the run", executors, executors == 0),
    ]
    for text, number, holds in facts:
        print(f"{text}: {number}{'' if holds else '  <- wrong'}")
    grown = [row for row in table if row[4] >= LIMIT]
    for name, gauge, *_, growth in grown:
        print(f"{gauge} of {name} grew by {growth:.1f} %")
    decides = arguments.units >= DECIDING_UNITS
    if not decides:
        print(f"growth decides nothing below {DECIDING_UNITS} units")
    return 1 if (grown and decides) or not all(holds for *_, holds in facts) else 0


if __name__ == "__main__":
    sys.exit(main())
