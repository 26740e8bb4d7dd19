"""Messages as JSON objects and back, with the types that a message or method declares.

JSON keeps types, but a caller may send any: an integer where a path is expected would be taken
for an open file of this process. True is not an integer here, and an integer is a float.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, TypeVar

from cerebro.formatting import shorten

T = TypeVar("T")


def checked(method: Callable[..., Any]) -> Callable[..., Any]:
    """`method`, which raises `ValueError` before anything else for a parameter of another type."""
    hints = typing.get_type_hints(method, include_extras=True)

    @functools.wraps(method)
    def call(**params: Any) -> Any:
        check(method.__name__, params, hints)
        return method(**params)

    return call


def needed(value: Any, hint: Any) -> str:
    """Say what a type takes that a value does not fit: its bounds only where its type is right."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        own = needed(value, arguments[0])
        if not fits(value, arguments[0]):
            return own
        bounds = " ".join(str(bound) for bound in arguments[1:] if not bound.holds(value))
        return bounds if own == "str" else f"{own} {bounds}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(needed(value, argument) for argument in arguments)
    if origin is list:
        return f"list[{_of_items(value if isinstance(value, list) else (), arguments[0])}]"
    if origin is dict:
        items = value.values() if isinstance(value, dict) else ()
        return f"dict[str, {_of_items(items, arguments[1])}]"
    if hint is type(None):
        return "None"
    return hint.__name__ if type(hint) is type else str(hint).removeprefix("typing.")


def _of_items(values: Iterable[Any], hint: Any) -> str:
    return needed(next((v for v in values if not fits(v, hint)), None), hint)


def check(what: str, values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise `ValueError` for the first value that is not of its type; unknown names pass."""
    for name, value in values.items():
        if name in hints and not fits(value, hints[name]):
            raise _mismatch(what, name, value, hints[name])


def checked_fields(what: str, content: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """The fields of a class, but `extra`, out of an object; those that are not known are left out.

    Raises `ValueError`, which starts with `what`, for one that is missing or does not fit.
    """
    hints = _hints(cls)
    defaults = getattr(cls, "_field_defaults", vars(cls))
    missing = [name for name in hints if name not in content and name not in defaults]
    if missing:
        raise ValueError(f"{what} has no {', '.join(missing)}")
    found = {name: content[name] for name in hints if name in content}
    for name, value in found.items():
        if not fits(value, hints[name]):
            raise ValueError(
                f"{what}'s {name} is {shorten(value)}: it must be {needed(value, hints[name])}"
            )
    return found


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hint for name, hint in hints.items() if name != "extra"}


def depth(content: Any) -> int:
    """Return how deep lists and objects are nested in what JSON gave."""
    levels, level = 0, [content]
    while level := [value for value in level if isinstance(value, (dict, list))]:
        levels += 1
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in inner for value in values]
    return levels


def fits(value: Any, hint: Any) -> bool:
    """Whether a value that JSON gave is of a type: plain ones, lists, dictionaries, unions, and
    any of them within bounds (`cerebro.protocol.bounds`).
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Annotated:
        return fits(value, arguments[0]) and all(bound.holds(value) for bound in arguments[1:])
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

    Raises `ValueError`, which starts with `what`, for a field that is missing, or not of its type.
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
    hints = typing.get_type_hints(kind, include_extras=True)
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
    return ValueError(f"{what}: {name} must be {needed(value, hint)}, not {shorten(value)}")
