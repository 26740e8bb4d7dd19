"""Training tools. One module a tool; `base` is the contract that each of them keeps."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from cerebro.backends.base import Handler
from cerebro.errors import InputError

_HANDLERS = {
    "python": ("cerebro.backends.python", "PythonHandler"),
    "tf": ("cerebro.backends.tf", "TensorFlowHandler"),
}

BACKENDS = tuple(sorted(_HANDLERS))
"""The names that `backend=` takes."""


def check_backend(name: object) -> str:
    """`name`, if it is a backend's; otherwise `InputError` that lists them."""
    if not isinstance(name, str) or name not in _HANDLERS:
        known = " and ".join(repr(b) for b in BACKENDS)
        raise InputError(f"backend={name!r} is not known: the backends are {known}")
    return name


def handler_class(name: str) -> type[Handler]:
    """The handler of a backend; imports the tool that it uses."""
    module, attribute = _HANDLERS[check_backend(name)]
    return cast("type[Handler]", getattr(import_module(module), attribute))
