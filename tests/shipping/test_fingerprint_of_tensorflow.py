"""What scripts hold of TensorFlow and Keras has one fingerprint in every process, too."""

from __future__ import annotations

from contextlib import closing

import pytest
from elsewhere import Elsewhere

from cerebro.driver.changes import changed_parts

pytestmark = [pytest.mark.tf, pytest.mark.slow, pytest.mark.processes]

BEFORE = """
import tensorflow as tf, keras

@tf.function
def traced(x):
    return x * 2

class Scaled(keras.layers.Layer):
    def __init__(self, by, **more):
        super().__init__(**more)
        self.by = by

class Loss(keras.losses.Loss):
    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha

class Net(keras.Model):
    def __init__(self, width):
        super().__init__(name="net")
        self.width = width
        self.inner = keras.layers.Dense(width, name="inner")

def model(width):
    start = keras.initializers.GlorotUniform(seed=1)
    layer = keras.layers.Dense(width, kernel_initializer=start, name="dense")
    return keras.Sequential([keras.Input((3,)), layer], name="model")

graph = tf.Graph()
with graph.as_default():
    placeholder = tf.compat.v1.placeholder(tf.float32, [None])
"""

VALUES = [
    "tf.constant([1.0, 2.0])", "tf.constant([1.0, 3.0])", "tf.constant(['a'])", "tf.float32",
    "tf.Variable([1.0, 2.0])", "tf.constant([1, 2], tf.bfloat16)", "traced", "tf.nn.relu",
    "tf.TensorSpec([None], tf.int32)", "tf.TensorShape([1, None])", "graph", "placeholder",
    "Scaled(2.0, name='s')", "Scaled(3.0, name='s')", "Loss(1.0)", "Loss(2.0)", "Net(3)", "Net(4)",
    "model(2)", "model(3)", "keras.layers.Dense(3, name='d')",
    "keras.optimizers.SGD(0.1, name='o')",
    "keras.optimizers.SGD(0.2, name='o')", "keras.losses.MeanSquaredError()", "keras.layers",
    "keras.callbacks.EarlyStopping(patience=3)", "tf.data.Dataset.range(3)",
    "keras.layers.StringLookup(vocabulary=['a', 'b'], name='v')", "tf",
]  # fmt: skip


def test_each_is_the_same_in_two_processes_and_like_no_other(tmp_path):
    script = BEFORE + "VALUE = {}\ndef target():\n    return VALUE\n"
    moved = script.replace("class ", "# a comment\n\nclass ")
    with closing(Elsewhere(1, str(tmp_path))) as one, closing(Elsewhere(2, str(tmp_path))) as other:
        found = [one.of(script.format(value)) for value in VALUES]
        again = [other.of(moved.format(value)) for value in VALUES]
    assert again == found
    assert len({digest for digest, _ in found}) == len(VALUES)
    rates = [parts for value, (_, parts) in zip(VALUES, found, strict=True) if "SGD" in value]
    (said,) = changed_parts(*rates)
    assert said.startswith("global VALUE configuration['learning_rate'] changed from 0.1")
