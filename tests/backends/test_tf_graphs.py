"""Which graphs and sessions are kept, and that keeping them carries nothing over."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from tf_toy import batches, digest, handler, losses, model_fn, task, train_fn

from cerebro.backends.tf import graph_cache, graphs
from cerebro.backends.tf.host_memory import State
from cerebro.backends.tf.runtime import tf, v1, v1_behaviour
from cerebro.errors import UserFunctionError

pytestmark = pytest.mark.tf

DATA = np.linspace(0, 1, 72, dtype=np.float32).reshape(24, 3)


@pytest.fixture(autouse=True)
def _v1():
    with v1_behaviour():
        yield


class Counting:
    """A handler whose builds and sessions are counted."""

    def __init__(self, model=model_fn, trainer=train_fn):
        self.built = 0
        self.sessions = []

        def counted_model(data, config, train):
            self.built += 1
            return model(data, config, train)

        def counted_train(session, train_step, loss, error, train=True):
            self.sessions.append(session)
            return trainer(session, train_step, loss, error, train)

        self.tool = handler(counted_model, counted_train)
        self.state = None

    def run(self, data=DATA, fresh=False, **kwargs):
        result = self.tool.run(task(**kwargs), data, None if fresh else self.state)
        if result.state is not None:
            self.state = result.state
        return result

    def open_sessions(self):
        return sum(not session._closed for session in set(self.sessions))


@pytest.fixture
def counting():
    made = []

    def make(*args):
        made.append(Counting(*args))
        return made[-1]

    yield make
    for item in made:
        item.tool.close()
        assert item.open_sessions() == 0


def test_a_graph_and_its_session_are_kept_for_each_model_partition_and_split(counting):
    used = counting()
    for epoch in range(3):
        for model in (0, 1):
            for partition in (0, 1):
                used.run(epoch=epoch, model=model, partition=partition)
            used.run(epoch=epoch, model=model, train=False)
    assert used.built == 6
    assert len(set(used.sessions)) == 6


def test_a_one_shot_iterator_keeps_the_graph_but_not_the_session(counting):
    used = counting()
    for epoch in range(3):
        assert used.run(epoch=epoch, one_shot=True).examples == 3
    assert used.built == 1
    assert len(set(used.sessions)) == 3
    assert used.open_sessions() == 0


def test_dropout_and_shuffling_rebuild_for_each_unit_of_training_alone(counting):
    for config in ({"dropout": 0.5}, {"shuffle": True}):
        used = counting()
        for epoch in range(3):
            used.run(epoch=epoch, **config)
            used.run(epoch=epoch, train=False, **config)
        # One more for the initial weights; the validation graph holds no randomness.
        assert used.built == 1 + 3 + 1
        assert used.open_sessions() == 1


def test_a_kept_session_gives_what_a_new_one_gives(counting):
    kept, fresh = counting(), counting()
    for epoch in range(3):
        kept.run(epoch=epoch)
        fresh.run(epoch=epoch)
        fresh.tool.forget(0)
    assert fresh.built == 3
    assert kept.built == 1
    assert digest(kept.state) == digest(fresh.state)


def test_forget_closes_a_models_sessions_and_frees_its_data(counting):
    class Data:
        rows = DATA

    def model(data, config, train):
        return model_fn(tf.numpy_function(lambda: data.rows, [], tf.float32), config, train)

    data = Data()
    alive = weakref.ref(data)
    used = counting(model)
    used.run(data)
    used.run(data, model=1)
    assert used.open_sessions() == 2
    used.tool.forget(0)
    assert used.open_sessions() == 1
    used.sessions.clear()
    del data
    assert alive() is not None
    used.tool.forget(1)
    assert alive() is None


def test_data_that_was_loaded_again_gets_a_graph_of_its_own(counting):
    used = counting()
    used.run(DATA)
    used.run(DATA.copy(), epoch=1)
    assert used.built == 2
    assert used.open_sessions() == 1

    by_path = counting(lambda path, config, train: model_fn(DATA, config, train))
    by_path.run("".join(["a", "path"]))
    by_path.run("".join(["a", "path"]), epoch=1)
    assert by_path.built == 1


def test_the_number_of_kept_graphs_is_bounded(counting, monkeypatch):
    monkeypatch.setattr(graph_cache, "GRAPHS", 2)
    used = counting()
    for partition in (0, 1, 0, 2, 0, 1):
        used.run(partition=partition)
    # Partition 1 was unused for longest when 2 came, and had to be built again.
    assert used.built == 4
    assert used.open_sessions() == 2


def test_the_memory_of_kept_sessions_is_bounded(counting, monkeypatch):
    used = counting()
    used.run()
    size = sum(value.nbytes for value in used.state.values())
    monkeypatch.setattr(graph_cache, "SESSION_BYTES", 2 * size)
    for partition in (1, 2, 3):
        used.run(partition=partition)
    assert used.open_sessions() == 2
    used.run(partition=0)
    assert used.built == 4


def test_a_failing_unit_leaves_no_session_and_no_graph(counting):
    def failing(session, train_step, loss, error, train=True):
        if len(used.sessions) == 2:
            raise RuntimeError("no")
        return train_fn(session, train_step, loss, error, train)

    used = counting(model_fn, failing)
    used.run()
    before = digest(used.state)
    with pytest.raises(UserFunctionError, match="no"):
        used.run(epoch=1)
    assert used.open_sessions() == 0
    assert digest(used.state) == before
    used.run(epoch=1)
    assert used.built == 2


def test_a_train_fn_that_adds_ops_does_not_make_a_kept_graph_grow(counting):
    def adding(session, train_step, loss, error, train=True):
        session.run(tf.identity(loss))
        return train_fn(session, train_step, loss, error, train)

    used = counting(model_fn, adding)
    used.run()
    used.run(epoch=1)
    assert used.built == 2
    assert used.open_sessions() == 0


@pytest.mark.parametrize("resource", [False, True])
def test_states_share_no_memory_with_a_session(resource):
    def model(data, config):
        w = v1.get_variable("w", initializer=np.zeros(1024, np.float32), use_resource=resource)
        loss = tf.reduce_sum(w)
        return v1.train.GradientDescentOptimizer(1.0), loss, loss

    def two_steps(session, train_step, loss, error, train=True):
        for _ in range(2):
            session.run(train_step)
        return 0, 0

    tool = handler(model, two_steps)
    buffer = np.zeros(1024 + 16, np.float32)
    # TensorFlow uses a fed array in place if it is aligned like its own memory, to 64 bytes.
    start = (-buffer.ctypes.data % 64) // 4
    given = State({"w": buffer[start : start + 1024]})
    first = tool.run(task(), DATA, given).state
    second = tool.run(task(epoch=1), DATA, first).state
    assert [x["w"][0] for x in (given, first, second)] == [0, -2, -4]
    tool.close()


def test_a_bodys_bodies_are_seen():
    def nested(row):
        inner = tf.data.Dataset.range(2).map(
            lambda i: tf.cond(i > 0, lambda: tf.random.uniform([]), lambda: 0.0)
        )
        return inner.map(lambda value: row + value)

    def model(data, config):
        dataset = tf.data.Dataset.from_tensors(tf.constant(data)).flat_map(nested)
        return simple(v1.data.make_one_shot_iterator(dataset).get_next())

    unit = graph(model)
    whole = {function.signature.name for function in unit.graph.as_graph_def().library.function}
    assert set(unit.graph._functions) == whole
    assert unit.random


def graph(model, train=True):
    return graphs.build(model, DATA, {}, train=train, seed=1)


def simple(x, **kwargs):
    loss, error = losses(x)
    return v1.train.AdamOptimizer(), loss, error


def initializable(x, collect):
    iterator = v1.data.make_initializable_iterator(v1.data.Dataset.from_tensors(x))
    if collect:
        v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
    return iterator.get_next()


def reinitializable(x):
    dataset = v1.data.Dataset.from_tensors(x)
    iterator = v1.data.Iterator.from_structure(
        v1.data.get_output_types(dataset), v1.data.get_output_shapes(dataset)
    )
    for _ in range(2):
        v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, iterator.make_initializer(dataset))
    return iterator.get_next()


def queue(x):
    made = v1.FIFOQueue(9, tf.float32, [24, 3])
    with tf.control_dependencies([made.enqueue(x)]):
        return made.dequeue()


def uncollected(x):
    return x + v1.get_variable("mine", initializer=0.0, collections=[], trainable=False)


def rnn(x):
    return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.tanh(y)), [0, x])[1]


def asserting(x):
    with tf.control_dependencies([tf.debugging.assert_greater(x, -1.0)]):
        return tf.identity(x)


def stateless(x):
    return x + tf.random.stateless_uniform([24, 3], seed=[1, 2])


def map_function(x):
    dataset = v1.data.Dataset.from_tensors(x).map(lambda row: row + tf.random.uniform([]))
    return v1.data.make_one_shot_iterator(dataset).get_next()


GRAPHS = {
    # What it makes of its input: (random, restarts).
    "constant": (lambda x: x, False, True),
    "iterator of the collection": (lambda x: initializable(x, True), False, True),
    "numpy_function": (
        lambda x: tf.ensure_shape(tf.numpy_function(lambda: DATA, [], tf.float32), [24, 3]),
        False, True,
    ),
    "while_loop": (rnn, False, True),
    "stateless random": (stateless, False, True),
    "assert": (asserting, False, True),
    "other iterator": (lambda x: initializable(x, False), False, False),
    "iterator of two data sets": (reinitializable, False, False),
    "one-shot iterator": (lambda x: batches(DATA, one_shot=True), False, False),
    "queue": (queue, False, False),
    "variable outside the collections": (uncollected, False, False),
    "dropout": (lambda x: tf.nn.dropout(x, 0.5), True, True),
    "shuffling": (lambda x: batches(DATA, shuffle=True), True, True),
    "random op in a map function": (map_function, True, False),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_what_a_graph_allows(name):
    make, random, restarts = GRAPHS[name]
    unit = graph(lambda data, config: simple(make(tf.constant(data))))
    assert (unit.random, unit.restarts) == (random, restarts)


def test_a_table_is_ready_in_every_unit(counting):
    def model(data, config, train):
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant(["a"]), tf.constant([2.0])), 0.0
        )
        loss, error = losses(tf.constant(data))
        return v1.train.AdamOptimizer(), loss, error * 0 + table.lookup(tf.constant("a"))

    def once(session, train_step, loss, error, train=True):
        return session.run([loss, error])

    used = counting(model, once)
    assert [used.run(epoch=epoch).error for epoch in range(3)] == [2.0] * 3
    assert used.built == 1
    assert len(set(used.sessions)) == 1


def test_two_variables_that_share_an_initial_value_are_restored_apart():
    def model(data, config):
        start = tf.constant(1.0)
        a = v1.Variable(start, name="a", trainable=False)
        b = v1.Variable(start, name="b")
        loss = b * 1.0
        return v1.train.GradientDescentOptimizer(0.0), loss, a + 0.0

    tool = handler(model, lambda s, step, loss, error, train=True: s.run([loss, error]))
    state = State({"a": np.array(5.0, np.float32), "b": np.array(7.0, np.float32)})
    result = tool.run(task(), DATA, state)
    assert (result.loss, result.error) == (7.0, 5.0)
    tool.close()
