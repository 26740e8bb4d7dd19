"""The example's script and the modules beside it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str):
    """A module of the folder `examples`, imported and not run."""
    pytest.importorskip("tensorflow", reason="the example is written for TensorFlow")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module(name)


@pytest.fixture(scope="session")
def example():
    """`examples/behavior_classification.py`."""
    return load("behavior_classification")


@pytest.fixture(scope="session")
def batches():
    """`examples/sequence_batches.py`."""
    return load("sequence_batches")


@pytest.fixture(scope="session")
def keras_model():
    """`examples/keras_behavior_model.py`."""
    pytest.importorskip("keras", minversion="3.7", reason="the model is written for Keras 3")
    return load("keras_behavior_model")


@pytest.fixture(scope="session")
def convolutions():
    """`examples/strided_convolutions.py`."""
    return load("strided_convolutions")


@pytest.fixture(scope="session")
def block_lstm():
    """`examples/block_lstm.py`."""
    return load("block_lstm")


@pytest.fixture(scope="session")
def predict():
    """`examples/predict.py`."""
    return load("predict")


@pytest.fixture(scope="session")
def recordings():
    """`examples/recordings.py`."""
    return load("recordings")


@pytest.fixture(scope="session")
def evaluate():
    """`examples/evaluate.py`."""
    return load("evaluate")
