"""Functions for the plain backend: a model that remembers what it has seen.

They are made by functions, so that they travel by value with what they captured, as those of a
script do.
"""

from __future__ import annotations


def read_lines(path):
    """A partition of the toy: a text file of numbers."""
    with open(path) as file:
        return [float(line) for line in file]


def functions(epochs=2, seconds=0.0):
    """(input_fn, model_fn, train_fn, eval_fn) of a linear model with noise from the generators."""

    def input_fn(path):
        with open(path) as file:
            return [float(line) for line in file]

    def model_fn(data, config):
        import random

        return {"weight": random.random(), "rate": config["rate"], "seen": [], "steps": 0}

    def train_fn(model, data, train=True):
        import random
        import time

        if seconds:
            time.sleep(seconds)
        loss = sum((model["weight"] - x) ** 2 for x in data) / len(data)
        if train:
            for x in data:
                model["weight"] -= model["rate"] * (model["weight"] - x) * random.random()
                model["steps"] += 1
            model["seen"].append(data[0])
        return loss, min(loss, 1.0), len(data)

    def eval_fn(state):
        return [i for i, s in state.items() if s["epoch"] + 1 >= epochs], []

    return input_fn, model_fn, train_fn, eval_fn


def partitions(folder, count, prefix="train", size=3):
    """Partition files; each begins with a number of its own."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{prefix}_{number}.txt"
        path.write_text("".join(f"{number + i / 10}\n" for i in range(size)))
        paths.append(str(path))
    return paths
