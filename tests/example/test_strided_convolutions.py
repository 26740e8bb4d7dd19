"""The example's convolutions against `tf.nn.conv2d`: values, gradients, and what is refused."""

from __future__ import annotations

import gc
import itertools
import weakref

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow.compat.v1", reason="the example is written for TensorFlow")

from testbed import plain_layers  # noqa: E402

pytestmark = pytest.mark.tf


@pytest.fixture(autouse=True)
def few_channels(convolutions, monkeypatch):
    """Products whatever the number of channels, so that small layers test them."""
    monkeypatch.setattr(convolutions, "LEAST_CHANNELS", 1)


@pytest.fixture
def graph():
    with tf.Graph().as_default() as graph:
        yield graph


def build(function, images, kernels, biases, seed=7):
    """Output and gradients, by images, kernels and biases, of a weighted sum of the output."""
    layers = list(zip(kernels, biases, strict=True))
    output = function(images, layers)
    weighting = np.random.default_rng(seed).normal(size=output.shape.as_list())
    total = tf.reduce_sum(output * tf.constant(weighting, output.dtype))
    return [output, *tf.gradients(total, [images, *kernels, *biases])]


def compare(convolutions, shape, kernel_shapes, dtype=np.float64, rtol=1e-12):
    rng = np.random.default_rng(3)

    def drawn(shape):
        return tf.constant(rng.normal(size=shape).astype(dtype))

    images = drawn(shape)
    kernels = [drawn(shape) for shape in kernel_shapes]
    biases = [drawn(shape[3:]) for shape in kernel_shapes]
    with tf.Session() as session:
        ours, theirs = session.run(
            [
                build(module.strided_convolutions, images, kernels, biases)
                for module in (convolutions, plain_layers)
            ]
        )
    assert (theirs[0] == 0).any()  # ReLU has cut something off ...
    assert (theirs[0] > 0).any()  # ... and not everything
    for one, two in zip(ours, theirs, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_allclose(one, two, rtol=0, atol=rtol * np.abs(two).max())


@pytest.mark.parametrize("height", [100, 50, 25, 13, 7, 4, 3, 2, 1])
@pytest.mark.parametrize(("width", "kernel_width"), [(1, 1), (3, 1), (3, 3), (1, 3)])
def test_values_and_gradients_are_those_of_conv2d(convolutions, graph, height, width, kernel_width):
    compare(convolutions, [3, height, width, 2], [[5, kernel_width, 2, 4]])


@pytest.mark.parametrize("height", [12, 9])
@pytest.mark.parametrize("kernel_width", [1, 2])
@pytest.mark.parametrize("taps", [2, 3, 4, 6, 11])
def test_kernels_of_any_height_from_2_on(convolutions, graph, height, kernel_width, taps):
    compare(convolutions, [2, height, 4, 3], [[taps, kernel_width, 3, 2]])


def test_all_layers_of_the_example(convolutions, graph):
    widths = [1, 4, 5, 6, 7, 7]
    kernels = [
        [5, 3 if layer == 0 else 1, channels, filters]
        for layer, (channels, filters) in enumerate(itertools.pairwise(widths))
    ]
    compare(convolutions, [16, 100, 3, 1], kernels)
    compare(convolutions, [17, 100, 3, 1], kernels, np.float32, 4e-6)


def test_a_wide_kernel_after_a_narrow_one(convolutions, graph):
    compare(convolutions, [3, 11, 3, 2], [[5, 1, 2, 4], [3, 3, 4, 3], [5, 1, 3, 2]])


def test_the_number_of_images_may_change_from_step_to_step(convolutions, graph):
    rng = np.random.default_rng(0)
    images = tf.placeholder(tf.float32, [None, 10, 3, 1])
    kernel = tf.constant(rng.normal(size=[5, 3, 1, 2]).astype(np.float32))
    layers = [(kernel, tf.constant([0.5, -0.5]))]
    ours = convolutions.strided_convolutions(images, layers)
    theirs = plain_layers.strided_convolutions(images, layers)
    assert ours.shape.as_list() == theirs.shape.as_list() == [None, 5, 3, 2]
    with tf.Session() as session:
        for count in (16, 1, 33):
            values = rng.normal(size=[count, 10, 3, 1])
            one, two = session.run([ours, theirs], {images: values})
            np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("height", [25, 13, 7])
def test_rounding_is_of_the_size_of_conv2ds(convolutions, graph, height):
    rng = np.random.default_rng(5)
    shapes = [16, height, 3, 64], [5, 1, 64, 32], [32]
    values = [rng.normal(size=shape) for shape in shapes]
    found = []
    for module, dtype in (
        (plain_layers, tf.float64),
        (plain_layers, tf.float32),
        (convolutions, tf.float32),
    ):
        inputs = [tf.cast(tf.constant(value, tf.float32), dtype) for value in values]
        images, kernel, bias = inputs
        found.append(build(module.strided_convolutions, images, [kernel], [bias]))
    with tf.Session() as session:
        exact, theirs, ours = session.run(found)

    def error(got):
        return [
            np.sqrt(np.mean((one - two) ** 2) / np.mean(two**2))
            for one, two in zip(got, exact, strict=True)
        ]

    for one, two in zip(error(ours), error(theirs), strict=True):
        assert one < max(4 * two, 1e-6)


@pytest.mark.parametrize(
    ("height", "by_definition", "at_most"), [(50, 122, 65), (25, 61, 36), (13, 31, 20), (7, 16, 10)]
)
def test_there_are_fewer_products_than_by_definition(convolutions, height, by_definition, at_most):
    of_signal, of_kernel, to_output = convolutions._algorithm(height, 5)
    assert of_signal.shape[0] == to_output.shape[1] <= at_most
    outputs = [2 * output + convolutions._start(height, 5) for output in range(len(to_output))]
    seen = [first + tap for first in outputs for tap in range(5)]
    assert sum(0 <= frame < height for frame in seen) == by_definition
    assert of_signal.shape[0] % of_kernel.shape[0] == 0


# -- what it is made for ---------------------------------------------------------------------


def op_types(graph):
    return {op.type for op in graph.get_operations()}


def small(convolutions):
    images = tf.zeros([2, 8, 1, 3])
    kernels = [tf.zeros([5, 1, 3, 4])]
    build(convolutions.strided_convolutions, images, kernels, [tf.zeros([4])])


def test_on_a_cpu_nothing_is_left_to_conv2d(convolutions, graph):
    small(convolutions)
    assert not any(name.startswith("Conv2D") for name in op_types(graph))


def test_few_channels_are_left_to_conv2d(convolutions, graph, monkeypatch):
    monkeypatch.setattr(convolutions, "LEAST_CHANNELS", 4)
    small(convolutions)
    assert "Conv2D" in op_types(graph)
    assert "IdentityN" not in op_types(graph)


def test_on_a_gpu_everything_is_left_to_conv2d(convolutions, graph, monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [f"the {kind}"])
    small(convolutions)
    assert {"Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"} <= op_types(graph)
    assert "IdentityN" not in op_types(graph)


@pytest.mark.parametrize(("device", "left"), [("/CPU:0", False), ("/GPU:1", True)])
def test_the_graphs_own_placement_decides(convolutions, graph, monkeypatch, device, left):
    visible = [] if left else ["a GPU"]
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: visible)
    with tf.device(device):
        small(convolutions)
    assert ("Conv2D" in op_types(graph)) is left


def test_a_graph_is_not_kept_alive(convolutions):
    from tensorflow.python.framework import ops

    known = []
    for _ in range(2):
        with tf.Graph().as_default() as graph:
            small(convolutions)
        gone = weakref.ref(graph)
        del graph
        gc.collect()
        assert gone() is None
        known.append(len(ops.gradient_registry.list()))
    assert known[0] == known[1]


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "kernel", "bias", "message"),
    [
        ([2, 8, 3], [5, 1, 3, 4], [4], r"images have shape \(2, 8, 3\)"),
        ([2, None, 1, 3], [5, 1, 3, 4], [4], r"images have shape .*the last three are known"),
        ([2, 8, 1, 3], [5, 3, 4], [4], r"layer 0 .* shape \(5, 3, 4\), not \(kernel height"),
        ([2, 8, 1, 3], [5, 1, None, 4], [4], r"layer 0 .*, not \(kernel height"),
        ([2, 8, 1, 3], [5, 1, 2, 4], [4], r"third dimension must be 3, the channels"),
        ([2, 8, 1, 3], [1, 1, 3, 4], [4], r"height must be at least 2, the stride"),
        ([2, 8, 1, 3], [5, 1, 3, 4], [3], r"the bias \(3,\), not \(4,\)"),
        ([2, 8, 1, 3], [5, 1, 3, 4], [4, 1], r"the bias \(4, 1\), not \(4,\)"),
    ],
)
def test_other_shapes_are_refused_when_the_graph_is_built(
    convolutions, graph, images, kernel, bias, message
):
    images, kernel, bias = (tf.placeholder(tf.float32, shape) for shape in (images, kernel, bias))
    with pytest.raises(ValueError, match=message):
        convolutions.strided_convolutions(images, [(kernel, bias)])


def test_the_layer_that_does_not_fit_is_named(convolutions, graph):
    layers = [(tf.zeros([5, 1, 1, 4]), tf.zeros([4])), (tf.zeros([5, 1, 3, 4]), tf.zeros([4]))]
    with pytest.raises(ValueError, match=r"layer 1 .*\(5, 1, 3, 4\).* must be 4"):
        convolutions.strided_convolutions(tf.zeros([2, 8, 1, 1]), layers)


def test_it_needs_a_graph(convolutions, graph, monkeypatch):
    monkeypatch.setattr(tf, "executing_eagerly", lambda: True)
    with pytest.raises(ValueError, match=r"call it inside tf\.Graph"):
        small(convolutions)
