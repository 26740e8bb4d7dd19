"""What an executor sets for the inputs that user code makes."""

from __future__ import annotations

import pytest
from tensorflow.core.framework.dataset_options_pb2 import Options as OptionsProto
from tensorflow.python.data.ops.dataset_ops import DatasetV2
from tf_toy import batches, handler, losses, task

from cerebro.backends.tf import sessions
from cerebro.backends.tf.datasets import disable_autotuning
from cerebro.backends.tf.runtime import tf, v1, v1_behaviour

pytestmark = pytest.mark.tf


@pytest.fixture(autouse=True)
def _executor(monkeypatch):
    monkeypatch.setattr(DatasetV2, "_apply_debug_options", DatasetV2._apply_debug_options)
    disable_autotuning()
    with v1_behaviour():
        yield


def tuned(graph):
    """Whether the inputs of a graph tune themselves, by the options of each data set in it."""
    nodes = list(graph.as_graph_def().node)
    nodes += [node for f in graph.as_graph_def().library.function for node in f.node_def]
    options = [
        OptionsProto.FromString(node.attr["serialized_options"].s)
        for node in nodes
        if node.op == "OptionsDataset"
    ]
    return [o.autotune_options.enabled for o in options]


def dataset():
    return v1.data.Dataset.range(5).map(lambda n: n + 1).prefetch(1)


@pytest.mark.parametrize("make", ["initializable", "one_shot"])
def test_inputs_do_not_tune_themselves(make):
    with tf.Graph().as_default() as graph, v1.Session() as session:
        iterator = getattr(v1.data, f"make_{make}_iterator")(dataset())
        if make == "initializable":
            session.run(iterator.initializer)
        assert session.run(iterator.get_next()) == 1
    assert tuned(graph) == [False]


@pytest.mark.parametrize("wanted", [True, False])
def test_what_a_user_says_of_tuning_holds(wanted):
    options = tf.data.Options()
    options.autotune.enabled = wanted
    with tf.Graph().as_default() as graph:
        v1.data.make_initializable_iterator(dataset().with_options(options))
    assert tuned(graph) == [wanted]


def test_other_options_of_a_user_stay():
    options = tf.data.Options()
    options.deterministic = False
    with tf.Graph().as_default() as graph:
        v1.data.make_initializable_iterator(dataset().with_options(options))
    nodes = [node for node in graph.as_graph_def().node if node.op == "OptionsDataset"]
    said = [OptionsProto.FromString(node.attr["serialized_options"].s) for node in nodes]
    assert [o.deterministic for o in said if o.WhichOneof("optional_deterministic")] == [False]


def read_at_most(steps):
    """A train_fn that makes so many steps, or comes to the end of the input."""

    def train_fn(session, train_step, loss, error, train=True):
        for _ in range(steps):
            try:
                session.run(loss)
            except tf.errors.OutOfRangeError:
                break
        return 0.0, 0.0

    return train_fn


@pytest.mark.parametrize(("steps", "inputs", "resets"), [(9, 1, 0), (2, 1, 1), (9, 2, 1)])
def test_an_input_that_is_left_before_its_end_is_stopped(monkeypatch, steps, inputs, resets):
    """It would go on in the background; one that was read to its end does nothing any more."""

    def model_fn(data, config):
        read = [batches(data) for _ in range(inputs)]
        return (v1.train.AdamOptimizer(0.01), *losses(read[0]))

    prepared = []
    prepare = sessions.prepare
    monkeypatch.setattr(sessions, "prepare", lambda *args: prepared.append(prepare(*args)))
    tool = handler(model_fn, read_at_most(steps))
    data = tool.load("p", 1)
    for epoch in range(2):
        tool.run(task(epoch=epoch), data, None)
    tool.close()
    assert len(prepared) == 2 * (1 + resets)
