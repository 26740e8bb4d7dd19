"""What the Keras backend asks of the user's functions, and says when they err."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from patience import PATIENCE

pytest.importorskip("keras")

import keras
import tensorflow as tf
from keras_toy import ROWS, arrays, handler, model_fn, model_of, run, task, values

from cerebro.backends import check_training
from cerebro.backends.keras import installed
from cerebro.errors import BadReturn, ConfigurationError, InputError, UserFunctionError
from cerebro.metrics.rules import MEANS
from cerebro.metrics.states import joint_values

pytestmark = pytest.mark.tf


def dense(**kwargs):
    return keras.layers.Dense(2, activation="softmax", **kwargs)


def uncompiled(config):
    return keras.Sequential([keras.Input((3,)), dense()])


def without_optimizer(config):
    model = uncompiled(config)
    model.compile(optimizer=None, loss="mse")
    return model


class Foreign(keras.layers.Layer):
    def __init__(self):
        super().__init__(name="foreign")
        self.kept = tf.Variable(1.0)

    def call(self, x):
        return x * self.kept


class Unbuildable(keras.Model):
    def __init__(self):
        super().__init__()
        self.last = dense()

    def call(self, x):
        return self.last(x["missing"])


def unbuildable(config):
    model = Unbuildable()
    model.compile("adam", "mse", jit_compile=False)
    return model


def top(name):
    return keras.metrics.SparseTopKCategoricalAccuracy(k=1, name=name)


BAD_MODELS = {
    "nothing": (lambda config: None, "returned None: expected a compiled keras.Model"),
    "a triple": (lambda config: (1, 2, 3), r"returned \(1, 2, 3\): .*use backend='tf'"),
    "not compiled": (uncompiled, r"which is not compiled: call model.compile"),
    "no optimizer": (without_optimizer, r"optimizer"),
    "unbuildable": (unbuildable, r"(?s)not built: .*missing.*keras.Input"),
    "a tf.Variable": (lambda c: model_of(Foreign()), r"foreign.kept is a tf.Variable.*add_weight"),
    "no accuracy": (
        lambda c: model_of(metrics=[top("top")]),
        r"no accuracy among its compiled metrics \('loss', 'top'\).*error_metric=",
    ),
    "two accuracies": (
        lambda c: model_of(metrics=["accuracy", keras.metrics.SparseCategoricalAccuracy()]),
        "2 accuracies",
    ),
    "a name that is taken": (
        lambda c: model_of(metrics=["accuracy", top("seconds")]),
        "called 'seconds', which the history needs",
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_what_model_fn_may_not_return(name):
    function, message = BAD_MODELS[name]
    with pytest.raises(BadReturn, match=message) as caught:
        run(function)
    assert caught.value.function == "model_fn"


def test_a_model_that_was_made_outside_is_refused_when_it_comes_again():
    made = model_fn({"units": 3})
    run(lambda config: made, model=0)
    with pytest.raises(BadReturn, match="a second time: all configurations would share"):
        run(lambda config: made, model=1)


def test_an_optimizer_that_is_none_of_keras_is_refused():
    def odd(config):
        model = model_of()
        model.optimizer = tf.compat.v1.train.AdamOptimizer()
        return model

    with pytest.raises(BadReturn, match=r"none of Keras 3.*keras.optimizers"):
        run(odd)


def test_an_error_metric_that_is_not_compiled_is_named_with_those_that_are():
    with pytest.raises(BadReturn, match=r"error_metric='auc' is none .*'loss', 'accuracy'"):
        run(error_metric="auc")


BAD_DATA = {
    "a path": ("part0", r"input_fn returned 'part0': without a train_fn, expected \(x, y\)"),
    "one array": (arrays()[0], r"expected \(x, y\)"),
    "four": ((*arrays(), *arrays()), r"expected \(x, y\)"),
    "other lengths": ((arrays(5)[0], arrays(4)[1]), "arrays of 5, 4 examples"),
    "empty": (arrays(0), "no examples"),
    "endless": (
        lambda: tf.data.Dataset.from_tensor_slices(arrays()).batch(4).repeat(),
        r"endless .*repeat\(\)",
    ),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_what_input_fn_may_not_return_without_a_train_fn(name):
    data, message = BAD_DATA[name]
    with pytest.raises(BadReturn, match=message) as caught:
        run(data=data() if callable(data) else data)
    assert caught.value.function == "input_fn"


def test_what_fit_cannot_take_is_the_users_error():
    with pytest.raises(UserFunctionError, match=r"model.fit raised ValueError") as caught:
        run(data=(np.zeros((4, 7), np.float32), np.zeros(4, np.int32)))
    assert caught.value.function == "model.fit"


@pytest.mark.parametrize(
    ("backend", "train_fn", "metric", "message"),
    [
        ("tf", None, None, "train_fn=None: only backend='keras'"),
        ("python", None, None, "train_fn=None: only backend='keras'"),
        ("tf", print, "mae", "error_metric='mae': backend 'tf'"),
        ("keras", print, "mae", "what train_fn returns"),
        ("keras", None, 3, "error_metric=3: the name"),
    ],
)
def test_arguments_that_do_not_go_together(backend, train_fn, metric, message):
    with pytest.raises(InputError, match=message):
        check_training(backend, train_fn, metric)


def test_keras_on_something_else_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(InputError, match=r"KERAS_BACKEND .*'jax'.*KERAS_BACKEND=tensorflow"):
        check_training("keras", None, None)
    with pytest.raises(InputError, match="'jax'"):
        installed.load_keras()
    check_training("tf", print, None)


def test_keras_2_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(installed.metadata, "version", lambda name: "2.15.0")
    with pytest.raises(InputError, match=r"Keras 2.15.0 .*Keras 3.7 or later: pip install -U"):
        installed.load_keras()


def test_a_user_file_that_names_another_backend_is_refused(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    code = (
        "from cerebro.backends import handler_class\n"
        "try:\n    handler_class('keras')\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    environment.pop("KERAS_BACKEND", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False,
        env=environment,
    )  # fmt: skip
    assert done.stdout.startswith("InputError"), done.stderr
    assert "keras.json is 'torch'" in done.stdout


# --- what comes of it ----------------------------------------------------------------------------


def test_the_error_is_1_minus_accuracy_and_other_metrics_come_along():
    result = run(lambda config: model_of(metrics=["accuracy", top("top")]))
    assert result.error == 1 - result.metrics["accuracy"]
    assert result.metrics.keys() == {"accuracy", "top"}
    assert result.examples == ROWS


def test_the_error_is_the_metric_named_as_it_is():
    def regression(config):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", metrics=["mae"], jit_compile=False)
        return model

    result = run(regression, error_metric="mae")
    assert result.error == result.metrics["mae"]
    assert run(regression, error_metric="loss").error == run(regression, error_metric="loss").loss


def scored(*metrics):
    """A binary classifier with these metrics."""

    def model_fn(config):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
        model.compile("sgd", "binary_crossentropy", metrics=list(metrics), jit_compile=False)
        return model

    return model_fn


def score(y, p):
    return 1 - keras.ops.abs(keras.ops.cast(y, p.dtype) - p)


def cost_error(y, p):
    return keras.ops.abs(keras.ops.cast(y, p.dtype) - p)


class OwnAUC(keras.metrics.AUC):
    """Nobody knows what a class of the user's measures."""


@pytest.mark.parametrize(
    ("metric", "error_metric", "turned"),
    [
        ("accuracy", "accuracy", True),
        (keras.metrics.AUC(), "auc", True),
        (keras.metrics.BinaryAccuracy(name="acc2"), "acc2", True),
        (keras.metrics.MeanSquaredError(name="dice"), "dice", False),
        (keras.losses.cosine_similarity, "cosine_similarity", False),
        ("cosine_similarity", "cosine_similarity", True),
        (keras.metrics.Recall(name="hit"), "1 - hit", True),
        (keras.metrics.BinaryIoU(name="overlap"), "overlap", True),
        ("mse", "mse", False),
        (score, "1 - score", True),
        (cost_error, "cost_error", False),
        (OwnAUC(name="own"), "1 - own", True),
    ],
)
def test_the_error_is_low_where_its_metric_is_good(metric, error_metric, turned):
    name = error_metric.removeprefix("1 - ")
    result = run(scored(metric), error_metric=error_metric, train=False)
    value = result.metrics[name]
    assert result.error == (1 - value if turned else value)
    source = (result.states or {}).get(name)
    assert source is None or source["error"] == ("1 - value" if turned else "value")


@pytest.mark.parametrize(
    ("metric", "error_metric", "message"),
    [
        (score, "score", r"'score' are better is not known.*'1 - score'.*'score_error'"),
        (OwnAUC(name="own"), "own", r"'own' are better is not known.*error_metric='1 - own'"),
        ("mse", "1 - mse", r"'1 - mse' would be high where .* pass error_metric='mse'"),
        (score, "1 - scored", r"error_metric='1 - scored' is none .*'loss', 'score'"),
        (keras.metrics.MeanSquaredError(name="accuracy"), None, "is a MeanSquaredError, of which"),
    ],
)
def test_an_error_that_may_be_high_where_its_metric_is_good_is_refused(
    metric, error_metric, message
):
    with pytest.raises(BadReturn, match=message):
        run(scored(metric), error_metric=error_metric)


def test_a_run_of_before_keeps_its_error_and_its_means():
    result = run(scored("accuracy"), error_metric="accuracy", metric_rules=MEANS, train=False)
    assert (result.error, result.states) == (result.metrics["accuracy"], None)


def test_states_are_of_the_metrics_that_validation_has_measured():
    metrics = ["accuracy", keras.metrics.AUC(name="area"), OwnAUC(name="own"), score]
    fn = scored(*metrics)
    assert run(fn).states is None
    result = run(fn, train=False)
    kinds = {name: told["kind"] for name, told in result.states.items()}
    assert kinds == {"accuracy": "BinaryAccuracy", "area": "AUC", "score": "MeanMetricWrapper"}
    values, error = joint_values([result.states])
    assert values == pytest.approx({name: result.metrics[name] for name in kinds}, abs=1e-6)
    assert error == pytest.approx(result.error)


def test_the_states_of_a_large_model_are_bounded():
    areas = [keras.metrics.AUC(name=f"area_of_{n}", num_thresholds=1000) for n in range(5)]
    result = run(scored("accuracy", *areas), train=False)
    known = [name for name, told in result.states.items() if "variables" in told]
    assert known == ["accuracy", "area_of_0", "area_of_1", "area_of_2", "area_of_3"]
    assert len(json.dumps(result.states)) < 100_000


def test_metrics_of_more_than_one_number_are_left_out():
    def per_class(config):
        f1 = keras.metrics.F1Score(average=None)
        return model_of(metrics=["accuracy", f1], loss="categorical_crossentropy")

    x, y = arrays()
    result = run(per_class, data=(x, np.eye(2, dtype=np.float32)[y]))
    assert result.metrics.keys() == {"accuracy"}


def test_names_of_metrics_do_not_depend_on_what_was_built_before():
    def areas(config):
        return model_of(metrics=["accuracy", keras.metrics.AUC()], loss="binary_crossentropy")

    x, y = arrays()
    data = (x, np.eye(2, dtype=np.float32)[y])
    keras.metrics.AUC()
    names = [run(areas, data=data, model=model, error_metric="auc").metrics for model in (0, 1)]
    assert all(found.keys() == {"accuracy", "auc"} for found in names)


def test_validation_is_what_evaluate_says():
    state = run().state
    result = run(state=state, train=False)
    model = model_fn({})
    model.set_weights([state.arrays["layers/dense/vars/0"], state.arrays["layers/dense/vars/1"]])
    loss, accuracy = model.evaluate(*arrays(), verbose=0)
    assert (result.loss, result.error) == (loss, 1 - accuracy)


def dataset(rows=ROWS, **options):
    made = tf.data.Dataset.from_tensor_slices(arrays(rows))
    return made.shuffle(rows) if options.get("shuffle") else made


@pytest.mark.parametrize("rows", [ROWS, 7])
def test_examples_of_a_data_set_are_counted(rows):
    result = run(data=dataset(rows).batch(4))
    assert result.examples == rows
    assert run(data=dataset(rows).batch(4), state=result.state, train=False).examples == rows


def test_sample_weights_count():
    x, y = arrays()
    weights = np.where(y == 1, 1.0, 0.0).astype(np.float32)
    weighted = run(data=(x, y, weights))
    assert weighted.loss != run().loss
    assert weighted.examples == ROWS
    as_dataset = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(4)
    assert run(data=as_dataset).examples == ROWS


def test_tables_of_pandas_are_taken_as_fit_takes_them():
    x, y = arrays()
    table, column = pd.DataFrame(x, columns=["a", "b", "c"]), pd.Series(y, name="label")
    for data in ((table, column), (table, y), (x, column)):
        assert run(data=data).loss == run().loss
    shown = []

    def looking(data, config):
        shown.append(data)
        return model_fn(config)

    run(looking, data=(table, column))
    assert shown[0][0] is table
    table["d"] = ["a text"] * ROWS
    with pytest.raises(BadReturn, match=r"DataFrame whose columns are not all numbers: 'd' \("):
        run(data=(table, column))


def test_a_batch_size_of_the_configuration_is_taken():
    steps = {size: run(batch_size=size).state.arrays["optimizer/vars/0"] for size in (5, 20)}
    assert steps == {5: 4, 20: 1}
    assert run().state.arrays["optimizer/vars/0"] == 1
    for size in (0, True, "32", 8.0):
        with pytest.raises(ConfigurationError, match=r"batch_size=.* an integer above 0"):
            run(batch_size=size)
    steps = run(train_fn=lambda model, data, train=True: (0.0, 0.0), batch_size="32").state
    assert steps.arrays["optimizer/vars/0"] == 0


@pytest.mark.parametrize(
    "shuffled",
    [
        lambda data: data.shuffle(ROWS),
        lambda data: data.map(lambda x, y: (x + tf.random.normal([3]), y)),
    ],
    ids=["shuffle", "random map"],
)
def test_a_data_set_that_draws_is_made_anew_with_the_units_seed(shuffled):
    made = []

    def input_fn(path):
        made.append(path)
        return shuffled(tf.data.Dataset.from_tensor_slices(arrays())).batch(4)

    def states():
        tool = handler(input_fn=input_fn)
        data = tool.load("part0", 1)
        list(data.as_numpy_iterator())
        first = tool.run(task(), data, None).state
        again = [tool.run(task(epoch), data, first).state for epoch in (1, 2, 1)]
        tool.close()
        return [values(state) for state in (first, *again)]

    first = states()
    assert first[1] == first[3]
    assert first[1] != first[2]
    assert states() == first
    assert made == ["part0"] * 10


def test_a_data_set_that_draws_nothing_is_made_once():
    made = []

    def input_fn(path):
        made.append(path)
        return tf.data.Dataset.from_tensor_slices(arrays()).map(lambda x, y: (2 * x, y)).batch(4)

    tool = handler(input_fn=input_fn)
    data = tool.load("part0", 1)
    state = tool.run(task(), data, None).state
    tool.run(task(1), data, state)
    tool.close()
    assert made == ["part0"]


def test_model_fn_gets_the_data_if_it_takes_two():
    seen = []

    def with_data(data, config):
        seen.append((len(data[0]), config))
        return model_fn(config)

    def with_option(config, verbose=False):
        assert not verbose
        return model_fn(config)

    run(with_data, rate=0.1)
    run(with_option)
    run(lambda data=None, config=None: with_data(data, config))
    assert seen == [(ROWS, {"rate": 0.1}), (ROWS, {})]


def test_a_model_that_is_built_by_its_first_batch_is_built():
    def lazy(config):
        model = keras.Sequential([keras.layers.Dense(4), dense()])
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    first = run(lazy)
    assert first.state.arrays["layers/dense/vars/0"].shape == (3, 4)
    assert run(lazy, state=first.state, epoch=1).loss < first.loss
    as_dataset = tf.data.Dataset.from_tensor_slices(arrays()).batch(4)
    assert run(lazy, data=as_dataset).state.arrays.keys() == first.state.arrays.keys()


def test_a_train_fn_takes_any_data_and_gives_loss_and_error():
    def train_fn(model, data, train=True):
        x, y = data["pair"]
        if train:
            model.fit(x, y, verbose=0)
        return 1.0, 0.5, 3

    result = run(train_fn=train_fn, data={"pair": arrays()})
    assert (result.loss, result.error, result.examples, result.metrics) == (1.0, 0.5, 3, {})
    assert result.state.arrays["optimizer/vars/0"] == 1


def test_what_a_train_fn_makes_that_model_fn_did_not_is_refused():
    def lazy(config):
        model = model_fn(config)
        model.other = keras.optimizers.Adam()
        return model

    def train_fn(model, data, train=True):
        model.other.build(model.trainable_variables)
        return 1.0, 0.5

    with pytest.raises(BadReturn, match=r"training made variables .*other/vars.*optimizer.build"):
        run(lazy, train_fn=train_fn)


def test_a_check_cuts_units_to_a_few_batches():
    counts = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            tf.py_function(lambda: counts.append(1), [], [])
            return x

    tool = handler(lambda config: model_of(Counting()), steps=2)
    result = tool.run(task(batch_size=3), arrays(), None)
    assert result.examples == 6
    as_dataset = tf.data.Dataset.from_tensor_slices(arrays()).batch(4)
    assert tool.run(task(), as_dataset, None).examples == 8
    assert tool.run(task(train=False), arrays(), result.state).examples == ROWS
    assert keras.config.floatx() == "float32"
    tool.close()
