"""What `model_fn` may return, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cerebro.backends.keras.held import Held
from cerebro.backends.keras.runtime import keras
from cerebro.backends.returns import is_keras
from cerebro.errors import BadReturn
from cerebro.formatting import shorten


def takes_data(model_fn: Callable[..., Any]) -> bool:
    """Whether it is `model_fn(data, config)` rather than `model_fn(config)`."""
    try:
        parameters = inspect.signature(model_fn).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    return needed == 2 or (len(positional) > 1 and positional[0].name == "data")


def check_model(value: Any) -> None:
    """`BadReturn` for what is not a compiled `keras.Model`, saying what came and what to return."""
    if not isinstance(value, keras.Model):
        raise _bad(_not_a_model(value))
    optimizer = getattr(value, "optimizer", None)
    if not value.compiled:
        raise _bad(
            f"model_fn returned the model {value.name!r}, which is not compiled: call "
            "model.compile(optimizer=..., loss=..., metrics=[...]) before returning it"
        )
    if optimizer is None:
        raise _bad(
            f"model_fn returned the model {value.name!r}, compiled without an optimizer: pass one "
            "to model.compile, such as keras.optimizers.Adam(learning_rate)"
        )
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise _bad(
            f"model_fn returned the model {value.name!r} with the optimizer {shorten(optimizer)}, "
            "which is none of Keras 3 and has no state that could be saved: use one of "
            "keras.optimizers, or a class derived from keras.optimizers.Optimizer"
        )


def check_held(model: Any, held: Held) -> None:
    """`BadReturn` for a model that holds what would be lost between units, or nothing to train."""
    for path, reason in held.refused.items():
        raise _bad(f"model_fn returned the model {model.name!r}, in which {path} {reason}")
    if not model.variables:
        raise _bad(f"model_fn returned the model {model.name!r}, which has no variables")


def check_shared(refused: Mapping[str, str]) -> None:
    """`BadReturn` for what a `train_fn` uses that all models would share."""
    for name, reason in refused.items():
        raise BadReturn(f"train_fn uses {name}, which {reason}", function="train_fn")


def check_adapted(layers: list[Any]) -> None:
    """`BadReturn` for layers that `model_fn(data, config)` has adapted, if no variable shows it."""
    for layer in layers:
        kind = type(layer).__name__
        get, give = (
            ("layer.bin_boundaries", "bin_boundaries=")
            if isinstance(layer, keras.layers.Discretization)
            else ("layer.get_vocabulary()", "vocabulary=")
        )
        raise _bad(
            f"model_fn adapts the layer {layer.name!r} ({kind}) to its partition: it would be "
            "another function on every other one, because what it learns is in no variable and so "
            "in no version. Adapt one to examples of all partitions before schedule(), and give "
            f"the layer of model_fn what it has learnt, {get}, as {give}"
        )


def cannot_build(model: Any, reason: Exception | None) -> BadReturn:
    """The error for a model whose variables do not exist; `reason` is why they cannot be made."""
    why = "what a batch looks like is not known here" if reason is None else str(reason)
    return _bad(
        f"model_fn returned the model {model.name!r}, which is not built: {why}. Begin it with "
        "keras.Input(shape), or call model.build(input_shape) in model_fn"
    )


def _not_a_model(value: Any) -> str:
    if is_keras(value, "Model"):
        return (
            f"model_fn returned a {type(value).__module__}.{type(value).__name__}, which is not "
            "a model of Keras 3: build it with `import keras`"
        )
    if isinstance(value, (tuple, list)) and len(value) == 3:
        return (
            f"model_fn returned {shorten(value)}: (optimizer, loss, error) is what backend='tf' "
            "takes. Return a compiled keras.Model, or use backend='tf'"
        )
    return f"model_fn returned {shorten(value)}: expected a compiled keras.Model"


def _bad(message: str) -> BadReturn:
    return BadReturn(message, function="model_fn")
