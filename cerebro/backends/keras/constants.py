"""What a model computes with that is in no variable, and must be the same at every build.

Settings of layers (a vocabulary, the boundaries of bins, a given mean) and what else its objects
hold. They do not travel: `model_fn` makes them. So a version holds their digests, and a model that
is built again for it, on another partition's data perhaps, must have the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cerebro.backends.base import user_code
from cerebro.backends.keras.digests import digest, is_plain
from cerebro.backends.keras.held import Held
from cerebro.backends.keras.private import all_layers, assets_of, has_own_loading, is_users
from cerebro.backends.keras.runtime import keras
from cerebro.errors import VersionRefused

NAME = "cerebro/constants"
"""What they are called in a version."""

MOST_BYTES = 2**26
"""What they take in a version at most."""

_WITHOUT_MEANING = frozenset(
    {
        "name",
        "registered_name",
        "build_config",
        "trainable",
        "dtype",
        "seed",
        "batch_input_shape",
        "batch_shape",
    }
)
"""Settings that decide nothing of what a built model computes, or that are variables."""


_COMPILED = ("loss_weights", "metrics", "weighted_metrics")


def constants_of(model: Any, held: Held, config: Mapping[str, Any]) -> np.ndarray:
    """The digests of a model's constants, as a version holds them: JSON in bytes."""
    found = {path: digest(value) for path, value in held.plain.items()}
    for layer in all_layers(model):
        found.update(_layer(layer))
    for what, thing in (("optimizer", model.optimizer), ("loss", model.loss)):
        for part in keras.tree.flatten(thing):
            found[f"{what} ({type(part).__name__})"] = digest(_settings(part))
    found.update(_compiled(model))
    text = json.dumps({"config": digest(dict(config)), "constants": found})
    return np.frombuffer(text.encode(), np.uint8)


def check_constants(found: np.ndarray | None, path: str) -> None:
    """Raise `VersionRefused` if what a version at `path` has for its digests are none."""
    if found is None:
        return
    if found.dtype != np.uint8 or found.nbytes > MOST_BYTES:
        raise VersionRefused(f"{path}: {NAME!r} is no text of up to {MOST_BYTES} bytes")
    try:
        content = json.loads(found.tobytes())
        digests = [content["config"], *content["constants"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VersionRefused(f"{path}: {NAME!r} cannot be read: {error}") from error
    if not all(isinstance(digest, str) for digest in digests):
        raise VersionRefused(f"{path}: {NAME!r} holds what is no digest")


def other_constants(one: np.ndarray, other: np.ndarray | None) -> list[str]:
    """The names of constants that are not the same; none for a model of another configuration.

    `other` None stands for a version that does not say.
    """
    if other is None or not same_configuration(one, other):
        return []
    ours, theirs = (json.loads(array.tobytes()) for array in (one, other))
    known = theirs["constants"]
    return [name for name, now in ours["constants"].items() if known.get(name, now) != now]


def same_configuration(one: np.ndarray, other: np.ndarray | None) -> bool:
    """Whether two models have the same configuration; not if one does not say."""
    if other is None:
        return False
    ours, theirs = (json.loads(array.tobytes()) for array in (one, other))
    return bool(ours["config"] == theirs["config"])


def _layer(layer: Any) -> dict[str, str]:
    if isinstance(layer, (keras.Model, keras.layers.InputLayer)) or has_own_loading(layer):
        settings: Any = None
    else:
        settings = _settings(layer)
    with user_code(f"{type(layer).__name__}.save_assets"):
        assets = None if is_users(type(layer)) else assets_of(layer)
    if settings is None and not assets:
        return {}
    return {f"{layer.name} ({type(layer).__name__})": digest([settings, assets])}


def _compiled(model: Any) -> dict[str, str]:
    """What a model is compiled with beside its loss and its optimizer."""
    try:
        given = model.get_compile_config() or {}
    except Exception:  # as in `_settings`
        return {}
    return {f"{key} of compile": digest(_meaning(given.get(key))) for key in _COMPILED}


def _settings(thing: Any) -> Any:
    """What `get_config` says, but for what has no meaning; None where it does not say."""
    if not hasattr(thing, "get_config"):
        return None
    try:
        return _meaning(thing.get_config())
    except Exception:  # of the user's, and not needed for training: Keras may raise anything here
        return None


def _meaning(settings: Any) -> Any:
    if isinstance(settings, Mapping):
        if settings.get("class_name") == "__lambda__":
            # Its code travels with model_fn, and its bytes differ from one time to the next. What
            # it has closed over is among what the model holds.
            return "lambda"
        return {
            key: _meaning(value)
            for key, value in settings.items()
            if key not in _WITHOUT_MEANING and not str(key).endswith("initializer")
            # A number is a variable of the optimizer's, a schedule is not.
            if key != "learning_rate" or isinstance(value, Mapping)
        }
    if isinstance(settings, (list, tuple)) and settings and not is_plain(settings[0]):
        return [_meaning(item) for item in settings]
    return settings
