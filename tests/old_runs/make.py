"""Make the recorded runs in this folder, once, with the code that they are to stand for.

    PYTHONPATH=. python tests/old_runs/make.py

`made_by.json` says which versions made them. What names the machine is replaced.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

from old_functions import RUNS, arguments
from relocate import HERE, ROOT, replace_texts

import cerebro
from cerebro.journal.journal import Journal
from cerebro.journal.ownership import here

INTERRUPTED_AFTER = 3
"""Units of the interrupted run that were committed: the first epoch has 2 a model, and 1."""


def interrupt_after(commits):
    """Have this process get a Ctrl-C once so many units of a run are committed."""
    append, seen = Journal.append, []

    def counting(journal, records, *rest):
        records = list(records)
        append(journal, records, *rest)
        before = len(seen)
        seen.extend(record for record in records if record.kind == "committed")
        if before < commits <= len(seen):
            os.kill(os.getpid(), signal.SIGINT)

    Journal.append = counting
    return append


def make(name, cluster, folder):
    if name == "interrupted":
        append = interrupt_after(INTERRUPTED_AFTER)
        try:
            cerebro.schedule(**arguments(name, cluster, folder), run_name=name)
        except cerebro.errors.RunInterrupted:
            return
        finally:
            Journal.append = append
        raise AssertionError("it was to be interrupted")
    result = cerebro.schedule(**arguments(name, cluster, folder), run_name=name)
    assert result.complete


def main():
    target = HERE / "runs"
    target.mkdir()
    with tempfile.TemporaryDirectory() as folder, cerebro.LocalCluster(1, threads=1) as cluster:
        texts = {
            folder: ROOT,
            cluster.urls[0]: "http://node1:7777",
            cluster.secret_file: "/secret",
            sys.prefix: "/venv",
            here(): "node1",
            platform.platform(): platform.system(),
            socket.gethostname(): "node1",
        }
        for name in RUNS:
            make(name, cluster, folder)
            replace_texts(Path(folder) / name, texts)
            shutil.copytree(
                Path(folder) / name, target / name,
                ignore=shutil.ignore_patterns("tensorboard", "probe"),
            )  # fmt: skip
    with open(HERE / "best.pickle", "wb") as file:
        pickle.dump(cerebro.load(target / "python").best(), file)
    with open(HERE / "result.pickle", "wb") as file:
        pickle.dump(cerebro.load(os.path.relpath(target / "python")), file)
    versions = {"cerebro": cerebro.__version__, "python": platform.python_version()}
    (HERE / "made_by.json").write_text(json.dumps(versions) + "\n")


if __name__ == "__main__":
    main()
