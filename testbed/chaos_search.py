"""The search that chaos is let loose on: models whose weights tell what they went through.

Every unit draws from the random generators, and adds to a list or a count of its own in the
model: a wrong seed, a unit too few or one too many changes the weights. How long a unit lasts is
set by the worker's environment, so that the same functions run without delay elsewhere.

The functions are made by functions, so that they travel by value with what they captured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACE = "CEREBRO_CHAOS_UNIT_SECONDS"
"""The environment variable of a worker that says how long its units last on average."""

TRAIN_PARTITIONS = 5
VALID_PARTITIONS = 2
ROWS = 12
CONFIGS = [{"rate": rate} for rate in (0.3, 0.2, 0.1, 0.05, 0.03, 0.01)]
METRICS = ["train_loss", "train_error", "valid_loss", "valid_error"]


@dataclass(frozen=True)
class Functions:
    """What `schedule` takes."""

    input_fn: Callable[..., Any]
    model_fn: Callable[..., Any]
    train_fn: Callable[..., Any]
    eval_fn: Callable[..., Any]


def write_partitions(folder: Path) -> tuple[list[str], list[str]]:
    """(train, valid) paths of partitions; the first number of each is its own."""
    folder.mkdir()
    counts = {"train": TRAIN_PARTITIONS, "valid": VALID_PARTITIONS}
    paths: dict[str, list[str]] = {split: [] for split in counts}
    for split, count in counts.items():
        for number in range(count):
            path = folder / f"{split}_{number}.txt"
            rows = [(number * 37 + row * 11) % 97 / 97 for row in range(ROWS)]
            path.write_text("".join(f"{value}\n" for value in [number, *rows]))
            paths[split].append(str(path))
    return paths["train"], paths["valid"]


def functions(backend: str, stop_file: str) -> Functions:
    """The functions for a backend; the search ends at the first epoch after `stop_file` is made."""

    def eval_fn(state: dict[int, dict[str, Any]]) -> tuple[list[int], list[dict[str, Any]]]:
        import os

        return list(state) if os.path.exists(stop_file) else [], []

    model_fn, train_fn = {"python": _plain, "tf": _tensorflow, "keras": _keras}[backend]()
    return Functions(_input_fn(), model_fn, train_fn, eval_fn)


def _input_fn() -> Callable[..., Any]:
    def input_fn(path: str) -> dict[str, Any]:
        with open(path) as file:
            number, *values = [float(line) for line in file]
        return {"number": int(number), "values": values}

    return input_fn


def _plain() -> tuple[Callable[..., Any], Callable[..., Any]]:
    def model_fn(data: Any, config: dict[str, Any]) -> dict[str, Any]:
        import random

        weights = [random.gauss(0.0, 1.0) for _ in range(8)]
        return {"rate": config["rate"], "weights": weights, "visits": []}

    def train_fn(model: Any, data: Any, train: bool = True) -> tuple[float, float, int]:
        import os
        import random
        import time

        import numpy as np

        time.sleep(float(os.environ.get(PACE, "0")) * (0.5 + random.random()))
        weights, values = model["weights"], data["values"]
        loss = sum((w - v) ** 2 for w in weights for v in values) / len(values)
        if train:
            for value in values:
                place = random.randrange(len(weights))
                noise = random.gauss(0.0, 0.1) + float(np.random.normal(0.0, 0.1))
                weights[place] -= model["rate"] * (weights[place] - value + noise)
            model["visits"].append(data["number"])
        return loss, min(1.0, loss * random.random()), len(values)

    return model_fn, train_fn


def _tensorflow() -> tuple[Callable[..., Any], Callable[..., Any]]:
    partitions = TRAIN_PARTITIONS

    def model_fn(data: Any, config: dict[str, Any], train: bool = True) -> tuple[Any, Any, Any]:
        import numpy as np
        import tensorflow.compat.v1 as tf

        values = np.array(data["values"], np.float32).reshape(-1, 3)
        dataset = tf.data.Dataset.from_tensor_slices(values).batch(2)
        iterator = tf.data.make_initializable_iterator(dataset)
        tf.add_to_collection(tf.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
        x = iterator.get_next()
        hidden = tf.nn.relu(tf.matmul(x, tf.get_variable("hidden", [3, 8])))
        if train:
            hidden = tf.nn.dropout(hidden, rate=0.3)
        wrong = tf.matmul(hidden, tf.get_variable("out", [8, 1])) - x[:, :1]
        loss = tf.reduce_mean(tf.square(wrong))
        visits = tf.get_variable(
            "visits", [partitions], tf.int64, tf.zeros_initializer(), trainable=False
        )
        # Depends on the batch: the run that finds the input exhausted is no step.
        rows = tf.shape(x, out_type=tf.int64)[0]
        seen = tf.one_hot(data["number"], partitions, dtype=tf.int64) * rows
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_add(visits, seen))
        return tf.train.AdamOptimizer(config["rate"]), loss, tf.reduce_mean(tf.abs(wrong))

    def train_fn(
        session: Any, train_step: Any, loss: Any, error: Any, train: bool = True
    ) -> tuple[float, float, int]:
        import os
        import time

        import numpy as np
        import tensorflow as tf

        time.sleep(float(os.environ.get(PACE, "0")))
        fetches = [loss, error, train_step] if train else [loss, error]
        seen = []
        while True:
            try:
                seen.append(session.run(fetches)[:2])
            except tf.errors.OutOfRangeError:
                break
        losses, errors = zip(*seen, strict=True)
        return float(np.mean(losses)), float(np.mean(errors)), len(seen)

    return model_fn, train_fn


def _keras() -> tuple[Callable[..., Any], Callable[..., Any]]:
    partitions = TRAIN_PARTITIONS

    def model_fn(config: dict[str, Any]) -> Any:
        import keras

        class Visits(keras.layers.Layer):
            def build(self, shape: Any) -> None:
                self.counts = self.add_weight(
                    shape=(partitions,), dtype="int64", initializer="zeros", trainable=False
                )

            def call(self, number: Any, training: bool = False) -> Any:
                if training:
                    seen = keras.ops.one_hot(number[:, 0], partitions, dtype="int64")
                    self.counts.assign(self.counts + keras.ops.sum(seen, axis=0))
                return keras.ops.cast(0 * number, "float32")

        x, number = keras.Input((3,)), keras.Input((1,), dtype="int32")
        hidden = keras.layers.Dense(8, activation="relu")(x + Visits()(number))
        hidden = keras.layers.BatchNormalization()(hidden)
        hidden = keras.layers.Dropout(0.3)(hidden)
        model = keras.Model([x, number], keras.layers.Dense(1)(hidden))
        model.compile(keras.optimizers.Adam(config["rate"]), "mse", metrics=["mae"])
        return model

    def train_fn(model: Any, data: Any, train: bool = True) -> tuple[float, float, int]:
        import os
        import time

        import numpy as np

        time.sleep(float(os.environ.get(PACE, "0")))
        values = np.array(data["values"], np.float32).reshape(-1, 3)
        x = [values, np.full((len(values), 1), data["number"], np.int32)]
        if train:
            history = model.fit(x, values[:, :1], batch_size=2, verbose=0).history
            return history["loss"][0], history["mae"][0], len(values)
        logs = model.evaluate(x, values[:, :1], batch_size=2, verbose=0, return_dict=True)
        return logs["loss"], logs["mae"], len(values)

    return model_fn, train_fn
