"""Trying configurations in the user's own process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from patience import PATIENCE
from toy import functions, partitions

import cerebro
from cerebro import errors


def test_each_configuration_gets_a_line(tmp_path, capsys):
    input_fn, model_fn, train_fn, _ = functions()
    (path,) = partitions(tmp_path / "data", 1)
    cerebro.check(
        input_fn, model_fn, train_fn, [{"rate": 0.5}, {"rate": 0.1}], path, backend="python"
    )
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "configuration 0 {'rate'", "configuration 1 {'rate'",
    ]  # fmt: skip
    assert all("saved" in line and "valid loss" in line for line in lines)


def test_an_error_is_the_users_own_with_its_cause(tmp_path):
    input_fn, model_fn, _, _ = functions()

    def train_fn(model, data, train=True):
        raise ZeroDivisionError("here")

    (path,) = partitions(tmp_path / "data", 1)
    with pytest.raises(errors.UserFunctionError, match="train_fn raised") as caught:
        cerebro.check(input_fn, model_fn, train_fn, [{"rate": 1}], path, backend="python")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(errors.ConfigurationError, match="at least one"):
        cerebro.check(input_fn, model_fn, train_fn, [], path, backend="python")


TF_CHECK = """
import sys, cerebro
assert not {"tensorflow", "pandas"} & set(sys.modules)
from cerebro.standalone import standalone_schedule
cerebro.schedule, cerebro.load, cerebro.LocalCluster, cerebro.Catalog, cerebro.check
assert not {"tensorflow", "pandas"} & set(sys.modules)
print("LEFT ALONE")
import tensorflow as tf
assert tf.executing_eagerly()
import numpy as np

steps = []

def model_fn(data, config):
    v1 = tf.compat.v1
    x = v1.data.make_one_shot_iterator(v1.data.Dataset.from_tensor_slices(data).batch(2)).get_next()
    loss = tf.reduce_mean((v1.get_variable("w", [], initializer=v1.zeros_initializer()) - x) ** 2)
    return v1.train.AdamOptimizer(config["rate"]), loss, loss

def train_fn(session, train_step, loss, error, train=True):
    values = []
    try:
        while True:
            values.append(session.run([loss, error] + ([train_step] if train else []))[:2])
            steps.append(train)
    except tf.errors.OutOfRangeError:
        return tuple(np.mean(values, axis=0))

cerebro.check(lambda path: np.arange(100.0, dtype="float32"), model_fn, train_fn, [{"rate": 0.1}],
              "p")
assert steps == [True, True, False, False], steps
assert tf.executing_eagerly()
assert tf.Variable([1.0]).numpy().tolist() == [1.0]
assert tf.zeros([2, 3]).shape[1] == 3
assert tf.keras.Sequential([tf.keras.layers.Dense(1)])(tf.zeros([1, 2])).shape == (1, 1)
"""


@pytest.fixture(scope="module")
def checked_with_tensorflow():
    """A process that imports the library, then TensorFlow, and checks a configuration."""
    pytest.importorskip("tensorflow")
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TF_CHECK)],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.tf
@pytest.mark.processes
def test_two_steps_of_tensorflow_leave_the_process_as_it_was(checked_with_tensorflow):
    done = checked_with_tensorflow
    assert done.returncode == 0, done.stderr
    assert "configuration 0" in done.stderr


@pytest.mark.tf
@pytest.mark.processes
def test_importing_the_library_leaves_tensorflow_alone(checked_with_tensorflow):
    done = checked_with_tensorflow
    assert "LEFT ALONE" in done.stdout, done.stderr
