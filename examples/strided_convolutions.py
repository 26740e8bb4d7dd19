"""Convolutions that halve the height, one after the other, each with bias and ReLU.

`strided_convolutions` computes what this loop computes, from the same weights:

    for kernel, bias in layers:
        images = tf.nn.conv2d(images, kernel, strides=[1, 2, 1, 1], padding="SAME")
        images = tf.nn.relu(tf.nn.bias_add(images, bias))

On a GPU it is this loop, and on a CPU too where a kernel is wider than 1 or sees few channels.
Every other layer on a CPU is made of products of matrices, fewer than a convolution by its
definition has:

- An output frame (what lies at one height) sees every second input frame by the kernel's even taps
  and the others by its odd taps. These are two convolutions without strides.
- Such a convolution multiplies polynomials: the frames of a block, and the taps, are coefficients.
  Polynomials can be evaluated at a few points, multiplied there, and interpolated: for 4 frames
  and 3 taps 6 products instead of 12, for 3 frames and 2 taps 4 instead of 6 (the method of Toom
  and Cook; for convolutions it is known by Winograd's name). It is exact but for rounding, which
  grows with the number of points: with `MOST_POINTS` it is two to three times that of conv2d.
- Evaluation and interpolation are products with small constant matrices, `_algorithm`, over all
  heights at once. So a layer is: evaluate the signal, evaluate the kernel, multiply for all points
  in one batch, interpolate. The gradient goes the same way back.

The signal lies height first, so that all of this is done without moving data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from own_gradient import computes_on_gpu, own_gradient

STRIDE = 2
LEAST_CHANNELS = 64
"""With fewer than that `tf.nn.conv2d` is as fast."""
MOST_POINTS = 7


def strided_convolutions(
    images: tf.Tensor, layers: Sequence[tuple[tf.Tensor, tf.Tensor]]
) -> tf.Tensor:
    """Convolutions with strides (2, 1) and padding "SAME", each with bias and ReLU.

    `images` is (images, height, width, channels); all but the number of images must be known.
    Each layer has a kernel (kernel height, kernel width, channels, filters) and a bias
    (filters,). The kernel's height is at least 2. Returns (images, height / 2 for each layer
    and rounded up, width, filters). For other strides and paddings use `tf.nn.conv2d`.

    Raises `ValueError` for other shapes, and outside a graph.
    """
    images = tf.convert_to_tensor(images)
    layers = [(tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias)) for kernel, bias in layers]
    _check(images, layers)
    signal = tf.identity(images)  # which lies on the device of this place in the graph
    on_gpu = computes_on_gpu(signal)
    height_first = False
    for kernel, bias in layers:
        products = not on_gpu and kernel.shape[1] == 1 and kernel.shape[2] >= LEAST_CHANNELS
        if products != height_first:
            signal = tf.transpose(signal, [1, 0, 2, 3])
            height_first = products
        if products:
            signal = _by_products(signal, kernel, bias)
        else:
            signal = tf.nn.conv2d(signal, kernel, strides=[1, STRIDE, 1, 1], padding="SAME")
            signal = tf.nn.relu(tf.nn.bias_add(signal, bias))
    if height_first:
        signal = tf.transpose(signal, [1, 0, 2, 3])
    signal.set_shape([images.shape[0], None, None, None])
    return signal


def _check(images: tf.Tensor, layers: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> None:
    if tf.executing_eagerly():
        raise ValueError("strided_convolutions makes part of a graph: call it inside tf.Graph()")
    if images.shape.rank != 4 or None in images.shape.as_list()[1:]:
        raise ValueError(
            f"images have shape {images.shape}; (images, height, width, channels) is needed, of "
            "which the last three are known"
        )
    channels = int(images.shape[3])
    for number, (kernel, bias) in enumerate(layers):
        where = f"layer {number} (from 0): the kernel has shape {kernel.shape}"
        if kernel.shape.rank != 4 or not kernel.shape.is_fully_defined():
            raise ValueError(f"{where}, not (kernel height, kernel width, channels, filters)")
        if int(kernel.shape[2]) != channels:
            raise ValueError(f"{where}; its third dimension must be {channels}, the channels")
        if int(kernel.shape[0]) < STRIDE:
            raise ValueError(f"{where}; its height must be at least {STRIDE}, the stride")
        channels = int(kernel.shape[3])
        if bias.shape.as_list() != [channels]:
            raise ValueError(f"{where}, and the bias {bias.shape}, not ({channels},)")


# -- one layer ---------------------------------------------------------------------------------


def _by_products(signal: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """The output (height, images, width, filters) of `signal` (height, images, width, channels)."""
    height, _, width, channels = signal.shape.as_list()
    taps, _, _, filters = kernel.shape.as_list()
    signal = tf.reshape(signal, [height, -1])
    kernel = tf.reshape(kernel, [taps, channels * filters])
    constants = [tf.constant(matrix, signal.dtype) for matrix in _algorithm(height, taps)]
    of_signal, of_kernel, to_output = constants
    at_points = _evaluate(of_signal, signal, of_kernel, kernel, channels, filters)
    products = tf.reshape(tf.matmul(*at_points), [to_output.shape[1], -1])
    output = tf.reshape(tf.matmul(to_output, products), [to_output.shape[0], -1, width, filters])
    output = tf.nn.relu(tf.nn.bias_add(output, bias))
    with own_gradient("IdentityN", _gradient):
        return tf.identity_n([output, signal, kernel, bias, *constants])[0]


def _evaluate(
    of_signal: tf.Tensor,
    signal: tf.Tensor,
    of_kernel: tf.Tensor,
    kernel: tf.Tensor,
    channels: int,
    filters: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Signal (points, rows, channels) and kernel (points, channels, filters) at the points."""
    points = of_kernel.shape[0]
    return (
        tf.reshape(tf.matmul(of_signal, signal), [points, -1, channels]),
        tf.reshape(tf.matmul(of_kernel, kernel), [points, channels, filters]),
    )


def _gradient(op: tf.Operation, gradient: tf.Tensor, *_: Any) -> list[tf.Tensor | None]:
    """The gradients of what `_by_products` hands to its last op.

    The signal at the points is computed again: it is larger than the signal, and would have to
    be kept from the way forward for each layer.
    """
    output, signal, kernel, bias, of_signal, of_kernel, to_output = op.inputs
    filters = int(bias.shape[0])
    channels = int(kernel.shape[1]) // filters
    signal_at, kernel_at = _evaluate(of_signal, signal, of_kernel, kernel, channels, filters)
    points, rows = of_kernel.shape[0], of_signal.shape[0]

    gradient = tf.raw_ops.ReluGrad(gradients=gradient, features=output)
    by_bias = tf.raw_ops.BiasAddGrad(out_backprop=gradient)
    by_output = tf.reshape(gradient, [to_output.shape[0], -1])
    by_products = tf.matmul(to_output, by_output, transpose_a=True)
    by_products = tf.reshape(by_products, [points, -1, filters])
    by_signal_at = tf.reshape(tf.matmul(by_products, kernel_at, transpose_b=True), [rows, -1])
    by_kernel_at = tf.reshape(tf.matmul(signal_at, by_products, transpose_a=True), [points, -1])
    return [
        None,
        tf.matmul(of_signal, by_signal_at, transpose_a=True),
        tf.matmul(of_kernel, by_kernel_at, transpose_a=True),
        by_bias,
        None,
        None,
        None,
    ]


# -- which products ----------------------------------------------------------------------------


def _algorithm(height: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices S, K and O of the layer O ((S signal) * (K kernel)), for its height and taps.

    The rows of S and the columns of O are (point, block), the rows of K are points; the product
    is taken point by point. The frames of either parity are cut into the same number of blocks:
    that which needs the fewest products, where no polynomial has too many points.
    """
    frames = _frames(height, taps)

    def points(blocks: int) -> list[int]:
        return [-(-len(seen) // blocks) + len(used) - 1 for seen, used in frames]

    most = max(len(seen) for seen, _ in frames)
    # With one frame in a block the products are those of the definition.
    allowed = [n for n in range(1, most) if max(points(n)) <= MOST_POINTS] + [most]
    blocks = min(allowed, key=lambda n: n * sum(points(n)))

    outputs = -(-height // STRIDE)
    total = sum(points(blocks))
    of_signal = np.zeros([total, blocks, height])
    of_kernel = np.zeros([total, taps])
    to_output = np.zeros([outputs, total, blocks])
    begin = 0
    for seen, used in frames:
        size = -(-len(seen) // blocks)
        end = begin + size + len(used) - 1
        at_frames, at_taps, interpolation = _polynomials(size, len(used))
        # The last tap comes first: the product's coefficient is then the sum over frame + tap.
        of_kernel[begin:end, used] = at_taps[:, ::-1]
        for block in range(blocks):
            first = block * size
            within = seen[first : first + size]
            of_signal[begin:end, block, within] = at_frames[:, : len(within)]
            for power in range(end - begin):
                # Frame `seen[i]` meets tap `used[k]` in output i - k + shift.
                output = first + power - (len(used) - 1) + _shift(height, taps, seen, used)
                if 0 <= output < outputs:
                    to_output[output, begin:end, block] = interpolation[power]
        begin = end
    return (
        of_signal.reshape(total * blocks, height),
        of_kernel,
        to_output.reshape(outputs, total * blocks),
    )


def _frames(height: int, taps: int) -> list[tuple[range, range]]:
    """The input frames of a parity, and the taps that they meet; none where there are none."""
    start = _start(height, taps)
    pairs = [
        (range((parity + start) % STRIDE, height, STRIDE), range(parity, taps, STRIDE))
        for parity in range(STRIDE)
    ]
    return [(seen, used) for seen, used in pairs if seen]


def _start(height: int, taps: int) -> int:
    """The frame that the first output's first tap meets with padding "SAME": 0 or below."""
    outputs = -(-height // STRIDE)
    return -(max((outputs - 1) * STRIDE + taps - height, 0) // 2)


def _shift(height: int, taps: int, seen: range, used: range) -> int:
    """The output in which the first frame and the first tap of a parity meet."""
    return (seen[0] - used[0] - _start(height, taps)) // STRIDE


def _polynomials(one: int, two: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices A, B, C so that C (A x * B y) are the coefficients of a product of polynomials.

    x and y are the coefficients, so many, of its factors.
    """
    if one == 1:
        return np.ones([two, 1]), np.eye(two), np.eye(two)
    if two == 1:
        return np.eye(one), np.ones([one, 1]), np.eye(one)
    count = one + two - 1

    def values(coefficients: int) -> np.ndarray:
        finite = np.array([0, 1, -1, 2, -1 / 2, -2])[: count - 1]
        infinity = np.eye(coefficients)[-1:]  # there a polynomial is its highest coefficient
        return np.concatenate([np.vander(finite, coefficients, increasing=True), infinity])

    return values(one), values(two), np.linalg.inv(values(count))
