"""Well-known mistakes are explained in front of TensorFlow's own text."""

from __future__ import annotations

import pytest

pytest.importorskip("tensorflow")

from tf_toy import TensorFlowHandler, batches, input_fn

from cerebro.backends.base import Options, UnitTask, UserFunctions
from cerebro.backends.tf.runtime import tf, v1, v1_behaviour
from cerebro.errors import UserFunctionError

pytestmark = pytest.mark.tf


def model(loss):
    return v1.train.AdamOptimizer(0.1), loss, loss


def weighted(x):
    return tf.reduce_mean(v1.get_variable("w", []) * x)


def not_started(data, config):
    iterator = v1.data.make_initializable_iterator(v1.data.Dataset.from_tensor_slices(data))
    return model(weighted(iterator.get_next()))


def raising_inside(data, config):
    def fail(x):
        raise LookupError("no such row")

    return model(weighted(tf.numpy_function(fail, [batches(data)], tf.float32)))


def gone(data, config):
    return tf.nn.rnn_cell.LSTMCell(3)


def one_step(session, train_step, loss, error, train=True):
    session.run([train_step, loss])
    return 1.0, 1.0


@pytest.mark.parametrize(
    ("model_fn", "train", "hint"),
    [
        (not_started, True, "TABLE_INITIALIZERS"),
        (raising_inside, True, "raised LookupError: no such row"),
        (lambda data, config: model(weighted(batches(data))), False, "train_step is None when"),
    ],
)
def test_a_mistake_is_explained_first(model_fn, train, hint):
    handler = TensorFlowHandler(UserFunctions(input_fn, model_fn, one_step), Options())
    with v1_behaviour():
        data = handler.load("p", 0)
        state = handler.run(UnitTask(0, 0, True, 0, "p", {}, 0), data, None).state if (
            not train
        ) else None  # fmt: skip
        with pytest.raises(UserFunctionError) as caught:
            handler.run(UnitTask(0, 0, train, 0, "p", {}, 0), data, state)
        handler.close()
    assert hint in str(caught.value).splitlines()[0]


def test_what_tensorflow_2_does_not_have_is_answered_with_a_document():
    handler = TensorFlowHandler(UserFunctions(input_fn, gone, one_step), Options())
    with v1_behaviour():
        with pytest.raises(UserFunctionError, match=r"docs/original\.md"):
            handler.run(UnitTask(0, 0, True, 0, "p", {}, 0), handler.load("p", 0), None)
        handler.close()
