"""A model with what belongs to it: how it is built, restored, fetched, and kept between units."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import numpy as np

from cerebro.backends.base import UnitTask, user_code
from cerebro.backends.buffers import BufferPool
from cerebro.backends.keras import constants, returns
from cerebro.backends.keras.digests import digest, is_plain
from cerebro.backends.keras.held import Held, changed, values_of
from cerebro.backends.keras.private import (
    all_layers,
    build,
    compiled_functions,
    forget_compiled,
    noting_adapted,
)
from cerebro.backends.keras.scope import Scope
from cerebro.backends.keras.variables import (
    HELD,
    OPTIMIZER,
    OWN,
    SavedVariables,
    all_variables,
    is_metric,
    saved_variables,
    structure,
    tensor_of,
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

_TAKEN: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""The variables of models in this process, by their ids."""

Key = tuple[int, str]
"""(model, the partition's path if the model was built on its data)."""


class BuiltModel:
    """A compiled `keras.Model` whose variables exist, in a scope of its own.

    `saved` is what a version of it holds. `data` is what `model_fn` was called with, None if it
    takes the configuration alone; `bytes` is what its variables take. `metrics` are those that it
    is compiled with, where these are used. `probe_graph` is for `probing`: what it has compiled.
    """

    def __init__(
        self,
        keras_model: Any,
        saved: SavedVariables,
        scope: Scope,
        data: Any,
        config: Mapping[str, Any],
    ) -> None:
        self.keras_model = keras_model
        self.scope = scope
        self.data = data
        self.metrics: dict[str, Any] = {}
        self.probe_graph: Any = None
        self._saved = saved
        self._stateful = [
            layer
            for layer in all_layers(keras_model)
            if getattr(layer, "stateful", False) and hasattr(layer, "reset_state")
        ]
        self._plain = values_of(saved.held)
        self._constants = constants.constants_of(keras_model, saved.held, config)
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

    def is_of(self, state: State) -> bool:
        """Whether a state is known to be of this configuration."""
        return constants.same_configuration(self._constants, state.arrays.get(constants.NAME))

    def restore(self, state: State, *, train: bool) -> None:
        """Give its variables the values of `state`.

        An optimizer's scalar, such as its learning rate, keeps what `model_fn` has set where that
        is another value than it was for the model that the state is of. Slots that the state
        lacks stay as they are. Raises `BadReturn` where the state is not of this model.
        """
        self._check(state, train=train)
        self._load(state)
        ours = self._ours(state)
        for name, variable in self._saved.variables.items():
            if name in ours:
                _assign(variable, np.asarray(ours[name]))
            elif name in state.arrays and _shape(variable) == state.arrays[name].shape:
                _assign(variable, state.arrays[name])

    def reset_states(self) -> None:
        """Have recurrent layers start afresh that continue from their last batch's states.

        Keras saves these states nowhere, and they mean nothing in another partition.
        """
        for layer in self._stateful:
            layer.reset_state()

    def fetch(self, buffers: BufferPool) -> State:
        """The values of its variables, copied."""
        self._look_again()
        values = {**self._saved.variables, **self._saved.values, constants.NAME: self._constants}
        if self._template is None:
            forms = {name: _form(value) for name, value in values.items()}
            self._template = Template(forms, self._saved.names, self._hyperparameters)
        state = self._template.state({n: _array(value) for n, value in values.items()}, buffers)
        state.trained, state.others = weights(self.keras_model, self._saved)
        return state

    def can_be_kept(self, *, fetched: bool) -> bool:
        """Whether another unit in it gives what it would in one that is built anew.

        Not if its compiled functions hold random ops of TensorFlow's own, which continue from run
        to run, or if `train_fn` has changed more of it than the values of variables. `fetched` says
        that `fetch` has looked at it since.
        """
        if structure(self.keras_model, self._saved) != self._structure:
            return False
        if not fetched and changed(self._plain, self._saved.held_now(self.keras_model)):
            return False
        new = [f for f in compiled_functions(self.keras_model) if f not in self._drawless]
        if any(draws_random_numbers(function.graph, set()) for function in new):
            return False
        self._drawless.update(new)
        return True

    def _load(self, state: State) -> None:
        """Have layers load their variables that set more than these.

        What compiled functions hold of that is then of before.
        """
        for group, layer in self._saved.loaders.items():
            start = f"{group}/"
            store = {
                name[len(start) :]: array.copy()
                for name, array in state.arrays.items()
                if name.startswith(start) and "/" not in name[len(start) :]
            }
            if not store:
                continue
            before = _plain(layer)
            with user_code(f"{type(layer).__name__}.load_own_variables"):
                layer.load_own_variables(store)
            if _plain(layer) != before:
                forget_compiled(self.keras_model)
                self.probe_graph = None

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
        theirs = state.arrays.get(constants.NAME)
        if theirs is None:  # an early version, or a file of Keras' own
            missing = [name for name in missing if not name.startswith(HELD)]
        known = {*variables, *self._saved.values, constants.NAME}
        unknown = [name for name in state.arrays if name not in known and not is_metric(name)]
        if missing:
            raise _differs(f"the saved state lacks {some(missing, SHOWN)}")
        if unknown and train:
            raise _differs(f"the saved state also holds {some(unknown, SHOWN)}")
        for name, variable in variables.items():
            value = state.arrays.get(name)
            if value is not None and value.shape != _shape(variable) and not is_metric(name):
                path = getattr(variable, "path", variable.name)
                raise _differs(
                    f"{path} ({name}) has the shape {_shape(variable)}, but was saved "
                    f"with {value.shape}"
                )
        others = constants.other_constants(self._constants, theirs)
        if others:
            raise BadReturn(
                f"model_fn did not build the model that was saved: {some(others, SHOWN)} of it "
                "is something else than in the version that it continues, and is in no variable, "
                "so that it is in no version. Let it depend on the configuration only: what "
                "partitions decide is worked out from all of them before schedule()",
                function="model_fn",
            )

    def _look_again(self) -> None:
        """See what is to be saved now, after training: a walk through all layers, if need be."""
        held = self._saved.held_now(self.keras_model)
        self._check_held(held)
        variables = [*all_variables(self.keras_model), *map(id, held.variables.values())]
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

    def _check_held(self, held: Held) -> None:
        """`BadReturn` for what training has changed that is in no version."""
        returns.check_held(self.keras_model, held)
        found = changed(self._plain, held)
        if found:
            raise BadReturn(
                f"training changed {some(found, SHOWN)} of the model, which is in no variable, so "
                "that no version holds it: make it with self.add_weight(trainable=False), or keep "
                "it outside of the model if nothing depends on it",
                function="model_fn",
            )


def build_model(
    model_fn: Callable[..., Any],
    task: UnitTask,
    data: Any,
    batch: Any,
    *,
    strict: bool,
    initial: bool,
) -> BuiltModel:
    """The model of `model_fn` with its initial weights, which (seed, model) determine.

    `initial` says that these count, rather than what is restored into it.
    `batch` is what a batch of the data looks like, None if that is not known. With `strict` an
    error on the way is one of the user's; else a model may well be trained in another way.
    """
    takes_data = returns.takes_data(model_fn)
    config = copy.deepcopy(dict(task.config))
    arguments = (data, config) if takes_data else (config,)
    scope = Scope()
    with scope.entered():
        scope.seed(task.init_seed)
        adapted: list[Any] = []
        with user_code("model_fn"), noting_adapted(adapted):
            made = model_fn(*arguments)
        returns.check_model(made)
        if takes_data:
            returns.check_adapted(adapted)
        if made in _RETURNED:
            raise BadReturn(
                f"model_fn returned the model {made.name!r} a second time: all configurations "
                "would share its weights; build a new model inside model_fn at every call",
                function="model_fn",
            )
        _RETURNED.add(made)
        _build(made, batch, strict=strict)
        saved = saved_variables(made)
        returns.check_held(made, saved.held)
        _take(saved, initial=initial)
        return BuiltModel(made, saved, scope, data if takes_data else None, task.config)


def _take(saved: SavedVariables, *, initial: bool) -> None:
    """`BadReturn` where another model may have changed what is to be this one's initial values."""
    for name, variable in saved.variables.items():
        changes = variable.trainable or name.startswith((OWN, OPTIMIZER))
        if initial and changes and not is_metric(name) and id(variable) in _TAKEN:
            raise BadReturn(
                f"model_fn returned a model that shares {name} ({variable.name}) with one that was "
                "built before, and begins with what that has trained: make layers, loss and "
                "optimizer inside model_fn at every call",
                function="model_fn",
            )
    _TAKEN.update((id(variable), variable) for variable in saved.variables.values())


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
    return value if isinstance(value, np.ndarray) else tensor_of(value).numpy()


def _assign(variable: Any, array: np.ndarray) -> None:
    """What Keras' own `assign` does, in a third of its time: shapes are known to be the same."""
    tensor = tensor_of(variable)
    tensor.assign(array.astype(tensor.dtype.as_numpy_dtype, copy=False), read_value=False)


def _form(value: Any) -> tuple[tuple[int, ...], np.dtype]:
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype
    return _shape(value), np.dtype(tensor_of(value).dtype.as_numpy_dtype)


def _plain(layer: Any) -> dict[str, str]:
    """The digests of what a layer holds in attributes, but for variables and other objects."""
    return {
        name: digest(value)
        for name, value in vars(layer).items()
        if is_plain(value) or isinstance(value, (list, tuple, dict))
    }
