"""That every unit of the toy has counted once, as its models' weights tell."""

from __future__ import annotations

import pickle


def check_exact(result, epochs):
    """Every model has trained on every partition exactly once an epoch, as its weights tell."""
    assert list(result.models["state"]) == ["COMPLETED"] * len(result.models)
    for checkpoint in result.models["checkpoint"]:
        with open(checkpoint, "rb") as file:
            model = pickle.load(file)
        assert sorted(model["seen"]) == sorted([0.0, 1.0, 2.0] * epochs)
        assert model["steps"] == 9 * epochs
    committed = result.units[result.units["outcome"] == "committed"]
    assert not committed.duplicated(["model_id", "epoch", "split", "partition"]).any()
    assert len(committed) == len(result.models) * epochs * 5


def weights(result):
    """The models of a result by their ids, as they are saved."""
    found = {}
    for model, checkpoint in zip(
        result.models["model_id"], result.models["checkpoint"], strict=True
    ):
        with open(checkpoint, "rb") as file:
            found[model] = pickle.load(file)
    return found


def same(first, second):
    """Two runs have the same history, states and weights, bit for bit."""
    seconds = ["train_seconds", "valid_seconds"]
    assert first.history.drop(columns=seconds).equals(second.history.drop(columns=seconds))
    assert weights(first) == weights(second)
    assert list(first.models["state"]) == list(second.models["state"])
