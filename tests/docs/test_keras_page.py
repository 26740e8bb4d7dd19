"""The errors that docs/keras.md lists are those that its mistakes lead to."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from documents import ROOT, codes, table

import cerebro
from cerebro.backends import handler_class
from cerebro.backends.base import Options, UnitTask, UserFunctions
from cerebro.data import partition_arrays, read_arrays
from cerebro.search import GridSearch

keras = pytest.importorskip("keras", minversion="3.7", reason="the page is about Keras 3")
tf = pytest.importorskip("tensorflow", reason="the backend is Keras on TensorFlow")

pytestmark = pytest.mark.tf

PAGE = ROOT / "docs" / "keras.md"
ERRORS = [codes(row[0])[0] for row in table(PAGE, "Mistakes people make")]
X = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


@pytest.fixture
def path(tmp_path):
    return partition_arrays(tmp_path / "points", X, Y, train=1, valid=0).train_paths()[0]


def network(units=3):
    return keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(units), keras.layers.Dense(1, "sigmoid")]
    )


def compiled(config, model=None, metrics=("accuracy",)):
    model = model or network()
    model.compile("adam", "binary_crossentropy", metrics=list(metrics))
    return model


def without_accuracy(config):
    return compiled(config, metrics=())


def my_score(y, p):
    return keras.ops.cast(y, p.dtype) - p


def with_a_score(config):
    return compiled(config, metrics=[my_score])


def of_another_size(config):
    sizes.append(len(sizes) + 3)
    return compiled(config, network(sizes[-1]))


sizes = []


def with_a_foreign_variable(config):
    model = network()
    model.layers[0].own = tf.Variable(1.0)
    return compiled(config, model)


def dataset(path):
    return tf.data.Dataset.from_tensor_slices(read_arrays(path))


def check(path, model_fn=compiled, input_fn=read_arrays, train_fn=None, **options):
    options = {"backend": "keras", **options}
    cerebro.check(input_fn, model_fn, train_fn, [{}], path, **options)


def partition_again(path):
    partition_arrays(os.path.dirname(path), X, Y, train=1, valid=0)


def search_twice(path):
    functions = (read_arrays, compiled, None)
    cerebro.schedule(
        ["http://127.0.0.1:1"], [path], [], None, None, *functions, [{}],
        search=GridSearch({"units": [3]}, epochs=1), backend="keras",
    )  # fmt: skip


def hop(path, model_fn):
    """Train a model on a partition, and go on with it elsewhere on another one."""
    x, y = read_arrays(path)
    state = None
    for number, half in enumerate((slice(30), slice(30, 60))):
        functions = UserFunctions(read_arrays, model_fn, None)
        tool = handler_class("keras")(functions, Options(threads=1))
        unit = UnitTask(0, 0, True, number, f"part{number}", {}, 0)
        state = tool.run(unit, (x[half], y[half]), state).state


def of_a_global_value(config):
    scale.append(len(scale) + 1.0)
    model = keras.Sequential([keras.Input((2,)), Scaled(), keras.layers.Dense(1, "sigmoid")])
    return compiled(config, model)


scale = []


class Scaled(keras.layers.Layer):
    def call(self, x):
        return x * scale[-1]


def that_adapts_a_layer(data, config):
    bins = keras.layers.Discretization(num_bins=3)
    bins.adapt(data[0])
    layers = [keras.Input((2,)), bins, keras.layers.Dense(1, "sigmoid")]
    return compiled(config, keras.Sequential(layers))


def that_rescales_by_its_data(data, config):
    layers = [keras.Input((2,)), keras.layers.Rescaling(float(data[0].std()))]
    return compiled(config, keras.Sequential([*layers, keras.layers.Dense(1, "sigmoid")]))


class Counting(keras.layers.Layer):
    calls = 0

    def call(self, x):
        self.calls += 1
        return x


def that_counts(config):
    layers = [keras.Input((2,)), Counting(), keras.layers.Dense(1, "sigmoid")]
    return compiled(config, keras.Sequential(layers))


class Shared(keras.layers.Layer):
    weight = keras.Variable(1.0)

    def call(self, x):
        return x * self.weight


def with_a_variable_of_a_class(config):
    layers = [keras.Input((2,)), Shared(), keras.layers.Dense(1, "sigmoid")]
    return compiled(config, keras.Sequential(layers))


MISTAKES = [
    lambda path: check(path, lambda config: network()),
    lambda path: check(path, lambda config: None),
    lambda path: check(path, without_accuracy),
    lambda path: check(path, with_a_score, error_metric="my_score"),
    lambda path: check(path, without_accuracy, error_metric="mae"),
    lambda path: check(path, input_fn=lambda path: dict(zip("xy", read_arrays(path), strict=True))),
    lambda path: check(path, input_fn=lambda path: dataset(path).batch(32).repeat()),
    lambda path: check(path, input_fn=dataset),
    lambda path: check(path, of_another_size),
    lambda path: hop(path, of_a_global_value),
    lambda path: check(path, backend="tf"),
    lambda path: check(path, lambda data, config: compiled(config), train_fn=print, backend="tf"),
    lambda path: check(path, with_a_foreign_variable),
    lambda path: check(path, that_adapts_a_layer),
    lambda path: hop(path, that_rescales_by_its_data),
    lambda path: check(path, that_counts),
    lambda path: check(path, with_a_variable_of_a_class),
    lambda path: check(path, train_fn=lambda model, data, train: model.fit(*data, verbose=0)),
    partition_again,
    search_twice,
]


def test_every_error_of_the_page_has_its_mistake():
    assert len(ERRORS) == len(MISTAKES)


@pytest.mark.parametrize(("said", "mistake"), list(zip(ERRORS, MISTAKES, strict=False)), ids=ERRORS)
def test_a_mistake_leads_to_the_error_that_the_page_shows(path, said, mistake):
    with pytest.raises(cerebro.CerebroError, match=re.escape(said)):
        mistake(path)
