"""What must hold after chaos: every unit once, every weight as without it, nothing left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cerebro
from cerebro.journal.journal import read_journal
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import WorkerStateRecord
from cerebro.results.result import Result
from testbed.chaos_bed import WORKERS
from testbed.chaos_driver import Settings
from testbed.chaos_search import TRAIN_PARTITIONS, VALID_PARTITIONS

AGAIN_SECONDS = 1200.0
"""How long it may take to train the models again."""

REPLAY_HEARTBEAT_SECONDS = 30.0
KEPT_VERSIONS = 3
"""A model's newest version, the one before, and its best."""


class NotDone(Exception):
    """Training the models again did not succeed."""


@dataclass(frozen=True)
class Units:
    """The units of a run: how many count, and which are missing or count twice."""

    committed: int
    lost: list[tuple[int, int, str, int]]
    twice: list[tuple[int, int, str, int]]


class Commits:
    """Counts the committed units of a run while its journal grows, wherever its folder is now."""

    def __init__(self, run_dir: Callable[[], Path]) -> None:
        self._run_dir = run_dir
        self._read: dict[str, int] = {}
        self.count = 0

    def look(self) -> int:
        """The count by now; what a driver wrote that was replaced is counted too."""
        for path in sorted((self._run_dir() / "journal").glob("*.jsonl")):
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                file.seek(self._read.get(path.name, 0))
                content = file.read()
                self._read[path.name] = self._read.get(path.name, 0) + len(content)
                self.count += content.count(b'"kind":"committed"')
        return self.count


def check_units(result: Result) -> Units:
    """Compare what is committed with what every model's epochs are made of."""
    committed = result.units[result.units["outcome"] == "committed"]
    keys = ["model_id", "epoch", "split", "partition"]
    counts = Counter(committed[keys].itertuples(index=False, name=None))
    splits = {"train": TRAIN_PARTITIONS, "valid": VALID_PARTITIONS}
    expected = {
        (model, epoch, split, partition)
        for model, epochs in zip(result.models["model_id"], result.models["epochs"], strict=True)
        for epoch, (split, partitions) in itertools.product(range(epochs), splits.items())
        for partition in range(partitions)
    }
    twice = sorted(key for key, count in counts.items() if count > 1 or key not in expected)
    return Units(len(committed), sorted(expected - counts.keys()), twice)


def check_end(result: Result) -> list[str]:
    """What is wrong with the end of a run: models, and what lies in its folder."""
    models = result.models
    wrong = [
        f"model {model} is {state}: {failure}"
        for model, state, failure in zip(
            models["model_id"], models["state"], models["failure"], strict=True
        )
        if state != "COMPLETED"
    ]
    if models["epochs"].nunique() > 1:
        wrong.append(f"models ended after {sorted(set(models['epochs']))} epochs")
    if not result.complete:
        wrong.append("the run has not ended")
    for folder in sorted((Path(result.run_dir) / "models").iterdir()):
        names = sorted(os.listdir(folder))
        if len(names) > KEPT_VERSIONS or any(name.startswith(".") for name in names):
            wrong.append(f"left in {folder}: {', '.join(names)}")
    return wrong


def replay(settings_file: Path, run_dir: Path) -> Path:
    """Have the library do a run again on workers that nothing disturbs; the folder of that run."""
    with cerebro.LocalCluster(WORKERS, threads=1) as cluster:
        settings = dataclasses.replace(
            Settings.load(settings_file),
            workers=cluster.urls,
            secret_file=cluster.secret_file,
            ckpt_root=str(settings_file.parent),
            run_name="replay",
            heartbeat=REPLAY_HEARTBEAT_SECONDS,
            replay=str(run_dir),
        )
        path = settings_file.with_name("replay.json")
        settings.save(path)
        _python("testbed.chaos_driver", str(path), log=settings_file.with_name("replay.log"))
    return Path(settings.ckpt_root) / settings.run_name


def check_weights(
    settings_file: Path, run_dirs: Sequence[Path], environment: Mapping[str, str]
) -> list[list[str]]:
    """How the models of runs differ from those trained without workers, in the first's order."""
    said = _python(
        "testbed.sequential",
        str(settings_file),
        *map(str, run_dirs),
        log=settings_file.with_name("sequential.log"),
        environment=environment,
    )
    return [json.loads(line) for line in said.splitlines()]


def _python(
    module: str, *arguments: str, log: Path, environment: Mapping[str, str] | None = None
) -> str:
    """Run a module of the test bed to its end. Returns what it printed."""
    with open(log, "wb") as errors:
        process = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=Path(__file__).parents[1],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            timeout=AGAIN_SECONDS,
            check=False,
        )
    if process.returncode != 0:
        raise NotDone(f"{module} failed: {process.stdout}{log.read_text()}")
    return process.stdout


def worker_states(result: Result) -> Counter[str]:
    """How often the journal says that a worker joined, was lost and so on."""
    records, _ = read_journal(RunPaths(result.run_dir))
    return Counter(r.state.value for r in records if isinstance(r, WorkerStateRecord))


def outcomes(result: Result) -> Counter[str]:
    """Attempts by their outcome."""
    return Counter(result.units["outcome"])
