"""The package keras, if it is one to train with.

What does not fit is said before Keras or TensorFlow is imported: another library beside them, which
Keras would load, that can end the process.
"""

from __future__ import annotations

import json
import os
from importlib import import_module, metadata
from typing import Any

from cerebro.backends import KERAS, check_keras_backend, is_usable_keras
from cerebro.errors import InputError

_REMEDY = f"backend='keras' needs {KERAS}: pip install -U tensorflow keras"


def load_keras() -> Any:
    """The package keras, imported; `InputError` for what is missing or is another one."""
    try:
        version = metadata.version("keras")
    except metadata.PackageNotFoundError:
        raise InputError(f"Keras is not installed; {_REMEDY}") from None
    if not is_usable_keras(version):
        raise InputError(f"Keras {version} is installed; {_REMEDY}")
    chosen = os.environ.get("KERAS_BACKEND")
    check_keras_backend(chosen, "KERAS_BACKEND in the environment")
    if not chosen:
        path = _settings_file()
        check_keras_backend(_named_in(path), f"the backend in {path}")
    try:
        return import_module("keras")
    except ImportError as error:
        raise InputError(f"Keras {version} cannot be imported ({error}); {_REMEDY}") from error


def _settings_file() -> str:
    """Where Keras looks for the user's settings."""
    folder = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    return os.path.join(folder, "keras.json")


def _named_in(path: str) -> str | None:
    try:
        with open(path) as file:
            name = json.load(file).get("backend")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) else None


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
keras = load_keras()
