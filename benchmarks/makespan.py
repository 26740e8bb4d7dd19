"""How much longer a search takes than the training in it.

    python benchmarks/makespan.py
    python benchmarks/makespan.py --long
    python benchmarks/makespan.py --backend keras

The example's workload: four configurations (amp_factor 1, batch size 16, BiLSTM windows of 7 and 9
minutes, two learning rates), two workers with one thread each, two partitions of 1,440 ten-second
windows for training and two for validation, two epochs. With `--backend keras` a small Keras model
is trained on the same data by `fit`. The ratio is the makespan (first unit's start to last commit)
by the seconds inside `train_fn` of the mean worker. Workers and executors are up and have loaded
their data by the first unit's start; what that took is printed apart.

The table says how the mean worker spent the makespan. A worker saves beside its next unit, so
saving is not in it, but in a line of its own.

What is promised depends on how long a training unit takes: a ratio of at most 1.10 from 2 s on, and
of at most 1.03 from 20 s on. Shorter units show what a unit and a graph cost, and nothing is
promised of them: where the processor is so fast, the search runs a second time with partitions
large enough for units of 3 s. With `--long` it runs with units of at least 20 s as well, which
takes some minutes. Medians of `--repeat` searches; a ratio above what is promised makes the exit
status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cerebro
from cerebro.rpc import create_secret
from testbed import keras_windows
from testbed.requirements import cores, disk, memory, packages, require
from testbed.timeline import INSIDE, Timeline, timeline
from testbed.workers import Worker

WORKERS = 2
WINDOWS = 1_440
EPOCHS = 2
CONFIGS = [
    {
        "learning_rate": learning_rate,
        "reg_param": 1e-3,
        "amp_factor": 1,
        "win_size_mins": minutes,
        "batch_size": 16,
    }
    for minutes in (7, 9)
    for learning_rate in (1e-3, 1e-4)
]
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

PROMISES = ((20.0, 1.03), (2.0, 1.10))
"""(seconds of a training unit from which it holds, ratio), the longest first."""
ORDINARY_SECONDS = 3.0
LONG_SECONDS = 22.0
"""How long training units are made that are to show the promises."""

Data = tuple[list[str], list[str]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument(
        "--repeat", type=int, default=3, help="searches a size of partition (%(default)s)"
    )
    parse.add_argument("--long", action="store_true", help="also units of 20 s or more")
    parse.add_argument("--backend", choices=["keras", "tf"], default="tf")
    return parse


@dataclass
class Bed:
    """Workers that are up, and a folder for data and runs."""

    folder: Path
    urls: list[str]
    secret_file: str
    backend: str
    runs: int = 0


@contextlib.contextmanager
def bed(backend: str) -> Iterator[Bed]:
    """Two workers with a thread each, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="cerebro-makespan-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        secret = folder / "secret"
        create_secret(str(secret))
        workers = [
            stack.enter_context(Worker(folder / f"worker{number}", secret))
            for number in range(WORKERS)
        ]
        yield Bed(folder, [worker.url for worker in workers], str(secret), backend)


def write_data(bed: Bed, windows: int) -> Data:
    """The partitions' paths, of training and of validation."""
    from testbed.posture_data import write_partition

    folder = bed.folder / f"data{windows}"
    train, valid = (
        [write_partition(folder, f"{split}{p}", windows, seed + p) for p in range(WORKERS)]
        for split, seed in (("train", 0), ("valid", 100))
    )
    return train, valid


def search(bed: Bed, data: Data) -> tuple[Timeline, float]:
    """One search: its timeline, and the seconds from the call to the first unit's start."""
    import behavior_classification as example

    bed.runs += 1
    example.EPOCHS = EPOCHS
    train, valid = data
    input_fn, model_fn, train_fn = example.input_fn, example.model_fn, example.train_fn
    if bed.backend == "keras":
        input_fn, model_fn, train_fn = keras_windows.input_fn, keras_windows.model_fn, None
    called = time.time()
    result = cerebro.schedule(
        bed.urls,
        train,
        valid,
        None,
        None,
        input_fn,
        model_fn,
        train_fn,
        CONFIGS,
        example.eval_fn,
        str(bed.folder / "runs"),
        backend=bed.backend,
        run_name=f"run{bed.runs}",
        secret_file=bed.secret_file,
    )
    took = time.time() - called
    found = timeline(result.units, WORKERS)
    return found, took - found.makespan


def promised(seconds: float) -> float | None:
    """The ratio that is promised for training units of so many seconds."""
    return next((ratio for least, ratio in PROMISES if seconds >= least), None)


def measure(bed: Bed, windows: int, repeat: int) -> tuple[Timeline, bool]:
    """Repeat a search on partitions of so many windows, and print the table.

    Returns the search with the median ratio, and whether the promise holds.
    """
    data = write_data(bed, windows)
    found = []
    for number in range(repeat):
        found.append(search(bed, data))
        line, set_up = found[-1]
        print(f"search {number + 1} of {repeat}: ratio {line.ratio:.3f}", flush=True)
    ratios = sorted(line.ratio for line, _ in found)
    line, set_up = sorted(found, key=lambda pair: pair[0].ratio)[(len(found) - 1) // 2]
    seconds = statistics.median(line.train_seconds)
    print(f"\n{windows} ten-second windows a partition; a training unit takes {seconds:.2f} s")
    print(f"{'of the median search':<28}{'s a worker':>12}{'of train_fn':>14}")
    for name, part in line.parts.items():
        print(f"{name:<28}{part:>12.3f}{part / line.parts[INSIDE]:>14.3f}")
    print(f"{'makespan':<28}{line.makespan:>12.3f}{line.ratio:>14.3f}")
    print(f"saving, beside the next unit: {statistics.median(line.save_seconds):.3f} s a version")
    print(f"set-up, before the first unit and after the last commit: {set_up:.1f} s")
    print(f"ratios: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
    limit = promised(seconds)
    ratio = statistics.median(ratios)
    if limit is None:
        print("nothing is promised for units as short as these\n")
        return line, True
    kept = ratio <= limit
    print(f"median {ratio:.3f}, promised at most {limit:.2f}{'' if kept else '  <- not kept'}\n")
    return line, kept


def enlarged(line: Timeline, windows: int, seconds: float) -> int:
    """How many windows make training units of so many seconds."""
    return round(windows * seconds / statistics.median(line.train_seconds))


def main() -> int:
    """Run the searches; returns the exit status."""
    arguments = parser().parse_args()
    require(cores(WORKERS), memory(4.0), disk(3.0), packages("tensorflow", "h5py"))
    sys.path.insert(0, str(EXAMPLES))
    with bed(arguments.backend) as ours:
        line, kept = measure(ours, WINDOWS, arguments.repeat)
        wanted = [LONG_SECONDS] if arguments.long else []
        if promised(statistics.median(line.train_seconds)) is None:
            wanted.insert(0, ORDINARY_SECONDS)
        for seconds in wanted:
            _, holds = measure(ours, enlarged(line, WINDOWS, seconds), arguments.repeat)
            kept = kept and holds
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
