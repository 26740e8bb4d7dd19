"""Whether the Keras that is installed is one to train with."""

from __future__ import annotations

import os
from importlib import import_module, metadata
from typing import Any

from cerebro.backends import check_keras_backend, is_keras_3
from cerebro.errors import InputError

_REMEDY = "backend='keras' needs Keras 3: pip install -U tensorflow"


def load_keras() -> Any:
    """The package keras, imported; `InputError` for what is missing or is another one."""
    try:
        version = metadata.version("keras")
    except metadata.PackageNotFoundError:
        raise InputError(f"Keras is not installed; {_REMEDY}") from None
    if not is_keras_3(version):
        raise InputError(f"Keras {version} is installed; {_REMEDY}")
    check_keras_backend(os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND in the environment")
    try:
        keras = import_module("keras")
    except ImportError as error:
        # Keras loads what the user's file ~/.keras/keras.json names.
        raise InputError(f"Keras {version} cannot be imported ({error}); {_REMEDY}") from error
    check_keras_backend(keras.config.backend(), "the backend that ~/.keras/keras.json names")
    return keras
