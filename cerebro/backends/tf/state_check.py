"""Whether a saved state belongs to a graph, variable by variable."""

from __future__ import annotations

import re

from cerebro.backends.tf.graphs import UnitGraph
from cerebro.backends.tf.host_memory import State
from cerebro.backends.tf.runtime import tf
from cerebro.errors import BadReturn
from cerebro.formatting import some

SHOWN = 4

_REMEDY = (
    "A model's variables must have the same names, shapes and types at every build. Create them "
    "with tf.compat.v1.get_variable inside tf.compat.v1.variable_scope, or give each Keras layer "
    'a fixed name="...": Keras numbers layers without a name (dense, dense_1, ...) on and on '
    "through a process, and tf.keras.backend.clear_session() is not enough, as other workers "
    "count on their own"
)


def missing_slots(unit: UnitGraph, state: State) -> list[str]:
    """The optimizer's variables that `state` lacks, which then start from their initial values.

    Raises `BadReturn` where `state` is not of this model: a weight of the graph is missing in
    it, or has another shape or type, or (for a training graph) it holds variables that the
    graph has not. A validation graph needs no slots, so what it lacks is no fault.
    """
    absent = [name for name in unit.variables if name not in state]
    weights = [name for name in absent if name not in unit.slots]
    unknown = [name for name in state if name not in unit.variables]
    if weights or (unknown and unit.train_step is not None):
        raise BadReturn(_differing_names(weights, unknown), function="model_fn")
    for name, variable in unit.variables.items():
        if name in state:
            _check_form(name, variable, state)
    return absent


def _differing_names(weights: list[str], unknown: list[str]) -> str:
    if not weights:
        found = f"the saved state also holds {some(unknown, SHOWN)}, which the training graph lacks"
    elif not unknown:
        found = f"it made {some(weights, SHOWN)}, which the saved state lacks"
    else:
        alike = {_unnumbered(name) for name in weights}
        unknown = sorted(unknown, key=lambda name: _unnumbered(name) not in alike)
        found = f"it made {some(weights, SHOWN)}, where the saved state has {some(unknown, SHOWN)}"
    return f"model_fn did not build the model that was saved: {found}. {_REMEDY}"


def _check_form(name: str, variable: tf.Variable, state: State) -> None:
    value = state[name]
    saved = tf.string if value.dtype == object else tf.as_dtype(value.dtype)
    wanted = variable.dtype.base_dtype
    if saved != wanted or not variable.shape.is_compatible_with(value.shape):
        raise BadReturn(
            f"model_fn did not build the model that was saved: variable {name} is {wanted.name} "
            f"{variable.shape}, but was saved as {saved.name} {value.shape}. {_REMEDY}",
            function="model_fn",
        )


def _unnumbered(name: str) -> str:
    return re.sub(r"_\d+(?=/|$)", "", name)
