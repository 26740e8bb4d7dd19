"""Messages as JSON objects and back, with the types that a message or method declares.

JSON keeps types, but a caller may send any: an integer where a path is expected would be taken
for an open file of this process. True is not an integer here, and an integer is a float.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from cerebro.formatting import shorten

T = TypeVar("T")


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
            raise _mismatch(what, name, value, hints[name])


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


def to_json(message: Any) -> dict[str, Any]:
    """A message, an instance of a dataclass, as a JSON object with a key for each field."""
    content = dict(vars(message))
    for field in _fields(type(message)):
        if field.kind is not None:
            value = content[field.name]
            content[field.name] = value.value if isinstance(value, Enum) else to_json(value)
    return content


def from_json(kind: type[T], content: Any, what: str) -> T:
    """A message of a class from its JSON object; fields that it does not know are passed over.

    Raises `ValueError`, which begins with `what`, for a field that is missing, or not of its type.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{what} must be a JSON object, not {shorten(content)}")
    values = {}
    for field in _fields(kind):
        if field.name not in content:
            if field.required:
                raise ValueError(f"{what}: {field.name} is missing in {shorten(content)}")
            continue
        value = content[field.name]
        if field.kind is None:
            if type(value) is not field.hint and not fits(value, field.hint):
                raise _mismatch(what, field.name, value, field.hint)
        elif issubclass(field.kind, Enum):
            value = _member(field.kind, value, what, field.name)
        else:
            value = from_json(field.kind, value, f"{what}: {field.name}")
        values[field.name] = value
    return kind(**values)


@dataclasses.dataclass(frozen=True)
class _Field:
    """A field of a message; `kind` is its class where JSON has another form for it."""

    name: str
    hint: Any
    required: bool
    kind: type[Any] | None


_FIELDS: dict[type[Any], tuple[_Field, ...]] = {}


def _fields(kind: type[Any]) -> tuple[_Field, ...]:
    """The fields of a dataclass, looked up once for each."""
    known = _FIELDS.get(kind)
    if known is None:
        known = _FIELDS[kind] = _find_fields(kind)
    return known


def _find_fields(kind: type[Any]) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        plain = isinstance(hint, type) and typing.get_origin(hint) is None
        own = plain and (issubclass(hint, Enum) or dataclasses.is_dataclass(hint))
        defaults = (field.default, field.default_factory)
        required = all(default is dataclasses.MISSING for default in defaults)
        found.append(_Field(field.name, hint, required, hint if own else None))
    return tuple(found)


def _member(kind: type[Enum], value: Any, what: str, name: str) -> Enum:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in kind)
        raise ValueError(f"{what}: {name} must be one of {known}, not {shorten(value)}") from None


def _mismatch(what: str, name: str, value: Any, hint: Any) -> ValueError:
    needed = hint.__name__ if type(hint) is type else hint
    return ValueError(f"{what}: {name} must be {needed}, not {shorten(value)}")
