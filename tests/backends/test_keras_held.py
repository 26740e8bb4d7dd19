"""State of a Keras model that Keras does not save: carried with it, or refused by name."""

from __future__ import annotations

import collections
import functools
import itertools
import random

import numpy as np
import pytest

pytest.importorskip("keras")

import keras
import tensorflow as tf
from keras import layers
from keras_toy import ROWS, arrays, handler, model_of, reloaded, run, task, values

from cerebro.backends.keras.constants import NAME, constants_of, other_constants
from cerebro.backends.keras.digests import digest
from cerebro.backends.keras.held import held_by
from cerebro.errors import BadReturn

pytestmark = pytest.mark.tf


def idle(model, data, train=True):
    """A `train_fn` that changes nothing."""
    return 0.0, 0.0


def shifted(partition):
    x, y = arrays(ROWS, partition)
    return x * (partition + 1) + 10 * partition, y


def hops(tool_of, folder, data=shifted, parts=(0, 1, 0), **config):
    """The state after a unit on each partition, each in a handler of its own, by way of disk."""
    state = None
    for number, part in enumerate(parts):
        tool = tool_of()
        state = tool.run(task(number, partition=part, **config), data(part), state).state
        state = reloaded(state, folder / f"hop{number}", tool)
    return state


# --- layers that are adapted ---------------------------------------------------------------------


def adapted(layer, sample):
    layer.adapt(sample)
    return layer


class Centred(layers.Layer):
    """What Keras' guides say of state that is in no variable: saved and loaded by the layer."""

    def adapt(self, x):
        self.centre = x.mean(axis=0)

    def save_own_variables(self, store):
        store["centre"] = self.centre

    def load_own_variables(self, store):
        self.centre = np.asarray(store["centre"])

    def call(self, x):
        return x - self.centre


class Halved(layers.Layer):
    """Works out a tensor from its variable when it is loaded."""

    def build(self, shape):
        self.spread = self.add_weight(shape=(), initializer="ones", trainable=False)

    def adapt(self, x):
        if not self.built:
            self.build(x.shape)
            self.built = True
        self.spread.assign(x.std())
        self.half = self.spread / 2

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self.half = self.spread / 2

    def call(self, x):
        return x / self.half


CARRIED_LAYERS = {
    "normalization": lambda x: adapted(layers.Normalization(), x),
    "on no axis, inverted": lambda x: adapted(layers.Normalization(axis=None, invert=True), x),
    "in a model": lambda x: keras.Sequential(
        [keras.Input((3,)), adapted(layers.Normalization(), x), layers.Dense(3)]
    ),
    "saving of its own": lambda x: adapted(Centred(), x),
    "loading of its own": lambda x: adapted(Halved(), x),
}


@pytest.mark.parametrize("name", CARRIED_LAYERS)
def test_the_recorded_loss_is_that_of_the_checkpoint_wherever_it_is_built(name, tmp_path):
    def model_fn(data, config):
        return model_of(CARRIED_LAYERS[name](data[0]))

    state = hops(lambda: handler(model_fn), tmp_path)
    recorded = run(model_fn, shifted(2), state, train=False, partition=2).loss
    path = str(tmp_path / handler().write(state, str(tmp_path)))
    for partition in range(3):
        model = model_fn(shifted(partition), {})
        model.optimizer.build(model.trainable_variables)
        model.load_weights(path)
        loss = model.evaluate(*shifted(2), verbose=0, return_dict=True)["loss"]
        assert loss == pytest.approx(recorded, rel=1e-5), partition


def test_a_model_that_is_kept_has_the_constants_of_the_first_partition(tmp_path):
    def model_fn(data, config):
        return model_of(adapted(layers.Normalization(), data[0]))

    data = [shifted(part) for part in range(3)]  # the same objects: models are kept by them
    other = handler(model_fn)
    tool, state = handler(model_fn), None
    tool = handler(model_fn)
    for number, part in enumerate((0, 1, 0, 1)):
        state = tool.run(task(number, partition=part), data[part], state).state
        tool.run(task(number, False, partition=2), data[2], state)
    assert len(tool._kept) == 3
    apart = hops(lambda: handler(model_fn), tmp_path, data.__getitem__, (0, 1, 0, 1))
    assert values(state) == values(apart)
    assert (
        tool.run(task(9, False, partition=2), data[2], state).loss
        == other.run(task(9, False, partition=2), data[2], apart).loss
    )


WORDS = np.array([["run"], ["sit"], ["lie"], ["run"]])
NUMBERS = np.arange(8.0).reshape(-1, 1)

LEARNING = {
    "StringLookup": lambda: adapted(layers.StringLookup(), WORDS),
    "IntegerLookup": lambda: adapted(layers.IntegerLookup(), NUMBERS.astype("int64")),
    "Discretization": lambda: adapted(layers.Discretization(num_bins=3), NUMBERS),
    "TextVectorization": lambda: adapted(layers.TextVectorization(), WORDS),
    "TextVectorization of frequencies": lambda: adapted(
        layers.TextVectorization(output_mode="tf_idf"), WORDS
    ),
}


@pytest.mark.parametrize("name", LEARNING)
def test_a_layer_that_learns_what_is_in_no_variable_is_refused_before_training(name):
    def model_fn(data, config):
        LEARNING[name]()
        return model_of()

    def train_fn(model, data, train=True):
        raise AssertionError("trained")

    with pytest.raises(BadReturn, match=rf"adapts the layer '\w+' \({name.split()[0]}\)") as caught:
        run(model_fn, train_fn=train_fn)
    remedy = "bin_boundaries=" if name == "Discretization" else "vocabulary="
    assert str(caught.value).endswith(remedy)


def test_what_the_configuration_alone_decides_may_be_adapted():
    def model_fn(config):
        return model_of(adapted(layers.Discretization(num_bins=3), NUMBERS), layers.Flatten())

    state = run(model_fn, train_fn=idle).state
    assert run(model_fn, state=state, epoch=1, train_fn=idle).state is not None


# --- settings that depend on the partition -------------------------------------------------------


class Offset(layers.Layer):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def call(self, x):
        return x + np.asarray(self.by)


class Tensors(layers.Layer):
    def __init__(self, by):
        super().__init__()
        self.by = {"a": [by], "b": layers.Dropout(0.1)}

    def call(self, x):
        return x + self.by["a"][0]


class Weighted(keras.losses.Loss):
    def __init__(self, by):
        super().__init__()
        self.by = {"weights": [by]}

    def call(self, y, p):
        return keras.losses.sparse_categorical_crossentropy(y, p) * self.by["weights"][0]


class Text(layers.Layer):
    """Has a vocabulary in a table of TensorFlow's."""

    def __init__(self, words):
        super().__init__()
        keys, numbers = tf.constant(words), tf.range(len(words), dtype=tf.int64)
        pairs = tf.lookup.KeyValueTensorInitializer(keys, numbers)
        self.table = tf.lookup.StaticHashTable(pairs, -1)

    def call(self, x):
        return x


class WithFile(layers.Layer):
    """Saves a file of its own beside the weights."""

    def __init__(self, content):
        super().__init__()
        self.content = (object, content)[:1]
        self._tell = content.__str__

    def save_assets(self, folder):
        with open(f"{folder}/content", "w") as file:
            file.write(self._tell())

    def call(self, x):
        return x


def closing_over(by):
    return layers.Lambda(lambda x: x * by)


def loss_closing_over(by):
    def loss(y, p):
        return keras.losses.sparse_categorical_crossentropy(y, p) * by

    return loss


def words(number):
    return ["run", "sit", str(number)]


SETTINGS = {
    "normalization (Normalization)": lambda n: model_of(
        layers.Normalization(mean=float(n), variance=1.0)
    ),
    "rescaling (Rescaling)": lambda n: model_of(layers.Rescaling(1 / (n + 1))),
    "discretization (Discretization)": lambda n: model_of(
        layers.Discretization(bin_boundaries=[0.0, n + 1.0])
    ),
    "category_encoding (CategoryEncoding)": lambda n: beside(
        layers.CategoryEncoding(num_tokens=n + 4)
    ),
    "hashing (Hashing)": lambda n: beside(layers.Hashing(num_bins=4, salt=n + 1)),
    "string_lookup (StringLookup)": lambda n: beside(layers.StringLookup(vocabulary=words(n))),
    "text_vectorization (TextVectorization)": lambda n: beside(given(words(n))),
    "integer_lookup (IntegerLookup)": lambda n: beside(
        layers.IntegerLookup(vocabulary=[1, 2, n + 5])
    ),
    "offset.by": lambda n: model_of(Offset(np.full(3, n))),
    "tensors.by.a": lambda n: model_of(Tensors(tf.constant(float(n)))),
    "lambda.function.by": lambda n: model_of(closing_over(n + 1)),
    "text.table": lambda n: model_of(Text(words(n))),
    "with_file.save_assets": lambda n: model_of(WithFile(n)),
    "loss.by.weights": lambda n: model_of(loss=Weighted(n + 1.0)),
    "loss.by": lambda n: model_of(loss=loss_closing_over(n + 1)),
    "loss_weights of compile": lambda n: model_of(loss_weights=[n + 1.0]),
    "metrics of compile": lambda n: model_of(
        metrics=[keras.metrics.SparseTopKCategoricalAccuracy(k=n + 1, name="accuracy")]
    ),
    "optimizer (SGD)": lambda n: model_of(optimizer=keras.optimizers.SGD(clipnorm=n + 1.0)),
    "optimizer (Adam)": lambda n: model_of(optimizer=keras.optimizers.Adam(decaying(100 + n))),
}


def decaying(steps):
    return keras.optimizers.schedules.CosineDecay(0.1, steps)


def given(vocabulary):
    layer = layers.TextVectorization()
    layer.set_vocabulary(vocabulary)
    return layer


class Beside(keras.Model):
    """Holds a layer that its input does not fit."""

    def __init__(self, layer):
        super().__init__()
        self.last, self.other = layers.Dense(2, activation="softmax"), layer

    def build(self, shape):
        self.last.build(shape)

    def call(self, x):
        return self.last(x)


def beside(layer):
    model = Beside(layer)
    model.build((None, 3))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_is_another_one_on_another_partition_is_refused(name):
    def model_fn(data, config):
        return SETTINGS[name](config.get("fixed", int(data)))

    data = np.int64(1)
    state = run(model_fn, data, train_fn=idle).state
    assert run(model_fn, data, state, idle, epoch=1).state is not None
    with pytest.raises(BadReturn) as caught:
        run(model_fn, np.int64(2), state, idle, epoch=1, partition=1)
    assert f"saved: {name}" in str(caught.value)
    same = run(model_fn, data, train_fn=idle, fixed=3).state
    assert run(model_fn, np.int64(2), same, idle, epoch=1, partition=1, fixed=3).state is not None


def test_a_lambda_is_the_same_whatever_else_holds_parts_of_its_code():
    def constants(kept=None):
        factor = lambda x: x * 0.5  # noqa: E731
        if kept is not None:
            kept += [factor.__code__.co_qualname, factor.__code__.co_linetable]
        model = model_of(layers.Lambda(factor, name="factor"))
        return constants_of(model, held_by(model, model.variables), {})

    # `marshal`, by which Keras writes it, marks what others refer to, too.
    assert other_constants(constants(), constants(kept=[])) == []


def test_a_model_of_another_configuration_may_have_other_settings():
    def model_fn(config):
        return model_of(layers.Dropout(config["rate"]), Offset(config["rate"]))

    parent = run(model_fn, train_fn=idle, rate=0.1).state
    assert run(model_fn, None, parent, idle, epoch=1, model=1, rate=0.2).state is not None


def test_versions_that_do_not_tell_their_constants_are_continued():
    def model_fn(data, config):
        return model_of(Offset(int(data)))

    state = run(model_fn, np.int64(1), train_fn=idle).state
    del state.arrays[NAME]
    assert run(model_fn, np.int64(2), state, idle, epoch=1).state is not None


# --- variables that Keras does not save ----------------------------------------------------------


class Helper:
    def __init__(self, **held):
        vars(self).update(held)


class Decayed(keras.losses.Loss):
    """Multiplies by a variable that it makes smaller, wherever it is."""

    def __init__(self, held, find):
        super().__init__()
        self.held, self._find = held, find

    def call(self, y, p):
        variable = self._find(self.held)
        variable.assign(variable * 0.5)
        return keras.losses.sparse_categorical_crossentropy(y, p) * variable


class Step(keras.Model):
    """A `train_step` that does something more."""

    def __init__(self, more, **held):
        super().__init__()
        self.last, self._more = layers.Dense(2, activation="softmax"), more
        for name, value in held.items():
            setattr(self, name, value)

    def build(self, shape):
        self.last.build(shape)

    def call(self, x):
        return self.last(x)

    def train_step(self, data):
        self._more(self)
        return super().train_step(data)


def stepping(more, run_eagerly=False, built=(), **held):
    model = Step(more, **held)
    model.build((None, 3))
    for optimizer in built:
        optimizer.build(model.trainable_variables)
    model.compile(
        "adam",
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        run_eagerly=run_eagerly,
        jit_compile=False,
    )
    return model


def decayed(held, find):
    return lambda config: model_of(loss=Decayed(held(), find))


def one():
    return keras.Variable(1.0, trainable=False)


def first(held):
    return held[0]


def second_optimizer(place):
    def model_fn(config):
        other = keras.optimizers.SGD(0.01, momentum=0.9)

        def more(model):
            variables = model.trainable_variables
            other.apply([tf.ones(v.shape) for v in variables], variables)

        return stepping(more, built=[other], held=place(other))

    return model_fn


def drawing(make):
    def model_fn(config):
        generator = make()
        held = [generator]

        def more(model):
            drawn = (
                generator.normal(())
                if isinstance(generator, tf.random.Generator)
                else keras.random.normal((), seed=generator)
            )
            model.last.bias.assign_add(tf.fill((2,), drawn))

        return stepping(more, held=held)

    return model_fn


CARRIED = {
    "loss: a list": decayed(lambda: [one()], first),
    "loss: a dictionary in a list": decayed(lambda: [{"a": one()}], lambda h: h[0]["a"]),
    "loss: TensorFlow's": decayed(lambda: (tf.Variable(1.0),), first),
    "loss: a helper": decayed(lambda: Helper(v=one()), lambda h: h.v),
    "optimizer: an attribute": second_optimizer(lambda other: other),
    "optimizer: a list": second_optimizer(lambda other: [other]),
    "optimizer: a helper": second_optimizer(lambda other: Helper(a=[other])),
    "generator: TensorFlow's": drawing(lambda: tf.random.Generator.from_seed(3)),
    "generator: Keras'": drawing(lambda: keras.random.SeedGenerator(3)),
}


@pytest.mark.parametrize("name", CARRIED)
def test_what_keras_does_not_save_travels(name, tmp_path):
    """Units that hop give the bits of units that stay."""
    model_fn, state = CARRIED[name], None
    start = run(model_fn, train_fn=idle).state
    tool = handler(model_fn)
    for number, part in enumerate((0, 1, 0)):
        state = tool.run(task(number, partition=part, batch_size=10), shifted(0), state).state
    hopped = hops(lambda: handler(model_fn), tmp_path, lambda part: shifted(0), batch_size=10)
    assert values(state) == values(hopped)
    moved = [key for key in start.arrays if values(start)[key] != values(state)[key]]
    kept = ("cerebro/held/", "cerebro/variables/", "held/")
    assert [key for key in moved if key.startswith(kept)]


def test_the_variable_of_a_loss_is_the_one_that_a_single_process_has():
    state = None
    for number in range(3):
        state = run(CARRIED["loss: a helper"], state=state, epoch=number, batch_size=10).state
    assert state.arrays["cerebro/held/loss.held.v"] == 0.5**6


def test_a_recurrent_layer_with_states_begins_each_unit_without_any(tmp_path):
    def model_fn(config):
        model = keras.Sequential(
            [
                keras.Input(batch_shape=(10, 3, 1)),
                layers.GRU(3, stateful=True),
                layers.Dense(2, activation="softmax"),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def data(part):
        x, y = shifted(0)
        return x[:, :, None], y

    tool, state = handler(model_fn), None
    for number, part in enumerate((0, 1, 0)):
        state = tool.run(task(number, partition=part, batch_size=10), data(0), state).state
    assert values(state) == values(hops(lambda: handler(model_fn), tmp_path, data, batch_size=10))
    recorded = tool.run(task(9, False, batch_size=10), data(0), state).loss
    model = model_fn({})
    model.optimizer.build(model.trainable_variables)
    model.load_weights(str(tmp_path / handler().write(state, str(tmp_path))))
    loss = model.evaluate(*data(0), batch_size=10, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(recorded, rel=1e-5)


# --- what is refused -----------------------------------------------------------------------------


class Holder(layers.Layer):
    def __init__(self, held):
        super().__init__()
        self.held = held

    def call(self, x):
        return x


class Shared(layers.Layer):
    steps = tf.Variable(0.0)

    def call(self, x):
        return x


def table(kind, **more):
    return kind(tf.string, tf.int64, -1, **more)


def closed_over():
    scale = tf.Variable(1.0)
    return layers.Lambda(lambda x: x * scale)


def held_in(make):
    return lambda: Holder(make())


REFUSED = {
    "held.0 is a tf.Variable": held_in(lambda: [tf.Variable(1.0)]),
    "held.a.0 is a tf.Variable": held_in(lambda: {"a": (tf.Variable(1.0),)}),
    "held.v is a keras.Variable": held_in(lambda: Helper(v=one())),
    "held.v.0 is a keras.Variable": held_in(lambda: Helper(v=[one()])),
    "held.a is a table": held_in(lambda: {"a": table(tf.lookup.experimental.MutableHashTable)}),
    "held is a table": held_in(
        lambda: table(tf.lookup.experimental.DenseHashTable, empty_key="", deleted_key="$")
    ),
    "held is an iterator": held_in(lambda: itertools.count()),
    "held.0 is an iterator": held_in(lambda: [iter(tf.data.Dataset.range(3))]),
    "lambda.function.scale is a tf.Variable": closed_over,
    "held.keywords.v is a keras.Variable": held_in(lambda: functools.partial(print, v=one())),
    "Shared.steps is shared": Shared,
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_no_version_can_hold_is_refused_before_training(message):
    def train_fn(model, data, train=True):
        raise AssertionError("trained")

    with pytest.raises(BadReturn, match=message):
        run(lambda config: model_of(REFUSED[message]()), train_fn=train_fn)


OPTIMIZER = keras.optimizers.SGD()
GENERATORS = [tf.random.Generator.from_seed(1)]


def helping(model):
    OPTIMIZER.apply([v * 0 for v in model.trainable_variables], model.trainable_variables)


def train_with_helper(model, data, train=True):
    helping(model)
    return 0.0, 0.0


def train_with_list(model, data, train=True):
    return float(GENERATORS[0].normal(())), 0.0


@pytest.mark.parametrize(
    ("train_fn", "name"),
    [(train_with_helper, r"OPTIMIZER\.0"), (train_with_list, r"GENERATORS\.0")],
)
def test_what_all_models_would_share_is_refused(train_fn, name):
    with pytest.raises(BadReturn, match=f"train_fn uses {name}, which is shared by all models"):
        run(train_fn=train_fn)


@pytest.mark.parametrize("name", ["layer", "loss", "optimizer"])
def test_what_models_share_is_refused_where_one_would_begin_with_the_others_values(name):
    layer = layers.Dense(3, name="shared")
    loss = Decayed([one()], first)
    optimizer = keras.optimizers.SGD()

    def model_fn(config):
        if name == "layer":
            return model_of(layer)
        return model_of(loss=loss) if name == "loss" else model_of(optimizer=optimizer)

    tool = handler(model_fn, idle)
    state = tool.run(task(), arrays(), None).state
    tool.close()
    with pytest.raises(BadReturn, match=r"shares .* with one that was built before"):
        tool.run(task(model=1), arrays(), None)
    if name == "layer":  # its values are those of the version
        assert tool.run(task(1), arrays(), state).state is not None


def test_a_layer_that_is_not_trained_may_be_shared():
    layer = layers.Dense(3, trainable=False, name="shared")
    for model in range(2):
        assert run(lambda config: model_of(layer), train_fn=idle, model=model).state is not None


def test_globals_that_only_have_the_name_of_an_attribute_are_not_used():
    def train_fn(model, data, train=True):
        model.OPTIMIZER = model.optimizer
        del model.OPTIMIZER
        return 0.0, 0.0

    assert run(train_fn=train_fn).state is not None


def counting(model):
    model.steps += 1


def noted(model):
    model.notes.append(1.0)


def added(model):
    model.total[0] += 1


def added_to_tensor(model):
    model.centre = model.centre * 0.9


def drawn(model):
    model.draw.normal()


CHANGED = {
    "step.steps": (counting, {"steps": 0}),
    "step.notes": (noted, {"notes": []}),
    "step.total": (added, {"total": np.zeros(2)}),
    "step.centre": (added_to_tensor, {"centre": tf.ones(2)}),
    "step.draw": (drawn, {"draw": np.random.default_rng(0)}),
    "step.rng": (lambda model: model.rng.random(), {"rng": random.Random(0)}),
    "step.helper.n": (
        lambda model: setattr(model.helper, "n", model.helper.n + 1),
        {"helper": Helper(n=0)},
    ),
    "step.seen": (
        lambda model: setattr(model, "seen", getattr(model, "seen", 0) + 1),
        {},
    ),
    "step.queue": (lambda model: model.queue.append(2), {"queue": collections.deque([1])}),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_training_changes_that_is_in_no_variable_is_refused(name):
    more, held = CHANGED[name]

    def train_fn(model, data, train=True):
        more(model)
        return 0.0, 0.0

    def model_fn(config):
        return stepping(more, **held)

    with pytest.raises(BadReturn, match=rf"training changed {name} of the model"):
        run(model_fn, train_fn=train_fn)


def test_a_train_step_that_counts_is_refused():
    with pytest.raises(BadReturn, match=r"training changed step\.steps"):
        run(lambda config: stepping(counting, steps=0))


@pytest.mark.parametrize("made", [None, "nothing"])
def test_what_is_kept_because_it_takes_long_is_no_state(made):
    def train_fn(model, data, train=True):
        model.mask = [1, 2, 3]
        model.last_output = tf.ones(3)
        return 0.0, 0.0

    def model_fn(config):
        return stepping(counting, **({} if made else {"mask": None}))

    assert run(model_fn, train_fn=train_fn).state is not None


class Listing(keras.metrics.Metric):
    """Counts in Python."""

    def __init__(self):
        super().__init__(name="listing")
        self.seen = []

    def update_state(self, y, p, sample_weight=None):
        self.seen.append(y.shape[0] or 0)

    def result(self):
        return float(sum(self.seen))

    def reset_state(self):
        self.seen = []


def test_what_a_metric_counts_with_is_no_state():
    def model_fn(config):
        return model_of(metrics=["accuracy", Listing()], run_eagerly=True)

    tool, state = handler(model_fn), None
    for number in range(2):
        result = tool.run(task(number, batch_size=10), arrays(), state)
        state = result.state
        assert result.metrics["listing"] == ROWS
    assert len(tool._kept) == 1


# --- digests -------------------------------------------------------------------------------------


def test_digests_tell_values_apart():
    different = [
        None, True, 1, 1.0, "1", b"1", [1], [[1]], [1, 1], (), {}, {1: 1}, {"1": 1}, {1},
        float("nan"), -0.0, 0.0, np.float32(1), np.ones(1), np.ones((1, 1)), np.array(["1"]),
        np.array([None, 1]), tf.ones(2), object,
    ]  # fmt: skip
    assert len({digest(value) for value in different}) == len(different)


def test_digests_of_the_same_are_the_same():
    assert digest({"b", "a", "c"}) == digest({"c", "b", "a"})
    assert digest(tf.ones(2)) == digest(np.ones(2, np.float32))
    assert digest([float("nan")]) == digest([float("nan")])
    assert digest({"a": [1, "ü"]}) == "3e4980aa2ba15f1c"
