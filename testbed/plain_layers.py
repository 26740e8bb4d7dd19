"""The layers of the example as TensorFlow has them: what its own are compared with.

To be put in place of the functions of the same names in the module `behavior_classification`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow.compat.v1 as tf


def strided_convolutions(images: Any, layers: Sequence[tuple[Any, Any]]) -> Any:
    """Convolutions with strides (2, 1) and padding "SAME", each with bias and ReLU."""
    for kernel, bias in layers:
        images = tf.nn.conv2d(images, kernel, strides=[1, 2, 1, 1], padding="SAME")
        images = tf.nn.relu(tf.nn.bias_add(images, bias))
    return images


def bidirectional_lstm(sequence: Any, forward: tuple[Any, Any], backward: tuple[Any, Any]) -> Any:
    """The outputs of two LSTMs over `sequence` (time, batch, features)."""
    two = tf.reverse(_block_lstm(tf.reverse(sequence, [0]), *backward), [0])
    return tf.concat([_block_lstm(sequence, *forward), two], axis=2)


def _block_lstm(sequence: Any, kernel: Any, bias: Any) -> Any:
    units = int(bias.shape[0]) // 4
    initial = tf.zeros([tf.shape(sequence)[1], units])
    no_peephole = tf.zeros([units])
    return tf.raw_ops.BlockLSTM(
        seq_len_max=tf.cast(tf.shape(sequence)[0], tf.int64),
        x=sequence,
        cs_prev=initial,
        h_prev=initial,
        w=kernel,
        wci=no_peephole,
        wcf=no_peephole,
        wco=no_peephole,
        b=bias,
        forget_bias=1.0,
        cell_clip=0.0,
        use_peephole=False,
    ).h
