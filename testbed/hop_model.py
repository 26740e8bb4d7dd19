"""A model of a given number of parameters whose training takes a given time, for each backend."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

LAYERS = 4
NOTES = "notes"
"""The folder in which units leave the times of their steps, one file each."""


def input_fn(path: str) -> str:
    """The partition's folder itself: there is nothing to read."""
    return path


def model_fn(data: str, config: dict[str, Any]) -> tuple[Any, Any, Any]:
    """`LAYERS` square matrices with `config["parameters"]` entries together, trained by Adam."""
    import tensorflow.compat.v1 as tf

    width = math.isqrt(config["parameters"] // LAYERS)
    signal = tf.ones([1, width])
    for layer in range(LAYERS):
        signal = tf.matmul(signal, tf.get_variable(f"layer{layer}", [width, width]))
    tf.add_to_collection("notes", tf.constant(os.path.join(data, NOTES)))
    tf.add_to_collection("seconds", tf.constant(config["seconds"], tf.float64))
    loss = tf.reduce_mean(signal)
    return tf.train.AdamOptimizer(1e-3), loss, loss


def keras_model_fn(config: dict[str, Any]) -> Any:
    """The same as a Keras model."""
    import keras

    width = math.isqrt(config["parameters"] // LAYERS)
    layers = [keras.layers.Dense(width, use_bias=False) for _ in range(LAYERS)]
    model = keras.Sequential([keras.Input((width,)), *layers])
    model.compile(keras.optimizers.Adam(1e-3), lambda y_true, y_pred: y_pred)
    model.seconds = config["seconds"]
    return model


def keras_train_fn(model: Any, data: str, train: bool = True) -> tuple[float, float]:
    """One step, then rest, as `train_fn`."""
    import numpy as np

    began = time.monotonic()
    ones = np.ones((1, model.input_shape[1]), np.float32)
    value = float(model.train_on_batch(ones, ones))
    rest(os.path.join(data, NOTES), began, model.seconds)
    return value, value


def train_fn(
    session: Any, train_step: Any, loss: Any, error: Any, train: bool = True
) -> tuple[float, float]:
    """One step, then rest: as a GPU that computes would, it leaves the processor alone."""
    began = time.monotonic()
    value = float(session.run([loss, train_step])[0])
    (folder,) = session.run(session.graph.get_collection("notes"))
    (seconds,) = session.run(session.graph.get_collection("seconds"))
    rest(folder.decode(), began, seconds)
    return value, value


def rest(folder: str, began: float, seconds: float) -> None:
    """Sleep until a unit has taken so long.

    Notes when it began and ended by this machine's monotonic clock (s).
    """
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    note = Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}"
    note.write_text(json.dumps({"began": began, "ended": time.monotonic(), "pid": os.getpid()}))


FUNCTIONS = {"tf": (model_fn, train_fn), "keras": (keras_model_fn, keras_train_fn)}
"""(model_fn, train_fn) by backend."""
