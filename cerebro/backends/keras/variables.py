"""Which variables a version holds, and what they are called in it.

Keras alone knows how its own files are laid out, as each layer and optimizer may say for itself.
So a model is saved into a store that only notes what comes. What Keras leaves out has names that
begin with `cerebro/`: the variables of compiled metrics and of the loss, and those that a layer
saves as something else than they are.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras.src.saving.saving_lib import H5IOStore, _save_state

from cerebro.backends.keras.runtime import keras, tf
from cerebro.errors import BadReturn

OWN = "cerebro"

WRAPPED = 3
"""How many functions may stand around a compiled one."""

OPTIMIZER = "optimizer/"
"""How the names of the compiled optimizer's variables begin."""


@dataclass(frozen=True)
class Layout:
    """`variables` and `values` by name: what is restored, and what is only written for others.

    `names` are those of layers and optimizers, by the group that their variables stand in.
    """

    variables: dict[str, Any]
    values: dict[str, np.ndarray]
    names: dict[str, str]

    def hyperparameters(self) -> dict[str, float]:
        """The optimizer's scalar variables, such as its learning rate, with their values now."""
        return {
            name: variable.numpy().item()
            for name, variable in self.variables.items()
            if name.startswith(OPTIMIZER) and variable.shape == ()
        }


def layout(model: Any) -> Layout:
    """The layout of a compiled model whose variables exist."""
    store = _Noting()
    with _known_by_their_arrays():
        _save_state(model, store, None, "", set())
    variables, values = {}, {}
    for name, value in store.items.items():
        variable = value.variable if isinstance(value, _ArrayOf) else value
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
    return Layout(variables, values, store.names)


def is_metric(name: str) -> bool:
    """Whether a variable is a compiled metric's: it may exist or not, and is not missed."""
    return name.startswith(f"{OWN}/metrics/")


class _Noting(H5IOStore):
    """A store of Keras' that keeps what it is given, as it is."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self._group = ""

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict[str, Any] | None = None) -> _Noting:
        self._group = f"{path}/vars" if path else "vars"
        if metadata:
            self.names[self._group] = metadata["name"]
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self.items[f"{self._group}/{key}"] = value

    def __getitem__(self, key: str) -> Any:
        return self.items[f"{self._group}/{key}"]

    def __delitem__(self, key: str) -> None:
        del self.items[f"{self._group}/{key}"]

    def __contains__(self, key: object) -> bool:
        return f"{self._group}/{key}" in self.items

    def keys(self) -> list[str]:
        start = f"{self._group}/"
        return [name[len(start) :] for name in self.items if name.startswith(start)]

    def __len__(self) -> int:
        return len(self.keys())

    def close(self) -> None:
        pass


class _ArrayOf(np.ndarray):
    """A variable's value that knows its `variable`; what is computed from it knows none."""

    variable: Any = None


@contextmanager
def _known_by_their_arrays() -> Iterator[None]:
    """Optimizers save `variable.numpy()`. Inside the block it can be told whose value that is."""

    def numpy(self: Any) -> _ArrayOf:
        array = np.asarray(self.value.numpy()).view(_ArrayOf)
        array.variable = self
        return array

    keras.Variable.numpy = numpy
    try:
        yield
    finally:
        del keras.Variable.numpy


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


def foreign_variables(model: Any) -> list[str]:
    """`layer.attribute` of what Keras neither trains nor saves: TensorFlow's own variables."""
    return [
        f"{layer.name}.{name}"
        for layer in [model, *model._flatten_layers(include_self=False)]
        for name, value in vars(layer).items()
        if isinstance(value, tf.Variable)
    ]


def build(model: Any, batch: Any) -> None:
    """Make the variables of a model, its metrics and its optimizer, by what a batch looks like."""
    model._symbolic_build(data_batch=batch)


def structure(model: Any, found: Layout) -> tuple[Any, ...]:
    """What of a model must stay the same for its compiled functions to serve another unit."""
    return (
        id(model.optimizer),
        id(model.loss),
        tuple(layer.trainable for layer in model._flatten_layers()),
        tuple((name, id(v)) for name, v in found.variables.items() if not is_metric(name)),
    )


def compiled_functions(model: Any) -> list[Any]:
    """All that TensorFlow has compiled of the functions that a model holds."""
    return [
        concrete
        for value in vars(model).values()
        for function in _compiled(value)
        for concrete in function._list_all_concrete_functions()
    ]


def _compiled(value: Any, depth: int = 0) -> Iterator[Any]:
    """The `tf.function`s that a value is, or that a function holds: Keras wraps its own."""
    if hasattr(value, "_list_all_concrete_functions"):
        yield value
    elif isinstance(value, types.FunctionType) and depth < WRAPPED:
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # an empty cell
                yield from _compiled(cell.cell_contents, depth + 1)
