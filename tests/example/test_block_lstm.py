"""The example's LSTMs against TensorFlow's own gradient. (`test_model_fn` has its formulas.)"""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow.compat.v1", reason="the example is written for TensorFlow")

from testbed import plain_layers  # noqa: E402

pytestmark = pytest.mark.tf


def build(function, seed=0):
    """Output and gradients by sequence, kernels and biases."""
    rng = np.random.default_rng(seed)
    inputs = [
        tf.constant(rng.normal(0, scale, shape).astype(np.float32))
        for shape, scale in [([9, 4, 6], 1.0), *[([6 + 5, 20], 0.5), ([20], 0.5)] * 2]
    ]
    output = function(inputs[0], inputs[1:3], inputs[3:])
    weighting = rng.normal(size=output.shape.as_list()).astype(np.float32)
    return [output, *tf.gradients(tf.reduce_sum(output * weighting), inputs)]


def test_values_and_gradients_are_tensorflows_own(block_lstm):
    with tf.Graph().as_default(), tf.Session() as session:
        ours, theirs = session.run(
            [build(module.bidirectional_lstm) for module in (block_lstm, plain_layers)]
        )
    np.testing.assert_array_equal(ours[0], theirs[0])
    for one, two in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=2e-6 * np.abs(two).max())


@pytest.mark.parametrize("gpu", [False, True])
def test_tensorflows_gradient_is_used_on_a_gpu(block_lstm, monkeypatch, gpu):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind] * gpu)
    with tf.Graph().as_default() as graph:
        build(block_lstm.bidirectional_lstm)
    assert any(op.type == "BlockLSTMGrad" for op in graph.get_operations()) is gpu
