"""What a training graph computes for one recorded batch: see `cerebro.backends.probe`.

Recorded is what came out of the graph's iterators (`IteratorGetNext`), and what was fed, in the
first step of a unit. It is fed in their place, here and where the model hops to, and the loss and
the error are compared. Nothing is run that draws random numbers, changes something, or calls
Python: a graph whose loss depends on that is not probed, and neither is one without inputs.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cerebro.backends.base import Options, UnitTask
from cerebro.backends.probe import (
    EXAMPLE_BYTES,
    INPUT_BYTES,
    ROWS,
    STEP_VALUES,
    STEPS,
    Probe,
    Step,
    compare,
    differ,
    raises_here,
    sample,
    tolerance,
)
from cerebro.backends.tf import private
from cerebro.backends.tf.analysis import ancestors, is_seeded
from cerebro.backends.tf.graphs import UnitGraph
from cerebro.backends.tf.host_memory import as_array
from cerebro.backends.tf.runtime import is_resource_error, tf, visible_gpus
from cerebro.backends.tf.sessions import UnitSession
from cerebro.formatting import message_of

logger = logging.getLogger(__name__)

STEP_ELEMENTS = 2**18
"""Tensors with more values than this, for one example, are not looked at on the way."""

_INPUTS = re.compile(r"IteratorGetNext\w*|Placeholder\w*")

_READS = re.compile(
    r"Variable(V2)?|VarHandleOp|VarIsInitializedOp|VariableShape|ReadVariableOp|ResourceGather\w*"
    r"|HashTable(V2)?|LookupTable(Find|Size)(V2)?|If|While|Case|StatefulPartitionedCall"
    r"|TensorArray\w*|Stack\w*|Assert|CheckNumerics(V2)?|IsVariableInitialized"
    r"|Ref(Identity|Switch|Merge|Enter|Exit|NextIteration|Select)"
)
"""Stateful ops that change nothing, or nothing beyond the step; and those that call functions."""

_UNINTERESTING = frozenset({"Identity", "ReadVariableOp", "VariableV2", "Variable"})

_OF_SHAPES = frozenset({"Shape", "ShapeN", "Size", "Rank"})

_ROUNDING = frozenset({"Floor", "Ceil", "Round", "Rint", "Sign"})


@dataclass(frozen=True)
class Computation:
    """What is fed, what is compared, and what is looked at on the way to it, in its order.

    `firm` says of each output whether it is a number that follows smoothly from others. A share of
    wrong answers is not: which of two nearly equal numbers is the larger differs between hosts.
    All steps are firm.
    """

    inputs: list[tf.Tensor]
    outputs: list[tf.Tensor]
    steps: list[tf.Tensor]
    firm: list[bool]


def computation(unit: UnitGraph) -> Computation | str:
    """What of a graph can be probed; else why it cannot."""
    outputs = [unit.loss, unit.error]
    operations = ancestors([tensor.op for tensor in outputs], _INPUTS)
    inputs = [t for op in operations if _INPUTS.fullmatch(op.type) for t in op.outputs]
    if not inputs:
        return "its loss depends on no input"
    if any(tensor.dtype in (tf.variant, tf.resource) for tensor in inputs):
        return "its inputs are not arrays"
    for kind, seeded in _kinds(unit.graph, operations):
        definition = private.op_definition(kind)
        if seeded:
            return f"its loss depends on random numbers ({kind})"
        if definition is not None and _is_stateful(definition) and not _READS.fullmatch(kind):
            return f"its loss depends on {kind}"
    rounded: set[tf.Operation] = set()
    for op in operations:
        if _is_rounding(op) or any(tensor.op in rounded for tensor in op.inputs):
            rounded.add(op)
    steps = [
        tensor
        for op in operations
        if op not in rounded
        for tensor in op.outputs
        if _is_shown(tensor) and not any(tensor is output for output in outputs)
    ]
    every = max(1, -(-len(steps) // STEPS))
    firm = [tensor.op not in rounded for tensor in outputs]
    return Computation(inputs, outputs, steps[::every], firm)


def _is_stateful(definition: Any) -> bool:
    # What changes variables of the older kind, which are passed by reference, is not marked so.
    return definition.is_stateful or any(argument.is_ref for argument in definition.input_arg)


def record(
    unit: UnitGraph, session: UnitSession, task: UnitTask, places: list[str], options: Options
) -> Probe | None:
    """What a graph computes as it is now; None, and a line in the log, if that cannot be had."""
    wanted = computation(unit)
    if isinstance(wanted, str):
        why = wanted
    elif session.recorded is None:
        why = "no step was seen that has all its inputs"
    else:
        why = "its inputs are too large"
        for inputs in _candidates(wanted.inputs, session.recorded):
            try:
                found = _computed(session, wanted.inputs, inputs, wanted.outputs, wanted.steps)
            except Exception as error:
                # Whatever a graph raises for fewer examples than it was made for.
                why = message_of(error)
                continue
            outputs = [sample(value, 1) for value in found[:2]]
            steps = [_step(*item) for item in zip(wanted.steps, found[2:], strict=True)]
            allowed = _tolerance(wanted, options)
            return Probe(0, places, allowed, inputs, outputs, steps)
    logger.debug("model %d cannot be probed: %s", task.model, why)
    return None


def prove(
    probe: Probe, unit: UnitGraph, session: UnitSession, task: UnitTask, options: Options
) -> None:
    """Raise `ModelDiffers` if a graph computes something else than is in a probe."""
    wanted = computation(unit)
    if isinstance(wanted, str) or not _fit(wanted.inputs, probe.inputs):
        logger.debug("model %d cannot be proven here: its inputs are others", task.model)
        return
    known = {step.name for step in probe.steps}
    tensors = [tensor for tensor in wanted.steps if _name(tensor) in known]
    try:
        found = _computed(session, wanted.inputs, probe.inputs, wanted.outputs, tensors)
    except Exception as error:
        if isinstance(error, MemoryError) or is_resource_error(error):
            raise
        raise raises_here(task, error) from error
    outputs = [sample(value, 1) for value in found[:2]]
    steps = [_step(*item) for item in zip(tensors, found[2:], strict=True)]
    here = {step.name for step in steps}
    theirs = [step for step in probe.steps if step.name in here]
    expected, allowed = probe.outputs, _tolerance(wanted, options)
    if not differ(theirs, steps, max(allowed, probe.tolerance)):
        expected = list(itertools.compress(expected, wanted.firm))
        outputs = list(itertools.compress(outputs, wanted.firm))
    before = dataclasses.replace(probe, outputs=expected, steps=theirs)
    compare(before, outputs, steps, allowed, task)


def _computed(
    session: UnitSession, inputs: Any, values: Any, outputs: Any, steps: Any
) -> list[np.ndarray]:
    feed = dict(zip(inputs, values, strict=True))
    return [as_array(value) for value in session.run([*outputs, *steps], feed)]


def _tolerance(found: Computation, options: Options) -> float:
    types = {t.dtype.base_dtype.name for t in [*found.steps, *found.outputs] if _is_float(t)}
    return tolerance(types, accelerated=bool(visible_gpus(options)))


def _candidates(tensors: list[tf.Tensor], values: list[Any]) -> Iterable[list[np.ndarray]]:
    """A recorded batch to try: its first examples, where the shapes allow it, and all of it."""
    arrays = [as_array(value) for value in values]
    lengths = {len(a) for t, a in zip(tensors, arrays, strict=True) if _may_be_cut(t) and a.ndim}
    if len(lengths) == 1:
        (length,) = lengths
        size = sum(array.nbytes for array in arrays)
        rows = int(np.clip(INPUT_BYTES * length // max(1, size), 1, ROWS))
        if rows < length:
            yield [
                a[:rows].copy() if _may_be_cut(t) and a.ndim else a
                for t, a in zip(tensors, arrays, strict=True)
            ]
    if sum(array.nbytes for array in arrays) <= EXAMPLE_BYTES:
        yield arrays


def _may_be_cut(tensor: tf.Tensor) -> bool:
    """Whether a graph takes any number of examples in a tensor."""
    return tensor.shape.rank is None or (
        tensor.shape.rank > 0 and tensor.shape.as_list()[0] is None
    )


def _fit(tensors: list[tf.Tensor], values: list[np.ndarray]) -> bool:
    return len(tensors) == len(values) and all(
        tensor.shape.is_compatible_with(value.shape)
        and (value.dtype == object) == (tensor.dtype == tf.string)
        and (value.dtype == object or tf.as_dtype(value.dtype) == tensor.dtype)
        for tensor, value in zip(tensors, values, strict=True)
    )


def _step(tensor: tf.Tensor, value: np.ndarray) -> Step:
    return Step(_name(tensor), [sample(value, STEP_VALUES)])


def _name(tensor: tf.Tensor) -> str:
    number = tensor.value_index
    return f"op {tensor.op.name + (f':{number}' if number else '')!r} ({tensor.op.type})"


def _is_float(tensor: tf.Tensor) -> bool:
    return bool(tensor.dtype.is_floating)


def _is_shown(tensor: tf.Tensor) -> bool:
    """Whether to look at a tensor on the way: it can be had, and is not too large."""
    op, shape = tensor.op, tensor.shape
    if op.type in _UNINTERESTING or _INPUTS.fullmatch(op.type) or not _is_float(tensor):
        return False
    if shape.rank is None or private.is_reference(tensor) or not op.graph.is_fetchable(tensor):
        return False
    sizes = [1 if size is None and axis == 0 else size for axis, size in enumerate(shape.as_list())]
    return None not in sizes and int(np.prod(sizes, dtype=np.int64)) <= STEP_ELEMENTS


def _is_rounding(op: tf.Operation) -> bool:
    """Whether an op makes integers, or truth values, of numbers that are not."""
    if op.type in _OF_SHAPES:
        return False
    return op.type in _ROUNDING or (
        any(map(_is_float, op.inputs)) and any(not _is_float(tensor) for tensor in op.outputs)
    )


def _kinds(graph: tf.Graph, operations: list[tf.Operation]) -> Iterable[tuple[str, bool]]:
    """(type, whether it draws random numbers) of ops, and of those in the functions they call."""
    nodes = [op.node_def for op in operations if not _INPUTS.fullmatch(op.type)]
    for node in private.with_called_nodes(graph, nodes):
        yield node.op, is_seeded(node.op, node.attr["dropout"].f)
