"""How long the report of a large run takes to write and to open.

    python benchmarks/report.py

A made-up run of 256 models, 16 workers, 16 partitions for training and 4 for validation, and 10
epochs: 51,200 bars. Headless Chromium opens the page from disk; counted is what the page itself
measures, from the beginning of its loading until everything is drawn. Median of `--repeat`. More
than 3 s makes the exit status 1.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from testbed.requirements import disk, memory, require

from cerebro.report.contents import PARTS, Bar, Contents, Epoch, Model, Worker
from cerebro.report.page import page

MODELS, WORKERS, TRAIN, VALID, EPOCHS = 256, 16, 16, 4, 10
SECONDS_ALLOWED = 3.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--repeat", type=int, default=5, help="times it is opened (%(default)s)")
    return parse


def made_up() -> Contents:
    """A run that went well."""
    rng = random.Random(0)
    models = []
    for number in range(MODELS):
        level = rng.uniform(0.05, 0.4)
        epochs = [
            Epoch(e, *(level * (1 + 2 / (e + 1)) * rng.uniform(0.9, 1.1) for _ in range(4)))
            for e in range(EPOCHS)
        ]
        config = {"rate": 10 ** rng.uniform(-5, -1), "units": rng.choice([16, 32, 64]), "n": number}
        best = min(epochs, key=lambda epoch: epoch.valid_error)
        models.append(Model(number, config, "COMPLETED", epochs, best))
    bars: dict[int, list[Bar]] = {worker: [] for worker in range(WORKERS)}
    free = [0.0] * WORKERS
    for epoch in range(EPOCHS):
        for partition in range(TRAIN + VALID):
            for model in range(MODELS):
                worker = (partition + model) % WORKERS
                start, valid = free[worker] + 0.05, partition >= TRAIN
                free[worker] = start + rng.uniform(0.5, 1.5) * (0.3 if valid else 1.0)
                where = partition - TRAIN if valid else partition
                bars[worker].append(
                    Bar(model, epoch, valid, where, start, free[worker], "committed")
                )
    seconds = max(free)
    workers = [
        Worker(w, f"http://node{w}:7777", "16 threads", own, spent=dict.fromkeys(PARTS, 1.0))
        for w, own in bars.items()
    ]
    return Contents(
        "made-up", "/nowhere", "now", seconds, [], models, workers, [], [], 1.0, [("Seed", ["0"])]
    )


def opened(browser: str, path: Path, profile: Path) -> float:
    """Seconds until a page is drawn, by its own clock. `RuntimeError` if it never is."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += [f"--user-data-dir={profile}", "--window-size=1400,2000", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, path.as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search(r'data-drawn-ms="(\d+)"', done.stdout)
    if found is None:
        raise RuntimeError(f"the page was not drawn: {done.stderr[-500:]}")
    return int(found[1]) / 1e3


def main() -> int:
    """Write the page, open it, and print the table; returns the exit status."""
    arguments = parser().parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    missing = "" if browser else "a browser is needed: apt-get install chromium"
    require(missing, memory(2.0), disk(0.5))
    assert browser is not None
    with tempfile.TemporaryDirectory(prefix="cerebro-report-") as folder:
        contents, path = made_up(), Path(folder) / "report.html"
        begun = time.perf_counter()
        path.write_text(page(contents), encoding="utf-8")
        written = time.perf_counter() - begun
        times = [opened(browser, path, Path(folder) / "profile") for _ in range(arguments.repeat)]
        size = path.stat().st_size
    seconds = statistics.median(times)
    print("models  workers   bars  file, MB  write, s  open, s (median)  allowed, s")
    print(
        f"{MODELS:6}  {WORKERS:7}  {sum(len(w.bars) for w in contents.workers):5}  "
        f"{size / 1e6:8.2f}  {written:8.2f}  {seconds:16.2f}  {SECONDS_ALLOWED:10.1f}"
    )
    return int(seconds > SECONDS_ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
