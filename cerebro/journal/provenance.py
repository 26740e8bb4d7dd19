"""Where a run's results come from: versions, devices, seed, data, code, faults."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from typing import Any

from cerebro import machine
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths
from cerebro.storage import write_file

GIT_SECONDS = 5


def code_folder(function: Callable[..., Any]) -> str:
    """Where a function's source lies; the working folder if it lies in no file."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    folder = os.path.dirname(getattr(code, "co_filename", ""))
    return folder if os.path.isdir(folder) else os.getcwd()


def git_commit(folder: str) -> str | None:
    """The commit that a folder is at, with `+changes` where files differ; None without git."""
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain"])
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit, status = (
            subprocess.run(
                c, capture_output=True, text=True, timeout=GIT_SECONDS, check=True, cwd=folder
            )
            for c in commands
        )
        return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
    return None


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def write_provenance(paths: RunPaths, ledger: Ledger) -> None:
    """Write `provenance.json`."""
    plan = ledger.the_plan
    commits = [record.git_commit for record in ledger.generations]
    content: dict[str, Any] = {
        "run": plan.name,
        "began": _moment(ledger.base_time),
        "replay": plan.replay,
        "versions": {**machine.versions(), "platform": platform.platform()},
        "git_commit": next((c for c in commits if c), None),
        "seed": plan.seed,
        "deterministic": plan.deterministic,
        "backend": plan.backend,
        "train_partitions": plan.train_partitions,
        "valid_partitions": plan.valid_partitions,
        "functions": plan.functions,
        "workers": {
            number: {"url": worker.url, **worker.facts} for number, worker in ledger.workers.items()
        },
        "drivers": [
            {
                **record.driver,
                "began": _moment(record.time),
                "git_commit": record.git_commit,
                "functions": None if given is None else given.functions,
                "workers": None if given is None else given.workers,
            }
            for record, given in zip(ledger.generations, ledger.plans, strict=True)
        ],
        "faults": ledger.faults,
    }
    write_file(paths.provenance, json.dumps(content, indent=2).encode(), inside=paths.root)
