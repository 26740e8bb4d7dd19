"""A Keras model proves where it hops to that it computes what it did: see `backends.probe`."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import types

import numpy as np
import pytest

pytest.importorskip("keras")

from keras_toy import arrays, handler, model_of, reloaded, task, values

from cerebro.backends import probe as probes
from cerebro.backends.base import Options
from cerebro.backends.keras import constants, probing
from cerebro.backends.keras.models import build_model
from cerebro.backends.keras.runtime import keras, tf
from cerebro.backends.probe import Prover
from cerebro.errors import BadReturn, ModelDiffers, VersionDamaged

pytestmark = pytest.mark.tf

layers = keras.layers
DATA = [arrays(20, seed) for seed in range(3)]


def hop(model_fn, folder, data=DATA, executors=True, **functions):
    """The states of training units in turn, each on another partition, by way of their files.

    Each in an executor of its own, unless `executors` is false.
    """
    state, states, tool = None, [], None
    folder.mkdir(exist_ok=True)
    for number, partition in enumerate(data):
        if tool is None or executors:
            tool = handler(model_fn, **functions)
        state = tool.run(task(partition=number), partition, state).state
        states.append(state)
        state = reloaded(state, folder / str(number), tool)
    return states


class Counting(layers.Layer):
    """Changes its variables whenever it is called."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, x):
        self.calls.assign(self.calls + 1.0)
        return x + self.calls / 100 + keras.random.normal((), 0.0, 0.1, seed=self.seeds)


def many_layers(config):
    """Layers that draw, that average, that count, and that recur."""
    return model_of(
        Counting(),
        layers.Dense(6),
        layers.BatchNormalization(),
        layers.Dropout(0.3),
        layers.GaussianNoise(0.1),
        layers.Reshape((3, 2)),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True, recurrent_dropout=0.2)),
        layers.GRU(4),
    )


def test_ordinary_models_pass_and_train_to_the_same_bits(tmp_path, monkeypatch):
    """The first version has a probe, the next names its place as well, and none is far from it."""
    states = hop(many_layers, tmp_path / "probed")
    found = [state.probe for state in states]
    assert [len(probe.places) for probe in found] == [1, 2, 3]
    assert max(probe.tolerance for probe in found) == probes.TOLERANCES["float32"]
    (inputs,) = found[0].inputs.values()
    assert np.array_equal(inputs, DATA[0][0][: probing.RECURRENT_ROWS]), "the first examples"
    monkeypatch.setattr(Prover, "places", lambda *_: None)
    without = hop(many_layers, tmp_path / "without")
    assert not (tmp_path / "without" / "0" / probes.FILE).exists()
    assert [values(state) for state in states] == [values(state) for state in without]


def test_a_probe_draws_from_no_generator_that_is_in_use():
    def model_fn(config):
        def noise(x):
            drawn = random.random() + np.random.rand() + tf.random.normal(())
            return x + drawn + keras.random.normal(())

        return model_of(layers.Lambda(noise))

    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), tf.random.uniform(()).numpy()

    model = build_model(model_fn, task(), DATA[0], DATA[0], strict=True, initial=True)
    with model.scope.entered():
        model.scope.seed(11)
        expected = [state(), keras.random.normal(()).numpy()]
        model.scope.seed(12)
        model.scope.seed(11)
        assert probing.record(model, DATA[0], task(), ["a"], Options()) is not None
        assert [state(), keras.random.normal(()).numpy()] == expected
    assert not tf.config.functions_run_eagerly()


def test_a_model_that_draws_while_it_is_used_passes(tmp_path):
    """Its generator's state is part of the version, and other seeds travel with the probe."""

    def model_fn(config):
        always = layers.Dropout(0.5)
        x = keras.Input((3,))
        hidden = always(layers.Dense(8)(x), training=True)
        noise = layers.Lambda(lambda h: h + tf.random.normal(tf.shape(h)) + np.random.rand())
        model = keras.Model(x, layers.Dense(2, activation="softmax")(noise(hidden)))
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    assert [s.probe is not None for s in hop(model_fn, tmp_path)] == [True] * 3


class Cut(layers.Layer):
    """Calls a function: of what that reads, some is in none of the model's objects."""

    def __init__(self, function):
        super().__init__(name="cut")
        self.function = function

    def call(self, x):
        return self.function(x)


def scaled(data, config):
    """A value of a class that `model_fn` defines is that of every model of the class."""
    center = float(data[0].mean())

    class Centered(layers.Layer):
        def call(self, x):
            return x - center

    return model_of(layers.Dense(4, name="before"), Centered(name="cut"))


GLOBAL = {"factor": 1.0}


def by_global(config):
    GLOBAL["factor"] += 0.01
    return model_of(Cut(lambda x: x * GLOBAL["factor"]))


MODULE = types.ModuleType("settings_of_the_user")


def by_module(data, config):
    MODULE.factor = float(data[0].std())
    return model_of(Cut(lambda x: x * MODULE.factor))


def by_host(data, config):
    os.environ["FACTOR_OF_THE_HOST"] = str(float(data[0].std()))
    return model_of(Cut(lambda x: x * float(os.environ["FACTOR_OF_THE_HOST"])))


def subclassed(data, config):
    factor = float(data[0].std())

    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.cut = layers.Dense(2, activation="softmax", name="cut")

        def call(self, x):
            return self.cut(x * factor)

    model = Own()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def recurrent(config):
    GLOBAL["factor"] += 0.01
    return model_of(
        Cut(lambda x: x * GLOBAL["factor"]), layers.Reshape((3, 1)), layers.LSTM(4, name="after")
    )


DIFFERENT = [scaled, by_global, by_module, by_host, subclassed, recurrent]


@pytest.mark.parametrize("model_fn", DIFFERENT, ids=lambda f: f.__name__)
def test_a_model_that_is_another_one_elsewhere_is_refused_with_the_layer(
    model_fn, tmp_path, monkeypatch
):
    """By what no digest of its constants tells."""
    monkeypatch.setenv("FACTOR_OF_THE_HOST", "")
    with pytest.raises(ModelDiffers, match=r"from (what is given to )?layer '[\w/]*cut'") as caught:
        hop(model_fn, tmp_path)
    assert caught.value.function == "model_fn"
    assert re.search(r"differ by 0?\.?\d\S* of the largest \(allowed: 0\.0001\)", str(caught.value))


def with_function(data, config):
    center = float(data[0].mean())
    return model_of(layers.Dense(4, name="before"), layers.Lambda(lambda x: x - center, name="cut"))


def with_constant(data, config):
    class Times(layers.Layer):
        def __init__(self, array):
            super().__init__(name="cut")
            self.array = array

        def call(self, x):
            return x * self.array

    return model_of(Times(data[0].std(axis=0)))


@pytest.mark.parametrize("model_fn", [with_function, with_constant])
def test_constants_that_are_others_are_named_before_anything_is_computed(
    model_fn, tmp_path, monkeypatch
):
    """And what they do not see the probe does: that it would have seen these as well."""
    with pytest.raises(BadReturn, match="cut"):
        hop(model_fn, tmp_path / "constants")
    monkeypatch.setattr(constants, "other_constants", lambda *_: [])
    with pytest.raises(ModelDiffers, match="cut"):
        hop(model_fn, tmp_path / "probe")


def test_what_a_layer_has_adapted_to_travels(tmp_path):
    def adapted(data, config):
        first = layers.Normalization()
        first.adapt(data[0])
        return model_of(first)

    assert [len(state.probe.places) for state in hop(adapted, tmp_path)] == [1, 2, 3]


def test_one_executor_proves_it_from_one_partition_to_the_next(tmp_path):
    """Where the data is what a model is built on; else it does not hop."""
    with pytest.raises(ModelDiffers, match="cut"):
        hop(scaled, tmp_path / "data", executors=False)
    states = hop(many_layers, tmp_path / "config", executors=False)
    assert [len(state.probe.places) for state in states] == [1, 1, 1]


def test_validation_proves_it_too(tmp_path):
    first, second = handler(scaled), handler(scaled)
    state = reloaded(first.run(task(), DATA[0], None).state, tmp_path / "v1", first)
    first.run(task(train=False), DATA[0], state)
    with pytest.raises(ModelDiffers, match="cut"):
        second.run(task(train=False, partition=1), DATA[1], state)


def test_a_probe_has_served_where_the_model_comes_back_to(tmp_path, caplog):
    """It is then removed, and no later version has one; what is proven is not proven again."""
    first, second = handler(), handler()
    one = reloaded(first.run(task(), DATA[0], None).state, tmp_path / "v1", first)
    two = reloaded(second.run(task(partition=1), DATA[1], one).state, tmp_path / "v2", second)
    with caplog.at_level(logging.DEBUG, "cerebro.backends.probe"):
        second.run(task(train=False), DATA[0], one)
        first.run(task(train=False), DATA[0], two)
    assert not [record for record in caplog.records if record.name.startswith("cerebro")]
    assert (tmp_path / "v2" / probes.FILE).exists()
    three = first.run(task(1), DATA[0], two).state
    assert three.probe is None
    assert not (tmp_path / "v2" / probes.FILE).exists()
    assert handler().read(str(tmp_path / "v2" / "model.weights.h5")).probe is None
    later = reloaded(three, tmp_path / "v3", first)
    assert later.probe is None
    assert handler().run(task(1, partition=1), DATA[1], later).state.probe is None


def test_what_a_model_is_started_from_is_not_compared(tmp_path):
    """A model, or a configuration, that may be another function by right.

    This one is proven by its own version.
    """
    first, second = handler(scaled), handler(scaled)
    state = reloaded(first.run(task(), DATA[0], None).state, tmp_path / "v1", first)
    warm = {**vars(task(partition=1, model=1)), "warm_start": True}
    other = task(partition=1, model=2, more=1)
    for begins in (type(task())(**warm), other):
        child = second.run(begins, DATA[1], state).state
        assert child.probe.places == [second._prover.place("part1")]
    assert (tmp_path / "v1" / probes.FILE).exists()


def test_a_damaged_probe_is_a_damaged_version(tmp_path):
    tool = handler()
    state = reloaded(tool.run(task(), DATA[0], None).state, tmp_path / "v1", tool)
    file = tmp_path / "v1" / probes.FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(VersionDamaged, match=probes.FILE):
        tool.read(str(tmp_path / "v1" / "model.weights.h5"))
    file.unlink()
    assert tool.read(str(tmp_path / "v1" / "model.weights.h5")).probe is None
    assert state.probe is not None


# --- what it costs ------------------------------------------------------------------------------


def stateful(config):
    """A recurrent layer that goes on from its last batch, and one that draws."""
    x = keras.Input(batch_shape=(10, 3))
    hidden = layers.GRU(3, stateful=True)(layers.Reshape((3, 1))(x))
    drawn = layers.Lambda(lambda h: h * (1 + np.random.rand()))(hidden)
    model = keras.Model(x, layers.Dense(2, activation="softmax")(drawn))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_a_recurrent_model_is_compiled_once_and_its_later_probes_hold(tmp_path, monkeypatch):
    """On one executor, from unit to unit; then it hops. Its states are not part of it."""
    traced, watched = [], probing._watched
    monkeypatch.setattr(probing, "_watched", lambda *a: traced.append(1) or watched(*a))
    first, second, state = handler(stateful), handler(stateful), None
    for number in range(3):
        state = first.run(task(number, batch_size=10), DATA[number], state).state
        state = reloaded(state, tmp_path / str(number), first)
    assert len(traced) == 1
    assert len(state.probe.places) == 1
    state = second.run(task(3, partition=1, batch_size=10), DATA[0], state).state
    assert len(traced) == 2, "to prove it, and not to record the next"
    assert len(state.probe.places) == 2


def test_what_a_model_holds_on_to_is_not_compiled_once_where_training_is_not(tmp_path):
    """A `train_fn` that runs op by op sees what Python holds now, and so does the probe."""

    def train_fn(model, data, train=True):
        GLOBAL["factor"] += 0.5
        return by_hand(model, data, train)

    def model_fn(config):
        return model_of(Cut(lambda x: x * GLOBAL["factor"]), layers.Reshape((3, 1)), layers.LSTM(4))

    tool = handler(model_fn, train_fn=train_fn)
    GLOBAL["factor"] = 1.0
    state = tool.run(task(), DATA[0], None).state
    state = reloaded(tool.run(task(1), DATA[0], state).state, tmp_path / "v", tool)
    assert GLOBAL["factor"] == 2.0
    GLOBAL["factor"] = 1.5  # as it was when the first version was saved
    with pytest.raises(ModelDiffers, match="cut"):
        handler(model_fn, train_fn=train_fn).run(task(2), DATA[0], state)


# --- inputs and outputs of all kinds -------------------------------------------------------------


def structured():
    """Inputs by name, of text and numbers; outputs by name, one of integers."""
    text = keras.Input((1,), dtype="string", name="text")
    number = keras.Input((2,), name="number")
    words = layers.StringLookup(vocabulary=["a", "b"])(text)
    hidden = layers.Embedding(3, 4)(words)[:, 0] + layers.Dense(4)(number)
    out = layers.Dense(2, activation="softmax", name="out")(hidden)
    best = layers.Lambda(lambda x: keras.ops.argmax(x, axis=-1), name="best")(out)
    model = keras.Model({"text": text, "number": number}, {"out": out, "best": best})
    model.compile("adam", {"out": "sparse_categorical_crossentropy", "best": None},
                  metrics={"out": "accuracy"}, jit_compile=False)  # fmt: skip
    return model


def structured_data(seed):
    number = np.random.default_rng(seed).normal(size=(40, 2)).astype(np.float32)
    text = np.array([["ab"[i % 2]] for i in range(40)], object)
    return {"text": text, "number": number}, {"out": np.arange(40) % 2}


def as_dataset(data, *steps):
    dataset = tf.data.Dataset.from_tensor_slices(data)
    for step in steps:
        dataset = step(dataset)
    return dataset.batch(8)


def inputs_of(model_fn, data, folder, **functions):
    """What was recorded of the first model of two that pass."""
    probe = hop(model_fn, folder, data, **functions)[0].probe
    return None if probe is None else probe.inputs


def test_structures_and_texts(tmp_path):
    data = [structured_data(seed) for seed in range(2)]
    x = data[0][0]
    for kind, given in (("arrays", data), ("sets", [as_dataset(d) for d in data])):
        model_fn = lambda config: structured()  # noqa: E731
        found = inputs_of(model_fn, given, tmp_path / kind, train_fn=by_hand)[probing.WHOLE]
        assert found["number"].shape == (32, 2)
        assert np.array_equal(found["number"], x["number"][:32])
        assert [t if isinstance(t, str) else t.decode() for t in found["text"][:2, 0]] == ["a", "b"]


def by_hand(model, data, train=True):
    """Trains with what is no pair of arrays, or a data set of them."""
    x, _ = next(iter(data)) if isinstance(data, tf.data.Dataset) else data
    with tf.GradientTape() as tape:
        out = model(x, training=train)
        out = out["out"] if isinstance(out, dict) else out
        loss = tf.reduce_mean(out**2)
    weights = model.trainable_variables
    if train:
        model.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
    return float(loss), 0.5


def test_a_data_set_is_read_only_where_that_changes_nothing(tmp_path):
    """Below a shuffle what it reads is looked at; where Python is called, inputs are made up."""
    calls = []

    def python(x, y):
        def note(value):
            calls.append(1)
            return value

        return tf.numpy_function(note, [x], tf.float32, stateful=True), y

    def shaped(x, y):
        return tf.ensure_shape(x, [3]), y

    def shuffled(dataset):
        return dataset.shuffle(20)

    model_fn = lambda config: model_of(layers.Dense(3))  # noqa: E731
    given = [as_dataset(d, shuffled) for d in DATA[:2]]
    found = inputs_of(model_fn, given, tmp_path / "shuffled")[probing.WHOLE]
    assert np.array_equal(found, DATA[0][0][: len(found)])
    given = [as_dataset(d, lambda s: s.map(python).map(shaped)) for d in DATA[:2]]
    found = inputs_of(model_fn, given, tmp_path / "python")[probing.WHOLE]
    assert len(calls) == 2 * len(DATA[0][0])
    assert found.shape == (32, 3)


def test_a_batch_of_one_size(tmp_path):
    def model_fn(config):
        x = keras.Input(batch_shape=(4, 5, 3))
        out = layers.Dense(2, activation="softmax")(layers.Flatten()(x))
        model = keras.Model(x, keras.ops.reshape(out, (4, 2)))
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    generator = np.random.default_rng(0)
    data = [(generator.normal(size=(8, 5, 3)).astype("f"), np.arange(8) % 2) for _ in range(2)]

    def fit(model, data, train=True):
        return model.fit(*data, batch_size=4, shuffle=False, verbose=0).history["loss"][0], 0.5

    assert inputs_of(model_fn, data, tmp_path, train_fn=fit)[probing.WHOLE].shape == (4, 5, 3)


def test_half_precision_has_a_tolerance_of_its_own(tmp_path):
    def model_fn(config):
        with policy("mixed_bfloat16"):
            return model_of(layers.Dense(8), layers.LayerNormalization())

    states = hop(model_fn, tmp_path, DATA[:2])
    assert states[0].probe.tolerance == probes.TOLERANCES["bfloat16"]


@contextlib.contextmanager
def policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def test_models_in_a_model_that_is_not_called(tmp_path):
    """As the two of an adversarial pair, whose inputs nobody knows but they."""

    def pair(factor):
        GLOBAL["factor"] = factor

        class Pair(keras.Model):
            def __init__(self):
                super().__init__(name="pair")
                self.maker = keras.Sequential([keras.Input((2,)), layers.Dense(3)], name="maker")
                self.judge = keras.Sequential(
                    [keras.Input((3,)), Cut(lambda x: x * GLOBAL["factor"]), layers.Dense(1)]
                )
                self.built = True

        model = Pair()
        model.compile("adam", "mse")
        return model

    def train_fn(model, data, train=True):
        return float(tf.reduce_mean(model.judge(model.maker(tf.ones((1, 2)))))), 0.5

    same = inputs_of(lambda config: pair(2.0), DATA, tmp_path / "same", train_fn=train_fn)
    assert [x.shape for x in same.values()] == [(32, 2), (32, 3)]
    with pytest.raises(ModelDiffers, match="cut"):
        hop(lambda d, config: pair(d[0].std()), tmp_path / "other", train_fn=train_fn)


def test_a_model_that_cannot_be_called_here_is_left_alone_and_that_is_logged(tmp_path, caplog):
    def model_fn(config):
        class Refuses(layers.Layer):
            def call(self, x):
                if not isinstance(x, keras.KerasTensor) and x.shape[0] in (20, 32):
                    raise ValueError("not so many")
                return x

        return model_of(Refuses(), layers.Dense(2))

    def train_fn(model, data, train=True):
        return 1.0, 0.5

    with caplog.at_level(logging.DEBUG, "cerebro.backends.keras.probing"):
        states = hop(model_fn, tmp_path, train_fn=train_fn)
    assert [state.probe for state in states] == [None] * 3
    assert "model 0 cannot be probed" in caplog.text
    assert "not so many" in caplog.text


def test_a_model_that_takes_no_more_what_it_took_is_refused(tmp_path):
    def model_fn(data, config):
        elsewhere = data is not DATA[0]

        class Refuses(layers.Layer):
            def call(self, x):
                if elsewhere and not isinstance(x, keras.KerasTensor) and x.shape[0] == 20:
                    raise ValueError("not here")
                return x

        return model_of(Refuses())

    def train_fn(model, data, train=True):
        return 1.0, 0.5

    with pytest.raises(ModelDiffers, match="raises ValueError"):
        hop(model_fn, tmp_path, train_fn=train_fn)


def test_large_examples_are_few_and_larger_ones_none():
    assert probes.rows_within(12) == probes.ROWS
    assert probes.rows_within(probes.INPUT_BYTES // 4) == 4
    assert probes.rows_within(probes.INPUT_BYTES * 3) == 1
    assert probes.rows_within(probes.EXAMPLE_BYTES + 1) == 0
