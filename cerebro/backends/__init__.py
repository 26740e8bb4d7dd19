"""Training tools, one module per tool; `base` is the contract that each of them keeps."""

from __future__ import annotations

import os
from importlib import import_module
from typing import cast

from cerebro.backends.base import Handler
from cerebro.errors import InputError
from cerebro.formatting import shorten

_HANDLERS = {
    "keras": ("cerebro.backends.keras", "KerasHandler"),
    "python": ("cerebro.backends.python", "PythonHandler"),
    "tf": ("cerebro.backends.tf", "TensorFlowHandler"),
}

BACKENDS = tuple(sorted(_HANDLERS))
"""The names that `backend=` takes."""


TENSORFLOW = ("keras", "tf")
"""The backends whose workers need TensorFlow."""


def check_backend(name: object) -> str:
    """Return `name` if it is a backend's; raise `InputError`, which lists them, otherwise."""
    if not isinstance(name, str) or name not in _HANDLERS:
        known = ", ".join(repr(b) for b in BACKENDS)
        raise InputError(f"backend={name!r} is not known: the backends are {known}")
    return name


KERAS = "Keras 3.7 or later"
"""The versions of the package keras that backend "keras" works with."""


def is_usable_keras(version: str | None) -> bool:
    """Tell whether a version of the package keras is one that backend "keras" works with."""
    return version is not None and tuple(map(int, version.split(".")[:2])) >= (3, 7)


def check_keras_backend(name: str | None, where: str) -> None:
    """`InputError` if Keras is told to compute with something else than TensorFlow."""
    if name not in (None, "", "tensorflow"):
        raise InputError(
            f"{where} is {name!r}: backend='keras' trains with Keras on TensorFlow; set "
            "KERAS_BACKEND=tensorflow before Python starts"
        )


def check_training(backend: str, train_fn: object, error_metric: object) -> None:
    """`InputError` where a backend cannot train with these, or in this environment."""
    if backend == "keras":
        check_keras_backend(os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND in the environment")
    elif train_fn is None:
        raise InputError(
            f"train_fn=None: only backend='keras' trains without one, and this is {backend!r}; "
            "pass backend='keras' for a compiled Keras model, else a train_fn"
        )
    if error_metric is None:
        return
    if not isinstance(error_metric, str):
        raise InputError(
            f"error_metric={shorten(error_metric)}: the name of a compiled metric is needed, such "
            "as 'mean_absolute_error'"
        )
    if backend != "keras":
        raise InputError(
            f"error_metric={error_metric!r}: backend {backend!r} has no compiled metrics; error "
            "is what train_fn returns; leave error_metric out, or use backend='keras'"
        )
    if train_fn is not None:
        raise InputError(
            f"error_metric={error_metric!r}: the error is what train_fn returns; leave one of the "
            "two out"
        )


def handler_class(name: str) -> type[Handler]:
    """The handler of a backend; imports the tool that it uses."""
    module, attribute = _HANDLERS[check_backend(name)]
    return cast("type[Handler]", getattr(import_module(module), attribute))
