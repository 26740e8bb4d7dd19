"""A small model that the tests of the TensorFlow backend share."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from cerebro.backends.base import Options, UnitTask, UserFunctions
from cerebro.backends.tf import TensorFlowHandler
from cerebro.backends.tf.runtime import tf, v1

ROWS = 24
BATCH = 8


def input_fn(path: str) -> np.ndarray:
    return np.random.rand(ROWS, 3).astype(np.float32)


def batches(data: np.ndarray, shuffle: bool = False, one_shot: bool = False) -> tf.Tensor:
    """Batches of `data`: from an iterator that can start again, or a one-shot one."""
    dataset = v1.data.Dataset.from_tensor_slices(data)
    if shuffle:
        dataset = dataset.shuffle(ROWS)
    dataset = dataset.batch(BATCH)
    if one_shot:
        return v1.data.make_one_shot_iterator(dataset).get_next()
    iterator = v1.data.make_initializable_iterator(dataset)
    v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
    return iterator.get_next()


def losses(x: tf.Tensor, dropout: float = 0.0) -> tuple[tf.Tensor, tf.Tensor]:
    """The scalar loss and error of a network with one hidden layer."""
    hidden = tf.nn.relu(x @ v1.get_variable("hidden", [3, 8]))
    if dropout:
        hidden = tf.nn.dropout(hidden, rate=dropout)
    wrong = hidden @ v1.get_variable("out", [8, 1]) - x[:, :1]
    return tf.reduce_mean(wrong**2), tf.reduce_mean(tf.abs(wrong))


def model_fn(data: np.ndarray, config: dict[str, Any], train: bool = True) -> tuple[Any, Any, Any]:
    """Configurable by `shuffle`, `one_shot` and `dropout` (the last two of training alone)."""
    x = batches(data, config.get("shuffle", False) and train, config.get("one_shot", False))
    loss, error = losses(x, config.get("dropout", 0.0) if train else 0.0)
    return v1.train.AdamOptimizer(0.01), loss, error


def train_fn(
    session: Any, train_step: Any, loss: Any, error: Any, train: bool = True
) -> tuple[float, float, int]:
    fetches = [loss, error, train_step] if train else [loss, error]
    seen = []
    while True:
        try:
            seen.append(session.run(fetches)[:2])
        except tf.errors.OutOfRangeError:
            break
    return (*np.mean(seen, axis=0), len(seen))


def handler(
    model_fn: Any = model_fn,
    train_fn: Any = train_fn,
    input_fn: Any = input_fn,
    max_steps: int | None = None,
) -> TensorFlowHandler:
    functions = UserFunctions(input_fn, model_fn, train_fn)
    return TensorFlowHandler(functions, Options(threads=1), max_steps)


def task(
    epoch: int = 0, train: bool = True, partition: int = 0, model: int = 0, **config: Any
) -> UnitTask:
    return UnitTask(model, epoch, train, partition, f"part{partition}", config, seed=1)


def digest(state: dict[str, np.ndarray]) -> str:
    """A hash of all names and bytes of a state."""
    sha = hashlib.sha256()
    for name in sorted(state):
        sha.update(name.encode() + state[name].tobytes())
    return sha.hexdigest()
