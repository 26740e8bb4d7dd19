"""A driver of the toy search in a process of its own, which can be had to die at a given record.

    python driver_script.py FOLDER SECRET RESUME KILL_AT URL...

`KILL_AT` is 0 for never, or the number of the append to the journal at which it kills itself:
before it is written if negative, after it is durable (and before anything follows) if positive.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from toy import functions, partitions

import cerebro
from cerebro.journal import ownership
from cerebro.journal.journal import Journal

CONFIGS = [{"rate": 0.5}, {"rate": 0.1}, {"rate": 0.01}]
EPOCHS = 3


def die_at(number: int) -> None:
    """Have this process kill itself at an append to the journal."""
    append = Journal.append
    calls = []

    def dying(journal, records, *arguments):
        calls.append(1)
        if len(calls) == -number:
            os.kill(os.getpid(), signal.SIGKILL)
        append(journal, records, *arguments)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.append = dying


def main() -> None:
    folder, secret, resume, kill_at, *urls = sys.argv[1:]
    place = Path(folder)
    ownership.STALE_SECONDS = 2.0
    if int(kill_at):
        die_at(int(kill_at))
    input_fn, model_fn, train_fn, eval_fn = functions(EPOCHS, seconds=0.02)
    cerebro.schedule(
        urls,
        partitions(place / "data", 3),
        partitions(place / "data", 2, "valid"),
        None,
        None,
        input_fn,
        model_fn,
        train_fn,
        CONFIGS,
        eval_fn,
        ckpt_root=str(place / "ckpt"),
        backend="python",
        secret_file=secret,
        run_name="r",
        resume={"auto": "auto", "yes": True, "no": False}[resume],
        heartbeat=2.0,
    )
    print("complete")


if __name__ == "__main__":
    main()
