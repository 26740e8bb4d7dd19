"""How fast the example's `input_fn` reads, against the bare reading of the same bytes.

    python benchmarks/input.py

One subject-week of pre-processed data (7 days of 8,640 ten-second windows, 73 MB) is written to a
temporary folder, twice: once with every window usable, and once with sleep, non-wear and unknown
labels. `input_fn` is compared with reading the days' acceleration through h5py, an array a day,
and nothing else. The files are in the page cache; the two are timed in turn, and the table has the
medians. At least half the bare speed is promised for both; less makes the exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.requirements import disk, memory, packages, require

PROMISED = 0.5
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--repeat", type=int, default=15, help="readings of each (%(default)s)")
    return parse


def bare_reading(definition: str) -> list[Any]:
    """The acceleration of each day, as it is in the files."""
    import h5py

    arrays = []
    for path in sorted((Path(definition).parent / "subject").glob("*.h5")):
        with h5py.File(path, "r", locking=False) as file:
            arrays.append(file["data"][...])
    return arrays


def seconds(read: Callable[[str], Any], definition: str) -> float:
    """How long one reading takes; giving the memory back is not in it."""
    begun = time.perf_counter()
    found = read(definition)
    took = time.perf_counter() - begun
    del found
    return took


def compare(input_fn: Callable[[str], Any], definition: str, repeat: int) -> tuple[float, float]:
    """Median seconds of bare reading and of `input_fn`, one after the other in turn."""
    seconds(bare_reading, definition)
    seconds(input_fn, definition)
    pairs = [
        (seconds(bare_reading, definition), seconds(input_fn, definition)) for _ in range(repeat)
    ]
    bare, ours = zip(*pairs, strict=True)
    return statistics.median(bare), statistics.median(ours)


def main() -> int:
    """Write the data, read it, print the table; returns the exit status."""
    arguments = parser().parse_args()
    require(memory(1.0), disk(0.5), packages("tensorflow", "h5py"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from testbed.subject_week import write_week

    sys.path.insert(0, str(EXAMPLES))
    import behavior_classification as example

    kept = True
    rows = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cerebro-input-")))
        for name, worn_always in (("every window usable", True), ("as people wear it", False)):
            definition = write_week(folder / name.replace(" ", "-"), worn_always=worn_always)
            print(f"{name}: written, reading {arguments.repeat} times", flush=True)
            used = len(example.input_fn(definition)["labels"])
            megabytes = sum(array.nbytes for array in bare_reading(definition)) / 1e6
            bare, ours = compare(example.input_fn, definition, arguments.repeat)
            kept = kept and bare / ours >= PROMISED
            rows.append((name, used, megabytes, bare, ours))
    print(f"\n{'':<22}{'windows used':>14}{'bare, MB/s':>12}{'input_fn, MB/s':>16}{'ratio':>8}")
    for name, used, megabytes, bare, ours in rows:
        print(
            f"{name:<22}{used:>14,}{megabytes / bare:>12,.0f}{megabytes / ours:>16,.0f}"
            f"{bare / ours:>8.2f}"
        )
    print(f"promised: a ratio of at least {PROMISED}{'' if kept else '  <- not kept'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
