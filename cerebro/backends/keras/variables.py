"""Which variables a version holds, and what they are called in it.

Keras alone knows how its own files are laid out, as each layer and optimizer may say for itself.
So a model is saved into a store that only notes what comes. What Keras leaves out has names that
start with `cerebro/`: the variables of compiled metrics and of the loss, those that a layer saves
as something else than they are, and those that a walk finds in other objects (see `held`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cerebro.backends.keras.held import Held, held_by
from cerebro.backends.keras.private import SavedValue, all_layers, saved_items
from cerebro.backends.keras.runtime import keras
from cerebro.errors import BadReturn

OWN = "cerebro"

HELD = f"{OWN}/held/"
"""How the names of variables start that a walk finds in other objects than Keras' own."""

OPTIMIZER = "optimizer/"
"""How the names of the compiled optimizer's variables start."""


@dataclass(frozen=True)
class SavedVariables:
    """`variables` and `values` by name: what is restored, and what is only written for others.

    `names` are those of layers and optimizers, by the group that their variables stand in, and
    `loaders` are the layers that set more than their variables when they are loaded. `held` is what
    else the model holds.
    """

    variables: dict[str, Any]
    values: dict[str, np.ndarray]
    names: dict[str, str]
    loaders: dict[str, Any]
    held: Held

    def hyperparameters(self) -> dict[str, float]:
        """The optimizer's scalar variables, such as its learning rate, with their values now."""
        return {
            name: variable.numpy().item()
            for name, variable in self.variables.items()
            if name.startswith(OPTIMIZER) and variable.shape == ()
        }

    def held_now(self, model: Any) -> Held:
        """What the model holds now, beside the variables that Keras knows of."""
        carried = set(map(id, self.held.variables.values()))
        return held_by(model, [v for v in self.variables.values() if id(v) not in carried])


def saved_variables(model: Any) -> SavedVariables:
    """Find what a version of a compiled model holds; its variables must exist."""
    items, names, loaders = saved_items(model)
    variables, values = {}, {}
    for name, value in items.items():
        variable = value.variable if isinstance(value, SavedValue) else value
        if isinstance(variable, keras.Variable):
            variables[name] = variable
        else:
            values[name] = _number_array(name, value)
    known = {id(variable) for variable in variables.values()}
    for kind, left_out in (
        ("variables", [*model.variables, *model.optimizer.variables]),
        ("loss", _variables_of(keras.tree.flatten(model.loss))),
        ("metrics", [v for metric in model.metrics for v in metric.variables]),
    ):
        for number, variable in enumerate(left_out):
            if id(variable) not in known:
                known.add(id(variable))
                variables[f"{OWN}/{kind}/{number}"] = variable
    held = held_by(model, variables.values())
    for path, variable in held.variables.items():
        variables[f"{HELD}{path.replace('/', '.')}"] = variable
    return SavedVariables(variables, values, names, loaders, held)


def tensor_of(variable: Any) -> Any:
    """The variable of TensorFlow's that a variable is, or has its value in."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def weights(model: Any, found: SavedVariables) -> tuple[frozenset[str], frozenset[str]]:
    """Name the weights in a version that are trained, and the others: what a model computes with.

    An optimizer's variables are none, nor are those of metrics.
    """
    ids = {id(variable) for variable in model.trainable_variables}
    trained = frozenset(name for name, v in found.variables.items() if id(v) in ids)
    others = frozenset(
        name
        for name in (*found.variables, *found.values)
        if name not in trained and not is_metric(name) and not name.startswith(OPTIMIZER)
    )
    return trained, others


def is_metric(name: str) -> bool:
    """Whether a variable is a compiled metric's: it may exist or not, and is not missed."""
    return name.startswith(f"{OWN}/metrics/")


def _number_array(name: str, value: Any) -> np.ndarray:
    array = np.asarray(keras.ops.convert_to_numpy(value))
    if array.dtype.kind in "OSU":
        raise BadReturn(
            f"model_fn returned a model that saves text as {name}: a version holds numbers only; "
            "give the layer its vocabulary in model_fn",
            function="model_fn",
        )
    return array


def _variables_of(things: Iterable[Any]) -> list[Any]:
    return [
        value
        for thing in things
        if hasattr(thing, "__dict__")
        for value in vars(thing).values()
        if isinstance(value, keras.Variable)
    ]


def all_variables(model: Any) -> list[int]:
    """The ids of a model's variables and of its optimizers', its metrics' and its loss's."""
    optimizers = [o for o in vars(model).values() if isinstance(o, keras.optimizers.Optimizer)]
    found = [
        *model.variables,
        *(variable for optimizer in optimizers for variable in optimizer.variables),
        *(variable for metric in model.metrics for variable in metric.variables),
        *_variables_of(keras.tree.flatten(model.loss)),
    ]
    return [id(variable) for variable in found]


def structure(model: Any, found: SavedVariables) -> tuple[Any, ...]:
    """What of a model must stay the same for its compiled functions to serve another unit."""
    return (
        id(model.optimizer),
        id(model.loss),
        tuple(layer.trainable for layer in all_layers(model)),
        tuple((name, id(v)) for name, v in found.variables.items() if not is_metric(name)),
    )
