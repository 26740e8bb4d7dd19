"""What is said where the users of driver and workers are closed out of each other's files."""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebro import machine
from cerebro.errors import StorageForbidden
from cerebro.users import named

GROUP_BITS = 0o070


@dataclass(frozen=True)
class Party:
    """Who takes part in a run: its driver or a worker, as which user, and with which umask.

    None stands for what is not known.
    """

    what: str
    uid: int | None
    umask: int | None

    def __str__(self) -> str:
        known = []
        if self.uid is not None:
            known.append(named(self.uid))
        if self.umask is not None:
            known.append(f"umask {self.umask:04o}")
        return f"{self.what} ({', '.join(known)})" if known else self.what


def this_driver() -> Party:
    """Return the driver in this process."""
    return Party("the driver", os.geteuid(), machine.umask())


def of_worker(url: str, answer: dict[str, Any]) -> Party:
    """Return a worker by its answer to the probe of storage; an older one says less."""
    uid, umask = answer.get("uid"), answer.get("umask")
    return Party(
        f"the worker {url}",
        uid if type(uid) is int else None,
        umask if type(umask) is int else None,
    )


def forbidden(who: Party, does: str, path: str | Path, maker: Party, run: Path) -> StorageForbidden:
    """Return the error that `who` may not do something with a path that `maker` has made.

    `run` is the run's folder. The way out is a common group and a umask that leaves it in. What
    lies beside the run, in a home folder for example, must not be opened to the group with it.
    """
    shown = shlex.quote(str(run))
    withheld = ""
    if maker.umask is not None and maker.umask & GROUP_BITS:
        withheld = (
            f". With the umask {maker.umask:04o} {maker.what} closes what it makes to its group"
        )
    return StorageForbidden(
        f"{who} may not {does} {path}{_described(path)}, which is of {maker}{withheld}. Start "
        "driver and workers with `umask 002` (or 007, which leaves out everybody else), as users "
        "of one group, and take as ckpt_root a folder that is made for it: `mkdir FOLDER && chgrp "
        "GROUP FOLDER && chmod g+rwxs FOLDER`. A run that has been started is opened to the group "
        f"by `chgrp -R GROUP {shown} && chmod -R g+rwX {shown} && find {shown} -type d -exec chmod "
        "g+s {} +`"
    )


def check_writable(run_dir: str | Path) -> None:
    """Raise `StorageForbidden` where this driver may not write in the folder of a run to resume."""
    if not os.access(
        run_dir, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
    ):
        raise StorageForbidden(
            f"{this_driver()} may not write in {run_dir}{_described(run_dir)}, so it cannot resume "
            "the run there: have its owner let the run's group write in it, or resume a copy of "
            "the folder, which continues as a run of its own"
        )


def _described(path: str | Path) -> str:
    """The mode, owner and group of a path, as they look from here."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    mode = stat.S_IMODE(status.st_mode)
    return f" (mode {mode:04o}, owner {named(status.st_uid)}, group {status.st_gid})"
