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
