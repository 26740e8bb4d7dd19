"""A TensorFlow model of a given number of parameters whose training takes a given time."""

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


def train_fn(
    session: Any, train_step: Any, loss: Any, error: Any, train: bool = True
) -> tuple[float, float]:
    """One step, then rest: as a GPU that computes would, it leaves the processor alone.

    Notes when it began and ended by this machine's monotonic clock (s).
    """
    began = time.monotonic()
    value = float(session.run([loss, train_step])[0])
    (folder,) = session.run(session.graph.get_collection("notes"))
    (seconds,) = session.run(session.graph.get_collection("seconds"))
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    note = Path(folder.decode()) / f"{os.getpid()}-{time.monotonic_ns()}"
    note.write_text(json.dumps({"began": began, "ended": time.monotonic(), "pid": os.getpid()}))
    return value, value
