"""What a model holds beside what Keras saves of it.

Keras tracks the variables of layers, and passes over what other objects hold: losses, helpers,
functions and what they have closed over. A walk finds variables there, and values that are in no
variable. It looks at the attributes that no code of a library sets, so that a model without any
costs next to nothing.
"""

from __future__ import annotations

import dis
import functools
import random
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import numpy as np

from cerebro.backends.base import user_code
from cerebro.backends.keras.digests import digest, is_number, is_plain
from cerebro.backends.keras.private import (
    all_layers,
    assets_of,
    has_own_loading,
    is_users,
    set_by_libraries,
)
from cerebro.backends.keras.runtime import keras, tf

METRICS = "metrics."
"""How the paths start of what compiled metrics hold."""

_CONTAINERS = (list, tuple, deque, Set, Mapping)
_TABLES = (tf.lookup.experimental.MutableHashTable, tf.lookup.experimental.DenseHashTable)
_SEEDED = (keras.random.SeedGenerator, tf.random.Generator)
_VARIABLES = (keras.Variable, tf.Variable)
_KERAS = (
    keras.losses.Loss,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
    keras.optimizers.schedules.LearningRateSchedule,
)
_STATEFUL = (*_VARIABLES, *_SEEDED, *_TABLES, keras.optimizers.Optimizer)


class Place(Enum):
    """Whose it is, which decides what becomes of a variable."""

    MODEL = auto()
    """A layer's: Keras must save it, or the weights that people load lack it."""

    TRAINING = auto()
    """A loss', a metric's or an optimizer's: carried beside what Keras saves."""

    PROCESS = auto()
    """A class' or a module's: all models that a process trains would share it."""


@dataclass
class Held:
    """What the walk found, by path: `layer.attribute`.

    `variables` are to be carried. `refused` says why something can be neither carried nor left
    behind. `plain` are values in no variable, `shared` those of classes.
    """

    variables: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)


def held_by(model: Any, saved: Iterable[Any]) -> Held:
    """Walk over a compiled model; `saved` are the variables that a version holds anyway."""
    walk = _Walk(saved)
    layers = all_layers(model)
    metrics = [part for whole in model.metrics for part in (whole, *getattr(whole, "metrics", ()))]
    walk.seen.update(id(root) for root in [*layers, *metrics, model.optimizer])
    # These first: the model has them, or parts of them, in attributes of its own as well.
    for loss in keras.tree.flatten(model.loss):
        walk.value(loss, "loss", Place.TRAINING)
    for metric in metrics:
        walk.attributes(metric, f"{METRICS}{metric.name}", Place.TRAINING)
    walk.attributes(model.optimizer, "optimizer", Place.TRAINING)
    for layer in layers:
        walk.layer(layer)
    return walk.found


def shared_by(function: Any) -> dict[str, str]:
    """What a function refers to that all models would share, and why it is refused."""
    walk = _Walk(())
    walk.value(function, "train_fn", Place.PROCESS)
    return walk.found.refused


def values_of(held: Held) -> dict[str, str]:
    """The digests of what is in no variable, by path."""
    return {path: digest(value) for path, value in {**held.shared, **held.plain}.items()}


def changed(before: Mapping[str, str], held: Held) -> list[str]:
    """The paths of what is in no variable and was something else before.

    What did not exist, or was None, is no state unless it is a number: it may be kept because it
    takes long to work out, or to be looked at, as attention scores are. Of what is shared only
    numbers are looked at: other values are more likely to be notes. What metrics count with starts
    anew with each pass.
    """
    none = digest(None)
    found = [(path, value) for path, value in held.shared.items() if is_number(value)]
    found += [
        (path, value)
        for path, value in held.plain.items()
        if (is_number(value) or before.get(path, none) != none) and not path.startswith(METRICS)
    ]
    return [path for path, value in found if digest(value) != before.get(path, none)]


class _Walk:
    def __init__(self, saved: Iterable[Any]) -> None:
        self.found = Held()
        self.seen: set[int] = set()
        self._saved = {id(variable) for variable in saved}

    def layer(self, layer: Any) -> None:
        """Look at a layer that Keras tracks."""
        if not has_own_loading(layer):
            # A layer that says how it is saved and loaded carries what it holds.
            self.attributes(layer, layer.name, Place.MODEL)
        if is_users(type(layer)):
            with user_code(f"{type(layer).__name__}.save_assets"):
                assets = assets_of(layer)
            if assets:
                self._plain(assets, f"{layer.name}.save_assets", Place.MODEL)

    def attributes(self, thing: Any, path: str, place: Place) -> None:
        """Look at the attributes of an object that are the user's."""
        kind: type = type(thing)
        known = set_by_libraries(kind)
        for name, value in list(vars(thing).items()):
            of: Any = type(value)
            if name not in known or (_may_be_users(of) and not _is_librarys(value)):
                self.value(value, f"{path}.{name}", place)
        self._class(kind)

    def value(self, value: Any, path: str, place: Place) -> None:
        """Look at one value, and at what it holds."""
        if is_plain(value):
            self._plain(value, path, place)
        elif id(value) not in self.seen:
            self.seen.add(id(value))
            self._look(value, path, place)

    def _look(self, value: Any, path: str, place: Place) -> None:
        carried = Place.PROCESS if place is Place.PROCESS else Place.TRAINING
        if isinstance(value, _CONTAINERS):
            self._container(value, path, place)
        elif isinstance(value, _VARIABLES):
            self._variable(value, path, place)
        elif isinstance(value, _SEEDED):
            # What training draws is no part of what a trained model computes.
            self._variable(value.state, path, carried)
        elif isinstance(value, keras.optimizers.Optimizer):
            self._variables(value.variables, path, carried)
            self.attributes(value, path, carried)
        elif isinstance(value, (keras.Layer, keras.metrics.Metric)):
            if place is not Place.PROCESS:
                self._untracked(value, path, place)
        elif isinstance(value, tf.lookup.StaticHashTable):
            keys, values = value.export()
            entries = zip(keys.numpy().tolist(), values.numpy().tolist(), strict=True)
            self._plain(frozenset(entries), path, place)
        elif isinstance(value, _TABLES):
            self.found.refused[path] = (
                "is a table whose content is in no variable: use a tf.lookup.StaticHashTable for "
                "what stays the same, and self.add_weight for what training changes"
            )
        elif isinstance(value, (np.random.Generator, np.random.RandomState, random.Random)):
            self._plain(_state_of(value), path, place)
        elif hasattr(value, "__next__"):
            if place is not Place.PROCESS:
                self.found.refused[path] = (
                    "is an iterator, whose position is in no variable: make it where it is used"
                )
        elif _is_function(value):
            self._function(value, path, place)
        elif _has_attributes(value):
            self.attributes(value, path, place)

    def _container(self, value: Any, path: str, place: Place) -> None:
        items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
        plain = [(key, item) for key, item in items if is_plain(item)]
        ordered = not isinstance(value, Set)
        self._plain(plain if ordered else frozenset(item for _, item in plain), path, place)
        for key, item in items:
            if not is_plain(item):
                self.value(item, f"{path}.{key}", place)

    def _variable(self, variable: Any, path: str, place: Place) -> None:
        if id(variable) in self._saved:
            return
        self._saved.add(id(variable))
        if place is Place.PROCESS:
            self.found.refused[path] = (
                "is shared by all models that a worker trains, and is in no version: make it in "
                "model_fn, and hold it as an attribute of the model"
            )
        elif place is Place.MODEL:
            kind = "tf" if isinstance(variable, tf.Variable) else "keras"
            self.found.refused[path] = (
                f"is a {kind}.Variable, which Keras neither trains nor saves: make it with "
                "self.add_weight"
            )
        elif tf.as_dtype(variable.dtype) == tf.string:
            self.found.refused[path] = "is a variable of text: a version holds numbers only"
        else:
            self.found.variables[_free(path, self.found.variables)] = variable

    def _variables(self, variables: Iterable[Any], path: str, place: Place) -> None:
        for number, variable in enumerate(variables):
            self._variable(variable, f"{path}.{number}", place)

    def _untracked(self, thing: Any, path: str, place: Place) -> None:
        """A layer or a metric that Keras does not know of."""
        layers = all_layers(thing) if isinstance(thing, keras.Layer) else []
        self.seen.update(map(id, layers))
        if isinstance(thing, keras.Layer) and place is Place.MODEL:
            # `fit` does not train it. It may stay as it is.
            for variable in thing.variables:
                if id(variable) not in self._saved:
                    self._saved.add(id(variable))
                    self._plain(variable.numpy(), f"{path}.{variable.name}", place)
        else:
            self._variables(thing.variables, path, Place.TRAINING)
        for part in layers or [thing]:
            self.attributes(part, path, place)

    def _function(self, value: Any, path: str, place: Place) -> None:
        if isinstance(value, functools.partial):
            self.value(value.func, path, place)
            self.value(value.args, f"{path}.args", place)
            self.value(value.keywords, f"{path}.keywords", place)
        elif isinstance(value, types.MethodType):
            self.value(value.__self__, path, place)
            self.value(value.__func__, path, place)
        elif hasattr(value, "python_function"):  # a tf.function
            self.value(value.python_function, path, place)
        elif _is_users_function(value):
            for name, closed in _closed_over(value):
                self.value(closed, f"{path}.{name}", place)
            for name in sorted(_globals_of(value.__code__)):
                self._global(value.__globals__.get(name), name)

    def _global(self, value: Any, name: str) -> None:
        """What a module holds under a name that a function of the user's uses."""
        if isinstance(value, (list, tuple, dict)):
            for key, item in enumerate(value) if not isinstance(value, dict) else value.items():
                if isinstance(item, _STATEFUL):
                    self.value(item, f"{name}.{key}", Place.PROCESS)
        elif isinstance(value, _STATEFUL) or _is_users_function(value):
            self.value(value, name, Place.PROCESS)

    def _class(self, kind: type) -> None:
        for cls in kind.__mro__:
            if id(cls) in self.seen or not is_users(cls):
                continue
            self.seen.add(id(cls))
            for name, value in list(vars(cls).items()):
                if isinstance(value, (classmethod, staticmethod)):
                    value = value.__func__
                for held in (value.fget, value.fset) if isinstance(value, property) else (value,):
                    if not name.startswith("__") or isinstance(held, types.FunctionType):
                        self.value(held, f"{cls.__name__}.{name}", Place.PROCESS)

    def _plain(self, value: Any, path: str, place: Place) -> None:
        known = self.found.shared if place is Place.PROCESS else self.found.plain
        known[_free(path, known)] = value


def _free(path: str, taken: Mapping[str, Any]) -> str:
    """The path, with a number if something else has it: names of inner layers may be the same."""
    number, free = 1, path
    while free in taken:
        number += 1
        free = f"{path}#{number}"
    return free


def _state_of(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return [generator.bit_generator.state]
    if isinstance(generator, np.random.RandomState):
        return [generator.get_state()]
    return [generator.getstate()]


def _has_attributes(value: Any) -> bool:
    """Whether it is an object of the user's, or one of Keras' that may hold some."""
    if isinstance(value, (type, types.ModuleType)) or not hasattr(value, "__dict__"):
        return False
    return is_users(type(value)) or isinstance(value, _KERAS)


def _is_function(value: Any) -> bool:
    kinds = (types.FunctionType, types.MethodType, functools.partial)
    return isinstance(value, kinds) or hasattr(value, "python_function")


@functools.cache
def _may_be_users(kind: Any) -> bool:
    """Whether an instance of a class may be the user's: an object, or a function."""
    functions = (types.FunctionType, types.MethodType, functools.partial)
    return kind in functions or is_users(kind) or hasattr(kind, "python_function")


def _is_librarys(value: Any) -> bool:
    """Whether this is a function of an installed library's."""
    function = getattr(value, "__func__", value)
    return isinstance(function, types.FunctionType) and not is_users(function)


def _is_users_function(value: Any) -> bool:
    return _is_function(value) and not _is_librarys(value)


def _closed_over(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function keeps from call to call: closed-over values, and defaults."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # an empty cell
            continue
    for number, value in enumerate(function.__defaults__ or ()):
        yield f"default{number}", value
    yield from (function.__kwdefaults__ or {}).items()


@functools.cache
def _globals_of(code: types.CodeType) -> frozenset[str]:
    """The globals that a function's code reads, and that of functions inside it."""
    found = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _globals_of(constant)
    return frozenset(found)
