"""Which run a command is about: the one in a folder, or the latest of those that lie in it."""

from __future__ import annotations

from pathlib import Path

from cerebro.cli import output
from cerebro.errors import StorageError
from cerebro.journal.journal import last_opened
from cerebro.journal.paths import RunPaths, is_run, runs_in

HELP = "the run's folder, or the ckpt_root above it: of its runs, the latest to start or resume"


def chosen_run(folder: str) -> str:
    """Return the run's folder. Says on standard error which one that is, if it is not `folder`.

    So it does of runs that are left out because they cannot be read: in a folder such as `/tmp`
    they may be anybody's. A folder that holds no run is returned as it is: what reads it says what
    is wrong.
    """
    root = Path(folder)
    if is_run(root):
        return folder
    times = {}
    for name in runs_in(root):
        try:
            time = last_opened(RunPaths(root / name))
        except StorageError as error:
            output.remark(f"cerebro: {root / name} is left out: {error}")
            continue
        if time is not None:
            times[name] = time
    if not times:
        return folder
    latest = max(times, key=lambda name: (times[name], name))
    found = str(root / latest)
    which = f"the latest of {len(times)} runs" if len(times) > 1 else "the only run"
    output.remark(f"cerebro: {found} is {which} there")
    return found
