"""The search that goes on while its worker is attacked: `python -m testbed.fuzz_driver SPEC`.

One model on one worker: the order of its units follows from the seed alone, so that two runs of
as many epochs give the same bits. It prints a line at every decision.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import cerebro


@dataclass(frozen=True)
class Spec:
    """What to run. It ends after `epochs`, or if that is 0, once the file `stop` exists."""

    url: str
    secret_file: str
    train: list[str]
    valid: list[str]
    ckpt_root: str
    run_name: str
    stop: str
    epochs: int
    heartbeat: float


def input_fn(path: str) -> list[float]:
    """A file of numbers."""
    with open(path) as file:
        return [float(line) for line in file]


def model_fn(data: list[float], config: dict[str, Any]) -> dict[str, Any]:
    """A weight for each row, and the rows that were seen."""
    import random

    return {"rate": config["rate"], "weights": [random.random() for _ in data], "steps": 0}


def train_fn(model: dict[str, Any], data: list[float], train: bool = True) -> tuple[float, float]:
    """Draws the weights to the data with noise; for a moment only, so that others get the CPU."""
    import random
    import time

    time.sleep(0.02)
    weights = model["weights"]
    if train:
        for index, x in enumerate(data):
            weights[index] -= model["rate"] * (weights[index] - x) * random.random()
        model["steps"] += 1
    loss = sum((w - x) ** 2 for w, x in zip(weights, data, strict=True)) / len(data)
    return loss, loss / (1 + loss)


def main() -> None:
    """Run the search that the first argument describes."""
    spec = Spec(**json.loads(sys.argv[1]))

    def eval_fn(state: dict[int, dict[str, Any]]) -> tuple[list[int], list[dict[str, Any]]]:
        epochs = state[0]["epoch"] + 1
        print(epochs, flush=True)
        done = epochs >= spec.epochs if spec.epochs else os.path.exists(spec.stop)
        return ([0] if done else []), []

    cerebro.schedule(
        [spec.url],
        spec.train,
        spec.valid,
        None,
        None,
        input_fn,
        model_fn,
        train_fn,
        [{"rate": 0.1}],
        eval_fn,
        ckpt_root=spec.ckpt_root,
        run_name=spec.run_name,
        backend="python",
        secret_file=spec.secret_file,
        heartbeat=spec.heartbeat,
    )


if __name__ == "__main__":
    main()
