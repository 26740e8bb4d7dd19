"""The same unit gives the same bits, wherever and however often; other units draw others."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE
from tf_toy import digest, handler, losses, model_fn, task, train_fn

from cerebro.backends.tf.runtime import tf, v1, v1_behaviour

pytestmark = pytest.mark.tf

DROPOUT = {"dropout": 0.5}
SHUFFLE = {"shuffle": True}
BOTH_AT_ONCE = {"dropout": 0.5, "shuffle": True, "one_shot": True}


@pytest.fixture(autouse=True)
def _v1():
    with v1_behaviour():
        yield


def hop(units, through=None, model=model_fn, trainer=train_fn, **config):
    """The state after `units` [(epoch, partition), ...]; a fresh handler each if `through`."""
    tool, state = handler(model, trainer), None
    for number, (epoch, partition) in enumerate(units):
        data = tool.load(f"part{partition}", 1)
        state = tool.run(task(epoch, partition=partition, **config), data, state).state
        if through is not None:
            folder = through / str(number)
            folder.mkdir(parents=True)
            name = tool.write(state, str(folder))
            tool.close()
            tool = handler(model, trainer)
            state = tool.read(str(folder / name))
    tool.close()
    return state


UNITS = [(0, 1), (0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    "config", [{}, {"one_shot": True}, DROPOUT, SHUFFLE, BOTH_AT_ONCE], ids=str
)
def test_hopping_through_checkpoints_is_training_in_one_process(tmp_path, config):
    stayed = hop(UNITS, **config)
    hopped = hop(UNITS, through=tmp_path, **config)
    assert {"hidden/Adam", "hidden/Adam_1", "beta1_power"} <= stayed.keys()
    assert digest(stayed) == digest(hopped)


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from cerebro.backends.base import Options
from cerebro.backends.tf.runtime import prepare_process
prepare_process(Options(threads=1))
from test_tf_seeds import UNITS, digest, hop
for config in ({{}}, {both!r}):
    print("RESULT", digest(hop(UNITS, **config)))
"""


def test_another_process_with_deterministic_ops_gives_the_same_bits():
    here = Path(__file__).parent
    paths = [str(here), str(here.parent / "helpers"), str(here.parent.parent)]
    code = SCRIPT.format(paths=paths, both=BOTH_AT_ONCE)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    got = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert got == [digest(hop(UNITS)), digest(hop(UNITS, **BOTH_AT_ONCE))], done.stderr[-2000:]


@pytest.mark.parametrize("config", [{}, DROPOUT, SHUFFLE], ids=str)
def test_initial_weights_do_not_depend_on_the_first_unit(config):
    def start(session, train_step, loss, error, train=True):
        return 0.0, 0.0

    starts = {digest(hop([unit], trainer=start, **config)) for unit in [(0, 0), (0, 1), (3, 0)]}
    assert len(starts) == 1


def test_initial_weights_are_the_same_once_a_session_has_drawn_some():
    tool = handler()
    data = tool.load("part0", 1)
    states = [tool.run(task(), data, None).state]
    tool.run(task(epoch=1), data, states[0])
    states.append(tool.run(task(), data, None).state)
    assert digest(states[0]) == digest(states[1])
    tool.run(task(epoch=1, partition=1), data, states[0])
    states.append(tool.run(task(partition=1), data, None).state)
    assert digest(states[0]) == digest(states[2])
    tool.close()


def test_models_start_from_other_weights():
    tool = handler(train_fn=lambda s, step, loss, error, train=True: (0.0, 0.0))
    data = tool.load("part0", 1)
    starts = {digest(tool.run(task(model=model), data, None).state) for model in range(3)}
    assert len(starts) == 3
    tool.close()


def drawn(value, trainer=None):
    """A model whose error is `value()`, a tensor that depends on random numbers."""

    def model(data, config):
        loss, _ = losses(tf.constant(data))
        return v1.train.GradientDescentOptimizer(0.1), loss, value()

    def first(session, train_step, loss, error, train=True):
        return session.run(loss), session.run(error)

    return handler(model, trainer or first)


def dataset_value(dataset):
    iterator = v1.data.make_initializable_iterator(dataset)
    v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
    return iterator.get_next()


def numpy_draw():
    return np.float32(np.random.rand())


def generator():
    while True:
        yield np.float32(random.random() + np.random.rand())


SOURCES = {
    "tf.random": lambda: tf.random.uniform([]),
    "tf.random with seed": lambda: tf.random.normal([], seed=7),
    "dropout": lambda: tf.reduce_sum(tf.nn.dropout(2.0 ** tf.range(20.0), 0.5)),
    # One iteration at a time: without deterministic ops, as here, they may draw in any order.
    "in a while_loop": lambda: tf.while_loop(
        lambda i, x: i < 5, lambda i, x: (i + 1, x * 2 + tf.random.uniform([])), [0, 0.0],
        parallel_iterations=1,
    )[1],
    "in a map function": lambda: dataset_value(
        tf.data.Dataset.range(9).map(lambda i: tf.random.uniform([]))
    ),
    "shuffle": lambda: tf.cast(dataset_value(tf.data.Dataset.range(10**6).shuffle(10**4)), "float"),
    "random data set": lambda: tf.cast(
        dataset_value(tf.data.experimental.RandomDataset()), tf.float32
    ),
    "from_generator": lambda: dataset_value(
        tf.data.Dataset.from_generator(generator, tf.float32, []).prefetch(2)
    ),
    "numpy_function": lambda: tf.numpy_function(numpy_draw, [], tf.float32),
    "local variable": lambda: v1.get_variable(
        "local", [], initializer=v1.random_normal_initializer(),
        collections=[v1.GraphKeys.LOCAL_VARIABLES],
    ) + 0.0,
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_what_a_unit_draws_is_its_own(source):
    data = np.ones((4, 3), np.float32)
    tool, other = drawn(SOURCES[source]), drawn(SOURCES[source])
    state = tool.run(task(), data, None).state
    units = [{"epoch": 0}, {"epoch": 1}, {"epoch": 1, "partition": 1}, {"epoch": 1, "train": False}]
    values = [tool.run(task(**unit), data, state).error for unit in units]
    assert len(set(values)) == len(units)
    # Later, in another order and in another handler they are the same.
    again = [other.run(task(**unit), data, state).error for unit in reversed(units)]
    assert again[::-1] == values
    assert [tool.run(task(**unit), data, state).error for unit in units] == values
    tool.close()
    other.close()


def test_what_model_fn_draws_in_python_belongs_to_the_model():
    data = np.ones((4, 3), np.float32)
    tool = drawn(lambda: tf.constant(random.random() + np.random.rand(), tf.float32))
    state = tool.run(task(), data, None).state
    values = {
        tool.run(task(epoch, train, partition), data, state).error
        for epoch, train, partition in [(1, True, 0), (1, True, 1), (2, False, 1)]
    }
    assert len(values) == 1
    assert tool.run(task(model=1), data, state).error not in values
    tool.close()


def test_input_fn_draws_by_path_and_seed():
    tool = handler(input_fn=lambda path: (random.random(), float(np.random.rand())))
    assert tool.load("a", 1) == tool.load("a", 1)
    assert len({tool.load(path, seed) for path in "ab" for seed in (1, 2)}) == 4
    tool.close()


def test_an_input_left_unfinished_does_not_draw_from_the_next_units_numbers():
    def endless(session, train_step, loss, error, train=True):
        return session.run(loss), sum(session.run(error) for _ in range(3))

    data = np.ones((4, 3), np.float32)
    tool = drawn(
        lambda: dataset_value(
            tf.data.Dataset.from_generator(generator, tf.float32, []).prefetch(10**6)
        ),
        endless,
    )
    state = tool.run(task(), data, None).state
    assert len({tool.run(task(epoch=1), data, state).error for _ in range(5)}) == 1
    before = random.getstate()
    time.sleep(0.1)
    assert random.getstate() == before
    tool.close()
