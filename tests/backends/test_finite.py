"""Which versions are said to hold numbers that are not finite, whatever a model is made with."""

from __future__ import annotations

import math
import pickle
import sys
from types import SimpleNamespace

import backend_toys
import numpy as np
import pytest

from cerebro.backends import finite
from cerebro.backends.base import Options, UserFunctions
from cerebro.backends.finite import CHUNK, non_finite
from cerebro.backends.python import PythonHandler
from cerebro.backends.returns import train_result
from cerebro.errors import BadReturn

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "c8", ">f4"])
def test_numbers_of_every_floating_type_count(kind):
    values = np.array([[1.0, NAN, -INF], [INF, 2.0, 0.0]], kind)
    assert non_finite(values) == 3
    assert non_finite(values.T) == 3, "whatever the order in memory"
    assert non_finite(values[:, ::2]) == 2
    assert non_finite(values, infinities=False) == 1
    assert non_finite(np.nan_to_num(values)) == 0


def test_half_precision_that_overflows_counts():
    with np.errstate(over="ignore"):
        assert non_finite(np.array([6e4], np.float16) * np.float16(2)) == 1


@pytest.mark.parametrize(
    "values",
    [
        np.array([2**62, -1]), np.array([True]), np.array(["nan"]), np.array([b"x", None], object),
        np.empty((0, 3)), np.array([(NAN,)], [("x", "f4")]), np.array([b"ab"], "V2"),
    ],
    ids=lambda values: str(values.dtype),
)  # fmt: skip
def test_other_types_have_nothing_to_count(values):
    assert non_finite(values) == 0


def test_each_chunk_is_looked_at():
    values = np.zeros(2 * CHUNK + 1, np.float32)
    for place in (0, CHUNK - 1, CHUNK, 2 * CHUNK):
        values[place] = NAN
        assert non_finite(values) == 1
        values[place] = 0.0


def test_types_that_numpy_does_not_have_count():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e5m2):
        assert non_finite(np.array([1.0, NAN, INF], kind)) == 2
    assert non_finite(np.array([1, 2], ml_dtypes.int4)) == 0


def test_infinity_is_no_fault_of_weights_that_are_not_trained():
    sound, mask, gone = np.ones(2), np.array([0.0, -INF]), np.array([NAN])
    assert finite.weights_are_finite([sound], [mask])
    assert not finite.weights_are_finite([mask], [])
    assert not finite.weights_are_finite([sound], [gone])


# --- plain objects -------------------------------------------------------------------------------


def told(change, model, state=None):
    """What is told after a unit that changes a model, and the state."""
    functions = UserFunctions(None, lambda data, config: model, lambda m, d, train: change(m))
    tool = PythonHandler(functions, Options())
    run = tool.run(backend_toys.task(), None, state)
    return run.finite(), run.state


def setting(place, value):
    def change(model):
        model[place] = value
        return 1.0, 0.5

    return change


def nothing(model):
    return 1.0, 0.5


@pytest.mark.parametrize(
    "value",
    [
        np.array([NAN]), np.array([INF, 0]), np.array([[1, -INF]], np.float16), NAN, -NAN,
        np.float32(NAN), [0.0, {"w": (1.0, NAN)}], SimpleNamespace(w=np.array([NAN])),
        {"nested": [np.ones(3), np.array(NAN)]},
    ],
    ids=repr,
)  # fmt: skip
def test_what_a_unit_ruins_is_told_and_stays_so(value):
    finite, state = told(setting("w", value), {"w": 0.0})
    assert finite is False
    assert told(nothing, None, state)[0] is None, "as before"
    assert told(setting("w", 1.0), None, state)[0] is True, "it is sound again"
    assert told(setting("v", np.array([NAN] * 3)), None, state)[0] is False, "and more of it"


@pytest.mark.parametrize(
    "model",
    [
        {"mask": np.array([0.0, -INF])}, {"losses": np.full(10, NAN)}, {"missing": NAN},
        {"lowest": INF}, {"lowest": np.float64(INF)},
    ],
    ids=repr,
)  # fmt: skip
def test_what_a_model_begins_with_is_no_fault(model):
    finite, state = told(setting("w", np.ones(2)), dict(model))
    assert finite is not False
    finite, state = told(setting("w", np.ones(2)), None, state)
    assert finite is not False
    assert told(setting("w", np.array([INF, 1])), None, state)[0] is False


def test_a_pickle_is_the_same_whether_it_is_looked_at_or_not():
    model = {"w": np.ones(3), "name": "x", "rates": [0.5, NAN]}
    _, state = told(nothing, model)
    assert pickle.loads(state)["w"].tolist() == [1, 1, 1]
    from cerebro import shipping

    assert state == shipping.dumps(model)


@pytest.mark.parametrize("examples", [NAN, INF, -INF, 0])
def test_examples_by_which_nothing_can_be_weighted_are_refused(examples):
    with pytest.raises(BadReturn, match="a number above 0 is needed"):
        train_result((1.0, 0.5, examples))


def test_floats_are_found_in_pickles_of_any_length():
    for length in (1, 7000, 100_000):
        values = [0.5] * length + [NAN]
        values[0] = -NAN
        assert told(setting("w", values), {})[0] is False
        found = finite.NonFinite()
        from cerebro import shipping

        shipping.dumped({"w": values, "a": np.ones(100_000), "t": "G" * 70_000}, into=found)
        assert found.count == 2


def test_tensors_of_pytorch_count(monkeypatch):
    class Tensor:
        """As much of one as is asked for."""

        def __init__(self, values):
            self.values = np.array(values)

        def is_floating_point(self):
            return self.values.dtype.kind == "f"

        def is_complex(self):
            return False

        def detach(self):
            return self

        def __reduce__(self):
            return list, (self.values.tolist(),)

    torch = SimpleNamespace(Tensor=Tensor, isfinite=lambda t: np.isfinite(t.values))
    monkeypatch.setitem(sys.modules, "torch", torch)
    found = finite.NonFinite()
    assert found.met(Tensor([1.0, NAN, INF]))
    assert found.met(Tensor([1, 2]))
    assert found.count == 2
    assert finite.count_non_finite({"w": Tensor([INF])}) == 1


# --- TensorFlow and Keras ------------------------------------------------------------------------


@pytest.mark.tf
def test_variables_of_a_v1_graph_count_but_for_those_of_the_optimizer():
    pytest.importorskip("tensorflow")
    from tf_toy import batches, handler, input_fn, losses, task

    from cerebro.backends.tf.runtime import tf, v1, v1_behaviour

    def told(name, value):
        """What is told where a variable has a value after training, of those with this name."""

        def model_fn(data, config):
            loss, error = losses(batches(data))
            v1.get_variable("lowest", [2], initializer=v1.zeros_initializer(), trainable=False)
            v1.get_variable("bf", [2], tf.bfloat16, v1.zeros_initializer(), trainable=False)
            return v1.train.AdamOptimizer(0.01), loss, error

        def train_fn(session, train_step, loss, error, train=True):
            session.run(train_step)
            variables = {v.op.name: v for v in session.graph.get_collection("variables")}
            if name:
                chosen = variables[name]
                session.run(v1.assign(chosen, tf.cast(tf.fill(chosen.shape, value), chosen.dtype)))
            return 1.0, 0.5

        tool = handler(model_fn, train_fn)
        try:
            return tool.run(task(), input_fn("p"), None).finite()
        finally:
            tool.close()

    with v1_behaviour():
        assert told("", 0.0) is True
        assert told("hidden", NAN) is False
        assert told("hidden", INF) is False
        assert told("lowest", INF) is True
        assert told("lowest", NAN) is False
        assert told("bf", NAN) is False
        assert told("hidden/Adam", NAN) is True, "the model computes without it"


@pytest.mark.tf
def test_variables_of_a_keras_model_count_but_for_those_of_optimizer_and_metrics():
    keras = pytest.importorskip("keras")
    from keras_toy import arrays, model_of, run

    def told(choose, value):
        def model_fn(config):
            return model_of(keras.layers.BatchNormalization())

        def train_fn(model, data, train=True):
            model.train_on_batch(*data)
            variable = choose(model)
            if variable is not None:
                variable.assign(np.full(variable.shape, value))
            return 1.0, 0.5

        return run(model_fn, arrays(), train_fn=train_fn).finite()

    assert told(lambda m: None, 0.0) is True
    assert told(lambda m: m.trainable_variables[-1], NAN) is False
    assert told(lambda m: m.trainable_variables[-1], INF) is False
    assert told(lambda m: m.layers[0].moving_mean, NAN) is False
    assert told(lambda m: m.layers[0].moving_variance, INF) is True
    assert told(lambda m: m.optimizer.variables[-1], NAN) is True
    assert told(lambda m: m.metrics[0].variables[0], NAN) is True
