"""What travels with a Keras model from unit to unit, and how it is read."""

from __future__ import annotations

import functools
import gc
import os

import numpy as np
import pytest

pytest.importorskip("keras")

import h5py
import keras
import tensorflow as tf
from keras_toy import ROWS, arrays, handler, model_fn, model_of, reloaded, run, task, values

from cerebro.backends.buffers import BufferPool
from cerebro.backends.keras.models import MODELS, ModelCache
from cerebro.backends.keras.variables import saved_variables
from cerebro.backends.keras.weights_format import Template
from cerebro.errors import BadReturn, VersionDamaged

pytestmark = pytest.mark.tf

UNITS = [(0, 1), (0, 0), (1, 0), (1, 1)]


def hop(model_fn, through=None, train_fn=None, batch_size=6):
    """The state after some units; each in a handler of its own, by way of disk, if `through`."""
    tool, state = handler(model_fn, train_fn), None
    for number, (epoch, partition) in enumerate(UNITS):
        unit = task(epoch, partition=partition, batch_size=batch_size)
        state = tool.run(unit, arrays(ROWS - partition, partition), state).state
        if through is not None:
            state = reloaded(state, through / str(number), tool)
            tool = handler(model_fn, train_fn)
    return state


@functools.cache
def stayed(name):
    """The state after the units, all in one handler, of a model by its name: worked out once."""
    return hop(MODELS_BY_NAME[name])


# --- models --------------------------------------------------------------------------------------


class Noise(keras.layers.Layer):
    """Draws from TensorFlow's stateful generator."""

    def call(self, x, training=False):
        return x + tf.random.normal(tf.shape(x)) if training else x


class UnseededNoise(keras.layers.Layer):
    """Draws from Keras' global generator."""

    def call(self, x, training=False):
        return x + keras.random.normal(keras.ops.shape(x)) if training else x


class Counter(keras.layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.count.assign(self.count + 1)
        return x


class Scaled(keras.losses.Loss):
    def __init__(self):
        super().__init__()
        self.scale = keras.Variable(1.0, trainable=False)

    def call(self, y_true, y_pred):
        loss = keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
        self.scale.assign(self.scale * 0.9)
        return loss * self.scale


def decaying(config):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    return model_of(optimizer=keras.optimizers.Adam(schedule))


def mixed(config):
    policy = keras.mixed_precision.Policy("mixed_float16")
    inner = keras.optimizers.Adam(0.05)
    return model_of(
        keras.layers.Dense(8, dtype=policy),
        optimizer=keras.optimizers.LossScaleOptimizer(inner, dynamic_growth_steps=3),
    )


def mixed_everywhere(config):
    keras.mixed_precision.set_global_policy("mixed_float16")
    return model_of(keras.layers.Dense(8))


class OwnStep(keras.Model):
    """A training step and metric of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = keras.metrics.Mean("seen")

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.seen.update_state(loss)
        return {"loss": loss, "accuracy": self.seen.result()}


def own_step(config):
    x = keras.Input((3,))
    model = OwnStep(x, keras.layers.Dense(2, activation="softmax")(x))
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
    )
    return model


def averaged(config):
    return model_of(optimizer=keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True))


class OwnFile(keras.optimizers.SGD):
    """An optimizer that saves something else than its variables' values."""

    def save_own_variables(self, store):
        for number, variable in enumerate(self.variables):
            store[str(number)] = 2 * variable.numpy().astype("float32")

    def load_own_variables(self, store):
        for number, variable in enumerate(self.variables):
            variable.assign(store[str(number)] / 2)


MODELS_BY_NAME = {
    "plain": model_fn,
    "dropout": lambda c: model_of(keras.layers.Dense(8), keras.layers.Dropout(0.5)),
    "batch normalisation": lambda c: model_of(keras.layers.BatchNormalization()),
    "recurrent": lambda c: model_of(
        keras.layers.Reshape((3, 1)), keras.layers.LSTM(4, dropout=0.2, recurrent_dropout=0.2)
    ),
    "noise of TensorFlow's": lambda c: model_of(Noise()),
    "noise of Keras'": lambda c: model_of(UnseededNoise()),
    "layer with a count": lambda c: model_of(Counter()),
    "loss with a variable": lambda c: model_of(loss=Scaled()),
    "schedule": decaying,
    "mixed precision": mixed,
    "mixed precision everywhere": mixed_everywhere,
    "train_step": own_step,
    "moving averages": averaged,
    "optimizer with a form of its own": lambda c: model_of(optimizer=OwnFile(0.1, momentum=0.9)),
    "run eagerly": lambda c: model_of(Noise(), run_eagerly=True),
    "several steps at a time": lambda c: model_of(Noise(), steps_per_execution=2),
}


@pytest.mark.parametrize("name", MODELS_BY_NAME)
def test_a_model_that_is_kept_gives_the_bits_of_one_built_anew(name, tmp_path):
    assert values(stayed(name)) == values(hop(MODELS_BY_NAME[name], through=tmp_path))
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("name", MODELS_BY_NAME)
def test_a_unit_that_runs_again_draws_the_same(name):
    tool = handler(MODELS_BY_NAME[name])
    state = tool.run(task(batch_size=6), arrays(), None).state
    runs = [tool.run(task(epoch, batch_size=6), arrays(), state) for epoch in (1, 2, 1, 1)]
    assert values(runs[0].state) == values(runs[2].state) == values(runs[3].state)
    assert runs[0].loss == runs[2].loss


def test_what_travels_with_a_model():
    def steps(name):
        state = stayed(name)
        return {key: array for key, array in state.arrays.items() if array.shape == ()}

    total = 2 * (4 + 4)  # of 20 and of 19 rows, six at a time
    assert steps("layer with a count")["layers/counter/vars/0"] == total
    assert steps("schedule")["optimizer/vars/0"] == total
    assert steps("loss with a variable")["cerebro/loss/0"] == pytest.approx(0.9**total, rel=1e-4)
    scaled = stayed("mixed precision").arrays
    assert scaled["optimizer/inner_optimizer/vars/0"] + scaled["optimizer/vars/1"] >= 1
    dropped = stayed("dropout").arrays
    generator = next(a for n, a in dropped.items() if n.startswith("cerebro/variables/"))
    assert generator[1] == total


def test_a_model_that_draws_nothing_of_tensorflows_is_built_once():
    built = []

    def counted(config):
        built.append(config)
        return model_of(keras.layers.Dropout(0.5), keras.layers.BatchNormalization())

    tool, state = handler(counted), None
    traces = []
    for epoch in range(3):
        state = tool.run(task(epoch), arrays(), state).state
        tool.run(task(epoch, train=False), arrays(), state)
        kept = tool._kept.take((0, ""))
        (step,) = [
            cell.cell_contents
            for cell in kept.keras_model.train_function.__closure__
            if hasattr(cell.cell_contents, "experimental_get_tracing_count")
            and "multi_step" in cell.cell_contents.__name__
        ]
        traces.append(step.experimental_get_tracing_count())
        tool._kept.put((0, ""), kept)
    assert len(built) == 1
    assert len(set(traces)) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.layers[0], "trainable", False),
        lambda model: model.compile("sgd", model.loss, jit_compile=False),
    ],
    ids=["frozen", "compiled again"],
)
def test_a_model_that_train_fn_has_changed_is_not_kept(change):
    tool = handler(train_fn=lambda model, data, train=True: change(model) or (0.0, 0.0))
    tool.run(task(), arrays(), None)
    assert len(tool._kept) == 0


def test_models_that_are_kept_are_bounded_and_forgotten():
    kept = ModelCache()
    model = type("Model", (), {"bytes": 1})
    for number in range(MODELS + 3):
        kept.put((number, ""), model())
    assert len(kept) == MODELS
    assert kept.take((0, "")) is None
    kept.drop(MODELS)
    assert kept.take((MODELS, "")) is None
    kept.put((0, ""), type("Large", (), {"bytes": 2**40})())
    assert len(kept) == 1


def test_models_that_come_and_go_leave_nothing():
    tool = handler(MODELS_BY_NAME["noise of TensorFlow's"])
    counts = []
    for model in range(6):
        state = None
        for epoch in range(2):
            state = tool.run(task(epoch, model=model), arrays(), state).state
        tool.forget(model)
        gc.collect()
        counts.append(sum(issubclass(type(t), keras.Model) for t in gc.get_objects()))
    assert counts[-1] <= counts[1]


# --- warm starts ---------------------------------------------------------------------------------


def rate_of(state):
    return float(state.arrays["optimizer/vars/1"])


def test_another_learning_rate_than_the_versions_is_the_configurations():
    """As in population-based training: weights and slots are copied, then the rate is changed."""
    parent = run(rate=0.1).state
    child = run(state=parent, epoch=1, model=1, rate=0.02).state
    assert rate_of(child) == pytest.approx(0.02)
    assert child.arrays["optimizer/vars/0"] == 2
    same = run(state=parent, epoch=1, rate=0.1).state
    assert rate_of(same) == pytest.approx(0.1)
    assert values(same) != values(child)


def test_a_learning_rate_that_was_changed_while_training_stays():
    def halving(model, data, train=True):
        model.fit(*data, verbose=0)
        model.optimizer.learning_rate = model.optimizer.learning_rate / 2
        return 0.0, 0.0

    first = run(train_fn=halving, rate=0.1).state
    assert rate_of(first) == pytest.approx(0.05)
    second = run(train_fn=halving, state=first, epoch=1, rate=0.1).state
    assert rate_of(second) == pytest.approx(0.025)
    # A child with a rate of its own begins with that, and what it changes stays as well.
    child = run(train_fn=halving, state=second, epoch=2, rate=0.4).state
    assert rate_of(child) == pytest.approx(0.2)
    assert rate_of(run(state=child, epoch=3, rate=0.4).state) == pytest.approx(0.2)


def test_a_rate_that_is_the_configurations_is_so_in_a_model_that_is_kept():
    parent = run(rate=0.1).state
    tool = handler()
    data = arrays()
    own = tool.run(task(rate=0.02), data, None).state
    assert rate_of(tool.run(task(1, rate=0.02), data, parent).state) == pytest.approx(0.02)
    assert rate_of(tool.run(task(1, rate=0.02), data, own).state) == pytest.approx(0.02)


def test_weights_of_plain_keras_begin_a_model(tmp_path):
    model = model_fn({"rate": 0.3})
    model.fit(*arrays(), verbose=0)
    path = str(tmp_path / "mine.weights.h5")
    model.save_weights(path)
    state = handler().read(path)
    result = run(state=state, train=False)
    assert result.loss == pytest.approx(model.evaluate(*arrays(), verbose=0)[0], rel=1e-6)
    trained = run(state=state, epoch=1, rate=0.05).state
    assert trained.arrays["optimizer/vars/0"] == 2
    assert rate_of(trained) == pytest.approx(0.05)
    bare = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    bare.set_weights(model.get_weights())
    bare.save_weights(str(tmp_path / "bare.weights.h5"))
    weights = handler().read(str(tmp_path / "bare.weights.h5"))
    assert run(state=weights, epoch=1).state.arrays["optimizer/vars/0"] == 1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda c: model_of(keras.layers.Dense(8)), r"lacks layers/dense_1/vars/0"),
        (lambda c: keras_of(4), r"dense/kernel .* shape \(3, 4\), but was saved with \(3, 2\)"),
        (lambda c: model_of(optimizer="sgd"), "also holds optimizer/vars/2"),
    ],
    ids=["more layers", "another width", "another optimizer"],
)
def test_a_version_of_another_model_is_refused(other, message):
    with pytest.raises(BadReturn, match=message) as caught:
        run(other, state=run().state, epoch=1)
    assert "same kind of optimizer" in str(caught.value)


def keras_of(classes):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(classes, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS_BY_NAME)
def test_plain_keras_reads_weights_and_optimizer(name, tmp_path):
    state = stayed(name)
    path = str(tmp_path / handler().write(state, str(tmp_path)))
    model = MODELS_BY_NAME[name]({})
    keras.mixed_precision.set_global_policy("float32")
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    found = saved_variables(model).variables
    for key, array in state.arrays.items():
        if key in found and not key.startswith("cerebro/"):
            assert np.array_equal(np.asarray(found[key].value), array), key
    assert any(key.startswith("layers/") for key in found)


def test_the_layout_is_keras_own(tmp_path):
    """Every data set that Keras writes stands in a version, with its name and value."""
    model = MODELS_BY_NAME["batch normalisation"]({})
    model.optimizer.build(model.trainable_variables)
    path = str(tmp_path / "own.weights.h5")
    model.save_weights(path)
    found = saved_variables(model)
    theirs = handler().read(path).arrays
    assert {n for n in found.variables if not n.startswith("cerebro/")} == theirs.keys()
    assert not found.values
    with h5py.File(path) as file:
        assert all(file[group].attrs["name"] == name for group, name in found.names.items())


FORMS = {
    "layers/a/vars/0": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layers/a/vars/1": np.array([True, False]),
    "layers/b/vars/0": np.array(2**40, np.int64),
    "layers/b/vars/1": np.zeros((0, 3), np.float64),
    "layers/c/vars/0": np.arange(5).astype(tf.bfloat16.as_numpy_dtype),
    "vars/0": np.array([np.nan, -0.0], np.float16),
}


def state_of(arrays, buffers):
    forms = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    return Template(forms, {"layers/a/vars": "a"}, {"rate": 0.1}).state(arrays, buffers)


def test_every_type_comes_back_bit_by_bit(tmp_path):
    state = state_of(FORMS, BufferPool())
    again = reloaded(state, tmp_path / "v")
    assert again.arrays.keys() == FORMS.keys()
    for name, array in FORMS.items():
        got = again.arrays[name]
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert again.hyperparameters == {"rate": 0.1}


def test_a_file_depends_on_its_values_alone():
    buffers = BufferPool()
    first = state_of(FORMS, buffers)
    whole = bytes(first.file)
    first.buffer[:] = 255
    buffers.give_back(first.buffer)
    second = state_of(FORMS, buffers)
    assert second.buffer is first.buffer
    assert bytes(second.file) == whole


def test_a_version_without_one_of_its_marks_is_damaged_and_never_read(tmp_path, monkeypatch):
    """HDF5 may not come back from a damaged file, or take it for one of Keras' own."""
    state = run().state
    path = tmp_path / handler().write(state, str(tmp_path))
    whole = path.read_bytes()

    def never(*args, **kwargs):
        raise AssertionError("a damaged file was given to HDF5")

    monkeypatch.setattr(h5py, "File", never)
    for place in (whole.index(b"cerebro"), len(whole) - 8, len(whole) - 1, 1033):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(VersionDamaged, match="the checksum of its"):
            handler().read(str(path))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VersionDamaged):
        handler().read(str(path))


def test_an_archive_of_keras_is_told_from_a_weights_file(tmp_path):
    path = str(tmp_path / "whole.keras")
    keras_of(2).save(path)
    with pytest.raises(VersionDamaged, match=r"an archive, .*save_weights"):
        handler().read(path)


def test_settings_of_keras_in_one_model_are_not_anothers():
    def other(config):
        keras.config.set_epsilon(0.3)
        keras.config.set_image_data_format("channels_first")
        return model_of()

    before = run().loss
    run(other, model=1)
    assert keras.config.epsilon() == 1e-7
    assert keras.config.image_data_format() == "channels_last"
    assert run().loss == before


def test_a_file_that_is_none_of_ours_and_none_of_keras_is_damaged(tmp_path):
    path = tmp_path / "x.weights.h5"
    for content in (b"", b"no HDF5 at all", os.urandom(4096)):
        path.write_bytes(content)
        with pytest.raises(VersionDamaged, match=r"x\.weights\.h5"):
            handler().read(str(path))
