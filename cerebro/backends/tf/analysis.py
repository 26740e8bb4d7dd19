"""What a graph's ops say about running it again: does it draw random numbers, can it restart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from cerebro.backends.tf import private
from cerebro.backends.tf.runtime import tf, v1

_SEEDS = frozenset({"seed", "seed2"})

_RESTARTABLE = re.compile(
    # Stateful ops whose state is a variable, belongs to one step, or is set again by the
    # initialisers that run before each unit. Any other one may carry something over, except
    # random ops, which `draws_random_numbers` judges.
    r"Variable(V2)?|TemporaryVariable|DestroyTemporaryVariable|VarHandleOp|VarIsInitializedOp"
    r"|VariableShape|ReadVariableOp|Assign\w*VariableOp"
    r"|Resource(Apply|SparseApply|Gather|Scatter|CountUpTo|Strided)\w*"
    r"|If|While|Case|StatefulPartitionedCall|TensorArray\w*|Stack\w*"
    r"|HashTable(V2)?|InitializeTable\w*|LookupTable(Find|Size|Export|Import)V2"
    r"|Iterator(V2)?|IteratorToStringHandle|IteratorGetNext\w*|MakeIterator|DatasetToSingleElement|ReduceDataset"
    r"|(?!Cache|Experimental|DataService)\w*Dataset(V\d)?"
    r"|PyFunc|EagerPyFunc|Assert|CheckNumerics(V2)?|Print(V2)?|CudnnRNN\w*"
    r"|Empty|DeepCopy|Save\w*|Restore\w*|MergeV2Checkpoints|StatelessRandomGetAlg"
)


def draws_random_numbers(graph: tf.Graph, initializers: set[tf.Operation]) -> bool:
    """Whether anything but the variables' initial values depends on the graph's seed.

    True where an op with TensorFlow's pair of seeds (`seed`, `seed2`, as attributes or inputs:
    random ops, shuffling and random data sets) is in a function's body, or can be reached from
    an op that is not in `initializers`. Stateless random ops have their seeds in the open.
    """
    if any(is_seeded(node.op, node.attr["dropout"].f) for node in private.function_nodes(graph)):
        return True
    seeded = {
        op
        for op in graph.get_operations()
        if _is_seeded(op.type) and is_seeded(op.type, op.node_def.attr["dropout"].f)
    }
    return bool(seeded) and not seeded.isdisjoint(_used_apart_from(graph, initializers))


def calls_python(graph: tf.Graph) -> bool:
    """Whether a graph, or one of its functions, calls a function of Python's."""
    types = {op.type for op in graph.get_operations()}
    types.update(node.op for node in private.function_nodes(graph))
    return any("PyFunc" in name for name in types)


def can_restart(graph: tf.Graph, variables: int) -> bool:
    """Whether a session of this graph can run a second unit as if it were new.

    `variables` is the number of variables that are restored or initialised before each unit;
    others would carry over. So would a one-shot iterator, a queue, a mutable table, or an
    iterator whose only initializer is not among `tf.compat.v1.GraphKeys.TABLE_INITIALIZERS`.
    """
    operations = graph.get_operations()
    types = {op.type for op in operations} | {node.op for node in private.function_nodes(graph)}
    if not all(_is_restartable(name) for name in types):
        return False
    handles = [op for op in operations if op.type in ("VarHandleOp", "Variable", "VariableV2")]
    if len(handles) != variables:
        return False
    run_before_each_unit = set(graph.get_collection(v1.GraphKeys.TABLE_INITIALIZERS))
    for iterator in operations:
        if iterator.type in ("Iterator", "IteratorV2"):
            users = iterator.outputs[0].consumers()
            makers = [user for user in users if user.type == "MakeIterator"]
            if len(makers) != 1 or makers[0] not in run_before_each_unit:
                return False
    return True


def _is_restartable(name: str) -> bool:
    definition = private.op_definition(name)
    if definition is None or not definition.is_stateful or _RESTARTABLE.fullmatch(name):
        return True
    return _has_seeds(definition)


def is_seeded(name: str, dropout: float) -> bool:
    """Whether an op of this type draws random numbers; `dropout` is its attribute, if any."""
    return _is_seeded(name) and not _drops_nothing(name, dropout)


def ancestors(
    operations: Iterable[tf.Operation], ends: re.Pattern[str] | None = None
) -> list[tf.Operation]:
    """Ops, and what they depend on, in the order in which they were made.

    What ops whose type `ends` matches depend on is left out.
    """
    waiting, found = list(operations), set()
    while waiting:
        op = waiting.pop()
        if op in found:
            continue
        found.add(op)
        if ends is None or not ends.fullmatch(op.type):
            waiting.extend(tensor.op for tensor in op.inputs)
            waiting.extend(op.control_inputs)
    return sorted(found, key=private.number_of)


def _is_seeded(name: str) -> bool:
    definition = private.op_definition(name)
    return definition is not None and _has_seeds(definition)


def _drops_nothing(name: str, dropout: float) -> bool:
    """Whether this is cuDNN's recurrent layer without dropout, which uses no seeds."""
    return name.startswith("CudnnRNN") and dropout == 0


def _has_seeds(definition: Any) -> bool:
    return any(
        _SEEDS.issubset(field.name for field in fields)
        for fields in (definition.attr, definition.input_arg)
    )


def _used_apart_from(graph: tf.Graph, initializers: set[tf.Operation]) -> set[tf.Operation]:
    """The ops on which some op outside `initializers` that nothing consumes depends."""
    consumed = {
        source
        for op in graph.get_operations()
        for source in [*(tensor.op for tensor in op.inputs), *op.control_inputs]
    }
    waiting = [op for op in graph.get_operations() if op not in consumed]
    found: set[tf.Operation] = set()
    while waiting:
        op = waiting.pop()
        if op in found or op in initializers:
            continue
        found.add(op)
        waiting.extend(tensor.op for tensor in op.inputs)
        waiting.extend(op.control_inputs)
    return found
