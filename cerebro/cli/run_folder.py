"""Which run a command is about: the one in a folder, or the latest of those that lie in it."""

from __future__ import annotations

import os
from pathlib import Path

from cerebro.cli import output
from cerebro.journal.journal import last_opened
from cerebro.journal.paths import RunPaths, runs_in

HELP = "the run's folder, or the ckpt_root above it: of its runs, the latest to start or resume"


def chosen_run(folder: str) -> str:
    """Return the run's folder. Says on standard error which one that is, if it is not `folder`.

    A folder that holds no run is returned as it is: what reads it says what is wrong. Raises
    `StorageError`.
    """
    root = Path(folder)
    if os.path.isdir(RunPaths(root).journal):
        return folder
    opened = {name: last_opened(RunPaths(root / name)) for name in runs_in(root)}
    times = {name: time for name, time in opened.items() if time is not None}
    if not times:
        return folder
    latest = max(times, key=lambda name: (times[name], name))
    found = str(root / latest)
    which = f"the latest of {len(times)} runs" if len(times) > 1 else "the only run"
    output.remark(f"cerebro: {found} is {which} there")
    return found
