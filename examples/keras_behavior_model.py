"""The model of behavior_classification.py in Keras 3.

    python behavior_classification.py --keras

searches with it; predict.py reads models of the graph only.

Given the same weights it computes what the TensorFlow graph computes: loss, error and gradients but
for rounding. It begins with weights of the same distributions, and reads the same batches in the
same order. `keras_weights` maps the weights of the one to those of the other, so that a checkpoint
of the graph can be taken over:

    model = model_fn(best.config)
    take_over(model, best.checkpoint)

The layers have the names of the graph's scopes. Kernel and bias of conv1 to conv5, dense and logits
are the same. Of an LSTM, forward or backward, the graph has one kernel (features + 128, 512): its
first rows are Keras' `kernel`, the last 128 its `recurrent_kernel`. The columns are gates: input,
cell input, forget and output in the graph, input, forget, cell input and output in Keras. The graph
adds 1 to the forget gate when it is computed, while Keras' bias of it begins with 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from sequence_batches import AXES, SAMPLES, read_batch, shuffled_batches

CONVOLUTIONS = {"conv1": (32, 3), "conv2": (64, 1), "conv3": (128, 1), "conv4": (256, 1),
                "conv5": (256, 1)}  # fmt: skip
"""Filters for an `amp_factor` of 1, and the kernel's width; its height is 5."""
UNITS = 128
WAYS = ("forward", "backward")


def model_fn(config: Mapping[str, Any]) -> keras.Model:
    """The CNN-BiLSTM for one configuration, compiled; its keys are those of the graph's `model_fn`.

    It reads acceleration (batch, win_size_mins * 6, 100, 3) and gives logits
    (batch, win_size_mins * 6, 1).
    """
    length, a = round(config["win_size_mins"] * 6), config["amp_factor"]
    # Keras' penalty is a weight times the squared norm, the graph's half of that.
    penalty = keras.regularizers.L2(config["reg_param"] / 2)
    penalties = {"kernel_regularizer": penalty, "bias_regularizer": penalty}

    acceleration = keras.Input((length, SAMPLES, AXES))
    signal = ops.reshape(acceleration, (-1, SAMPLES, AXES, 1))  # each ten-second window an image
    for name, (filters, width) in CONVOLUTIONS.items():
        signal = layers.Conv2D(
            filters * a, (5, width), (2, 1), "same", activation="relu", name=name, **penalties
        )(signal)
    features = layers.Dense(256 * a, name="dense", **penalties)(layers.Flatten()(signal))
    sequence = ops.reshape(features, (-1, length, 256 * a))
    forward, backward = (lstm(way, 256 * a, config["reg_param"] / 2)(sequence) for way in WAYS)
    states = ops.concatenate([forward, ops.flip(backward, 1)], 2)
    model = keras.Model(acceleration, layers.Dense(1, name="logits", **penalties)(states))
    model.compile(
        keras.optimizers.Adam(config["learning_rate"], epsilon=1e-8),
        keras.losses.BinaryCrossentropy(from_logits=True, reduction="sum"),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
        jit_compile=False,  # the last batch has another shape, and would be compiled once more
    )
    model.batch_size = config["batch_size"]  # train_fn gets the model, not the configuration
    return model


def lstm(way: str, features: int, penalty: float) -> layers.LSTM:
    """The LSTM that reads a sequence forward, or backward and gives its outputs so."""
    # Glorot's bound for the graph's kernel, which is one for both.
    bound = np.sqrt(6 / (features + UNITS + 4 * UNITS))
    return layers.LSTM(
        UNITS,
        return_sequences=True,
        go_backwards=way == "backward",
        kernel_initializer=keras.initializers.RandomUniform(-bound, bound),
        recurrent_initializer=keras.initializers.RandomUniform(-bound, bound),
        kernel_regularizer=keras.regularizers.L2(penalty),
        recurrent_regularizer=keras.regularizers.L2(penalty),
        bias_regularizer=BiasL2(penalty),
        name=way,
    )


class BiasL2(keras.regularizers.Regularizer):
    """L2 of an LSTM's bias without the 1 that the forget gate begins with."""

    def __init__(self, l2: float) -> None:
        self.l2 = l2

    def __call__(self, bias: Any) -> Any:
        begin = np.repeat([0.0, 1.0, 0.0, 0.0], bias.shape[0] // 4)
        return self.l2 * ops.sum(ops.square(bias - ops.cast(begin, bias.dtype)))

    def get_config(self) -> dict[str, float]:
        return {"l2": self.l2}


def train_fn(
    model: keras.Model, data: Mapping[str, Any], train: bool = True
) -> tuple[float, float, int]:
    """One pass over the partition; with `train=False` nothing is trained.

    Returns what the graph's `train_fn` returns: loss and error per ten-second window, and the
    number of these windows.
    """
    length = model.input_shape[1]
    step = model.train_on_batch if train else model.test_on_batch
    total_loss = total_error = 0.0
    total = 0
    for starts in shuffled_batches(data, length, model.batch_size):
        acceleration, labels = read_batch(data, starts, length)
        model.reset_metrics()  # what a step returns is then of its batch alone
        values = step(acceleration, labels[:, :, None], return_dict=True)
        total_loss += float(values["loss"])  # summed over the windows, and the penalty
        total_error += (1 - float(values["accuracy"])) * labels.size
        total += labels.size
    return total_loss / total, total_error / total, total


def keras_weights(variables: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """The graph's variables by name, as each layer's weights in Keras' order, by layer."""
    weights = {
        name: [variables[f"{name}/kernel"], variables[f"{name}/bias"]]
        for name in (*CONVOLUTIONS, "dense", "logits")
    }
    for way in WAYS:
        kernel, bias = (in_keras_order(variables[f"{way}/{part}"]) for part in ("kernel", "bias"))
        begin = np.repeat(np.array([0, 1, 0, 0], bias.dtype), UNITS)
        weights[way] = [kernel[:-UNITS], kernel[-UNITS:], bias + begin]
    return weights


def in_keras_order(values: np.ndarray) -> np.ndarray:
    """Values of the graph's four gates, along the last axis, in the order of Keras' gates."""
    of_input, cell_input, forget, output = np.split(values, 4, axis=-1)
    return np.concatenate([of_input, forget, cell_input, output], axis=-1)


def take_over(model: keras.Model, checkpoint: str) -> None:
    """Give a model of `model_fn` the weights of a checkpoint of the graph.

    The configurations must have the same `amp_factor`; otherwise Keras raises `ValueError`, which
    names the layer. The optimizer begins anew.
    """
    reader = tf.train.load_checkpoint(checkpoint)
    variables = {
        f"{layer}/{part}": reader.get_tensor(f"{layer}/{part}")
        for layer in (*CONVOLUTIONS, "dense", *WAYS, "logits")
        for part in ("kernel", "bias")
    }
    for layer, weights in keras_weights(variables).items():
        model.get_layer(layer).set_weights(weights)
