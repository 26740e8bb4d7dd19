"""What TensorFlow may change without a word: the private parts that `backends/tf/private.py` uses.

A test here that fails after an update of TensorFlow says which function there has to change.
"""

from __future__ import annotations

import random

import pytest

from cerebro.backends.tf import private
from cerebro.backends.tf.runtime import tf, v1, v1_behaviour

pytestmark = pytest.mark.tf


def changed(what, function):
    """The message for a private part that is not what it was."""
    return (
        f"TensorFlow {tf.__version__} changed {what}: adapt `{function}` in "
        "cerebro/backends/tf/private.py"
    )


def test_op_definitions_are_found_by_name():
    definition = private.op_definition("RandomUniform")
    said = changed("op_def_registry.get", "op_definition")
    assert {attribute.name for attribute in definition.attr} >= {"seed", "seed2"}, said
    assert definition.is_stateful, said
    assert private.op_definition("a_function_of_a_graph_12") is None, said


def test_entries_of_a_checkpoints_index_are_parsed():
    said = changed("tensor_bundle_pb2", "bundle_entry")
    entry = private.bundle_entry(b"\x08\x01\x12\x04\x12\x02\x08\x05\x20\x07\x28\x14")
    assert (entry.dtype, entry.offset, entry.size, entry.shard_id) == (1, 7, 20, 0), said
    assert [axis.size for axis in entry.shape.dim] == [5], said
    assert not entry.shape.unknown_rank, said
    assert not entry.slices, said
    assert private.bundle_header(b"\x08\x03").num_shards == 3, said
    with pytest.raises(ValueError, match="damaged"):
        private.bundle_entry(b"\xff")


def test_a_graph_holds_its_functions():
    with tf.Graph().as_default() as graph:
        tf.data.Dataset.range(3).map(lambda n: n * 7)._variant_tensor  # noqa: B018
    ops = {node.op for node in private.function_nodes(graph)}
    assert "Mul" in ops, changed("Graph._functions or their .cached_definition", "function_nodes")


def test_functions_that_are_called_by_other_functions_are_found():
    with v1_behaviour(), tf.Graph().as_default() as graph:
        inner = tf.function(lambda x: tf.random.uniform(()) + x)
        outer = tf.function(lambda x: inner(x) * 2.0)
        unused = tf.function(lambda x: tf.tan(x))
        unused(tf.constant(1.0))
        op = outer(tf.constant(1.0)).op
        while not op.inputs or "Call" not in op.type:
            op = op.inputs[0].op
    kinds = {node.op for node in private.with_called_nodes(graph, [op.node_def])}
    said = changed("how a node names the functions that it calls", "with_called_nodes")
    assert {"Mul", "RandomUniform"} <= kinds, said
    assert "Tan" not in kinds, said


def test_ops_are_numbered_as_they_are_made():
    with tf.Graph().as_default() as graph:
        for number in range(12):
            tf.constant(number)
    made = graph.get_operations()
    said = changed("Operation._id", "number_of")
    assert sorted(made, key=private.number_of) == made, said
    assert len({private.number_of(op) for op in made}) == len(made), said


def test_a_variable_itself_is_told_from_its_value():
    with tf.Graph().as_default():
        variable = v1.get_variable("v", [2], use_resource=False)
        said = changed("DType._is_ref_dtype", "is_reference")
        assert private.is_reference(variable._ref()), said
        assert not private.is_reference(variable + 1.0), said


def test_another_seed_leaves_the_one_before_where_it_was():
    def draw():
        return float(tf.random.uniform(()))

    tf.random.set_seed(5)
    expected = [draw(), draw()]
    tf.random.set_seed(5)
    found = [draw()]
    with private.another_seed(6):
        draw()
    found.append(draw())
    assert found == expected, changed("context()._seed or ._rng", "another_seed")


def test_a_session_knows_whether_it_is_closed():
    session = v1.Session(graph=tf.Graph())
    said = changed("Session._closed", "is_closed")
    assert not private.is_closed(session), said
    session.close()
    assert private.is_closed(session), said


def test_a_function_lists_what_it_has_compiled():
    function = tf.function(lambda x: x + 1)
    said = changed("Function._list_all_concrete_functions", "concrete_functions")
    assert private.is_compiled(function), said
    assert not private.is_compiled(len), said
    assert private.concrete_functions(function) == [], said
    function(tf.zeros(2))
    assert [type(f.graph).__name__ for f in private.concrete_functions(function)] == [
        "FuncGraph"
    ], said


def test_a_data_set_shows_its_functions_and_sources():
    source = tf.data.Dataset.range(3)
    mapped = source.map(lambda n: tf.random.uniform(()) + float(1))
    (graph,) = private.dataset_graphs(mapped)
    types = {op.type for op in graph.get_operations()}
    assert "RandomUniform" in types, changed("DatasetV2._functions", "dataset_graphs")
    assert private.dataset_sources(mapped) == [source], changed(
        "DatasetV2._inputs", "dataset_sources"
    )


@pytest.mark.parametrize("module", [tf.data, v1.data], ids=["V2", "V1"])
def test_a_data_set_shows_its_options(module):
    options = tf.data.Options()
    options.autotune.enabled = True
    said = changed("DatasetV2._options_attr or DatasetV1Adapter._dataset", "dataset_options")
    dataset = module.Dataset.range(3)
    assert private.dataset_options(dataset).autotune.enabled is None, said
    with_options = dataset.with_options(options)
    assert private.dataset_options(with_options).autotune.enabled is True, said


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_every_data_set_that_is_iterated_can_be_changed(monkeypatch, graph):
    owner = private.DatasetV2
    monkeypatch.setattr(owner, "_apply_debug_options", owner._apply_debug_options)
    private.change_every_dataset(lambda dataset: dataset.map(lambda n: n + 10))
    if graph:
        with tf.Graph().as_default(), v1.Session() as session:
            found = session.run(v1.data.make_one_shot_iterator(tf.data.Dataset.range(1)).get_next())
    else:
        found = next(iter(tf.data.Dataset.range(1))).numpy()
    assert found == 10, changed("DatasetV2._apply_debug_options", "change_every_dataset")


def test_a_seed_set_without_forgetting_kernels_draws_what_the_public_way_gives():
    said = changed("context()._seed, ._rng or global_seed", "set_seed_keeping_kernels")
    before = private.global_seed()
    state = random.getstate()
    try:
        tf.random.set_seed(31)
        public = [float(tf.random.uniform(())) for _ in range(2)]
        tf.random.set_seed(32)
        assert private.global_seed() == 32, said
        private.set_seed_keeping_kernels(31)
        assert private.global_seed() == 31, said
        # The kernels of `public` would go on where they stopped; these have seeds of their own.
        again = [float(tf.random.uniform((), dtype=tf.float32)) for _ in range(2)]
        assert again == public, said
    finally:
        tf.random.set_seed(before)
        random.setstate(state)


@pytest.mark.parametrize("path", sorted({path for _, path in private.SWITCHES}))
def test_a_switch_of_v1_behaviour_is_where_it_was(path):
    """A switch that has moved from version to version is in one of the modules at least."""
    found = [private.switch(module, known) for module, known in private.SWITCHES if known == path]
    assert any(hasattr(owner, attribute) for owner, attribute in found), changed(
        f"disable_v2_behavior ({path} is gone)", "SWITCHES"
    )


def test_behaviour_is_put_back_after_a_block():
    said = changed("what disable_v2_behavior sets", "restored_switches")
    with v1_behaviour():
        assert not tf.executing_eagerly(), said
        assert type(v1.data.Dataset.range(1)).__name__ == "DatasetV1Adapter", said
    assert tf.executing_eagerly(), said
    assert private.tf2.enabled(), said
