"""Whether what came over the network has the types that a method or message declares.

JSON keeps types, but a caller may send any: an integer where a path is expected would be taken
for an open file of this process. True is no integer here, and an integer is a float.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from cerebro.formatting import shorten


def checked(method: Callable[..., Any]) -> Callable[..., Any]:
    """`method`, which raises `ValueError` before anything else for a parameter of another type."""
    hints = typing.get_type_hints(method)

    @functools.wraps(method)
    def call(**params: Any) -> Any:
        check(method.__name__, params, hints)
        return method(**params)

    return call


def check(what: str, values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise `ValueError` for the first value that is not of its type; unknown names pass."""
    for name, value in values.items():
        if name in hints and not fits(value, hints[name]):
            raise ValueError(f"{what}: {name} is {shorten(value)}: {hints[name]} is needed")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value that JSON gave is of a type: plain ones, lists, dictionaries, unions."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, argument) for argument in arguments)
    if origin is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(v, arguments[1]) for v in value.values())
    return type(value) in ((int, float) if hint is float else (hint,))
