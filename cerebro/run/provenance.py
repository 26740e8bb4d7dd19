"""Where a run's results come from: versions, devices, seed, data, code, faults."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
import time
from typing import Any

from cerebro.run.ledger import Ledger
from cerebro.run.paths import RunPaths
from cerebro.storage import write_file
from cerebro.worker import machine

GIT_SECONDS = 5


def git_commit() -> str | None:
    """The commit of the working folder, with `+changes` where files differ from it."""
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain"])
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit, status = (
            subprocess.run(c, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
            for c in commands
        )
        return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
    return None


def write_provenance(paths: RunPaths, ledger: Ledger) -> None:
    """Write `provenance.json`."""
    plan = ledger.the_plan
    content: dict[str, Any] = {
        "run": plan.name,
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(ledger.base_time)),
        "versions": {**machine.versions(), "platform": platform.platform()},
        "git_commit": git_commit(),
        "seed": plan.seed,
        "deterministic": plan.deterministic,
        "backend": plan.backend,
        "train_partitions": plan.train_partitions,
        "valid_partitions": plan.valid_partitions,
        "functions": plan.functions,
        "workers": {
            number: {"url": worker.url, **worker.facts} for number, worker in ledger.workers.items()
        },
        "drivers": [record.get("driver") for record in ledger.generations],
        "faults": ledger.faults,
    }
    write_file(paths.provenance, json.dumps(content, indent=2).encode())
