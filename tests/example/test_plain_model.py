"""The example's model is that of a plain TensorFlow graph: loss, error, and all gradients."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow.compat.v1", reason="the example is written for TensorFlow")

from testbed import plain_layers  # noqa: E402

pytestmark = pytest.mark.tf

CONFIG = {"learning_rate": 1e-3, "reg_param": 1e-3, "win_size_mins": 1, "batch_size": 2}
SEQUENCE = 6  # ten-second windows in a minute


def data():
    """Three sequences: a full batch, and one of a single sequence."""
    rng = np.random.default_rng(4)
    count = 3 * SEQUENCE
    return {
        "acceleration": rng.normal(0, 1, (count, 100, 3)).astype(np.float32),
        "labels": rng.integers(0, 2, count).astype(np.float32),
        "offsets": np.array([0, count]),
        "shuffle_seed": 0,
        "path": "train_0.txt",
    }


def values(example, weights, amp_factor):
    """Loss, error and gradients of the batches of a pass, with these weights."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        optimizer, loss, error = example.model_fn(data(), {**CONFIG, "amp_factor": amp_factor})
        pairs = optimizer.compute_gradients(loss)
        names = [variable.op.name for _, variable in pairs]
        gradients = [gradient for gradient, _ in pairs]
        session.run([tf.global_variables_initializer(), tf.tables_initializer()])
        if not weights:
            rng = np.random.default_rng(1)
            for name, (_, variable) in zip(names, pairs, strict=True):
                noise = rng.normal(0, 0.1, variable.shape) if "bias" in name else 0
                weights[name] = (session.run(variable) + noise).astype(np.float32)
        for name, (_, variable) in zip(names, pairs, strict=True):
            variable.load(weights[name], session)  # which fails where the shape is another
        assert sorted(names) == sorted(weights)
        return [session.run([loss, error, *gradients]) for _ in range(2)], names


@pytest.mark.parametrize("amp_factor", [1, 2])
def test_loss_error_and_gradients_are_those_of_the_plain_graph(example, monkeypatch, amp_factor):
    weights = {}
    ours, names = values(example, weights, amp_factor)
    for name in ("strided_convolutions", "bidirectional_lstm"):
        monkeypatch.setattr(example, name, getattr(plain_layers, name))
    theirs, plain_names = values(example, weights, amp_factor)
    assert names == plain_names
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one[0], two[0], rtol=1e-6)
        assert one[1] == two[1]
        for name, got, expected in zip(names, one[2:], two[2:], strict=True):
            np.testing.assert_allclose(
                got, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name
            )
