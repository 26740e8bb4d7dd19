"""An LSTM over a whole sequence in one operation, with a gradient made fast for CPUs."""

from __future__ import annotations

from typing import Any

import tensorflow.compat.v1 as tf
from own_gradient import computes_on_gpu, own_gradient


def block_lstm(sequence: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """The outputs (time, batch, units) of an LSTM over `sequence` (time, batch, features).

    Computes what `tf.nn.rnn_cell.LSTMCell` did, which newer TensorFlow lacks. The kernel is
    (features + units, 4 * units): its rows are the features, then the output before; its columns
    are input gate, cell input, forget gate and output gate. 1 is added to the forget gate, and
    the state is not clipped. (The operation's version 2 orders the gates otherwise, and
    TensorFlow registers this version's gradient for it: it would train wrongly.)

    On a GPU the gradient is TensorFlow's own. On a CPU that adds a matrix of the kernel's size
    at each step; here the steps only pass the gradient back, and one product over all of them
    gives the kernel's.
    """
    sequence = tf.identity(sequence)  # which lies on the device of this place in the graph
    if computes_on_gpu(sequence):
        return _block_lstm(sequence, kernel, bias)
    with own_gradient("BlockLSTM", _gradient):
        return _block_lstm(sequence, kernel, bias)


def _block_lstm(sequence: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
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


def _gradient(op: tf.Operation, *gradients: tf.Tensor) -> list[tf.Tensor | None]:
    """The gradient by sequence, kernel and bias, where nothing but the output is used."""
    _, sequence, initial, _, kernel, _, _, _, _ = op.inputs
    input_gate, cell, forget_gate, output_gate, cell_input, cell_output, output = op.outputs
    features, units = int(sequence.shape[2]), int(output.shape[2])
    last = tf.shape(sequence)[0] - 1
    recurrent = kernel[features:]
    cell_before = tf.concat([initial[None], cell[:-1]], axis=0)
    output_before = tf.concat([initial[None], output[:-1]], axis=0)

    # From a step's gradient by cell, cell, cell, output to that by the gates, before activation.
    slopes = tf.concat(
        [
            cell_input * input_gate * (1 - input_gate),
            input_gate * (1 - cell_input**2),
            cell_before * forget_gate * (1 - forget_gate),
            cell_output * output_gate * (1 - output_gate),
        ],
        axis=2,
    )
    output_to_cell = output_gate * (1 - cell_output**2)
    by_output = gradients[-1]

    def step(
        time: tf.Tensor, later_output: tf.Tensor, later_cell: tf.Tensor, by_gates: tf.TensorArray
    ) -> tuple[Any, ...]:
        of_output = by_output[time] + later_output
        of_cell = later_cell + of_output * output_to_cell[time]
        of_gates = tf.concat([of_cell, of_cell, of_cell, of_output], axis=1) * slopes[time]
        return (
            time - 1,
            tf.matmul(of_gates, recurrent, transpose_b=True),
            of_cell * forget_gate[time],
            by_gates.write(time, of_gates),
        )

    zeros = tf.zeros_like(initial)
    by_gates = tf.TensorArray(sequence.dtype, last + 1, element_shape=[None, 4 * units])
    by_gates = tf.while_loop(
        lambda time, *_: time >= 0, step, [last, zeros, zeros, by_gates], back_prop=False
    )[-1].concat()
    seen = tf.reshape(tf.concat([sequence, output_before], axis=2), [-1, features + units])
    by_sequence = tf.matmul(by_gates, kernel[:features], transpose_b=True)
    by_kernel = tf.matmul(seen, by_gates, transpose_a=True)
    by_bias = tf.reduce_sum(by_gates, axis=0)
    return [
        None,
        tf.reshape(by_sequence, tf.shape(sequence)),
        None,
        None,
        by_kernel,
        None,
        None,
        None,
        by_bias,
    ]
