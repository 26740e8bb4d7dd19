"""The private parts of TensorFlow that the backends lean on. No other module names one.

Each is used by one function here. `tests/backends/test_tf_private.py` has a test for each, which
says what broke when a new TensorFlow fails it. All were seen to work with TensorFlow 2.21; what
`SWITCHES` lists is looked up by name and may be missing in another version.

| private part | used for |
|---|---|
| `framework.op_def_registry.get` | the definition of an op type, by its name |
| `core.protobuf.tensor_bundle_pb2` | what the index of a checkpoint says of each tensor |
| `Graph._functions`, `.cached_definition` | a graph's functions without `as_graph_def`, which copies all constants |
| `Operation._id` | the order in which the ops of a graph were made |
| `DType._is_ref_dtype` | whether a tensor is a variable itself |
| `Session._closed` | whether `train_fn` has closed its session |
| `Function._list_all_concrete_functions` | what a `tf.function` has compiled so far |
| `DatasetV2._functions`, `._inputs` | the functions of a data set, and the data sets it reads |
| `DatasetV2._apply_debug_options`, `._options_attr`, `DatasetV1Adapter._dataset` | options for every input, and those that a user has set |
| `context.context()._seed`, `._rng` | the global seed, without forgetting compiled kernels |
| `context.global_seed` | the global seed as it is |
| `context.context()._thread_local_data.is_eager`, `tf2`, `SWITCHES` | the way back from V1 behaviour |
"""  # noqa: E501

from __future__ import annotations

import contextlib
import importlib
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2
from tensorflow.python import tf2
from tensorflow.python.data.ops.dataset_ops import DatasetV2
from tensorflow.python.eager import context
from tensorflow.python.framework import op_def_registry

SWITCHES = (
    # What `disable_v2_behavior` changes, in TensorFlow 2.15 or later: (module, attribute).
    ("eager.context", "default_execution_mode"),
    ("framework.tensor_shape", "_TENSORSHAPE_V2_OVERRIDE"),
    ("framework.tensor", "Tensor._USE_EQUALITY"),
    ("ops.control_flow_util", "ENABLE_CONTROL_FLOW_V2"),
    ("ops.resource_variables_toggle", "_DEFAULT_USE_RESOURCE"),
    ("ops.variable_scope", "_DEFAULT_USE_RESOURCE"),
    ("data.ops.dataset_ops", "Dataset"),
    ("data.ops.readers", "FixedLengthRecordDataset"),
    ("data.ops.readers", "TFRecordDataset"),
    ("data.ops.readers", "TextLineDataset"),
    ("data.experimental.ops.counter", "Counter"),
    ("data.experimental.ops.interleave_ops", "choose_from_datasets"),
    ("data.experimental.ops.interleave_ops", "sample_from_datasets"),
    ("data.experimental.ops.random_ops", "RandomDataset"),
    ("data.experimental.ops.readers", "CsvDataset"),
    ("data.experimental.ops.readers", "SqlDataset"),
    ("data.experimental.ops.readers", "make_batched_features_dataset"),
    ("data.experimental.ops.readers", "make_csv_dataset"),
)


# --- checkpoints ---------------------------------------------------------------------------------


def bundle_header(message: bytes) -> Any:
    """Return what the index of a checkpoint says of the whole; `ValueError` if it is damaged."""
    return _message(tensor_bundle_pb2.BundleHeaderProto(), message)


def bundle_entry(message: bytes) -> Any:
    """Return what the index of a checkpoint says of a tensor; `ValueError` if it is damaged."""
    return _message(tensor_bundle_pb2.BundleEntryProto(), message)


def _message(empty: Any, message: bytes) -> Any:
    try:
        empty.ParseFromString(message)
    except Exception as error:  # DecodeError, whose home has moved
        raise ValueError(f"an entry is damaged: {error}") from error
    return empty


# --- graphs and sessions -------------------------------------------------------------------------


def op_definition(name: str) -> Any:
    """Return the definition of an op type; None for the name of a function."""
    return op_def_registry.get(name)


def function_nodes(graph: tf.Graph) -> Iterator[Any]:
    """Yield the nodes of a graph's functions.

    `as_graph_def`, the public way, copies all constants and fails above 2 GB.
    """
    for function in graph._functions.values():
        yield from function.cached_definition.node_def


def with_called_nodes(graph: tf.Graph, nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield nodes, and those of the functions that they call, directly or not."""
    functions = {
        function.cached_definition.signature.name: function.cached_definition
        for function in graph._functions.values()
    }
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        called = [node.op]
        for attribute in node.attr.values():
            called += [attribute.func.name, *(each.name for each in attribute.list.func)]
        for name in called:
            definition = functions.pop(name, None)
            if definition is not None:
                waiting.extend(definition.node_def)


def number_of(op: tf.Operation) -> int:
    """Return an op's place in the order in which the ops of its graph were made."""
    return int(op._id)


def is_reference(tensor: tf.Tensor) -> bool:
    """Return whether a tensor is a V1 variable itself rather than its value."""
    return bool(tensor.dtype._is_ref_dtype)


def is_closed(session: tf.compat.v1.Session) -> bool:
    """Return whether a session has been closed."""
    return bool(session._closed)


def is_compiled(value: Any) -> bool:
    """Return whether a value is a `tf.function`."""
    return hasattr(value, "_list_all_concrete_functions")


def concrete_functions(function: Any) -> list[Any]:
    """Return what TensorFlow has compiled of a `tf.function`."""
    return list(function._list_all_concrete_functions())


# --- data sets -----------------------------------------------------------------------------------


def dataset_graphs(dataset: Any) -> list[tf.Graph]:
    """Return the graphs of the functions that a data set calls itself."""
    return [function.function.graph for function in dataset._functions()]


def dataset_sources(dataset: Any) -> list[Any]:
    """Return the data sets that a data set reads."""
    return list(dataset._inputs())


def dataset_options(dataset: Any) -> Any:
    """Return the options of a data set.

    `dataset.options()`, the public way, warns in a V1 graph.
    """
    return getattr(dataset, "_dataset", dataset)._options_attr  # a V1 data set is a wrapper


def change_every_dataset(change: Callable[[Any], Any]) -> None:
    """Have `change` applied to every data set that TensorFlow makes an iterator of."""
    apply_options = DatasetV2._apply_debug_options
    DatasetV2._apply_debug_options = lambda dataset: apply_options(change(dataset))


# --- the global seed -----------------------------------------------------------------------------


def global_seed() -> int | None:
    """Return the seed of `tf.random.set_seed`."""
    seed: int | None = context.global_seed()
    return seed


def set_seed_keeping_kernels(seed: int) -> None:
    """Do what `tf.random.set_seed` does, but for forgetting the kernels of random ops."""
    tensorflow = context.context()
    tensorflow._seed = seed
    tensorflow._rng = random.Random(seed)


@contextlib.contextmanager
def another_seed(seed: int) -> Iterator[None]:
    """Have another global seed inside the block; what was drawn from the one before stays drawn."""
    tensorflow = context.context()
    before = tensorflow._seed, tensorflow._rng
    set_seed_keeping_kernels(seed)
    try:
        yield
    finally:
        tensorflow._seed, tensorflow._rng = before


# --- V1 behaviour --------------------------------------------------------------------------------


@contextlib.contextmanager
def restored_switches() -> Iterator[None]:
    """Put back, after the block, what `tf.compat.v1.disable_v2_behavior` changes inside it.

    `tf.compat.v1.enable_v2_behavior` is no way back: it sets what the process may never have had,
    and refuses once a default graph exists.
    """
    saved = [
        (owner, attribute, getattr(owner, attribute))
        for module, path in SWITCHES
        for owner, attribute in [switch(module, path)]
        if hasattr(owner, attribute)
    ]
    enabled = tf2.enabled()
    thread = context.context()._thread_local_data
    eager = thread.is_eager
    try:
        yield
    finally:
        for owner, attribute, value in saved:
            setattr(owner, attribute, value)
        (tf2.enable if enabled else tf2.disable)()
        thread.is_eager = eager


def switch(module: str, path: str) -> tuple[Any, str]:
    """Return what holds a switch, None if there is no such thing, and the attribute's name."""
    try:
        owner: Any = importlib.import_module(f"tensorflow.python.{module}")
    except ModuleNotFoundError:
        owner = None
    *outer, attribute = path.split(".")
    for name in outer:
        owner = getattr(owner, name, None)
    return owner, attribute
