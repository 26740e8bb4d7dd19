"""The driver of a dispatch benchmark: a process of its own, so that its CPU time is its own.

`python -m testbed.dispatch_driver SPEC`, where SPEC is JSON (see `Spec`). A unit sleeps, and gives
the moments at which its `train_fn` began and ended, by the host's monotonic clock, as its loss and
its error: so they come with the unit's own report, and cost no call of their own.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import cerebro


@dataclass(frozen=True)
class Spec:
    """What to run: `models` models for one epoch, units of `seconds` on the average.

    `progress` is how it is shown.
    """

    workers: list[str]
    secret_file: str
    partitions: list[str]
    ckpt_root: str
    run_name: str
    models: int
    seconds: float
    progress: str = "plain"


def main() -> None:
    """Run what the first argument describes."""
    spec = Spec(**json.loads(sys.argv[1]))

    def input_fn(path: str) -> str:
        return path

    def model_fn(data: str, config: dict[str, Any]) -> dict[str, Any]:
        return {"seconds": config["seconds"], "units": 0}

    def train_fn(model: dict[str, Any], data: str, train: bool = True) -> tuple[float, float]:
        import random
        import time

        begin = time.monotonic()
        model["units"] += 1
        # Seeded by the unit: from half to one and a half times the average.
        time.sleep(model["seconds"] * (0.5 + random.random()))
        return begin, time.monotonic()

    cerebro.schedule(
        spec.workers,
        spec.partitions,
        [],
        [[1] * len(spec.partitions) for _ in spec.workers],
        None,
        input_fn,
        model_fn,
        train_fn,
        [{"seconds": spec.seconds, "number": number} for number in range(spec.models)],
        lambda state: (list(state), []),
        ckpt_root=spec.ckpt_root,
        run_name=spec.run_name,
        backend="python",
        secret_file=spec.secret_file,
        progress=spec.progress,
    )


if __name__ == "__main__":
    main()
