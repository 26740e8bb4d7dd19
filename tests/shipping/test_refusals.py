"""What cannot travel is refused at once, naming the variable that holds it."""

from __future__ import annotations

import functools
import sqlite3
import sys
import threading
import weakref

import pytest

from cerebro.errors import ShippingError
from cerebro.shipping import pack, unpack

LOCK = threading.Lock()
EVENT = threading.Event()


class Holder:
    def __init__(self, held):
        self.held = held


def uses(value):
    def model_fn():
        return value

    return model_fn


def refusal(value):
    with pytest.raises(ShippingError) as caught:
        pack({"model_fn": uses(value)})
    return str(caught.value)


def test_open_files_are_refused_with_the_way_to_them(tmp_path):
    with open(tmp_path / "x", "w") as file:
        message = refusal(file)
        assert "model_fn -> closure 'value' holds an open file" in message
        assert "open it inside" in message
        assert "item 'log'" in refusal({"log": [file]})
        assert "attribute 'held'" in refusal(Holder(file))
        helper = uses(file)
        assert "closure 'value' -> closure 'value'" in refusal(helper)
        assert "function -> closure 'value'" in refusal(functools.partial(helper))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (threading.Lock, "lock"),
        (threading.RLock, "lock"),
        (threading.Event, "threading"),
        (threading.Thread, "thread"),
        (threading.local, "thread-local"),
        (lambda: sqlite3.connect(":memory:"), "database connection"),
        (lambda: (i for i in range(3)), "generator"),
        (lambda: weakref.ref(Holder), "weak reference"),
        (lambda: sys._getframe(), "frame"),
    ],
)
def test_other_things_that_stay_here(make, words):
    assert words in refusal(make())


def test_a_global_that_is_used_is_named_and_one_that_is_not_does_no_harm(tmp_path):
    namespace = {"__name__": "__main__", "LOCK": LOCK}
    exec("def model_fn():\n    return LOCK\ndef other():\n    return 1", namespace)
    with pytest.raises(ShippingError, match="model_fn -> global 'LOCK' holds a lock"):
        pack({"input_fn": namespace["other"], "model_fn": namespace["model_fn"]})
    assert pack({"input_fn": namespace["other"]})


def test_too_much_data_is_refused_with_the_largest_variable():
    big = bytes(60_000_000)

    def input_fn():
        return big

    with pytest.raises(ShippingError, match=r"60 MB.*input_fn -> closure 'big'"):
        pack({"input_fn": input_fn})


def test_a_blob_of_another_python_is_refused():
    import pickle

    blob = pickle.dumps({"format": 1, "python": "2.7"})
    with pytest.raises(ShippingError, match=r"Python 2\.7"):
        unpack(blob)


@pytest.mark.tf
def test_tensorflow_things_are_refused():
    tf = pytest.importorskip("tensorflow")
    with tf.Graph().as_default():
        tensor = tf.compat.v1.placeholder(tf.float32)
        variable = tf.compat.v1.get_variable("v", [1])
        session = tf.compat.v1.Session()
    assert "session" in refusal(session)
    assert "graph" in refusal(tensor)
    assert "graph" in refusal(variable)
    assert "graph" in refusal(tensor.graph)
    session.close()
