"""Convolutions that halve the height, one after the other, each with bias and ReLU.

`strided_convolutions` computes what this loop computes, from the same weights:

    for kernel, bias in layers:
        images = tf.nn.conv2d(images, kernel, strides=[1, 2, 1, 1], padding="SAME")
        images = tf.nn.relu(tf.nn.bias_add(images, bias))

On a GPU it is this loop. On a CPU `tf.nn.conv2d` trains at about two thirds of the speed of a
product of matrices where TensorFlow uses oneDNN, and at less than a third where it does not: what
is slow is the gradient of a convolution with strides. So there everything is made of products:

- Between the layers the signal is a matrix. Its rows are (height, channel), its columns (width,
  image). The rows of one height are a *frame*. A kernel of height h sees h frames in a row, which
  are one block of rows: a view, nothing is copied. An output frame is the kernel, as a matrix,
  times such a block. Padding is left out of the block, not multiplied.
- The gradient of an input frame is a product of that kind as well. The even taps of the kernel
  lead to every second input frame and the odd taps to the others, so these are two convolutions
  of the output's gradient, without strides.
- The gradient of the kernel is the sum, over the output frames, of block times gradient.
- A kernel that is wider than 1 becomes one that sees all of the width at once. That is meant for
  a first layer with few channels: the products are larger by width / kernel width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from own_gradient import computes_on_gpu, own_gradient

STRIDE = 2
ALIGNED_COLUMNS = 16  # 64 bytes: a split of a matrix with so many columns gives views


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
    images = tf.identity(images)  # which lies on the device of this place in the graph
    if computes_on_gpu(images):
        for kernel, bias in layers:
            images = tf.nn.conv2d(images, kernel, strides=[1, STRIDE, 1, 1], padding="SAME")
            images = tf.nn.relu(tf.nn.bias_add(images, bias))
        return images
    count = tf.shape(images)[0]
    _, height, width, channels = images.shape.as_list()
    signal = tf.transpose(images, [1, 3, 2, 0])
    signal = tf.pad(signal, [[0, 0], [0, 0], [0, 0], [0, -count % ALIGNED_COLUMNS]])
    for kernel, bias in layers:
        if int(kernel.shape[1]) == 1:
            signal = tf.reshape(signal, [height * channels, -1])
            signal = _narrow_layer(signal, tf.squeeze(kernel, 1), bias)
        else:
            signal = tf.reshape(signal, [height * channels * width, -1])
            signal = _wide_layer(signal, kernel, bias, height, width)
        height, channels = -(-height // STRIDE), int(bias.shape[0])
    signal = tf.reshape(signal, [height, channels, width, -1])
    output = tf.slice(tf.transpose(signal, [3, 0, 2, 1]), [0, 0, 0, 0], [count, -1, -1, -1])
    output.set_shape([images.shape[0], height, width, channels])
    return output


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


# -- kernels of width 1 ------------------------------------------------------------------------


def _narrow_layer(signal: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """The layer's output; `signal` is (height * channels, columns), `kernel` without its width."""
    taps, channels, _ = kernel.shape.as_list()
    starts = _starts(int(signal.shape[0]) // channels, taps)
    column = bias[:, None]
    frames = [tf.nn.relu(frame + column) for frame in _products(kernel, signal, starts)]
    output = tf.concat(frames, axis=0)
    with own_gradient("IdentityN", _narrow_gradient):
        return tf.identity_n([output, signal, kernel, bias])[0]


def _narrow_gradient(op: tf.Operation, gradient: tf.Tensor, *_: Any) -> list[tf.Tensor | None]:
    """The gradients of what `_narrow_layer` hands to its last op."""
    output, signal, kernel, _ = op.inputs
    taps, channels, filters = kernel.shape.as_list()
    height = int(signal.shape[0]) // channels
    starts = _starts(height, taps)
    gradient = tf.raw_ops.ReluGrad(gradients=gradient, features=output)

    signal_gradient: list[Any] = [None] * height
    for parity in range(STRIDE):
        # Input frame i meets tap k in the block that starts at i - k: k and i - starts[0] are both
        # even or both odd. From one block to the next, k falls by 2.
        kernel_part = tf.transpose(tf.reverse(kernel[parity::STRIDE], [0]), [0, 2, 1])
        frames = range((parity + starts[0]) % STRIDE, height, STRIDE)
        last = [(frame - starts[0] - parity) // STRIDE for frame in frames]
        first = [block - int(kernel_part.shape[0]) + 1 for block in last]
        signal_gradient[frames.start :: STRIDE] = _products(kernel_part, gradient, first)

    kernel_gradient = []
    blocks = _blocks(signal, channels, taps, starts)
    for (first, last, block), frame in zip(blocks, tf.split(gradient, len(starts)), strict=True):
        product = tf.matmul(block, frame, transpose_b=True)
        outside = [first * channels, (taps - last) * channels]
        kernel_gradient.append(tf.pad(product, [outside, [0, 0]]) if any(outside) else product)

    by_frame = tf.reshape(gradient, [len(starts), filters, -1])
    return [
        None,
        tf.concat(signal_gradient, axis=0),
        tf.reshape(tf.add_n(kernel_gradient), kernel.shape),
        tf.reduce_sum(tf.reduce_sum(by_frame, axis=2), axis=0),
    ]


def _starts(height: int, taps: int) -> list[int]:
    """The first input frame of each output frame, with padding "SAME": below 0 in the padding."""
    outputs = -(-height // STRIDE)
    padding = max((outputs - 1) * STRIDE + taps - height, 0)
    return [STRIDE * output - padding // 2 for output in range(outputs)]


def _products(kernel: tf.Tensor, signal: tf.Tensor, starts: Sequence[int]) -> list[tf.Tensor]:
    """For each start, the kernel (taps, rows, columns) times the frames from there."""
    taps, rows, columns = kernel.shape.as_list()
    parts = {(0, taps): tf.reshape(kernel, [-1, columns])}
    products = []
    for first, last, block in _blocks(signal, rows, taps, starts):
        if (first, last) not in parts:
            parts[first, last] = tf.reshape(kernel[first:last], [-1, columns])
        products.append(tf.matmul(parts[first, last], block, transpose_a=True))
    return products


def _blocks(
    signal: tf.Tensor, rows: int, taps: int, starts: Sequence[int]
) -> Iterator[tuple[int, int, tf.Tensor]]:
    """For each start, which taps meet frames (first, last + 1), and these frames, as a view.

    A frame has so many rows; the starts are evenly spaced. Blocks overlap, and the parts of a
    split do not, so several splits are made.
    """
    height = int(signal.shape[0]) // rows
    spans = [(max(start, 0), min(start + taps, height)) for start in starts]
    step = starts[1] - starts[0] if len(starts) > 1 else taps
    apart = -(-taps // step)  # blocks so far apart do not overlap
    views = {}
    for offset in range(min(apart, len(spans))):
        chosen = spans[offset::apart]
        edges = sorted({0, height, *itertools.chain(*chosen)})
        sizes = [rows * (end - begin) for begin, end in itertools.pairwise(edges)]
        parts = tf.split(signal, sizes)
        views.update({span: parts[edges.index(span[0])] for span in chosen})
    for start, span in zip(starts, spans, strict=True):
        yield span[0] - start, span[1] - start, views[span]


# -- wider kernels -----------------------------------------------------------------------------


def _wide_layer(
    signal: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, height: int, width: int
) -> tf.Tensor:
    """The layer's output; `signal` is (height * channels * width, images).

    The rows that each output frame sees are gathered, with one of zeros in place of padding and
    one of ones for the bias, and multiplied by a matrix that maps (tap, channel, place in the
    width) to (filter, place in the width).
    """
    taps, _, _, filters = kernel.shape.as_list()
    rows = int(signal.shape[0])
    frame = rows // height
    ones, zeros = rows, rows + 1
    starts = np.array(_starts(height, taps))
    seen = (starts[:, None] * frame) + np.arange(taps * frame)
    seen = np.where((seen >= 0) & (seen < rows), seen, zeros)
    seen = np.concatenate([seen, np.full((len(starts), 1), ones)], axis=1)
    one = tf.ones_like(signal[:1])
    signal = tf.gather(tf.concat([signal, one, 0 * one], axis=0), seen)
    bias = tf.tile(bias[:, None], [1, width])
    matrix = tf.concat(
        [
            tf.reshape(_over_width(kernel, width), [taps * frame, filters * width]),
            tf.reshape(bias, [1, filters * width]),
        ],
        axis=0,
    )
    return tf.nn.relu(tf.matmul(matrix, signal, transpose_a=True))


def _over_width(kernel: tf.Tensor, width: int) -> tf.Tensor:
    """The kernel as (taps, channels, place in the input, filters, place in the output)."""
    left = (int(kernel.shape[1]) - 1) // 2
    padded = tf.pad(kernel, [[0, 0], [width, width], [0, 0], [0, 0]])
    # The output at o sees the input at i with tap i - o + left.
    places = [padded[:, (first := width + left - o) : first + width] for o in range(width)]
    return tf.transpose(tf.stack(places), [1, 3, 2, 4, 0])
