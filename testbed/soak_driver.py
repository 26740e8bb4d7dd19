"""The driver of a soak: a process of its own that reports at every decision, and waits.

`python -m testbed.soak_driver SPEC`, where SPEC is JSON (see `Spec`). At every decision, when all
units so far are committed and nothing runs, it prints a line `{"units": n}` and goes on when it has
read a line; when `schedule()` has returned it prints what is left in the process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cerebro

LEAVING_SECONDS = 30.0


@dataclass(frozen=True)
class Spec:
    """What to run, and how many units at least."""

    workers: list[str]
    secret_file: str
    train: list[str]
    valid: list[str]
    ckpt_root: str
    run_name: str
    backend: str
    models: int
    units: int


def python_functions() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """A linear model with noise, in plain Python."""

    def input_fn(path: str) -> list[float]:
        with open(path) as file:
            return [float(line) for line in file]

    def model_fn(data: list[float], config: dict[str, Any]) -> dict[str, Any]:
        import random

        return {"rate": config["rate"], "weights": [random.random() for _ in range(500)]}

    def train_fn(
        model: dict[str, Any], data: list[float], train: bool = True
    ) -> tuple[float, float]:
        import random

        print("a line of a user's")
        weights = model["weights"]
        if train:
            for index, x in enumerate(data):
                weights[index] -= model["rate"] * (weights[index] - x) * random.random()
        loss = sum((w - x) ** 2 for w, x in zip(weights, data, strict=False)) / len(data)
        return loss, min(loss, 1.0)

    return input_fn, model_fn, train_fn


def tf_functions() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """A tiny graph; with `dropout` it is built anew for every unit, without it is kept."""

    def input_fn(path: str) -> Any:
        import numpy as np

        return np.random.rand(32, 4).astype(np.float32)

    def model_fn(data: Any, config: dict[str, Any], train: bool = True) -> Any:
        import tensorflow as tf

        v1 = tf.compat.v1
        iterator = v1.data.make_initializable_iterator(
            v1.data.Dataset.from_tensor_slices(data).batch(8)
        )
        v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
        x = iterator.get_next()
        hidden = tf.nn.relu(x @ v1.get_variable("hidden", [4, 16]))
        if train and config["dropout"]:
            hidden = tf.nn.dropout(hidden, rate=config["dropout"])
        wrong = tf.reduce_mean((hidden @ v1.get_variable("out", [16, 1]) - x[:, :1]) ** 2)
        return v1.train.AdamOptimizer(config["rate"]), wrong, tf.minimum(wrong, 1.0)

    def train_fn(
        session: Any, train_step: Any, loss: Any, error: Any, train: bool = True
    ) -> tuple[float, float]:
        import numpy as np
        import tensorflow as tf

        print("a line of a user's")
        fetches = [loss, error, train_step] if train else [loss, error]
        seen = []
        while True:
            try:
                seen.append(session.run(fetches)[:2])
            except tf.errors.OutOfRangeError:
                break
        losses, errors = zip(*seen, strict=True)
        return float(np.mean(losses)), float(np.mean(errors))

    return input_fn, model_fn, train_fn


def configuration(number: int) -> dict[str, Any]:
    """The hyperparameters of the model with this number."""
    return {"rate": (0.1, 0.01, 0.001)[number % 3], "dropout": (0.0, 0.2)[number % 2]}


class Procedure:
    """Ends the oldest model at every decision and begins another, until the units are reached.

    Of two that begin, one starts from the weights of a model that goes on, the other from none.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._a_round = spec.models * (len(spec.train) + len(spec.valid))
        self._live = list(range(spec.models))
        self._units = 0
        self._next = spec.models

    def __call__(self, state: dict[int, dict[str, Any]]) -> tuple[list[int], list[dict[str, Any]]]:
        self._units += self._a_round
        print(json.dumps({"units": self._units}), flush=True)
        sys.stdin.readline()
        if self._units >= self._spec.units:
            return list(self._live), []
        oldest = self._live.pop(0)
        new = configuration(self._next)
        if self._next % 2:
            parent = self._live[0]
            new |= {"init_mst_id": parent, "init_ckpt_path": state[parent]["ckpt_path"]}
        self._live.append(self._next)
        self._next += 1
        return [oldest], [new]


def kernel_threads() -> int:
    """The threads of this process, Python's and others."""
    return len(os.listdir("/proc/self/task"))


def threads_left(most: int) -> int:
    """The threads of this process, once they are `most` or fewer, or after `LEAVING_SECONDS`.

    A thread that was joined has left Python; the kernel counts it for a moment more.
    """
    expires = time.monotonic() + LEAVING_SECONDS
    while (number := kernel_threads()) > most and time.monotonic() < expires:
        time.sleep(0.01)
    return number


def main() -> None:
    """Run the soak that the first argument describes."""
    spec = Spec(**json.loads(sys.argv[1]))
    functions = {"python": python_functions, "tf": tf_functions}[spec.backend]()
    before = kernel_threads()
    cerebro.schedule(
        spec.workers,
        spec.train,
        spec.valid,
        None,
        None,
        *functions,
        [configuration(number) for number in range(spec.models)],
        Procedure(spec),
        ckpt_root=spec.ckpt_root,
        run_name=spec.run_name,
        backend=spec.backend,
        secret_file=spec.secret_file,
    )
    names = sorted(thread.name for thread in threading.enumerate())
    print(json.dumps({"threads": [before, threads_left(before)], "names": names}), flush=True)


if __name__ == "__main__":
    main()
