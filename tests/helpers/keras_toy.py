"""A small model that the tests of the Keras backend share."""

from __future__ import annotations

import numpy as np

from cerebro.backends.base import Options, UnitTask, UserFunctions
from cerebro.backends.keras import KerasHandler
from cerebro.metrics.rules import EXACT

ROWS = 20


def arrays(rows=ROWS, seed=0):
    """(x, y): two classes that can be told apart."""
    x = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    return x, (x.sum(axis=1) > 0).astype(np.int32)


def model_of(*layers, metrics=("accuracy",), optimizer=None, **compiled):
    """A compiled classifier with these layers before its last."""
    import keras

    model = keras.Sequential(
        [keras.Input((3,)), *layers, keras.layers.Dense(2, activation="softmax")]
    )
    given = {"loss": "sparse_categorical_crossentropy", "jit_compile": False, **compiled}
    model.compile(optimizer or keras.optimizers.Adam(0.05), metrics=list(metrics), **given)
    return model


def model_fn(config):
    """Configurable by `rate`, the learning rate."""
    import keras

    return model_of(optimizer=keras.optimizers.Adam(config.get("rate", 0.05)))


def handler(
    model_fn=model_fn,
    train_fn=None,
    input_fn=lambda path: arrays(),
    error_metric=None,
    steps=None,
    metric_rules=EXACT,
):
    functions = UserFunctions(input_fn, model_fn, train_fn, error_metric, metric_rules)
    return KerasHandler(functions, Options(threads=1), steps)


def task(epoch=0, train=True, partition=0, model=0, **config):
    return UnitTask(model, epoch, train, partition, f"part{partition}", config, seed=1)


def run(
    model_fn=model_fn,
    data=None,
    state=None,
    train_fn=None,
    error_metric=None,
    metric_rules=EXACT,
    **unit,
):
    """One unit in a handler of its own."""
    tool = handler(model_fn, train_fn, error_metric=error_metric, metric_rules=metric_rules)
    try:
        return tool.run(task(**unit), arrays() if data is None else data, state)
    finally:
        tool.close()


def values(state):
    """A state's arrays by name, as bytes."""
    return {name: array.tobytes() for name, array in state.arrays.items()}


def reloaded(state, folder, tool=None):
    """A state by way of its file."""
    tool = tool or handler()
    folder.mkdir(exist_ok=True)
    return tool.read(str(folder / tool.write(state, str(folder))))
