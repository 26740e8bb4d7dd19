"""The private parts of Keras and h5py that this backend leans on. No other module names one.

`tests/backends/test_keras_private.py` has a test for each, which says what broke when a new version
fails it.

Of Keras, all seen to work with 3.7 to 3.15 (the optimizers of 3.6 save themselves otherwise):

| private part | used for |
|---|---|
| `saving_lib._save_state` | a walk over a model as Keras' own files are laid out |
| `saving_lib.H5IOStore` | base class of what that walk writes to: its type is checked |
| `Variable.numpy`, inherited by `keras.Variable`, called by `Optimizer.save_own_variables` | which variable a saved value is of |
| `Model._flatten_layers` | all layers, nested ones among them |
| `Layer.__call__`, through which all layers are called, with their inputs first | what each layer computes on the way |
| `Model._symbolic_build` | variables of layers, metrics and optimizer without training |
| `global_state.GLOBAL_STATE_TRACKER` | one state of names, policies and generators per model |
| `global_state.set_global_attribute` and the names `RANDOM_SEED`, `SEED_GENERATOR` | seeding without forgetting compiled kernels |
| closures around the `tf.function` in `Model.train_function` and the like | what TensorFlow has compiled of a model |
| `Mean.count` of the metric `loss` | how many examples a pass had |
| `CompileMetrics.result` and `.metrics`, in one order | which metric a result is of |
| `MeanMetricWrapper._fn` | whether a metric is a loss |
| variables and parameters of the metrics in `cerebro.metrics.exact` | their values over several partitions |
| `Model.train_function`, `test_function`, `predict_function`, made when None | compiled functions that hold constants of before |
| `update_state` of `Discretization`, `TextVectorization` and `IndexLookup`, called by `adapt` | which layers `model_fn` adapts |
| `finalize_state` after `load_own_variables` of `Normalization` | constants that follow from variables |
| attributes are set by code of Keras', as `self.name = ...` | which attributes are the user's |

Of h5py, whose low-level interface is public, what it does, as seen with 3.11 to 3.14 (HDF5 1.14):

| behaviour | used for |
|---|---|
| a file object needs no more than `SparseFile` has | HDF5's own part of a file without room for the values |
| space that is allocated early has an offset at once, and nothing is written there | values are written past HDF5 |
| a file may have bytes behind its end | the checksum |
"""  # noqa: E501

from __future__ import annotations

import dis
import functools
import io
import os
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from keras.src.backend.common import global_state
from keras.src.layers.preprocessing.index_lookup import IndexLookup
from keras.src.saving.saving_lib import H5IOStore, _save_state
from keras.src.trainers.compile_utils import CompileMetrics

from cerebro.backends.keras.runtime import keras
from cerebro.backends.tf.private import concrete_functions, is_compiled

RANDOM_SEED, SEED_GENERATOR = "global_random_seed", "global_seed_generator"
"""Names in the global state. Keras has no constants for them before 3.13."""

WRAPPERS = 3
"""How many Python functions Keras may put around a compiled one."""


# --- how Keras lays its own files out ------------------------------------------------------------


def saved_items(model: Any) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """Return what Keras saves of a model, the names of its layers and optimizers, and loaders.

    Items are by their name in a weights file: a variable, a `SavedValue`, which knows the variable
    that it is the value of, or what else a layer saves. Names are by group, and so are loaders: the
    layers that set more than their variables when they are loaded.
    """
    store = _NotingStore()
    loaders: dict[str, Any] = {}
    with _values_that_know_their_variables(), ExitStack() as stack:
        for layer in all_layers(model):
            if derives_when_loaded(layer):
                stack.enter_context(_group_noted(layer, loaders))
        _save_state(model, store, None, "", set())
    return store.items, store.names, loaders


@contextmanager
def _group_noted(layer: Any, groups: dict[str, Any]) -> Iterator[None]:
    """Inside the block a layer that saves its variables is entered under the group's name."""
    save = layer.save_own_variables

    def noted(store: _NotingStore) -> None:
        groups[store.group] = layer
        save(store)

    vars(layer)["save_own_variables"] = noted
    try:
        yield
    finally:
        del vars(layer)["save_own_variables"]


def has_own_loading(layer: Any) -> bool:
    """Whether it is the user's code that loads a layer's variables, and may set more than them."""
    return is_users(type(layer).load_own_variables)


def derives_when_loaded(layer: Any) -> bool:
    """Whether loading a layer's variables sets more of it than these."""
    return has_own_loading(layer) or hasattr(layer, "finalize_state")


def assets_of(layer: Any) -> dict[str, bytes]:
    """The files that a layer saves beside its variables, such as a vocabulary, by name."""
    if not hasattr(layer, "save_assets"):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        found = {}
        for path, _, names in os.walk(folder):
            for name in names:
                with open(os.path.join(path, name), "rb") as file:
                    found[os.path.relpath(file.name, folder)] = file.read()
    return dict(sorted(found.items()))


class SavedValue(np.ndarray):
    """A variable's value that knows its `variable`; what is computed from it knows none."""

    variable: Any = None


class _NotingStore(H5IOStore):  # type: ignore[misc]  # it has no types
    """A store of Keras' that keeps what it is given, as it is."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.group = ""

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict[str, Any] | None = None) -> _NotingStore:
        self.group = f"{path}/vars" if path else "vars"
        if metadata:
            self.names[self.group] = metadata["name"]
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self.items[f"{self.group}/{key}"] = value

    def __getitem__(self, key: str) -> Any:
        return self.items[f"{self.group}/{key}"]

    def __delitem__(self, key: str) -> None:
        del self.items[f"{self.group}/{key}"]

    def __contains__(self, key: object) -> bool:
        return f"{self.group}/{key}" in self.items

    def keys(self) -> list[str]:
        start = f"{self.group}/"
        return [name[len(start) :] for name in self.items if name.startswith(start)]

    def __len__(self) -> int:
        return len(self.keys())

    def close(self) -> None:
        pass


@contextmanager
def _values_that_know_their_variables() -> Iterator[None]:
    """Optimizers save `variable.numpy()`. Inside the block it can be told whose value that is."""

    def numpy(self: Any) -> SavedValue:
        array = np.asarray(self.value.numpy()).view(SavedValue)
        array.variable = self
        return array

    # `numpy` is inherited: to delete this one is to have the other back.
    keras.Variable.numpy = numpy
    try:
        yield
    finally:
        del keras.Variable.numpy


# --- models --------------------------------------------------------------------------------------


def all_layers(model: Any) -> list[Any]:
    """Return a model and all layers in it, nested ones among them."""
    return list(model._flatten_layers())


def build(model: Any, batch: Any) -> None:
    """Make the variables of a model, its metrics and its optimizer, by what a batch looks like."""
    model._symbolic_build(data_batch=batch)


@contextmanager
def watched_calls(watch: Callable[[Any, bool, Any], None]) -> Iterator[None]:
    """Have each call of a layer reported, inside the block: `watch(layer, given, value)`.

    First with what it is given, then with what it gives; those of layers in it come in between.
    """
    call = keras.layers.Layer.__call__

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch(self, True, args)
        value = call(self, *args, **kwargs)
        watch(self, False, value)
        return value

    keras.layers.Layer.__call__ = watched
    try:
        yield
    finally:
        keras.layers.Layer.__call__ = call


def compiled_functions(model: Any) -> list[Any]:
    """Return all that TensorFlow has compiled of the functions that a model holds."""
    return [
        concrete
        for value in vars(model).values()
        for function in _tf_functions(value)
        for concrete in concrete_functions(function)
    ]


def forget_compiled(model: Any) -> None:
    """Have Keras compile its functions for a model anew when it needs them."""
    model.train_function = model.test_function = model.predict_function = None


@contextmanager
def noting_adapted(noted: list[Any]) -> Iterator[None]:
    """Inside the block, note the layers that learn something no variable holds."""
    kinds = (keras.layers.Discretization, keras.layers.TextVectorization, IndexLookup)
    before = {kind: kind.update_state for kind in kinds}

    def noting(update: Any) -> Any:
        @functools.wraps(update)
        def update_state(self: Any, data: Any) -> Any:
            noted.append(self)
            return update(self, data)

        return update_state

    for kind in kinds:
        kind.update_state = noting(before[kind])
    try:
        yield
    finally:
        for kind in kinds:
            kind.update_state = before[kind]


def _tf_functions(value: Any, depth: int = 0) -> Iterator[Any]:
    """The `tf.function`s that a value is, or that a function holds: Keras wraps its own."""
    if is_compiled(value):
        yield value
    elif isinstance(value, types.FunctionType) and depth < WRAPPERS:
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # an empty cell
                yield from _tf_functions(cell.cell_contents, depth + 1)


def examples_seen(model: Any) -> float | None:
    """Return how many examples the last pass had; None if the model does not count them.

    Keras weights the mean loss of a batch by their number.
    """
    for metric in model.metrics:
        if metric.name == "loss" and hasattr(metric, "count"):
            count = float(metric.count.numpy())
            return count if count > 0 else None
    return None


def named_metrics(model: Any) -> dict[str, Any]:
    """Return a model's metrics by the names that their results have, as far as these are known."""
    found: dict[str, Any] = {}
    for metric in model.metrics:
        if isinstance(metric, CompileMetrics):
            # Results are in the order of the metrics; their names are made on the way.
            names = list(metric.result()) if metric.built else []
            found.update(zip(names, metric.metrics, strict=False))
            if len(names) != len(metric.metrics):
                return {}
        else:
            found[metric.name] = metric
    return found


def wrapped_function(metric: Any) -> Any:
    """Return the function, or loss, that a `MeanMetricWrapper` takes the mean of."""
    return metric._fn


# --- what is the user's --------------------------------------------------------------------------


def is_users(thing: Any) -> bool:
    """Whether a class or a function is none of an installed library's."""
    return not _is_library(thing.__module__ or "")


@functools.cache
def _is_library(module: str) -> bool:
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names or package in ("cerebro", "keras", "tensorflow", "numpy"):
        return True
    if package == "__main__":  # it may be an installed program, and have the user's code
        return False
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return bool(_INSTALLED.intersection(file.split(os.sep)))


@functools.cache
def set_by_libraries(kind: type) -> frozenset[str]:
    """The attributes of instances that code of the libraries a class inherits from sets."""
    return frozenset().union(*(_set_by(cls) for cls in kind.__mro__ if not is_users(cls)))


@functools.cache
def _set_by(cls: type) -> frozenset[str]:
    found: set[str] = set()
    for value in vars(cls).values():
        if isinstance(value, (classmethod, staticmethod)):
            value = value.__func__
        for function in (value.fget, value.fset) if isinstance(value, property) else (value,):
            while function is not None:
                if isinstance(function, types.FunctionType):
                    found |= _stored(function.__code__)
                function = getattr(function, "__wrapped__", None)
    return frozenset(found)


def _stored(code: types.CodeType) -> set[str]:
    """The attributes that a function's code assigns to, by its instructions of two bytes each."""
    found, extended = set(), 0
    for place in range(0, len(code.co_code), 2):
        instruction, number = code.co_code[place : place + 2]
        number |= extended
        extended = number << 8 if instruction == dis.EXTENDED_ARG else 0
        if instruction == _STORE_ATTR:
            found.add(code.co_names[number])
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _stored(constant)
    return found


_INSTALLED = frozenset({"site-packages", "dist-packages"})
_STORE_ATTR = dis.opmap["STORE_ATTR"]


# --- Keras' global state -------------------------------------------------------------------------


@contextmanager
def global_state_of(state: threading.local) -> Iterator[None]:
    """Have `state` as Keras' own inside the block; the one before after it."""
    before = global_state.GLOBAL_STATE_TRACKER
    global_state.GLOBAL_STATE_TRACKER = state
    try:
        yield
    finally:
        global_state.GLOBAL_STATE_TRACKER = before


def set_global_seed(seed: int) -> None:
    """Do what `keras.utils.set_random_seed` does for Keras itself, and for nothing else."""
    global_state.set_global_attribute(RANDOM_SEED, seed)
    global_state.set_global_attribute(SEED_GENERATOR, None)


def set_global_generator(generator: keras.random.SeedGenerator) -> None:
    """Have what is drawn without a generator of its own drawn from this one."""
    global_state.set_global_attribute(SEED_GENERATOR, generator)


# --- HDF5 files whose values are written past h5py -----------------------------------------------


def reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Make a data set whose values HDF5 does not write; return where in the file they start."""
    group, _, own = name.rpartition("/")
    parent = file.require_group(group) if group else file
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    how.set_obj_track_times(False)  # the same values are the same bytes
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    kind = h5py.h5t.py_create(dtype, logical=True)
    made = h5py.Dataset(h5py.h5d.create(parent.id, own.encode(), kind, space, how))
    if made.dtype != dtype:
        made.attrs["dtype"] = dtype.name
    return made.id.get_offset() or 0


@dataclass
class SparseFile:
    """A file in memory that holds only what was written."""

    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    end: int = 0
    _place: int = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = {0: 0, 1: self._place, 2: self.end}[whence] + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def truncate(self, size: int | None = None) -> int:
        self.end = self._place if size is None else size
        return self.end

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self.pieces.append((self._place, piece))
        self._place += len(piece)
        self.end = max(self.end, self._place)
        return len(piece)

    def readinto(self, target: Any) -> int:
        found = np.zeros(len(target), np.uint8)
        for place, piece in self.pieces:
            begin, end = max(place, self._place), min(place + len(piece), self._place + len(found))
            if begin < end:
                part = np.frombuffer(piece, np.uint8)[begin - place : end - place]
                found[begin - self._place : end - self._place] = part
        target[:] = found.tobytes()
        self._place += len(found)
        return len(found)

    def read(self, size: int = -1) -> bytes:
        target = bytearray(max(0, self.end - self._place) if size < 0 else size)
        self.readinto(target)
        return bytes(target)

    def flush(self) -> None:
        pass
