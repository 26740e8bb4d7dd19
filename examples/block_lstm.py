"""A bidirectional LSTM over whole sequences, with a gradient made fast for CPUs."""

from __future__ import annotations

from typing import Any

import tensorflow.compat.v1 as tf
from own_gradient import computes_on_gpu, own_gradient


def bidirectional_lstm(
    sequence: tf.Tensor,
    forward: tuple[tf.Tensor, tf.Tensor],
    backward: tuple[tf.Tensor, tf.Tensor],
) -> tf.Tensor:
    """The outputs (time, batch, 2 * units) of two LSTMs over `sequence` (time, batch, features).

    One reads it forward and one backward, each with a kernel and a bias. Each computes what
    `tf.nn.rnn_cell.LSTMCell` did, which newer TensorFlow lacks. A kernel is
    (features + units, 4 * units): its rows are the features, then the output before; its columns
    are input gate, cell input, forget gate and output gate. 1 is added to the forget gate, and
    the state is not clipped. (The operation's version 2 orders the gates otherwise, and
    TensorFlow registers this version's gradient for it: it would train wrongly.)

    On a GPU the gradient is TensorFlow's own. On a CPU that adds a matrix of the kernel's size
    at each step; here the steps only pass the gradient back, of both ways at once, and one
    product over all of them gives the kernel's.
    """
    sequence = tf.identity(sequence)  # which lies on the device of this place in the graph
    units = int(forward[1].shape[0]) // 4
    initial = tf.zeros([tf.shape(sequence)[1], units], sequence.dtype)
    reverse = tf.reverse(sequence, [0])
    one = _block_lstm(sequence, initial, *forward)
    two = _block_lstm(reverse, initial, *backward)
    outputs = tf.concat([one[-1], tf.reverse(two[-1], [0])], axis=2)
    if computes_on_gpu(sequence):
        return outputs
    with own_gradient("IdentityN", _gradient):
        return tf.identity_n(
            [outputs, initial, sequence, *forward, *one, reverse, *backward, *two]
        )[0]


def _block_lstm(sequence: tf.Tensor, initial: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> Any:
    no_peephole = tf.zeros([int(initial.shape[1])], sequence.dtype)
    return tf.raw_ops.BlockLSTM(
        seq_len_max=tf.shape(sequence, out_type=tf.int64)[0],
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
    )


def _gradient(op: tf.Operation, gradient: tf.Tensor, *_: Any) -> list[tf.Tensor | None]:
    """The gradients of what `bidirectional_lstm` hands to its last op."""
    _, initial, *rest = op.inputs
    ways = [rest[:10], rest[10:]]
    units = int(initial.shape[1])
    by_output = tf.split(gradient, 2, axis=2)
    by_output[1] = tf.reverse(by_output[1], [0])
    first = tf.expand_dims(initial, 0)
    slopes = [_slopes(first, *way[3:9], by) for way, by in zip(ways, by_output, strict=True)]
    slopes = tf.stack(slopes, axis=1)  # (time, way, batch, 7 * units)
    features = int(ways[0][0].shape[2])
    kernels = [tf.split(kernel, [features, units]) for _, kernel, *_ in ways]
    recurrent = tf.stack([kernel for _, kernel in kernels])
    steps = tf.shape(slopes)[0]

    def step(
        time: tf.Tensor, later_output: tf.Tensor, later_cell: tf.Tensor, by_gates: tf.TensorArray
    ) -> tuple[Any, ...]:
        of_gates, forget_gate, output_to_cell, of_output = tf.split(
            tf.gather(slopes, time), [4 * units, units, units, units], axis=2
        )
        of_output += later_output
        of_cell = later_cell + of_output * output_to_cell
        of_gates *= tf.concat([of_cell, of_cell, of_cell, of_output], axis=2)
        return (
            time - 1,
            tf.matmul(of_gates, recurrent, transpose_b=True),
            of_cell * forget_gate,
            by_gates.write(time, of_gates),
        )

    zeros = tf.zeros_like(slopes[0, :, :, :units])
    by_gates = tf.TensorArray(slopes.dtype, steps, element_shape=[2, None, 4 * units])
    by_gates = tf.while_loop(
        lambda time, *_: time >= 0, step, [steps - 1, zeros, zeros, by_gates], back_prop=False
    )[-1].stack()
    found: list[Any] = [None, None]
    for way, (kernel, _), by in zip(ways, kernels, tf.unstack(by_gates, axis=1), strict=True):
        sequence, output = way[0], way[-1]
        before = tf.concat([first, output[:-1]], axis=0)
        seen = tf.reshape(tf.concat([sequence, before], axis=2), [-1, features + units])
        by = tf.reshape(by, [-1, 4 * units])
        by_sequence = tf.matmul(by, kernel, transpose_b=True)
        found += [
            tf.reshape(by_sequence, tf.shape(sequence)),
            tf.matmul(seen, by, transpose_a=True),
            tf.reduce_sum(by, axis=0),
            *[None] * 7,
        ]
    return found


def _slopes(
    first: tf.Tensor,
    input_gate: tf.Tensor,
    cell: tf.Tensor,
    forget_gate: tf.Tensor,
    output_gate: tf.Tensor,
    cell_input: tf.Tensor,
    cell_output: tf.Tensor,
    by_output: tf.Tensor,
) -> tf.Tensor:
    """What a step needs, (time, batch, 7 * units).

    First the slopes of the gates, before activation: of the first three by the cell, of the
    output gate by the output. Then the forget gate, the slope of the output by the cell, and the
    gradient of the output.
    """
    cell_before = tf.concat([first, cell[:-1]], axis=0)
    # SigmoidGrad is dy * y * (1 - y), TanhGrad is dy * (1 - y**2).
    return tf.concat(
        [
            tf.raw_ops.SigmoidGrad(y=input_gate, dy=cell_input),
            tf.raw_ops.TanhGrad(y=cell_input, dy=input_gate),
            tf.raw_ops.SigmoidGrad(y=forget_gate, dy=cell_before),
            tf.raw_ops.SigmoidGrad(y=output_gate, dy=cell_output),
            forget_gate,
            tf.raw_ops.TanhGrad(y=cell_output, dy=output_gate),
            by_output,
        ],
        axis=2,
    )
