"""AutoGraph on a worker converts the functions that were sent, and no others."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.tf

MODULE = """
import tensorflow as tf

@tf.function
def of_module(x):
    if x > 0.0:
        y = 1.0
    else:
        y = 0.0
    return y

def maker(high):
    def of_maker(x):
        return high if x > 0.0 else 0.0
    return of_maker, lambda x: high if x > 0.0 else 0.0
"""

SCRIPT = """
import functools
from pathlib import Path
import tensorflow as tf
import helpers

HIGH = 1.0

@tf.function
def decorated(x):
    if x > 0.0:
        y = HIGH
    else:
        y = 0.0
    return y

def plain(x):
    y = 0.0
    if x > 0.0:
        y = 1.0
    return y

def logged(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)
    return inner

@logged
def wrapped(x):
    y = 0.0
    if x > 0.0:
        y = 1.0
    return y

class Model(tf.Module):
    @tf.function
    def call(self, x):
        while x < 1.0:
            x += 0.25
        return x

def closure(high):
    def inside(x):
        y = 0.0
        if x > 0.0:
            y = high
        return y
    return inside

inside = closure(1.0)
made, made_lambda = helpers.maker(1.0)
one, two = (lambda x: 1.0 if x > 0.0 else 0.0), lambda a, b: 1.0 if a > b else 0.0

def mapped(function):
    data = tf.data.Dataset.from_tensor_slices([3.0]).map(function)
    return next(iter(data))

def of_data():
    return mapped(lambda x: 1.0 if x > 0.0 else 0.0)

def probe():
    x = tf.constant(0.25)
    values = [
        decorated(x), tf.function(plain)(x), tf.function(wrapped)(x), Model().call(x),
        tf.function(inside)(x), tf.function(one)(x), tf.function(two)(x, 0.0), of_data(),
        helpers.of_module(x), tf.function(made)(x), tf.function(made_lambda)(x), mapped(inside),
    ]
    return [float(value) for value in values]

def home():
    return __file__
"""


def test_what_was_sent_is_converted_whatever_the_files_say(ship, tmp_path):
    """The files lie where they were, edited in place: line for line another program."""
    call = f"""
    from pathlib import Path
    home = Path({str(tmp_path / "home")!r})
    for name in ("script.py", "helpers.py"):
        text = (home / name).read_text()
        (home / name).write_text(text.replace("1.0", "9.0").replace("0.25", "7.5"))
    answer = probe()
    """
    assert ship(SCRIPT, ["probe"], call, {"helpers.py": MODULE}) == [1.0] * 12


EDITED = """
import sys
from pathlib import Path
import tensorflow as tf

def target(x):
    if x > 0.0:
        y = 1.0
    else:
        y = 0.0
    return y

@tf.autograph.experimental.do_not_convert
def unconverted(x):
    return tf.where(x > 0.0, 1.0, 0.0)

class Called:
    def __call__(self, x):
        return x if x > 0.0 else -x

called = Called()

def probe():
    x = tf.constant(2.0)
    def refusal(function, *arguments):
        try:
            return str(function(*arguments))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return {
        "refused": refusal(tf.function(target), x),
        "below": refusal(tf.function(lambda x: target(x)), x),
        "data": refusal(lambda: list(tf.data.Dataset.range(2).map(target))),
        "object": refusal(tf.function(called), x),
        "marked": float(tf.function(unconverted)(x)),
        "off": refusal(tf.function(target, autograph=False), x).partition(":")[0],
        "eager": float(target(x)),
    }

path = Path(__file__)
path.write_text(path.read_text().replace("1.0", "9.0").replace("-x", "+x"))
"""


def test_code_whose_source_is_lost_is_not_converted_but_refused(ship):
    answer = ship(EDITED, ["probe"], "probe()")
    assert answer["refused"].startswith("ShippingError: AutoGraph cannot convert target (")
    assert "home/script.py, line 6)" in answer["refused"]
    assert "do_not_convert" in answer["refused"]
    for name in ("below", "data"):
        assert answer[name].startswith("ShippingError: AutoGraph cannot convert")
    assert "__call__" in answer["object"] or "Called" in answer["object"]
    assert answer["object"].startswith("ShippingError")
    assert answer["marked"] == answer["eager"] == 1.0
    assert answer["off"] == "OperatorNotAllowedInGraphError"
