"""A V1 graph proves where it hops to that it computes what it did: see `backends.probe`."""

from __future__ import annotations

import logging

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from tf_toy import batches, digest, handler, losses, model_fn, task, train_fn

from cerebro.backends import probe as probes
from cerebro.backends.probe import Prover
from cerebro.backends.tf.runtime import tf, v1, v1_behaviour
from cerebro.errors import ModelDiffers

pytestmark = pytest.mark.tf

DATA = [np.random.RandomState(seed).rand(24, 3).astype(np.float32) for seed in range(3)]


@pytest.fixture(autouse=True)
def _v1():
    with v1_behaviour():
        yield


def hop(model_fn, folder, data=DATA, train_fn=train_fn, **config):
    """The states of training units in turn, each in an executor and on a partition of its own."""
    state, states = None, []
    for number, partition in enumerate(data):
        tool = handler(model_fn, train_fn)
        state = tool.run(task(partition=number, **config), partition, state).state
        states.append(state)
        place = folder / str(number)
        place.mkdir(parents=True)
        state = tool.read(str(place / tool.write(state, str(place))))
        tool.close()
    return states


@pytest.mark.parametrize("config", [{}, {"one_shot": True}, {"shuffle": True}], ids=str)
def test_ordinary_graphs_pass_and_train_to_the_same_bits(config, tmp_path, monkeypatch):
    """However their input begins, and wherever it shuffles: what came out of it is what counts."""
    states = hop(model_fn, tmp_path / "probed", **config)
    assert [len(state.probe.places) for state in states] == [1, 2, 3]
    (inputs,) = states[0].probe.inputs
    assert inputs.shape == (8, 3)
    if "shuffle" not in config:
        assert np.array_equal(inputs, DATA[0][:8])
    monkeypatch.setattr(Prover, "places", lambda *_: None)
    without = hop(model_fn, tmp_path / "without", **config)
    assert [digest(state) for state in states] == [digest(state) for state in without]


def constant(data, config, train=True):
    x = batches(data)
    return (v1.train.AdamOptimizer(0.01), *losses(tf.subtract(x, data.mean(), name="cut")))


def slope(data, config, train=True):
    x = batches(data)
    return (
        v1.train.AdamOptimizer(0.01),
        *losses(tf.nn.leaky_relu(x - 0.5, data.max(), name="cut")),
    )


def threshold(data, config, train=True):
    """The loss is the same, and the share of wrong answers is not."""
    x = batches(data)
    loss, _ = losses(x)
    wrong = tf.cast(x[:, 0] > tf.constant(data.mean(), name="cut"), tf.float32)
    return v1.train.AdamOptimizer(0.01), loss, tf.reduce_mean(wrong)


def fed(data, config, train=True):
    """Its input comes by a placeholder."""
    x = v1.placeholder(tf.float32, [None, 3], name="x")
    return (v1.train.AdamOptimizer(0.01), *losses(x * tf.constant(data.mean(), name="cut")))


def feed(session, train_step, loss, error, train=True):
    session.run(tf.no_op())
    x = session.graph.get_tensor_by_name("x:0")
    return session.run([loss, error, train_step], {x: np.ones((50, 3), np.float32)})[:2]


@pytest.mark.parametrize("model_fn", [constant, slope, threshold, fed], ids=lambda f: f.__name__)
def test_a_graph_that_is_another_one_elsewhere_is_refused_with_the_op(model_fn, tmp_path):
    data = [factor * DATA[0] for factor in (0.5, 0.9)]
    train = feed if model_fn is fed else train_fn
    with pytest.raises(ModelDiffers, match=r"from op 'cut\S*' \(") as caught:
        hop(model_fn, tmp_path, data, train)
    assert caught.value.function == "model_fn"


def test_which_of_two_nearly_equal_numbers_is_larger_is_not_compared(tmp_path):
    """One answer of a batch may be another on another host; a loss may not."""

    def model_fn(data, config, train=True):
        x = batches(data)
        loss, _ = losses(x)
        limit = tf.constant(0.5 + float(data[0, 0]) * 1e-8)
        return v1.train.AdamOptimizer(0.01), loss, tf.reduce_mean(tf.cast(x < limit, tf.float32))

    near = np.full((24, 3), 0.5, np.float32)
    first = handler(model_fn)
    state = first.run(task(), near, None).state
    assert state.probe.outputs[1].values[0] == 0.0
    other = near.copy()
    other[0, 0] = 100
    second = handler(model_fn)
    assert second.run(task(partition=1), other, state).state.probe is not None


def counted(x):
    """What changes its local variables as it is computed."""
    _, update = v1.metrics.mean(x)
    return x + 0.0 * update


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (counted, "AssignAdd"),
        (lambda x: tf.nn.dropout(x, rate=0.5), "random numbers"),
        (lambda x: tf.reshape(tf.numpy_function(np.copy, [x], tf.float32), [-1, 3]), "PyFunc"),
        (lambda x: tf.ones([4, 3]), "no input"),
    ],
    ids=["metric", "dropout", "python", "constant"],
)
def test_a_graph_that_changes_draws_calls_python_or_has_no_input_is_left_alone(
    change, why, tmp_path, caplog
):
    def model_fn(data, config, train=True):
        return (v1.train.AdamOptimizer(0.01), *losses(change(batches(data))))

    def one_step(session, train_step, loss, error, train=True):
        return session.run([loss, error, train_step])[:2]

    with caplog.at_level(logging.DEBUG, "cerebro.backends.tf.probing"):
        states = hop(model_fn, tmp_path, DATA[:2], one_step)
    assert [state.probe for state in states] == [None, None]
    assert "model 0 cannot be probed" in caplog.text
    assert why in caplog.text


def test_no_input_is_read_that_a_step_does_not_read(tmp_path):
    """The loss has two; a step that has only one of them is not asked for the other."""

    def model_fn(data, config, train=True):
        x, y = batches(data), batches(data[:, ::-1].copy())
        v1.add_to_collection("x", x)
        loss, error = losses(x + y)
        return v1.train.AdamOptimizer(0.01), loss, error

    def read(session, train_step, loss, error, train=True):
        (x,) = v1.get_collection("x")
        first = session.run(x)
        second, *_ = session.run([x, train_step])
        assert np.array_equal(first, DATA[0][:8])
        assert np.array_equal(second, DATA[0][8:16])
        return session.run([loss, error])

    (state,) = hop(model_fn, tmp_path, DATA[:1], read)
    assert np.array_equal(state.probe.inputs[0], DATA[0][8:16])
    assert np.array_equal(state.probe.inputs[1], DATA[0][:8, ::-1])


def test_validation_graphs_prove_nothing_and_a_probe_that_has_served_is_removed(tmp_path):
    """What validates may be another graph than what trains; both places are known at the end."""
    first, second = handler(), handler()
    one = first.run(task(), DATA[0], None).state
    two = second.run(task(partition=1), DATA[1], one).state
    folder = tmp_path / "v2"
    folder.mkdir()
    saved = second.read(str(folder / second.write(two, str(folder))))
    assert len(saved.probe.places) == 2
    handler(constant).run(task(1, train=False), DATA[2], saved)
    three = first.run(task(1), DATA[0], saved).state
    assert three.probe is None
    assert not (folder / probes.FILE).exists()
