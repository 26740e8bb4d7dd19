"""A model with what belongs to it: how it is built, restored, fetched, and kept between units."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import numpy as np

from cerebro.backends.base import UnitTask, user_code
from cerebro.backends.buffers import BufferPool
from cerebro.backends.keras import returns
from cerebro.backends.keras.private import build, compiled_functions
from cerebro.backends.keras.scope import Scope
from cerebro.backends.keras.variables import (
    OPTIMIZER,
    all_variables,
    is_metric,
    saved_variables,
    structure,
    weights,
)
from cerebro.backends.keras.weights_format import State, Template, nbytes
from cerebro.backends.tf.analysis import draws_random_numbers
from cerebro.errors import BadReturn
from cerebro.formatting import some

MODELS = 64
"""How many models are kept at most; the one unused for longest goes first."""

MODEL_BYTES = 2 * 2**30
"""How much memory the variables of kept models may fill, on host or device."""

SHOWN = 4

_REMEDY = (
    "A model must have the same layers, in the same order and with the same shapes, and the same "
    "kind of optimizer, at every build, and as the model that it begins with"
)

_RETURNED: WeakSet[Any] = WeakSet()
"""Every model that `model_fn` has returned in this process."""

Key = tuple[int, str]
"""(model, the partition's path if the model was built on its data)."""


class BuiltModel:
    """A compiled `keras.Model` whose variables exist, in a scope of its own.

    `data` is what `model_fn` was called with, None if it takes the configuration alone; `bytes` is
    what its variables take. `metrics` are those that it is compiled with, where these are used.
    """

    def __init__(self, keras_model: Any, scope: Scope, data: Any) -> None:
        self.keras_model = keras_model
        self.scope = scope
        self.data = data
        self.metrics: dict[str, Any] = {}
        self._saved = saved_variables(keras_model)
        self.bytes = sum(nbytes(*_form(v)) for v in self._saved.variables.values())
        self._hyperparameters = self._saved.hyperparameters()
        self._structure = structure(keras_model, self._saved)
        self._variables: list[int] = []  # by their ids, when `_saved` was last looked at
        self._template: Template | None = None
        self._drawless: WeakSet[Any] = WeakSet()

    def serves(self, data: Any, state: State) -> bool:
        """Whether it was built for this data, and a state sets all of it."""
        if self.data is not None and self.data is not data:
            return False
        return all(name in state.arrays or is_metric(name) for name in self._saved.variables)

    def restore(self, state: State, *, train: bool) -> None:
        """Give its variables the values of `state`.

        An optimizer's scalar, such as its learning rate, keeps what `model_fn` has set where that
        is another value than it was for the model that the state is of. Slots that the state
        lacks stay as they are. Raises `BadReturn` where the state is not of this model.
        """
        self._check(state, train=train)
        ours = self._ours(state)
        for name, variable in self._saved.variables.items():
            if name in ours:
                _assign(variable, np.asarray(ours[name]))
            elif name in state.arrays and _shape(variable) == state.arrays[name].shape:
                _assign(variable, state.arrays[name])

    def fetch(self, buffers: BufferPool) -> State:
        """The values of its variables, copied."""
        self._look_again()
        values = {**self._saved.variables, **self._saved.values}
        if self._template is None:
            forms = {name: _form(value) for name, value in values.items()}
            self._template = Template(forms, self._saved.names, self._hyperparameters)
        state = self._template.state({n: _array(value) for n, value in values.items()}, buffers)
        state.trained, state.others = weights(self.keras_model, self._saved)
        return state

    def can_be_kept(self) -> bool:
        """Whether another unit in it gives what it would in one that is built anew.

        Not if its compiled functions hold random ops of TensorFlow's own, which go on from run to
        run, or if `train_fn` has changed more of it than the values of variables.
        """
        if structure(self.keras_model, self._saved) != self._structure:
            return False
        new = [f for f in compiled_functions(self.keras_model) if f not in self._drawless]
        if any(draws_random_numbers(function.graph, set()) for function in new):
            return False
        self._drawless.update(new)
        return True

    def _ours(self, state: State) -> dict[str, float]:
        """The scalars of the optimizer that this configuration sets, rather than the state."""
        before = state.hyperparameters
        if before is None:  # a file of Keras' own
            rate = "learning_rate"
            return {
                name: value
                for name, value in self._hyperparameters.items()
                if self._saved.variables[name].name == rate
            }
        return {
            name: value
            for name, value in self._hyperparameters.items()
            if before.get(name, value) != value
        }

    def _check(self, state: State, *, train: bool) -> None:
        variables = self._saved.variables
        missing = [
            name
            for name in variables
            if name not in state.arrays and not is_metric(name) and not name.startswith(OPTIMIZER)
        ]
        known = {*variables, *self._saved.values}
        unknown = [name for name in state.arrays if name not in known and not is_metric(name)]
        if missing:
            raise _differs(f"the saved state lacks {some(missing, SHOWN)}")
        if unknown and train:
            raise _differs(f"the saved state also holds {some(unknown, SHOWN)}")
        for name, variable in variables.items():
            value = state.arrays.get(name)
            if value is not None and value.shape != _shape(variable) and not is_metric(name):
                raise _differs(
                    f"{variable.path} ({name}) has the shape {_shape(variable)}, but was saved "
                    f"with {value.shape}"
                )

    def _look_again(self) -> None:
        """See what is to be saved now, after training: a walk through all layers, if need be."""
        variables = all_variables(self.keras_model)
        if variables == self._variables and not self._saved.values:
            return
        now = saved_variables(self.keras_model)
        made = [n for n in now.variables if n not in self._saved.variables and not is_metric(n)]
        if made:
            raise BadReturn(
                "training made variables that the model of model_fn had not: "
                f"{some(made, SHOWN)}. Build all layers and optimizers in model_fn, with "
                "model.build(input_shape) and optimizer.build(model.trainable_variables)",
                function="model_fn",
            )
        self._saved, self._variables, self._template = now, variables, None


def build_model(
    model_fn: Callable[..., Any], task: UnitTask, data: Any, batch: Any, *, strict: bool
) -> BuiltModel:
    """The model of `model_fn` with its initial weights, which (seed, model) determine.

    `batch` is what a batch of the data looks like, None if that is not known. With `strict` an
    error on the way is one of the user's; else a model may well be trained in another way.
    """
    takes_data = returns.takes_data(model_fn)
    config = copy.deepcopy(dict(task.config))
    arguments = (data, config) if takes_data else (config,)
    scope = Scope()
    with scope.entered():
        scope.seed(task.init_seed)
        with user_code("model_fn"):
            made = model_fn(*arguments)
        returns.check_model(made)
        if made in _RETURNED:
            raise BadReturn(
                f"model_fn returned the model {made.name!r} a second time: all configurations "
                "would share its weights; build a new model inside model_fn at every call",
                function="model_fn",
            )
        _RETURNED.add(made)
        _build(made, batch, strict=strict)
        returns.check_variables(made)
        return BuiltModel(made, scope, data if takes_data else None)


def _build(model: Any, batch: Any, *, strict: bool) -> None:
    reason: Exception | None = None
    if batch is not None:
        try:
            with user_code("model.fit"):
                build(model, batch)
        except MemoryError:
            raise
        except Exception as error:
            if strict and model.built:
                raise
            reason = error
    if not model.built:
        raise returns.cannot_build(model, reason) from reason
    if not model.optimizer.built:
        with user_code("model_fn"):
            model.optimizer.build(model.trainable_variables)


class ModelCache:
    """Bounded by `MODELS` and `MODEL_BYTES`, oldest use out first."""

    def __init__(self) -> None:
        self._models: OrderedDict[Key, BuiltModel] = OrderedDict()

    def take(self, key: Key) -> BuiltModel | None:
        """The model, which then belongs to the caller: to be put back, or let go."""
        return self._models.pop(key, None)

    def put(self, key: Key, model: BuiltModel) -> None:
        self._models[key] = model
        while len(self._models) > MODELS or (
            len(self._models) > 1 and sum(m.bytes for m in self._models.values()) > MODEL_BYTES
        ):
            self._models.popitem(last=False)

    def drop(self, model: int) -> None:
        """Forget all of a model's."""
        for key in [key for key in self._models if key[0] == model]:
            del self._models[key]

    def clear(self) -> None:
        self._models.clear()

    def __len__(self) -> int:
        return len(self._models)


def _differs(found: str) -> BadReturn:
    return BadReturn(
        f"model_fn did not build the model that was saved: {found}. {_REMEDY}", function="model_fn"
    )


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape)


def _array(value: Any) -> Any:
    """A variable's value as an array, without a copy where that can be; an array as it is."""
    return value if isinstance(value, np.ndarray) else value.value.numpy()


def _assign(variable: Any, array: np.ndarray) -> None:
    """What Keras' own `assign` does, in a third of its time: shapes are known to be the same."""
    tensor = variable.value
    tensor.assign(array.astype(tensor.dtype.as_numpy_dtype, copy=False), read_value=False)


def _form(value: Any) -> tuple[tuple[int, ...], np.dtype]:
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype
    return _shape(value), np.dtype(value.value.dtype.as_numpy_dtype)
