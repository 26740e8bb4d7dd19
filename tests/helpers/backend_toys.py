"""One small search for each backend, and for each way to train with it.

Every model draws random numbers while it trains, and counts in its own values the rows of each
partition that it has been trained on: a wrong seed, a unit too few or one too many shows in them.
The functions are made by functions, so that they travel by value.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cerebro.backends import handler_class
from cerebro.backends.base import Handler, Options, UnitTask, UserFunctions

PARTITIONS = 4
ROWS = 12


def write_partitions(folder, count, prefix="train"):
    """Text files of numbers; the first of each is the partition's own."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{prefix}{number}.txt"
        rows = [(number * 37 + row * 11) % 97 / 97 for row in range(ROWS)]
        path.write_text("".join(f"{value}\n" for value in [number, *rows]))
        paths.append(str(path))
    return paths


@dataclass(frozen=True)
class Toy:
    """What `schedule` takes for one way to train."""

    backend: str
    input_fn: Callable[..., Any]
    model_fn: Callable[..., Any]
    train_fn: Callable[..., Any] | None
    error_metric: str | None = None

    def handler(self, **changed: Any) -> Handler:
        """A handler in this process, whose settings are left as they are."""
        given = {"input_fn": self.input_fn, "model_fn": self.model_fn, "train_fn": self.train_fn}
        functions = UserFunctions(**{**given, "error_metric": self.error_metric, **changed})
        return handler_class(self.backend)(functions, Options(threads=1))


def task(epoch=0, train=True, partition=0, model=0, path=None, seed=1, **config):
    """A unit; it reads the partition at `path`."""
    config = {"rate": 0.05, **config}
    return UnitTask(model, epoch, train, partition, path or f"p{partition}", config, seed)


def contents(state: Any) -> dict[str, bytes]:
    """A state's values by name, as bytes to compare."""
    if isinstance(state, bytes):
        return {name: json.dumps(value).encode() for name, value in pickle.loads(state).items()}
    arrays = getattr(state, "arrays", state)
    return {n: f"{a.dtype}{a.shape}".encode() + a.tobytes() for n, a in arrays.items()}


def digest(state: Any) -> str:
    """A hash of all names and bytes of a state."""
    sha = hashlib.sha256()
    for name, value in sorted(contents(state).items()):
        sha.update(name.encode() + b"\0" + value)
    return sha.hexdigest()


def visits(state: Any) -> list[int]:
    """How many rows of each partition the model was trained on."""
    if isinstance(state, bytes):
        return pickle.loads(state)["visits"]
    arrays = getattr(state, "arrays", state)
    (found,) = (a for a in arrays.values() if a.shape == (PARTITIONS,) and a.dtype == np.int64)
    return found.tolist()


def _read(path):
    with open(path) as file:
        number, *values = [float(line) for line in file]
    return int(number), values


def python() -> Toy:
    """A dictionary."""
    partitions, read = PARTITIONS, _read

    def input_fn(path):
        number, values = read(path)
        return {"number": number, "values": values}

    def model_fn(data, config):
        import random

        weights = [random.gauss(0.0, 1.0) for _ in range(4)]
        return {"rate": config["rate"], "weights": weights, "visits": [0] * partitions}

    def train_fn(model, data, train=True):
        import random

        import numpy as np

        weights, values = model["weights"], data["values"]
        loss = sum((w - v) ** 2 for w in weights for v in values) / len(values)
        if train:
            for value in values:
                place = random.randrange(len(weights))
                noise = random.gauss(0.0, 0.1) + float(np.random.normal(0.0, 0.1))
                weights[place] -= model["rate"] * (weights[place] - value + noise)
            model["visits"][data["number"]] += len(values)
        return loss, min(1.0, loss), len(values)

    return Toy("python", input_fn, model_fn, train_fn)


def tensorflow() -> Toy:
    """A V1 graph with dropout."""
    partitions, read = PARTITIONS, _read

    def input_fn(path):
        import numpy as np

        number, values = read(path)
        return number, np.array(values, np.float32).reshape(-1, 1)

    def model_fn(data, config, train=True):
        import tensorflow.compat.v1 as tf

        number, values = data
        dataset = tf.data.Dataset.from_tensor_slices(values).batch(4)
        iterator = tf.data.make_initializable_iterator(dataset)
        tf.add_to_collection(tf.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
        x = iterator.get_next()
        hidden = tf.nn.relu(tf.matmul(x, tf.get_variable("hidden", [1, 8])))
        if train:
            hidden = tf.nn.dropout(hidden, rate=0.3)
        wrong = tf.matmul(hidden, tf.get_variable("out", [8, 1])) - x
        loss = tf.reduce_mean(tf.square(wrong))
        counts = tf.get_variable(
            "visits", [partitions], tf.int64, tf.zeros_initializer(), trainable=False
        )
        # Depends on the batch: the run that finds the input exhausted is no step.
        seen = tf.one_hot(number, partitions, dtype=tf.int64) * tf.shape(x, out_type=tf.int64)[0]
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_add(counts, seen))
        return tf.train.AdamOptimizer(config["rate"]), loss, tf.reduce_mean(tf.abs(wrong))

    def train_fn(session, train_step, loss, error, train=True):
        import numpy as np
        import tensorflow as tf

        fetches = [loss, error, train_step] if train else [loss, error]
        seen = []
        while True:
            try:
                seen.append(session.run(fetches)[:2])
            except tf.errors.OutOfRangeError:
                break
        losses, errors = zip(*seen, strict=True)
        return float(np.mean(losses)), float(np.mean(errors)), 4 * len(seen)

    return Toy("tf", input_fn, model_fn, train_fn)


def keras() -> Toy:
    """A compiled model with dropout, batch normalisation and a layer of its own, trained by fit."""
    partitions, read = PARTITIONS, _read

    def input_fn(path):
        import numpy as np

        number, values = read(path)
        y = np.array(values, np.float32).reshape(-1, 1)
        return {"x": y, "number": np.full(y.shape, number, np.int32)}, y

    def model_fn(config):
        import keras

        class Visits(keras.layers.Layer):
            def build(self, shape):
                self.counts = self.add_weight(
                    shape=(partitions,), dtype="int64", initializer="zeros", trainable=False
                )

            def call(self, number, training=False):
                if training:
                    seen = keras.ops.one_hot(number[:, 0], partitions, dtype="int64")
                    self.counts.assign(self.counts + keras.ops.sum(seen, axis=0))
                return keras.ops.cast(0 * number, "float32")

        x, number = keras.Input((1,), name="x"), keras.Input((1,), name="number", dtype="int32")
        hidden = keras.layers.Dense(8, activation="relu")(x + Visits()(number))
        hidden = keras.layers.BatchNormalization()(hidden)
        hidden = keras.layers.Dropout(0.3)(hidden)
        model = keras.Model({"x": x, "number": number}, keras.layers.Dense(1)(hidden))
        optimizer = keras.optimizers.Adam(config["rate"])
        model.compile(optimizer, "mse", metrics=["mae"], jit_compile=False)
        return model

    return Toy("keras", input_fn, model_fn, None, error_metric="mae")


def keras_loop() -> Toy:
    """The same model, trained by a loop of the user's own that draws from all generators."""
    toy = keras()

    def train_fn(model, data, train=True):
        import random

        import numpy as np
        import tensorflow as tf

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                noise = tf.random.normal([], stddev=0.01)
                loss = tf.reduce_mean((model(x, training=True) - y + noise) ** 2)
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss

        (x, y), losses = data, []
        for start in range(0, len(y), 4):
            batch = {name: value[start : start + 4] for name, value in x.items()}
            target = y[start : start + 4] + np.float32(random.random() + np.random.rand()) / 100
            if train:
                losses.append(float(step(batch, target)))
            else:
                losses.append(float(tf.reduce_mean((model(batch) - target) ** 2)))
        return float(np.mean(losses)), min(1.0, losses[-1]), len(y)

    return Toy("keras", toy.input_fn, toy.model_fn, train_fn)


TOYS = {"python": python, "tf": tensorflow, "keras": keras, "keras-loop": keras_loop}
"""Every backend, and both ways to train with Keras."""
