"""A unit's graph: what the user's `model_fn` builds, and what is added to it.

The training graph is `model_fn`'s, then `optimizer.minimize(loss)`, called once, here, with the
graph's update ops (`tf.compat.v1.GraphKeys.UPDATE_OPS`) to run before it, and with the graph's
global step if nothing else advances that. The validation graph is `model_fn`'s alone. A state gets
into either through the variables' own initializers, whose initial values are fed. Where that cannot
be, as two variables share their initial value's tensor, say, the graph gets a placeholder and an
assignment of ours.
"""

from __future__ import annotations

import copy
import inspect
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cerebro.backends.base import user_code
from cerebro.backends.tf import global_step
from cerebro.backends.tf.analysis import can_restart, draws_random_numbers
from cerebro.backends.tf.error_hints import with_hint
from cerebro.backends.tf.global_step import StepCounts
from cerebro.backends.tf.returns import model_result, training_op
from cerebro.backends.tf.runtime import tf, v1
from cerebro.errors import BadReturn, UserFunctionError


@dataclass(frozen=True)
class UnitGraph:
    """A graph that trains (`train_step` is set) or validates (`train_step` is None).

    `variables` are all global ones by name, among them the optimizer's slots and counters, whose
    names are `slots`; `trained` are the names of those that training changes. For each variable,
    `assignments` holds the operation that sets it and `values` the tensor to feed to that.
    `prepare` (local variables and tables) runs before each unit. `step` says what is to be seen to
    about the global step. `random` and `restarts` are the findings of `analysis`; `iterators`
    counts those that can be started again; `size` is the number of ops, which a `train_fn` that
    adds its own lets grow.
    """

    graph: tf.Graph
    seed: int
    loss: tf.Tensor
    error: tf.Tensor
    train_step: Any
    variables: Mapping[str, Any]
    slots: frozenset[str]
    trained: frozenset[str]
    step: StepCounts
    values: Mapping[str, tf.Tensor]
    assignments: Mapping[str, tf.Operation]
    prepare: tf.Operation
    random: bool
    restarts: bool
    iterators: int
    size: int


def build(
    model_fn: Callable[..., Any],
    data: Any,
    config: Mapping[str, Any],
    *,
    train: bool,
    seed: int,
    pass_step: bool = True,
) -> UnitGraph:
    """Build a unit's graph, with `seed` as the graph's.

    With `pass_step` the optimizer advances the global step, where there is one.

    Raises `UserFunctionError` where `model_fn` or the optimizer raises, and `BadReturn` where
    `model_fn` returns something else than an optimizer and two scalars, or makes no variable.
    """
    graph = tf.Graph()
    with graph.as_default():
        v1.set_random_seed(seed)
        keywords = {"train": train} if _takes_train(model_fn) else {}
        try:
            with user_code("model_fn"):
                returned = model_fn(data, copy.deepcopy(dict(config)), **keywords)
        except UserFunctionError as error_of_user:
            raise with_hint(error_of_user) from error_of_user.__cause__
        optimizer, loss, error = model_result(returned, graph)
        made_by_model = {variable.op.name for variable in v1.global_variables()}
        train_step, step = None, StepCounts()
        if train:
            train_step, step = _train_step(optimizer, loss, pass_step=pass_step)
        variables = {variable.op.name: variable for variable in v1.global_variables()}
        if not variables:
            raise BadReturn(
                "model_fn made no variables, so there is nothing to train: create them with "
                "tf.compat.v1.get_variable inside model_fn",
                function="model_fn",
            )
        slots = frozenset(variables) - made_by_model
        trainable = {v.op.name for v in v1.trainable_variables() if not v.dtype.is_integer}
        initializers = {variable.initializer for variable in variables.values()}
        random = draws_random_numbers(graph, initializers)
        local = set(v1.local_variables())
        restarts = can_restart(graph, len(variables) + len(local))
        iterators = sum(op.type == "MakeIterator" for op in graph.get_operations())
        values, assignments = _assignments(variables)
        prepare = tf.group(
            v1.local_variables_initializer(), v1.tables_initializer(), name="cerebro/prepare"
        )
    return UnitGraph(
        graph=graph,
        seed=seed,
        loss=loss,
        error=error,
        train_step=train_step,
        variables=variables,
        slots=slots,
        trained=slots.union(trainable & variables.keys(), [step.step] if step.step else []),
        step=step,
        values=values,
        assignments=assignments,
        prepare=prepare,
        random=random,
        restarts=restarts,
        iterators=iterators,
        size=graph.version,
    )


def _train_step(optimizer: Any, loss: tf.Tensor, *, pass_step: bool) -> tuple[Any, StepCounts]:
    """The train step that `minimize` makes, and what is to be seen to about the global step."""
    if not pass_step:
        return _minimize(optimizer, loss, {}), StepCounts()
    step = global_step.find()
    takes = step is not None and global_step.takes_step(optimizer.minimize)
    passed = takes is not False and not global_step.assigning(step)
    try:
        train_step = _minimize(optimizer, loss, {"global_step": step} if passed else {})
    except UserFunctionError as error:
        refused = isinstance(error.__cause__, TypeError) and "global_step" in str(error.__cause__)
        if takes is not None or not passed or not refused:
            raise
        # It takes any keyword, and passes them on to one that does not take this one.
        passed = False
        train_step = _minimize(optimizer, loss, {})
    passed = passed and bool(global_step.assigning(step))
    return train_step, global_step.counts(step, passed=passed, train_step=train_step, loss=loss)


def _minimize(optimizer: Any, loss: tf.Tensor, keywords: Mapping[str, Any]) -> Any:
    updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
    try:
        with tf.control_dependencies(updates):
            returned = optimizer.minimize(loss, **keywords)
    except (UserFunctionError, MemoryError):
        raise
    except Exception as error:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        hint = ""
        if isinstance(error, ValueError) and (
            not v1.trainable_variables() or "gradient" in str(error).lower()
        ):
            hint = (
                ". The loss must depend, through ops that have gradients, on at least one "
                "trainable variable of model_fn's graph"
            )
        raise UserFunctionError(
            f"optimizer.minimize(loss) raised {type(error).__name__}: {error}{hint}",
            function="model_fn",
            remote_traceback=text,
        ) from error
    return training_op(returned)


def _assignments(
    variables: Mapping[str, Any],
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Operation]]:
    initial = {name: _initial_value(variable) for name, variable in variables.items()}
    uses = Counter(value.name for value in initial.values() if value is not None)
    values, assignments = {}, {}
    with v1.name_scope("cerebro/restore"):
        for name, variable in variables.items():
            value, assignment = initial[name], variable.initializer
            if value is None or uses[value.name] > 1:
                value = v1.placeholder(variable.dtype.base_dtype, variable.shape)
                assignment = v1.assign(variable, value, validate_shape=False).op
            values[name] = value
            assignments[name] = assignment
    return values, assignments


def _initial_value(variable: Any) -> tf.Tensor | None:
    """What a variable's initializer assigns to it, if any value can be fed in its place."""
    initializer = variable.initializer
    if initializer.type not in ("Assign", "AssignVariableOp"):
        return None
    value = initializer.inputs[1]
    fits = value.shape.is_fully_defined() and value.shape == variable.shape
    return value if fits and value.graph.is_feedable(value) else None


def _takes_train(model_fn: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(model_fn).parameters
    except (TypeError, ValueError):
        return False
    parameter = parameters.get("train")
    return parameter is not None and parameter.kind in (
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    )
