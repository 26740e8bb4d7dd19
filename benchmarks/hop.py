"""What a hop costs: from the end of one unit to the first training step of the next.

    python benchmarks/hop.py
    python benchmarks/hop.py --folder /mnt/shared
    python benchmarks/hop.py --backend keras

Models of 1.7, 6 and 25 million parameters with Adam, so that a version holds three times as many
numbers, hop between two workers with a partition each. Beside each search stands the bare cost of
its versions on the same storage, measured in turns with the searches: writing the same bytes to one
file, fsync included, and reading them into memory of their own.

- *dependent*: one model, so that the next unit is the same model's on the other worker. It cannot
  begin before the version is published: the hop holds fetching, writing, fsync, two messages,
  reading and restoring.
- *another model's*: four models, so that a worker goes on with another model while it saves: the
  hop on one worker holds fetching, a message, and restoring what was read ahead.
- *slow storage*: the same, where every fsync of a version takes half a second more (a FUSE
  pass-through; left out with a sentence where that cannot be had).

Graphs and sessions are kept from epoch to epoch, and hops count from the second epoch on, when
none is built. Medians. A hop above 1.5 times the bare cost and 50 ms makes the exit status 1; on
slow storage the bare cost is that of the fast one, since saving has to hide behind training.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cerebro
from cerebro.rpc import create_secret
from testbed import hop_model
from testbed.requirements import cores, disk, memory, packages, require
from testbed.storage import FaultyFolder, faulty_folder_available
from testbed.workers import Worker

SIZES = (1_700_000, 6_000_000, 25_000_000)
EPOCHS = 6
SEVERAL = 4
COPIES = 3  # the weights, and Adam's two slots
FLOAT_BYTES = 4
FACTOR, ALLOWANCE = 1.5, 0.05
"""A hop may take so many times the bare cost, and so many seconds."""
SLOW_FSYNC = 0.5
SLOW_UNIT_SECONDS = 4.0
UNIT_SECONDS = 1.5


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument(
        "--folder", default=tempfile.gettempdir(), help="on the storage to measure (%(default)s)"
    )
    parse.add_argument("--backend", choices=sorted(hop_model.FUNCTIONS), default="tf")
    return parse


@dataclass
class Bed:
    """Two workers, their partitions, and where versions go."""

    urls: list[str]
    secret_file: str
    partitions: list[str]
    storage: Path
    backend: str
    runs: int = 0


@contextlib.contextmanager
def bed(storage: Path, backend: str) -> Iterator[Bed]:
    """Workers with a thread each."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cerebro-hop-")))
        create_secret(str(folder / "secret"))
        partitions = [folder / "p0", folder / "p1"]
        for partition in partitions:
            (partition / hop_model.NOTES).mkdir(parents=True)
        workers = [
            stack.enter_context(Worker(folder / f"worker{number}", folder / "secret"))
            for number in range(2)
        ]
        urls = [worker.url for worker in workers]
        yield Bed(urls, str(folder / "secret"), [str(p) for p in partitions], storage, backend)


def search(bed: Bed, storage: Path, parameters: int, models: int, seconds: float) -> Any:
    """A search of so many models; returns its units with `began` and `ended` inside `train_fn`."""
    bed.runs += 1
    for partition in bed.partitions:
        for note in (Path(partition) / hop_model.NOTES).iterdir():
            note.unlink()

    def stop_after(state: dict[int, dict[str, Any]]) -> tuple[list[int], list[Any]]:
        return [n for n, model in state.items() if model["epoch"] >= EPOCHS - 1], []

    result = cerebro.schedule(
        bed.urls,
        bed.partitions,
        [],
        [[1, 0], [0, 1]],
        [[], []],
        hop_model.input_fn,
        *hop_model.FUNCTIONS[bed.backend],
        [{"parameters": parameters, "seconds": seconds, "number": n} for n in range(models)],
        stop_after,
        str(storage),
        backend=bed.backend,
        run_name=f"hop{bed.runs}",
        secret_file=bed.secret_file,
    )
    units = result.units
    shutil.rmtree(result.run_dir)
    for worker, partition in enumerate(bed.partitions):
        notes = (Path(partition) / hop_model.NOTES).iterdir()
        times = sorted((json.loads(note.read_text()) for note in notes), key=lambda n: n["began"])
        own = units["worker"] == worker
        for what in ("began", "ended"):
            units.loc[own, what] = [note[what] for note in times]
    return units.sort_values("began")


def hops(units: Any, by: str) -> list[float]:
    """Seconds between the units of each model (`model_id`) or worker that follow one another."""
    found = []
    for _, own in units.groupby(by):
        for before, after in itertools.pairwise(own.itertuples()):
            if before.epoch > 0:
                found.append(after.began - before.ended)
    return found


def bare(folder: Path, parameters: int) -> float:
    """Seconds for writing a version's bytes to a file, with fsync, and for reading them."""
    content = os.urandom(1 << 20) * (parameters * COPIES * FLOAT_BYTES // (1 << 20))
    path = folder / f"bare{time.monotonic_ns()}"
    begun = time.perf_counter()
    with open(path, "xb", buffering=0) as file:
        for start in range(0, len(content), 1 << 26):
            file.write(memoryview(content)[start : start + (1 << 26)])
        os.fsync(file.fileno())
    written = time.perf_counter() - begun
    begun = time.perf_counter()
    path.read_bytes()
    seconds = written + time.perf_counter() - begun
    path.unlink()
    return seconds


def row(name: str, parameters: int, found: list[float], cost: float, saves: list[float]) -> bool:
    """Print a row; returns whether the hop is within its limit."""
    hop, limit = statistics.median(found), FACTOR * cost + ALLOWANCE
    kept = hop <= limit
    print(
        f"{parameters / 1e6:>5.1f}   {name:<18}{hop * 1e3:>10.0f}{cost * 1e3:>11.0f}"
        f"{hop / cost:>7.2f}{limit * 1e3:>12.0f}{statistics.median(saves) * 1e3:>11.0f}"
        f"{'' if kept else '  <- above its limit'}",
        flush=True,
    )
    return kept


def measure(bed: Bed, parameters: int) -> bool:
    """The rows of one size."""
    costs = [bare(bed.storage, parameters) for _ in range(3)]
    alone = search(bed, bed.storage, parameters, models=1, seconds=UNIT_SECONDS)
    costs += [bare(bed.storage, parameters) for _ in range(3)]
    several = search(bed, bed.storage, parameters, models=SEVERAL, seconds=UNIT_SECONDS)
    costs += [bare(bed.storage, parameters) for _ in range(3)]
    cost = statistics.median(costs)
    dependent = row("dependent", parameters, hops(alone, "model_id"), cost, list(alone["save"]))
    other = row("another model's", parameters, hops(several, "worker"), cost, list(several["save"]))
    return dependent and other


def measure_slow(bed: Bed, parameters: int, folder: Path) -> bool:
    """The row of slow storage."""
    cost = statistics.median(bare(bed.storage, parameters) for _ in range(5))
    with FaultyFolder(folder / "slow", folder / "backing") as slow:
        slow.delay("fsync", seconds=SLOW_FSYNC, where="*/models/*")
        units = search(bed, slow.path, parameters, models=SEVERAL, seconds=SLOW_UNIT_SECONDS)
    return row("slow storage", parameters, hops(units, "worker"), cost, list(units["save"]))


def main() -> int:
    """Run the searches; returns the exit status."""
    arguments = parser().parse_args()
    require(cores(2), memory(8.0), disk(6.0, arguments.folder), packages("tensorflow"))
    kept = True
    with (
        tempfile.TemporaryDirectory(prefix="cerebro-hop-", dir=arguments.folder) as folder,
        bed(Path(folder), arguments.backend) as ours,
    ):
        print("10^6    hop                 hop (ms)  bare (ms)  ratio  limit (ms)  save (ms)")
        for parameters in SIZES:
            kept = measure(ours, parameters) and kept
        missing = faulty_folder_available()
        if missing:
            print(f"slow storage is left out: {missing}")
        else:
            kept = measure_slow(ours, SIZES[1], Path(folder)) and kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
