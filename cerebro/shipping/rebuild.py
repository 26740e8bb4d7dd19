"""What the pickles of shipped things call when they are read: this is the far side.

Functions and classes are made in two steps, empty first and filled afterwards, because they may
refer to themselves and to each other.
"""

from __future__ import annotations

import abc
import contextlib
import enum
import functools
import importlib
import marshal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from cerebro.shipping.class_parts import is_library

CLASSES: dict[tuple[str, str], type] = {}
"""Classes that were made here from their values, by module and qualified name."""

_namespaces: dict[str, dict[str, Any]] = {}


class Home(Protocol):
    """Where things are made apart from this process's own `__main__` and modules."""

    classes: dict[tuple[str, str], type]

    def namespace(self, module: str) -> dict[str, Any]:
        """The globals of what travelled by value from `module`."""

    def register(self, cls: type) -> None:
        """A class was made from its values."""

    def import_module(self, name: str) -> Any:
        """A module by its name."""


_home: Home | None = None
_registers = True
_changing = threading.RLock()


@contextlib.contextmanager
def in_home(home: Home) -> Iterator[None]:
    """Have what is read meanwhile made in a home, and not in this process's own modules."""
    global _home
    with _changing:
        before, _home = _home, home
        try:
            yield
        finally:
            _home = before


@contextlib.contextmanager
def without_registering() -> Iterator[None]:
    """Have classes made meanwhile that are not among `CLASSES`: other processes lack them."""
    global _registers
    with _changing:
        before, _registers = _registers, False
        try:
            yield
        finally:
            _registers = before


def namespace(module: str) -> dict[str, Any]:
    """The globals of what travelled by value from `module`.

    Those of the script are this process's own `__main__`, so that its classes have the same
    name here and there, and pickles of their instances can be read on both sides.
    """
    if _home is not None:
        return _home.namespace(module)
    if module == "__main__":
        return vars(sys.modules["__main__"])
    found = _namespaces.get(module)
    if found is None:
        found = _namespaces[module] = {"__name__": module, "__builtins__": __builtins__}
    return found


def import_module(name: str) -> Any:
    """A module by its name."""
    return importlib.import_module(name) if _home is None else _home.import_module(name)


def globals_of(module: str) -> dict[str, Any]:
    """The globals of a module that is imported here."""
    found: dict[str, Any] = vars(import_module(module))
    return found


def read_only(mapping: dict[Any, Any]) -> types.MappingProxyType[Any, Any]:
    """A read-only view of a dictionary."""
    return types.MappingProxyType(mapping)


def cached_property(function: Callable[..., Any], name: str) -> Any:
    """A cached property under its name in the class."""
    made: Any = functools.cached_property(function)
    made.__set_name__(None, name)
    return made


def empty_cell() -> types.CellType:
    """A cell; the function that it belongs to fills it."""
    return types.CellType()


def empty_function(
    code: bytes, globals_: dict[str, Any], name: str, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """A function without defaults and attributes."""
    return types.FunctionType(marshal.loads(code), globals_, name, None, closure)


def fill_function(function: types.FunctionType, state: dict[str, Any]) -> None:
    """Give a function its globals, cells, defaults and attributes."""
    for name in state["submodules"]:
        import_module(name)
    for name, value in state["globals"].items():
        function.__globals__[name] = value
    for cell, value in state["cells"]:
        cell.cell_contents = value
    for name, value in state["attributes"].items():
        setattr(function, name, value)
    function.__dict__.update(state["dict"])


def empty_class(metaclass: type, name: str, bases: tuple[Any, ...], early: dict[str, Any]) -> type:
    """A class with only what must be there when it is made."""
    made = types.new_class(name, bases, {"metaclass": metaclass}, lambda body: body.update(early))
    _register(made)
    return made


def fill_class(cls: type, attributes: dict[str, Any]) -> None:
    """Give a class the rest of its attributes."""
    for name, value in attributes.items():
        setattr(cls, name, value)
    if isinstance(cls, type) and "__abstractmethods__" in attributes:
        abc.update_abstractmethods(cls)


def enum_class(
    metaclass: type,
    name: str,
    bases: tuple[type, ...],
    members: dict[str, Any],
    early: dict[str, Any],
) -> type:
    """An enumeration, whose members must be there when it is made."""
    body = enum.EnumMeta.__prepare__(name, bases)
    for key, value in {**early, **members}.items():
        body[key] = value
    made: type = metaclass(name, bases, body)
    _register(made)
    return made


def fill_enum(cls: type, state: tuple[dict[str, Any], dict[str, dict[str, Any]]]) -> None:
    """Give an enumeration its methods, and its members what their `__init__` had set."""
    attributes, of_members = state
    fill_class(cls, attributes)
    for name, values in of_members.items():
        vars(cls.__members__[name]).update(values)  # type: ignore[attr-defined]


def filled(function: types.FunctionType, state: dict[str, Any] | None) -> None:
    """Fill a function that was in the body of a class, unless it came filled."""
    if state is not None:
        fill_function(function, state)


def made_class(
    how: tuple[dict[int, type], int, type, dict[str, Any]],
    parts: tuple[type, str, tuple[type, ...], dict[str, Any]],
) -> type:
    """A class with only what must be there when it is made.

    `how` is what has been made in this pickle, the class's number there, the metaclass that makes
    it, and with what keywords. Where classes refer to each other a pickle may ask for one twice.
    """
    made, number, maker, keywords = how
    metaclass, name, bases, early = parts
    if number not in made:
        with _without_hooks(bases):
            body: Any = maker.__prepare__(name, bases, **keywords)
            for key, value in early.items():
                body[key] = value
            cls: type = maker.__new__(metaclass, name, bases, body, **keywords)
            if maker not in (type, abc.ABCMeta):
                maker.__init__(cls, name, bases, body, **keywords)  # type: ignore[misc]
        made[number] = cls
        _register(cls)
    return made[number]


@contextlib.contextmanager
def _without_hooks(bases: tuple[type, ...]) -> Iterator[None]:
    """Keep `__init_subclass__` of these classes from running, but for that of Python's library."""
    replaced = []
    for owner in {base: None for top in bases for base in top.__mro__}:
        if "__init_subclass__" in vars(owner) and not is_library(owner):
            hook = vars(owner)["__init_subclass__"]
            with contextlib.suppress(TypeError):
                type.__setattr__(owner, "__init_subclass__", _passed_on(owner))
                replaced.append((owner, hook))
    try:
        yield
    finally:
        for owner, hook in replaced:
            type.__setattr__(owner, "__init_subclass__", hook)


def _passed_on(owner: type) -> Any:
    def hook(cls: Any, /, **keywords: Any) -> None:
        super(owner, cls).__init_subclass__()  # type: ignore[misc,arg-type]

    return classmethod(hook)


def complete_class(cls: type, state: dict[str, Any]) -> None:
    """Give a class its attributes, and tell those that are to know of it."""
    _set_all(cls, state["attributes"])
    if state["hook"]:
        hook, keywords = state["hook"]
        hook(cls, **keywords)
        # What the hook set was changed by others since.
        _set_all(cls, state["attributes"])
    for virtual in state["virtual"]:
        abc.ABCMeta.register(cls, virtual)  # type: ignore[arg-type]
    for base in state["registered"]:
        abc.ABCMeta.register(base, cls)


def _set_all(cls: type, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        type.__setattr__(cls, name, value)


def enum_member(base: type, cls: type, data: tuple[Any, ...]) -> Any:
    """A member of an enumeration, without its name and value."""
    return base.__new__(cls, *data)


def fill_member(member: Any, attributes: dict[str, Any]) -> None:
    """Give a member of an enumeration its name, value and attributes."""
    vars(member).update(attributes)


def dispatcher(function: Callable[..., Any]) -> Any:
    """A function of `functools.singledispatch` that has only its default."""
    return functools.singledispatch(function)


def fill_dispatcher(
    function: Any, state: tuple[dict[type, Callable[..., Any]], dict[str, Any]]
) -> None:
    """Register implementations, and set attributes."""
    implementations, attributes = state
    for cls, implementation in implementations.items():
        function.register(cls, implementation)
    vars(function).update(attributes)


def named(module_name: str, qualname: str) -> Any:
    """Return what a name in a module refers to."""
    found = import_module(module_name)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _register(cls: type) -> None:
    if _home is not None:
        _home.register(cls)
        return
    if not _registers:
        return
    CLASSES[(cls.__module__, cls.__qualname__)] = cls
    if cls.__module__ == "__main__" and "." not in cls.__qualname__:
        vars(sys.modules["__main__"])[cls.__name__] = cls


def registered_class(module: str, qualname: str) -> type:
    """A class that travelled here by value before."""
    try:
        return (CLASSES if _home is None else _home.classes)[(module, qualname)]
    except KeyError:
        raise AttributeError(
            f"the class {qualname} of {module} is known on the workers of its run only: define it "
            "at the top level of the script or module to read it elsewhere"
        ) from None


def module(name: str, attribute: str | None) -> Any:
    """A module by its name, or by its name in another."""
    found = import_module(name)
    return found if attribute is None else getattr(found, attribute)


def lru_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """A function with a cache, empty at first."""
    return functools.lru_cache(**parameters)(function)


def constant(module_name: str, name: str) -> Any:
    """A module's object that must be itself, not a copy."""
    return getattr(importlib.import_module(module_name), name)
