"""How long the report of a large run takes to write and to open.

    python benchmarks/report.py
    python benchmarks/report.py --models 4 --workers 2 --repeat 1

The journal of a run on simulated time is written to a temporary folder: by default 256 models, 16
workers, 16 partitions each for training and validation, and 10 epochs. It is loaded, reported, and
the page is opened from disk in headless Chromium. `drawn` is the page's own measure, from the
beginning of its loading until everything is drawn; `whole browser` is from the command's start to
its end, and so counts the start and end of Chromium, which an empty page needs as well. Medians of
`--repeat`. If the whole takes more than 3 s, the exit status is 1.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cerebro
from testbed.requirements import disk, memory, require
from testbed.written_run import Shape, write_run

SECONDS_ALLOWED = 3.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
EMPTY = "<!doctype html><html data-drawn-ms='0'></html>"

T = TypeVar("T")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--models", type=int, default=256, help="(%(default)s; at most 256)")
    parse.add_argument("--workers", type=int, default=16, help="(%(default)s)")
    parse.add_argument("--partitions", type=int, default=16, help="of each split (%(default)s)")
    parse.add_argument("--epochs", type=int, default=10, help="(%(default)s)")
    parse.add_argument("--repeat", type=int, default=5, help="times it is opened (%(default)s)")
    return parse


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call gives, and its seconds."""
    begun = time.perf_counter()
    given = call()
    return given, time.perf_counter() - begun


def opened(browser: str, path: Path, profile: Path) -> tuple[float, float]:
    """Seconds until a page is drawn by its own clock, and those of the whole browser.

    `RuntimeError` if it is never drawn.
    """
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += [f"--user-data-dir={profile}", "--window-size=1400,2000", "--dump-dom"]
    done, seconds = timed(
        lambda: subprocess.run(
            [browser, *options, path.as_uri()], capture_output=True, text=True, timeout=120
        )
    )
    found = re.search(r'data-drawn-ms="(\d+)"', done.stdout)
    if found is None:
        raise RuntimeError(f"the page was not drawn: {done.stderr[-500:]}")
    return int(found[1]) / 1e3, seconds


def medians(browser: str, path: Path, profile: Path, repeat: int) -> list[float]:
    """Medians of what `opened` gives; the profile is made before."""
    opened(browser, path, profile)
    times = [opened(browser, path, profile) for _ in range(repeat)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def main() -> int:
    """Write the run and the page, open it, and print the table; returns the exit status."""
    arguments = parser().parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    missing = "" if browser else "a browser is needed: apt-get install chromium"
    require(missing, memory(2.0), disk(0.5))
    assert browser is not None
    n = arguments.partitions
    shape = Shape(arguments.models, arguments.workers, n, n, arguments.epochs)
    with tempfile.TemporaryDirectory(prefix="cerebro-report-") as name:
        folder = Path(name)
        print("writing a run on simulated time", flush=True)
        write_run(folder / "run", shape)
        result, loading = timed(lambda: cerebro.load(folder / "run"))
        report, writing = timed(result.report)
        (folder / "empty.html").write_text(EMPTY)
        profile = folder / "profile"
        _, empty = medians(browser, folder / "empty.html", profile, arguments.repeat)
        drawn, whole = medians(browser, Path(report), profile, arguments.repeat)
        size, bars = Path(report).stat().st_size, len(result.units)
    rows = [
        ("models", f"{shape.models}"),
        ("workers", f"{shape.workers}"),
        ("bars", f"{bars:,}"),
        ("file, MB", f"{size / 1e6:.2f}"),
        ("loading the journal, s", f"{loading:.2f}"),
        ("writing the report, s", f"{writing:.2f}"),
        ("drawn, s", f"{drawn:.2f}"),
        ("whole browser, s", f"{whole:.2f}"),
        ("whole browser, empty page, s", f"{empty:.2f}"),
        ("allowed, s", f"{SECONDS_ALLOWED:.1f}"),
    ]
    for what, value in rows:
        print(f"{what:<30}{value:>10}")
    return int(whole > SECONDS_ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
