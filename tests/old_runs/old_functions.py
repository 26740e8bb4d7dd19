"""The functions and procedures of the recorded runs in this folder, as they were given then.

They use what is public in the package, so that their fingerprints, and the checkpoints of the
plain backend, name things of it. To change a line here is to change the fingerprints: the runs
could not be resumed any more.
"""

from __future__ import annotations

import cerebro.data
from cerebro.data import ArrayForm, Partition, partition_arrays, partition_dirs
from cerebro.errors import InputError
from cerebro.search import ASHA, LogUniform

TRAIN = ["train_0", "train_1"]
VALID = ["valid_0"]
CONFIGS = [{"rate": 0.5}, {"rate": 0.1}]
SEED = 7
EPOCHS = 2


def read(path):
    """Numbers that follow from a partition's name; nothing is read for one without a suffix."""
    if path.endswith(".dirs"):
        return partition_dirs(path)
    if not path.startswith(("train_", "valid_")):
        raise InputError(path)
    side, number = path.split("_")
    return [(len(side) * 3 + int(number) * 5 + row * 7) % 11 / 11 for row in range(4)]


def eval_fn(state):
    return [i for i, model in state.items() if model["epoch"] + 1 >= EPOCHS], []


def python():
    """(input_fn, model_fn, train_fn) of the plain backend; the model holds a `Partition`."""
    seen = Partition("train/0.txt", ["a", "b"], 2, 3)
    form = ArrayForm("<f8", [4])
    deal, manifest, catalog = partition_arrays, cerebro.data.Partitioning, cerebro.Catalog()
    catalog.register_worker(0, "http://node1:7777")

    def input_fn(path):
        if path == "nowhere":
            return deal, manifest, catalog, cerebro.data.shuffled
        return read(path)

    def model_fn(data, config):
        import random

        return {"weight": random.random(), "rate": config["rate"], "about": seen, "steps": 0}

    def train_fn(model, data, train=True):
        import random

        if not isinstance(model["about"], Partition):
            raise InputError(f"not a partition, with {form}")
        loss = sum((model["weight"] - x) ** 2 for x in data) / len(data)
        if train:
            for x in data:
                model["weight"] -= model["rate"] * (model["weight"] - x) * random.random()
                model["steps"] += 1
        return loss, min(loss, 1.0), len(data)

    return input_fn, model_fn, train_fn


def tensorflow():
    """(input_fn, model_fn, train_fn) of a V1 graph."""

    def input_fn(path):
        import numpy as np

        return np.array(read(path), np.float32).reshape(-1, 1)

    def model_fn(data, config):
        import tensorflow.compat.v1 as tf

        iterator = tf.data.make_initializable_iterator(
            tf.data.Dataset.from_tensor_slices(data).batch(2)
        )
        tf.add_to_collection(tf.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
        x = iterator.get_next()
        wrong = x * tf.get_variable("factor", [1]) - 0.5
        loss = tf.reduce_mean(tf.square(wrong))
        return (
            tf.train.GradientDescentOptimizer(config["rate"]),
            loss,
            tf.reduce_mean(tf.abs(wrong)),
        )

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
        return float(np.mean(losses)), float(np.mean(errors)), 2 * len(seen)

    return input_fn, model_fn, train_fn


def keras():
    """(input_fn, model_fn, None) of a compiled model."""

    def input_fn(path):
        import numpy as np

        x = np.array(read(path), np.float32).reshape(-1, 1)
        return x, 2 * x

    def model_fn(config):
        import keras

        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(config["rate"])
        model.compile(optimizer, "mse", metrics=["mae"], jit_compile=False)
        return model

    return input_fn, model_fn, None


def procedure():
    """The search of the run that has one."""
    return ASHA({"rate": LogUniform(0.01, 0.5)}, max_epochs=2, n=2, eta=2, seed=3)


RUNS = {
    "python": (python, "python"),
    "interrupted": (python, "python"),
    "search": (python, "python"),
    "tf": (tensorflow, "tf"),
    "keras": (keras, "keras"),
}
"""What made each run: its functions, and its backend."""


def arguments(name, cluster, ckpt_root):
    """The arguments of `schedule` for a run, to begin it, to resume or to replay it."""
    make, backend = RUNS[name]
    input_fn, model_fn, train_fn = make()
    what = {"search": procedure()} if name == "search" else {}
    if not what:
        what = {"initial_msts": CONFIGS, "mst_eval_fn": eval_fn}
    if backend == "keras":
        what["error_metric"] = "mae"
    return {
        "worker_ips": cluster, "train_partitions": TRAIN, "valid_partitions": VALID,
        "train_availability": None, "valid_availability": None, "input_fn": input_fn,
        "model_fn": model_fn, "train_fn": train_fn, "ckpt_root": str(ckpt_root),
        "backend": backend, "seed": SEED, "progress": "off", **what,
    }  # fmt: skip
