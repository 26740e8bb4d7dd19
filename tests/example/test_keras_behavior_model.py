"""The example's model in Keras is that of the graph: loss, error, logits, gradients, training."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow.compat.v1", reason="the example is written for TensorFlow")
keras = pytest.importorskip("keras", minversion="3.7", reason="the model is written for Keras 3")

import cerebro  # noqa: E402

pytestmark = pytest.mark.tf

SEQUENCE = 6  # ten-second windows in a minute
CONFIG = {
    "learning_rate": 1e-3,
    "reg_param": 1e-2,
    "amp_factor": 1,
    "win_size_mins": 1,
    "batch_size": 2,
}
BATCHES = 2

ROUNDING = 1e-5
"""So much of an array's largest value may be another. Both compute in single precision, whose unit
is 6e-8, in another order; sums have up to 20,000 terms, and the graph's convolutions are products
of polynomials, which round two to three times as much. Seen: 2.2e-6."""


@pytest.fixture(scope="module")
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


class Graph:
    """The graph with weights of its own: what it computes before training, and after two steps."""

    def __init__(self, example, data, folder):
        with tf.Graph().as_default() as graph, tf.Session() as session:
            tf.set_random_seed(1)
            optimizer, loss, error = example.model_fn(data, CONFIG)
            pairs = optimizer.compute_gradients(loss)
            self.names = [variable.op.name for _, variable in pairs]
            variables = [variable for _, variable in pairs]
            gradients = [gradient for gradient, _ in pairs]
            train_step = optimizer.apply_gradients(pairs)
            logits = logits_of(graph)
            session.run(tf.global_variables_initializer())
            rng = np.random.default_rng(1)
            for name, variable in zip(self.names, variables, strict=True):
                if "bias" in name:  # 0 would hide gates that are mixed up
                    variable.load(rng.normal(0, 0.3, variable.shape), session)
            self.weights = self._named(session.run(variables))
            self.checkpoint = tf.train.Saver(variables).save(session, str(folder / "weights"))

            def batches(*fetches):
                session.run(tf.tables_initializer())
                return [session.run(fetches) for _ in range(BATCHES)]

            self.values = batches(loss, error, logits)
            self.gradients = [self._named(found) for (found,) in batches(gradients)]
            session.run(tf.tables_initializer())
            self.passed = example.train_fn(session, None, loss, error, train=False)
            self.trained = []
            session.run(tf.tables_initializer())
            for _ in range(BATCHES):
                session.run(train_step)
                self.trained.append(self._named(session.run(variables)))

    def _named(self, values):
        return dict(zip(self.names, values, strict=True))


def logits_of(graph):
    """What the graph rounds, after a sigmoid."""
    (op,) = [op for op in graph.get_operations() if op.type == "Round"]
    return op.inputs[0].op.inputs[0]


@pytest.fixture(scope="module")
def graph(example, data, tmp_path_factory):
    return Graph(example, data, tmp_path_factory.mktemp("graph"))


@pytest.fixture
def model(keras_model, graph):
    """The Keras model with the graph's weights, from its checkpoint."""
    model = keras_model.model_fn(CONFIG)
    keras_model.take_over(model, graph.checkpoint)
    return model


def by_layer(model, values):
    """Values that belong to a model's trainable variables, as `keras_weights` has them."""
    at = {id(v): value for v, value in zip(model.trainable_variables, values, strict=True)}
    return {
        layer.name: [np.asarray(at[id(v)]) for v in layer.trainable_variables]
        for layer in model.layers
        if layer.trainable_variables
    }


def batches(keras_module, data):
    return [
        keras_module.read_batch(data, starts, SEQUENCE)
        for starts in keras_module.shuffled_batches(data, SEQUENCE, CONFIG["batch_size"])
    ]


def close(got, expected):
    assert got.keys() == expected.keys()
    for name in got:
        for one, two in zip(got[name], expected[name], strict=True):
            atol = ROUNDING * np.abs(two).max()
            np.testing.assert_allclose(one, two, rtol=0, atol=atol, err_msg=name)


def test_a_checkpoint_is_taken_over_weight_by_weight(keras_model, model, graph):
    assert model.count_params() == sum(value.size for value in graph.weights.values())
    found = by_layer(model, [variable.numpy() for variable in model.trainable_variables])
    expected = keras_model.keras_weights(graph.weights)
    assert found.keys() == expected.keys()
    for name in found:
        for one, two in zip(found[name], expected[name], strict=True):
            assert np.array_equal(one, two), name


def test_loss_error_and_logits_are_the_graphs(keras_model, model, graph, data):
    for (acceleration, labels), (loss, error, logits) in zip(
        batches(keras_model, data), graph.values, strict=True
    ):
        found = model.predict_on_batch(acceleration)[:, :, 0]
        np.testing.assert_allclose(found, logits, rtol=0, atol=ROUNDING * np.abs(logits).max())
        model.reset_metrics()
        values = model.test_on_batch(acceleration, labels[:, :, None], return_dict=True)
        np.testing.assert_allclose(values["loss"], loss, rtol=1e-6)
        np.testing.assert_allclose(1 - values["accuracy"], error, atol=1e-6)


def test_gradients_are_the_graphs(keras_model, model, graph, data):
    for (acceleration, labels), expected in zip(
        batches(keras_model, data), graph.gradients, strict=True
    ):
        with tf.GradientTape() as tape:
            logits = model(acceleration, training=True)
            loss = model.compute_loss(acceleration, labels[:, :, None], logits)
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        expected = keras_model.keras_weights(expected)
        for way in keras_model.WAYS:  # a gradient has no 1 for the forget gate
            expected[way][2] = expected[way][2] - np.repeat([0, 1, 0, 0], keras_model.UNITS)
        close(by_layer(model, gradients), expected)


def test_a_pass_gives_what_the_graphs_pass_gives(keras_model, model, graph, data):
    found = keras_model.train_fn(model, data, train=False)
    np.testing.assert_allclose(found, graph.passed, rtol=1e-6)
    before = model.get_weights()
    keras_model.train_fn(model, data, train=False)
    for one, two in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(one, two)


def test_adam_steps_are_the_graphs(keras_model, model, graph, data):
    """A step of Adam has nearly the length of the learning rate wherever the gradient is well above
    1e-8. Where it is not, its rounding is much of it, and decides the step: few weights may be off
    by more than a hundredth of a step, and none by more than a tenth."""
    rate = CONFIG["learning_rate"]
    before = keras_model.keras_weights(graph.weights)
    for (acceleration, labels), trained in zip(
        batches(keras_model, data), graph.trained, strict=True
    ):
        model.train_on_batch(acceleration, labels[:, :, None])
        found = by_layer(model, [variable.numpy() for variable in model.trainable_variables])
        after = keras_model.keras_weights(trained)
        for name in found:
            for got, expected, old in zip(found[name], after[name], before[name], strict=True):
                off = np.abs(got - expected)
                assert off.max() < 0.1 * rate, name
                assert np.mean(off > 0.01 * rate) < 1e-4, name
                assert np.abs(expected - old).max() > 0.1 * rate  # it has been trained
        before = after


def test_initial_weights_have_the_graphs_distributions(keras_model):
    keras.utils.set_random_seed(3)
    model = keras_model.model_fn(CONFIG)
    for name in keras_model.WAYS:
        kernel, recurrent, bias = model.get_layer(name).get_weights()
        bound = np.sqrt(6 / (256 + 128 + 4 * 128))
        for value in (kernel, recurrent):
            assert 0.98 * bound < np.abs(value).max() < 1.0001 * bound
        assert np.array_equal(bias, np.repeat([0, 1, 0, 0], 128))


def test_the_library_trains_it(keras_model, data, capsys):
    cerebro.check(
        lambda path: data, keras_model.model_fn, keras_model.train_fn, [CONFIG], "train_0.txt",
        backend="keras",
    )  # fmt: skip
    assert "restored" in capsys.readouterr().err


def test_another_width_is_refused(keras_model, graph):
    wider = keras_model.model_fn({**CONFIG, "amp_factor": 2})
    with pytest.raises(ValueError, match="conv1 weight shape"):
        keras_model.take_over(wider, graph.checkpoint)
