"""The errors that docs/keras.md lists are those that its mistakes lead to."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from documents import ROOT, codes, table

import cerebro
from cerebro.data import partition_arrays, read_arrays
from cerebro.search import GridSearch

keras = pytest.importorskip("keras", minversion="3.7", reason="the page is about Keras 3")
tf = pytest.importorskip("tensorflow", reason="the backend is Keras on TensorFlow")
pytestmark = pytest.mark.tf

PAGE = ROOT / "docs" / "keras.md"
BETWEEN_WORKERS = "is another function here"
"""An error that only a second worker finds: `tests/driver/test_probe.py` leads to it."""

ERRORS = [codes(row[0])[0] for row in table(PAGE, "Mistakes people make")]
ERRORS_HERE = [said for said in ERRORS if said != BETWEEN_WORKERS]
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


def with_a_layer(layer):
    return compiled({}, keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(1)]))


def adapted(data, config):
    layer = keras.layers.Discretization(num_bins=3)
    layer.adapt(data[0])
    return with_a_layer(layer)


def of_another_setting(config):
    scales.append(len(scales) + 1.0)
    return with_a_layer(keras.layers.Rescaling(scales[-1]))


scales = []


class Counting(keras.layers.Layer):
    """Counts its calls in an attribute."""

    count = 0

    def call(self, x):
        self.count += 1
        return x


def with_a_count(config):
    return with_a_layer(Counting())


def uses_a_global_variable(model, data, train=True):
    everyones.assign_add(1.0)
    return 1.0, 1.0


everyones = tf.Variable(0.0)


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
    lambda path: check(path, backend="tf"),
    lambda path: check(path, lambda data, config: compiled(config), train_fn=print, backend="tf"),
    lambda path: check(path, with_a_foreign_variable),
    lambda path: check(path, adapted),
    lambda path: check(path, of_another_setting),
    lambda path: check(path, with_a_count),
    lambda path: check(path, train_fn=uses_a_global_variable),
    lambda path: check(path, train_fn=lambda model, data, train: model.fit(*data, verbose=0)),
    partition_again,
    search_twice,
]


def test_every_error_of_the_page_has_its_mistake():
    assert BETWEEN_WORKERS in ERRORS
    assert len(ERRORS_HERE) == len(MISTAKES)


@pytest.mark.parametrize(
    ("said", "mistake"), list(zip(ERRORS_HERE, MISTAKES, strict=False)), ids=ERRORS_HERE
)
def test_a_mistake_leads_to_the_error_that_the_page_shows(path, said, mistake):
    pattern = ".*".join(re.escape(part) for part in said.split("…"))
    with pytest.raises(cerebro.CerebroError, match=pattern):
        mistake(path)
