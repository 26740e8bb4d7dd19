"""The graph's global step: which variable it is, who advances it, and what follows it.

A V1 script passes it to `minimize`, which adds one to it at each step, and learning rates decay
with it. Here `minimize` is called by this library, so it is passed here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cerebro.backends.tf import private
from cerebro.backends.tf.analysis import ancestors
from cerebro.backends.tf.runtime import tf, v1
from cerebro.errors import UserFunctionError

_ASSIGNS = re.compile(
    r"Assign(Add|Sub)?|Assign\w*VariableOp|CountUpTo|StridedSliceAssign|(Scatter|Apply|Sparse)\w+"
    r"|Resource(Scatter|Apply|SparseApply|CountUpTo|Strided)\w*"
)

_PASSES_ON = frozenset(
    {"Identity", "RefIdentity", "Enter", "RefEnter", "Switch", "RefSwitch", "Merge", "RefMerge"}
)
"""Ops whose outputs are the variable that they get, where they get one."""

_CALLS = frozenset(
    {"If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase"}
    | {"PartitionedCall", "StatefulPartitionedCall"}
)


@dataclass(frozen=True)
class StepCounts:
    """What is to be seen to while a graph trains.

    `passed` is the global step if `minimize` was given it, and `advancing` the ops that assign to
    it then. `followed` are the names of counters on which the train step depends, which `minimize`
    was not given: the global step, if `step` is its name, or integers that nothing changes.
    """

    step: str | None = None
    passed: Any = None
    advancing: frozenset[tf.Operation] = frozenset()
    followed: tuple[str, ...] = ()


def find() -> Any:
    """Return the global step of the default graph, one of its global variables, or None.

    It is the one in the collection `GLOBAL_STEP`, else the one named "global_step", in whatever
    scope.
    """
    variables = {variable.op.name: variable for variable in v1.global_variables()}
    marked = {item.op.name for item in v1.get_collection(v1.GraphKeys.GLOBAL_STEP)}
    named = {name for name in variables if name.rpartition("/")[2] == "global_step"}
    names = marked or (named & {"global_step"}) or named
    found = [variables[name] for name in names if name in variables]
    return found[0] if len(found) == 1 and _may_count(found[0]) else None


def takes_step(minimize: Callable[..., Any]) -> bool | None:
    """Whether an optimizer's `minimize` takes `global_step`; None if it takes any keyword."""
    try:
        parameters = inspect.signature(minimize).parameters.values()
    except (TypeError, ValueError):
        return False
    if any(p.name == "global_step" and p.kind is not p.POSITIONAL_ONLY for p in parameters):
        return True
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else False


def assigning(variable: Any) -> set[tf.Operation]:
    """Return the ops that change a variable, other than its initializer and a saver's."""
    found = set()
    waiting, seen = list(variable.op.outputs), set()
    while waiting:
        tensor = waiting.pop()
        for op in tensor.consumers():
            if op in seen or op is variable.initializer:
                continue
            seen.add(op)
            if op.type in _PASSES_ON:
                waiting.extend(output for output in op.outputs if _is_variable(output))
                continue
            is_given = op.type in _CALLS or op.inputs[0] is tensor
            if is_given and _is_variable(tensor) and assigns(op) and not restores(op):
                found.add(op)
    return found


def assigns(op: tf.Operation) -> bool:
    """Whether an op changes a variable, or calls a function while functions of its graph do."""
    if op.type in _CALLS:
        # Which of its inputs a function assigns to is not looked into.
        return any(_ASSIGNS.fullmatch(node.op) for node in private.function_nodes(op.graph))
    return _ASSIGNS.fullmatch(op.type) is not None


def restores(op: tf.Operation) -> bool:
    """Whether an op assigns what is read from a checkpoint, as a `Saver`'s do."""
    if op.type not in ("Assign", "AssignVariableOp"):
        return False
    source = op.inputs[1].op
    while source.type in ("Identity", "Reshape", "Cast"):
        source = source.inputs[0].op
    return bool(source.type in ("RestoreV2", "Restore", "RestoreSlice"))


def counts(step: Any, *, passed: bool, train_step: Any, loss: tf.Tensor) -> StepCounts:
    """Find out what is to be seen to in a graph whose train step is built."""
    name = None if step is None else step.op.name
    given = step if passed else None
    advancing = frozenset(assigning(step)) if passed else frozenset()
    counters = [v for v in v1.global_variables() if v is not given and (v is step or _counts(v))]
    if not counters:
        return StepCounts(name, given, advancing)
    behind_step, behind_loss = set(ancestors([_op(train_step)])), set(ancestors([loss.op]))
    followed = tuple(
        v.op.name
        for v in counters
        if v.op in behind_step and (v is step or (v.op not in behind_loss and not assigning(v)))
    )
    return StepCounts(name, given, advancing, followed)


def check_counted(
    found: StepCounts, before: Mapping[str, Any], after: Mapping[str, Any], assigned: Iterable[str]
) -> None:
    """Raise `UserFunctionError` where what the train step follows has not changed in a unit.

    `before` and `after` are values at the unit's start and end; to variables in `assigned` there
    are ops by now that change them at some time.
    """
    for name in found.followed:
        if before[name] != after[name]:
            continue
        if name == found.step:
            raise UserFunctionError(
                f"the global step ({name}) stayed {before[name]} while the model was trained, and "
                "its training depends on it (a learning rate that decays, say): the optimizer's "
                "minimize takes no global_step, or an op of model_fn that changes it was not run. "
                "Return an optimizer whose minimize(loss, global_step=None) advances it, or add "
                "tf.compat.v1.assign_add(global_step, 1) to tf.compat.v1.GraphKeys.UPDATE_OPS",
                function="model_fn",
            )
        if name not in assigned:
            raise UserFunctionError(
                f"the training depends on the variable {name}, an integer that nothing changes: it "
                f"stays {before[name]}. If it is the global step that a learning rate decays with, "
                "make it with tf.compat.v1.train.get_or_create_global_step(), and it is advanced "
                "at each step; if it is a constant, use tf.constant",
                function="model_fn",
            )


def _may_count(variable: Any) -> bool:
    is_number = variable.dtype.base_dtype.is_floating and not variable.trainable
    return _counts(variable) or bool(is_number and variable.shape.rank == 0)


def _counts(variable: Any) -> bool:
    return bool(variable.dtype.base_dtype.is_integer and variable.shape.rank == 0)


def _is_variable(tensor: tf.Tensor) -> bool:
    return bool(tensor.dtype == tf.resource or tensor.dtype != tensor.dtype.base_dtype)


def _op(value: Any) -> tf.Operation:
    return value if isinstance(value, tf.Operation) else value.op
