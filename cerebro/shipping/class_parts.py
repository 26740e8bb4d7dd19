"""What a class is made of, and which code has to run again where it is made once more.

What the creation of a class did to classes and variables that travel by value is part of their
values: it must not happen again. What it did to things that the other side has by name, as to a
registry in a module of its own, must.
"""

from __future__ import annotations

import abc
import ast
import builtins
import enum
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from cerebro.errors import ShippingError
from cerebro.shipping.modules import is_plain
from cerebro.shipping.sent_source import FUTURES, compiled, is_same, readings

_LEFT_OUT = {"__dict__", "__weakref__", "_abc_impl", "__abstractmethods__", "__firstlineno__"}
"""Attributes that a class gets when it is made."""

_EARLY = ("__module__", "__qualname__", "__slots__", "__orig_bases__")
"""Attributes that a class must have when it is made."""

_PLAIN_DATA: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda member: bytes.__getitem__(member, slice(None)),
    tuple: lambda member: tuple.__getitem__(member, slice(None)),
    complex: lambda member: complex(member.real, member.imag),
}
"""The types whose data a member of an enumeration may have in itself, and how to take it."""

ByName = Callable[[type], bool]


def attributes(cls: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a class must have when it is made, and what it is given afterwards."""
    late = dict(vars(cls))
    early = {name: late.pop(name) for name in _EARLY if name in late}
    early["__qualname__"] = cls.__qualname__
    slots = early.get("__slots__", ())
    for name in (*_LEFT_OUT, *((slots,) if isinstance(slots, str) else slots)):
        late.pop(name, None)
    for name in [n for n, v in late.items() if isinstance(v, types.MemberDescriptorType)]:
        del late[name]
    if isinstance(cls, abc.ABCMeta):
        late["__abstractmethods__"] = frozenset(cls.__abstractmethods__)
    return early, late


def body(late: dict[str, Any]) -> dict[str, Any]:
    """What of a class's attributes can be in its body when it is made: functions and plain data."""
    kinds = (types.FunctionType, staticmethod, classmethod, property)
    return {n: value for n, value in late.items() if isinstance(value, kinds) or is_plain(value)}


def functions(attributes: dict[str, Any]) -> list[types.FunctionType]:
    """The functions among these attributes, also those of methods and properties."""
    found = []
    for value in attributes.values():
        parts: tuple[Any, ...] = (getattr(value, "__func__", value),)
        if isinstance(value, property):
            parts = (value.fget, value.fset, value.fdel)
        found += [part for part in parts if isinstance(part, types.FunctionType)]
    return found


def is_library(thing: Any) -> bool:
    """Whether a class or function is of Python's own library."""
    top = str(thing.__module__).partition(".")[0]
    return top == "builtins" or top in sys.stdlib_module_names


def maker(cls: type, is_by_name: ByName) -> type:
    """The metaclass whose `__new__` makes a class again.

    What metaclasses that travel by value, and those of Python's own library, did beyond making it
    is among its attributes.
    """
    first: type = next(meta for meta in type.mro(type(cls)) if is_by_name(meta))
    if not is_library(first):
        return first
    return abc.ABCMeta if issubclass(first, abc.ABCMeta) else type


def hook(cls: type, is_by_name: ByName) -> tuple[Any, dict[str, Any]] | None:
    """The `__init_subclass__` that is to run again, with its keywords; None if there is none.

    Raises `ShippingError` where it takes keywords that cannot be had.
    """
    own = False
    for base in cls.__mro__[1:]:
        if "__init_subclass__" in vars(base) and not is_library(base):
            if is_by_name(base):
                function = vars(base)["__init_subclass__"].__func__
                return function, _keywords(cls, function, 1, passed_on=own)
            own = True
    return None


def maker_keywords(cls: type, made_by: type) -> dict[str, Any]:
    """The keywords that the metaclass which makes a class again has to get."""
    if is_library(made_by):
        return {}
    for name in ("__new__", "__init__"):
        taker = getattr(made_by, name)
        if isinstance(taker, types.FunctionType):
            return _keywords(cls, taker, 4, passed_on=type(cls) is not made_by)
    return {}


def _keywords(
    cls: type, taker: types.FunctionType, given_by_place: int, *, passed_on: bool
) -> dict[str, Any]:
    """The keywords of a class statement that `taker` has to get again.

    They are in no class, so they are read in the source. `passed_on` says that a function of the
    script came between and may have changed them.
    """
    parameters = list(inspect.signature(taker).parameters.values())
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [
        p
        for p in parameters[given_by_place:]
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if passed_on and named:
        raise _unknown(cls, taker, named[0].name)
    if not named and not takes_all:
        return {}
    tree, given = _statement(cls)
    needed = [p.name for p in named if p.default is p.empty and p.name not in given]
    if needed or (tree is None and named):
        raise _unknown(cls, taker, (needed or [p.name for p in named])[0])
    values = {}
    for name, node in given.items():
        if takes_all or name in {p.name for p in named}:
            try:
                values[name] = _value(node, cls, tree)
            except (KeyError, ValueError, AttributeError) as error:
                raise _unknown(cls, taker, name) from error
    return values


def _unknown(cls: type, taker: types.FunctionType, name: str) -> ShippingError:
    return ShippingError(
        f"the class {cls.__qualname__} is made with the keyword {name!r}, which "
        f"{taker.__qualname__} of {taker.__module__} takes, and whose value cannot be found out: "
        "put the class into a module beside the script"
    )


def _statement(cls: type) -> tuple[ast.Module | None, dict[str, ast.expr]]:
    """The source with a class's statement, and the keywords there; None for no certain one."""
    module = sys.modules.get(cls.__module__)
    functions = [v.__code__ for v in vars(cls).values() if isinstance(v, types.FunctionType)]
    file: str = getattr(module, "__file__", None) or next((f.co_filename for f in functions), "")
    for lines in readings(file, vars(module) if module else None) if file else ():
        text = "".join(lines)
        made = compiled(file, text, functions[0].co_flags & FUTURES if functions else 0)
        if any(
            part.co_filename == file and not any(is_same(part, other) for other in made)
            for part in functions
        ):
            continue
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for name, node in _class_statements(tree, ""):
            if name == cls.__qualname__:
                return tree, {k.arg: k.value for k in node.keywords if k.arg not in _NOT_PASSED}
    return None, {}


_NOT_PASSED = (None, "metaclass")


def _class_statements(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.ClassDef]]:
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, ast.ClassDef):
            yield prefix + child.name, child
            inner = f"{prefix}{child.name}."
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = f"{prefix}{child.name}.<locals>."
        yield from _class_statements(child, inner)


def _value(node: ast.expr, cls: type, tree: ast.Module | None) -> Any:
    """The value of a literal, or of a name that is bound once at the top of the module.

    Raises `ValueError` for others.
    """
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, cls, tree), node.attr)
    if not isinstance(node, ast.Name):
        return ast.literal_eval(node)
    if "." in cls.__qualname__ or tree is None or _bindings(tree).count(node.id) > 1:
        raise ValueError(f"{node.id} may have had another value")
    return {**vars(builtins), **vars(sys.modules[cls.__module__])}[node.id]


def _bindings(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.append(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append(node.name)
        elif isinstance(node, ast.alias):
            found.append((node.asname or node.name).partition(".")[0])
    return found


def virtual_subclasses(cls: type) -> list[type]:
    """The classes that were registered with an abstract class."""
    dump = getattr(abc, "_get_dump", None)
    if dump is None or not isinstance(cls, abc.ABCMeta):
        return []
    alive = [reference() for reference in dump(cls)[0]]
    return sorted((c for c in alive if c is not None), key=lambda c: (c.__module__, c.__qualname__))


def abstract_classes() -> list[abc.ABCMeta]:
    """All abstract classes of this process, in no order."""
    found: dict[int, type] = {}
    left: list[type] = [object]
    while left:
        children: list[type] = type.__subclasses__(left.pop())
        for cls in children:
            if id(cls) not in found:
                found[id(cls)] = cls
                left.append(cls)
    return [cls for cls in found.values() if isinstance(cls, abc.ABCMeta)]


def member_data(member: enum.Enum) -> tuple[type, tuple[Any, ...]]:
    """How to make an enumeration's member again: the type to make it by, and its data there."""
    for base in type(member).__mro__:
        if base in _PLAIN_DATA:
            return base, (_PLAIN_DATA[base](member),)
        if base.__module__ == "builtins" and base is not object:
            break
        if "__slots__" in vars(base) and vars(base)["__slots__"]:
            break
        if base is object:
            return object, ()
        if "__reduce__" in vars(base) and not issubclass(base, enum.Enum):
            break
    raise ShippingError(
        f"the members of the enumeration {type(member).__qualname__} hold data of "
        f"{base.__qualname__}, which cannot be copied: put the enumeration into a "
        "module beside the script"
    )
