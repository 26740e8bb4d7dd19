"""Fingerprints of versions 1 and 2, for runs that were recorded with them. They stay as they are.

Version 1 names what belongs to this package by the modules of its time, version 2 without its
module, so that it may move. Both know some values by their pickle, and so by addresses, hash seeds
and line numbers.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cerebro import renamed
from cerebro.shipping import code, module_origin
from cerebro.shipping.modules import Sources
from cerebro.shipping.older_pickler import Pickler

PACKAGE = __name__.partition(".")[0]

_OWN_ATTRIBUTES_LEFT_OUT = {
    "__dict__", "__weakref__", "__doc__", "__module__", "_abc_impl", "__firstlineno__",
    "__static_attributes__",
}  # fmt: skip


@dataclass(frozen=True)
class _Rule:
    """What versions differ in.

    `named` gives the text for a class or function, of its module and qualified name;
    `of_module` that for a module; `pickled` the bytes of a value that is known by its pickle.
    """

    named: Callable[[str, str], str]
    of_module: Callable[[str], str]
    pickled: Callable[[Any], bytes]


def _pickle(thing: Any, make: type[Pickler]) -> bytes:
    content = io.BytesIO()
    make(content, Sources()).dump(thing)
    return content.getvalue()


# --- version 1: by the names that modules had ----------------------------------------------------


def _named_1(module: str, qualname: str) -> str:
    return f"{renamed.old_name(module)} {qualname}"


def _pickled_1(thing: Any) -> bytes:
    with renamed.under_old_names():
        return _pickle(thing, Pickler)


# --- version 2: what is of this package has no module --------------------------------------------


def _is_own(module: str | None) -> bool:
    return (module or "").partition(".")[0] == PACKAGE


def _named_2(module: str, qualname: str) -> str:
    return f"{PACKAGE if _is_own(module) else module} {qualname}"


class _Pickler2(Pickler):
    """Names classes and functions of this package as version 2 does."""

    def persistent_id(self, thing: Any) -> str | None:
        if isinstance(thing, (type, types.FunctionType)) and _is_own(thing.__module__):
            return _named_2(thing.__module__, thing.__qualname__)
        return None


def _pickled_2(thing: Any) -> bytes:
    return _pickle(thing, _Pickler2)


_RULES = {
    1: _Rule(_named_1, renamed.old_name, _pickled_1),
    2: _Rule(_named_2, lambda module: module, _pickled_2),
}


def older_fingerprint(function: Any, version: int) -> str:
    """A digest over a function's bytecode, constants, defaults, and all the values it uses.

    Helper functions, classes and local modules that it uses are part of it; installed modules
    count by name. Line numbers, file names, comments and docstrings do not count. Only
    fingerprints of one `version` can be compared.
    """
    digest = hashlib.sha256()
    for part in _Walk(_RULES[version], {}).parts(function):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


class _Walk:
    """A way through what a thing holds, by a rule. What was met before is named by its number."""

    def __init__(self, rule: _Rule, seen: dict[int, tuple[int, Any]]) -> None:
        self._rule = rule
        self._seen = seen

    def parts(self, thing: Any) -> Iterator[bytes]:
        """The bytes that stand for a thing."""
        if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
            yield f"{type(thing).__name__} {thing!r}".encode()
            return
        if id(thing) in self._seen:
            yield f"again {self._seen[id(thing)][0]}".encode()
            return
        # The thing is kept alive with its id, so that no other can get the same one.
        self._seen[id(thing)] = (len(self._seen), thing)
        yield type(thing).__name__.encode()
        if isinstance(thing, types.CodeType):
            yield from self._code(thing, None)
        elif isinstance(thing, types.FunctionType):
            yield from self._function(thing)
        elif isinstance(thing, type):
            yield from self._class(thing)
        elif isinstance(thing, types.ModuleType):
            yield from self._module(thing)
        elif isinstance(thing, (list, tuple)):
            for item in thing:
                yield from self.parts(item)
        elif isinstance(thing, (set, frozenset)):
            yield from sorted(
                b"".join(_Walk(self._rule, dict(self._seen)).parts(item)) for item in thing
            )
        elif isinstance(thing, dict):
            for key, value in thing.items():
                yield from self.parts(key)
                yield from self.parts(value)
        elif isinstance(thing, types.CellType):
            try:
                yield from self.parts(thing.cell_contents)
            except ValueError:
                yield b"empty"
        elif isinstance(thing, types.MethodType):
            yield from self.parts(thing.__func__)
            yield from self.parts(thing.__self__)
        elif isinstance(thing, (staticmethod, classmethod)):
            yield from self.parts(thing.__func__)
        elif isinstance(thing, property):
            for accessor in (thing.fget, thing.fset, thing.fdel):
                yield from self.parts(accessor)
        elif hasattr(thing, "dtype") and hasattr(thing, "tobytes"):
            yield f"{thing.dtype} {thing.shape}".encode()
            yield thing.tobytes()
        else:
            yield from self._instance(thing)

    def _code(self, part: types.CodeType, doc: str | None) -> Iterator[bytes]:
        yield part.co_code
        yield getattr(part, "co_exceptiontable", b"")
        counts = (part.co_argcount, part.co_posonlyargcount, part.co_kwonlyargcount, part.co_flags)
        names = (part.co_name, part.co_names, part.co_varnames, part.co_freevars, part.co_cellvars)
        yield repr((counts, names)).encode()
        for number, constant in enumerate(part.co_consts):
            is_doc = number == 0 and doc is not None and constant == doc
            yield from self.parts(None if is_doc else constant)

    def _function(self, function: types.FunctionType) -> Iterator[bytes]:
        if not module_origin.is_local(function.__module__ or "__main__"):
            yield self._rule.named(function.__module__, function.__qualname__).encode()
            return
        yield from self._code(function.__code__, function.__doc__)
        for value in (function.__defaults__, function.__kwdefaults__, function.__closure__):
            yield from self.parts(value)
        for name in code.global_names(function.__code__):
            if name in function.__globals__:
                yield name.encode()
                yield from self.parts(function.__globals__[name])
        for name, value in sorted(vars(function).items()):
            yield name.encode()
            yield from self.parts(value)

    def _class(self, cls: type) -> Iterator[bytes]:
        yield self._rule.named(cls.__module__, cls.__qualname__).encode()
        if not module_origin.is_local(cls.__module__):
            return
        for base in cls.__bases__:
            yield from self.parts(base)
        for name, value in vars(cls).items():
            if name not in _OWN_ATTRIBUTES_LEFT_OUT and not isinstance(
                value, (types.MemberDescriptorType, types.GetSetDescriptorType)
            ):
                yield name.encode()
                yield from self.parts(value)

    def _module(self, module: types.ModuleType) -> Iterator[bytes]:
        yield self._rule.of_module(module.__name__).encode()
        sources = Sources()
        sources.add(module.__name__)
        for name, source in sorted(sources.found.items()):
            yield name.encode()
            yield source.text.encode()
            yield repr(sorted(source.data.items())).encode()

    def _instance(self, thing: Any) -> Iterator[bytes]:
        yield from self.parts(type(thing))
        attributes = getattr(thing, "__dict__", None)
        if module_origin.is_local(type(thing).__module__) and isinstance(attributes, dict):
            yield from self.parts(attributes)
            return
        if hasattr(thing, "__wrapped__"):
            yield from self.parts(thing.__wrapped__)
            return
        try:
            content = self._rule.pickled(thing)
        except (pickle.PicklingError, TypeError, AttributeError, ValueError):
            return
        yield content
