"""A model that is another function elsewhere ends at its first hop; others carry their probe on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cerebro
from cerebro.backends.probe import FILE

pytestmark = [pytest.mark.tf, pytest.mark.slow]
pytest.importorskip("keras")


def input_fn(path):
    with np.load(path) as file:
        return file["x"], file["y"]


def model_fn(data, config):
    import keras

    center = float(data[0].mean()) if config["centered"] else 0.5

    class Centered(keras.layers.Layer):
        def call(self, x):
            return x - center

    model = keras.Sequential(
        [
            keras.Input((3,)),
            Centered(name="centered"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"], jit_compile=False)
    return model


@pytest.fixture(scope="module")
def partitions(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("data"), []
    rng = np.random.default_rng(0)
    for number in range(3):
        x = rng.normal(size=(40, 3)).astype(np.float32)
        paths.append(str(folder / f"{number}.npz"))
        np.savez(paths[-1], x=x, y=x.sum(axis=1, keepdims=True))
    return paths


def test_a_model_that_depends_on_the_partition_fails_and_names_the_layer(
    cluster, partitions, tmp_path
):
    """The other one is trained to its end, and exported without a probe."""

    def eval_fn(state):
        return [i for i, model in state.items() if model["epoch"] == 1], []

    result = cerebro.schedule(
        cluster, partitions[:2], partitions[2:], None, None, input_fn, model_fn, None,
        [{"centered": True}, {"centered": False}], eval_fn, str(tmp_path / "runs"),
        backend="keras", error_metric="mae", progress="off",
    )  # fmt: skip
    assert list(result.models["state"]) == ["FAILED", "COMPLETED"]
    failure = result.models["failure"][0]
    assert "is another function here" in failure
    assert "'sequential/centered' (Centered)" in failure
    journal = Path(result.run_dir) / "journal" / "000001.jsonl"
    assert '"error": "ModelDiffers"' in journal.read_text().replace('":"', '": "')
    result.export(1, tmp_path / "exported")
    assert [p.name for p in (tmp_path / "exported").iterdir() if p.name == FILE] == []
    assert list(result.history["model_id"]) == [1, 1]
