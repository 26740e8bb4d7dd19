"""Whether a function is still the same: a digest over what it does, not where it stands."""

from __future__ import annotations

import hashlib
import io
import pickle
import types
from collections.abc import Iterator
from typing import Any

from cerebro.shipping import code, origin
from cerebro.shipping.modules import Sources
from cerebro.shipping.pickler import Pickler

_OWN_ATTRIBUTES_LEFT_OUT = {
    "__dict__", "__weakref__", "__doc__", "__module__", "_abc_impl", "__firstlineno__",
    "__static_attributes__",
}  # fmt: skip


def fingerprint(function: Any) -> str:
    """A digest over a function's bytecode, constants, defaults, and all the values it uses.

    Helper functions, classes and local modules that it uses are part of it; installed modules
    count by name. Line numbers, file names, comments and docstrings do not count.
    """
    digest = hashlib.sha256()
    for part in _parts(function, {}):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _parts(thing: Any, seen: dict[int, tuple[int, Any]]) -> Iterator[bytes]:
    """The bytes that stand for a thing. What was met before is named by its number."""
    if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
        yield f"{type(thing).__name__} {thing!r}".encode()
        return
    if id(thing) in seen:
        yield f"again {seen[id(thing)][0]}".encode()
        return
    # The thing is kept alive with its id, so that no other can get the same one.
    seen[id(thing)] = (len(seen), thing)
    yield type(thing).__name__.encode()
    if isinstance(thing, types.CodeType):
        yield from _code(thing, None, seen)
    elif isinstance(thing, types.FunctionType):
        yield from _function(thing, seen)
    elif isinstance(thing, type):
        yield from _class(thing, seen)
    elif isinstance(thing, types.ModuleType):
        yield from _module(thing)
    elif isinstance(thing, (list, tuple)):
        for item in thing:
            yield from _parts(item, seen)
    elif isinstance(thing, (set, frozenset)):
        yield from sorted(b"".join(_parts(item, dict(seen))) for item in thing)
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from _parts(key, seen)
            yield from _parts(value, seen)
    elif isinstance(thing, types.CellType):
        try:
            yield from _parts(thing.cell_contents, seen)
        except ValueError:
            yield b"empty"
    elif isinstance(thing, types.MethodType):
        yield from _parts(thing.__func__, seen)
        yield from _parts(thing.__self__, seen)
    elif isinstance(thing, (staticmethod, classmethod)):
        yield from _parts(thing.__func__, seen)
    elif isinstance(thing, property):
        for accessor in (thing.fget, thing.fset, thing.fdel):
            yield from _parts(accessor, seen)
    elif hasattr(thing, "dtype") and hasattr(thing, "tobytes"):
        yield f"{thing.dtype} {thing.shape}".encode()
        yield thing.tobytes()
    else:
        yield from _instance(thing, seen)


def _code(
    part: types.CodeType, doc: str | None, seen: dict[int, tuple[int, Any]]
) -> Iterator[bytes]:
    yield part.co_code
    yield getattr(part, "co_exceptiontable", b"")
    counts = (part.co_argcount, part.co_posonlyargcount, part.co_kwonlyargcount, part.co_flags)
    names = (part.co_name, part.co_names, part.co_varnames, part.co_freevars, part.co_cellvars)
    yield repr((counts, names)).encode()
    for number, constant in enumerate(part.co_consts):
        is_doc = number == 0 and doc is not None and constant == doc
        yield from _parts(None if is_doc else constant, {} if is_doc else seen)


def _function(function: types.FunctionType, seen: dict[int, tuple[int, Any]]) -> Iterator[bytes]:
    if not origin.is_local(function.__module__ or "__main__"):
        yield f"{function.__module__} {function.__qualname__}".encode()
        return
    yield from _code(function.__code__, function.__doc__, seen)
    for value in (function.__defaults__, function.__kwdefaults__, function.__closure__):
        yield from _parts(value, seen)
    for name in code.global_names(function.__code__):
        if name in function.__globals__:
            yield name.encode()
            yield from _parts(function.__globals__[name], seen)
    for name, value in sorted(vars(function).items()):
        yield name.encode()
        yield from _parts(value, seen)


def _class(cls: type, seen: dict[int, tuple[int, Any]]) -> Iterator[bytes]:
    yield f"{cls.__module__} {cls.__qualname__}".encode()
    if not origin.is_local(cls.__module__):
        return
    for base in cls.__bases__:
        yield from _parts(base, seen)
    for name, value in vars(cls).items():
        if name not in _OWN_ATTRIBUTES_LEFT_OUT and not isinstance(
            value, (types.MemberDescriptorType, types.GetSetDescriptorType)
        ):
            yield name.encode()
            yield from _parts(value, seen)


def _module(module: types.ModuleType) -> Iterator[bytes]:
    yield module.__name__.encode()
    sources = Sources()
    sources.add(module.__name__)
    for name, source in sorted(sources.found.items()):
        yield name.encode()
        yield source.text.encode()
        yield repr(sorted(source.data.items())).encode()


def _instance(thing: Any, seen: dict[int, tuple[int, Any]]) -> Iterator[bytes]:
    yield from _parts(type(thing), seen)
    attributes = getattr(thing, "__dict__", None)
    if origin.is_local(type(thing).__module__) and isinstance(attributes, dict):
        yield from _parts(attributes, seen)
        return
    if hasattr(thing, "__wrapped__"):
        yield from _parts(thing.__wrapped__, seen)
        return
    content = io.BytesIO()
    try:
        Pickler(content, Sources()).dump(thing)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError):
        return
    yield content.getvalue()
