"""A pickler that takes functions, classes and modules of the user's own by value.

What can be imported on the worker goes by name, as pickle does it; so does what a module beside
the script defines, for the module's source travels too. Functions and classes of `__main__`,
lambdas and everything defined inside functions go by value.

Why not cloudpickle, which takes functions by value too:
- It is not among the runtime packages (TensorFlow does not bring it), and every node would need it.
- A module beside the script is named, and is missing on the worker; registered with
  `register_pickle_by_value`, what is used of it travels, but it is not imported there: what it does
  when imported does not happen. Here its source travels, with the plain data it holds now.
- Objects that a worker makes of the script's classes come back with the class by value. Here they
  name it, so that `pickle.load` in the script reads a model.
- An open file becomes a copy of its content, and an error does not say which variable holds what
  cannot travel.
- Its bytes change with line numbers and file names, so they tell nothing of whether a function is
  still the same (`cerebro.shipping.fingerprint` shares this pickler).
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import io
import marshal
import pickle
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from cerebro.errors import ShippingError
from cerebro.shipping import class_parts, code, module_origin, rebuild
from cerebro.shipping.modules import Sources
from cerebro.shipping.sent_source import SentFiles
from cerebro.shipping.unshippable import why_unshippable

LRU_CACHE = type(functools.lru_cache(lambda: None))

HEAP_TYPE = 1 << 9
"""The flag of classes that are made at run time; the others are the interpreter's own."""


class Unshippable(ShippingError):
    """A thing that cannot travel was met; the way to it is found out later."""


class Pickler(pickle.Pickler):
    """Pickles for a process that has none of the user's code.

    `sources` collects the local modules that are referred to, `sent` the source of code, which
    goes under its own file names without it. With `registered` (on a worker), classes that came
    by value are named instead of sent again. `met` is called with each thing that is not of one of
    Python's own plain types.
    """

    def __init__(
        self,
        file: io.BytesIO,
        sources: Sources,
        *,
        registered: bool = False,
        sent: SentFiles | None = None,
        met: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._sources = sources
        self._registered = registered
        self._sent = sent
        self._met = met
        self._namespaces: dict[str, Namespace] = {}
        self._filled: set[int] = set()
        self._without_state: dict[int, dict[str, Any] | None] = {}
        self._classes: dict[type, int] = {}
        self._made: dict[int, type] = {}
        self._abstract_classes: list[abc.ABCMeta] | None = None

    def reducer_override(self, thing: Any) -> Any:
        """How to take a thing; `NotImplemented` leaves it to pickle."""
        kind = type(thing)
        if self._met is not None:
            self._met(thing)
        if why_unshippable(thing) is not None:
            raise Unshippable(f"{kind.__name__} cannot travel")
        if isinstance(thing, types.FunctionType):
            return self._function(thing)
        if isinstance(thing, type):
            return self._class(thing)
        if isinstance(thing, types.ModuleType):
            return self._module(thing)
        if isinstance(thing, enum.Enum) and self._travels_by_value(kind):
            return self._member(thing)
        if kind is Namespace:
            return rebuild.namespace if thing.is_own else rebuild.globals_of, (thing.module,)
        if kind is _Filled:
            state = self._without_state.pop(id(thing.function), None)
            return rebuild.filled, (thing.function, state)
        if kind is types.CellType:
            return rebuild.empty_cell, ()
        if kind is types.CodeType:
            return marshal.loads, (marshal.dumps(thing),)
        if kind is property:
            return property, (thing.fget, thing.fset, thing.fdel, thing.__doc__)
        if kind in (staticmethod, classmethod):
            return kind, (thing.__func__,)
        if kind is LRU_CACHE and not self._goes_by_name(thing):
            return rebuild.lru_cached, (thing.__wrapped__, thing.cache_parameters())
        if kind is functools.cached_property:
            return rebuild.cached_property, (thing.func, thing.attrname)
        if kind is types.MappingProxyType:
            return rebuild.read_only, (dict(thing),)
        if kind is typing.TypeVar and not self._goes_by_name(thing):
            return self._type_variable(thing)
        for name in ("MISSING", "KW_ONLY", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR"):
            if thing is getattr(dataclasses, name, None):
                return rebuild.constant, ("dataclasses", name)
        return NotImplemented

    # --- by name or by value ---------------------------------------------------------------------

    def _goes_by_name(self, thing: Any) -> bool:
        """Whether a thing can be had on the other side by importing it; notes local modules."""
        module, name = getattr(thing, "__module__", None), _qualified_name(thing)
        if not module or not name or module_origin.find_by_name(module, name) is not thing:
            return False
        if module == "__main__":
            return self._registered
        if module_origin.is_local(module):
            self._sources.add(module)
        return True

    def _module(self, module: types.ModuleType) -> Any:
        reference = module_origin.module_reference(module)
        if reference is None or reference[0] == "__main__":
            raise ShippingError(
                f"the module {module.__name__!r} cannot be imported on the workers: put it into a "
                "file beside the script, or install it there"
            )
        self._sources.add(reference[0])
        return rebuild.module, reference

    # --- functions -------------------------------------------------------------------------------

    def _function(self, function: types.FunctionType) -> Any:
        if is_dispatcher(function):
            return self._dispatcher(function)
        if self._goes_by_name(function):
            return NotImplemented
        part, globals_ = function.__code__, function.__globals__
        if self._sent is not None:
            part = self._sent.renamed(part, globals_)
        self._sources.add_imports(part, str(globals_.get("__package__") or ""))
        self._sources.add_named(part)
        module = str(globals_.get("__name__", "__main__"))
        namespace = self._namespaces.setdefault(module, self._namespace(module, globals_))
        cells = []
        for cell in function.__closure__ or ():
            if id(cell) not in self._filled:
                self._filled.add(id(cell))
                try:
                    cells.append((cell, cell.cell_contents))
                except ValueError:
                    continue
        names = ("__defaults__", "__kwdefaults__", "__doc__", "__module__", "__qualname__")
        attributes = {name: getattr(function, name) for name in names}
        if function.__annotations__:
            attributes["__annotations__"] = function.__annotations__
        used = {n: globals_[n] for n in code.global_names(part) if n in globals_}
        submodules = code.submodules(part, used.values())
        for name in submodules:
            self._sources.add(name)
        state = {
            "submodules": submodules,
            "globals": used,
            "cells": cells,
            "attributes": attributes,
            "dict": vars(function),
        }
        arguments = (marshal.dumps(part), namespace, function.__name__, function.__closure__)
        if id(function) in self._without_state:
            self._without_state[id(function)] = state
            return rebuild.empty_function, arguments
        return rebuild.empty_function, arguments, state, None, None, rebuild.fill_function

    def _namespace(self, module: str, globals_: dict[str, Any]) -> Namespace:
        is_own = module not in sys.modules or vars(sys.modules[module]) is not globals_
        if not is_own:
            self._sources.add(module)
        return Namespace(module, is_own or module not in self._sources.found)

    def _dispatcher(self, function: Any) -> Any:
        """A function of `functools.singledispatch`, with what the script has registered."""
        others = {
            cls: implementation
            for cls, implementation in function.registry.items()
            if isinstance(implementation, types.FunctionType)
            and implementation is not function.registry[object]
        }
        if not self._goes_by_name(function):
            known = ("__wrapped__", "register", "dispatch", "registry", "_clear_cache")
            more = {name: value for name, value in vars(function).items() if name not in known}
            state = (others, more)
            arguments = (function.registry[object],)
            return rebuild.dispatcher, arguments, state, None, None, rebuild.fill_dispatcher
        of_script = {c: i for c, i in others.items() if not self._goes_by_name(i)}
        if not of_script:
            return NotImplemented
        name = (function.__module__, function.__qualname__)
        return rebuild.named, name, (of_script, {}), None, None, rebuild.fill_dispatcher

    # --- classes ---------------------------------------------------------------------------------

    def _travels_by_value(self, cls: type) -> bool:
        if not cls.__flags__ & HEAP_TYPE or self._goes_by_name(cls):
            return False
        known = rebuild.CLASSES.get((cls.__module__, cls.__qualname__))
        return not (self._registered and known is cls)

    def _class(self, cls: type) -> Any:
        if not self._travels_by_value(cls):
            if cls.__flags__ & HEAP_TYPE and not self._goes_by_name(cls):
                return rebuild.registered_class, (cls.__module__, cls.__qualname__)
            return NotImplemented
        early, late = class_parts.attributes(cls)
        maker = class_parts.maker(cls, self._is_by_name)
        given = class_parts.maker_keywords(cls, maker)
        functions = []
        if not class_parts.is_library(maker):
            # It may look at what is in the body. Functions may refer to the class, so they are
            # there without what they use at first.
            early.update(class_parts.body(late))
            functions = [f for f in class_parts.functions(early) if not self._goes_by_name(f)]
            self._without_state.update({id(f): None for f in functions})
        number = self._classes.setdefault(cls, len(self._classes))
        arguments = (
            (self._made, number, maker, given),
            (type(cls), cls.__name__, cls.__bases__, early),
        )
        state = {
            "functions": [_Filled(function) for function in functions],
            "attributes": late,
            "hook": class_parts.hook(cls, self._is_by_name),
            "virtual": class_parts.virtual_subclasses(cls),
            "registered": [base for base in self._abstract() if self._has_registered(base, cls)],
        }
        return rebuild.made_class, arguments, state, None, None, rebuild.complete_class

    def _is_by_name(self, cls: type) -> bool:
        return not self._travels_by_value(cls)

    def _abstract(self) -> list[abc.ABCMeta]:
        if self._abstract_classes is None:
            self._abstract_classes = class_parts.abstract_classes()
        return self._abstract_classes

    def _has_registered(self, base: abc.ABCMeta, cls: type) -> bool:
        return cls in class_parts.virtual_subclasses(base) and self._is_by_name(base)

    def _member(self, member: enum.Enum) -> Any:
        base, data = class_parts.member_data(member)
        arguments = (base, type(member), data)
        return rebuild.enum_member, arguments, vars(member), None, None, rebuild.fill_member

    def _type_variable(self, variable: Any) -> Any:
        return (
            _type_variable,
            (
                variable.__name__,
                variable.__constraints__,
                variable.__bound__,
                variable.__covariant__,
                variable.__contravariant__,
            ),
        )


@dataclasses.dataclass(frozen=True)
class Namespace:
    """Stands for the globals of what travels by value from one module.

    They are the module's where that is imported on the other side, too, and else (`is_own`) kept
    for what travels.
    """

    module: str
    is_own: bool = True


@dataclasses.dataclass(frozen=True)
class _Filled:
    """Stands for the state of a function that went without it."""

    function: types.FunctionType


def is_dispatcher(function: Any) -> bool:
    """Whether a function is one of `functools.singledispatch`."""
    return (
        isinstance(function, types.FunctionType)
        and function.__globals__ is vars(functools)
        and function.__code__.co_name == "wrapper"
        and hasattr(function, "registry")
    )


def _qualified_name(thing: Any) -> str | None:
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    return None if name is None or "<" in name else str(name)


def _type_variable(
    name: str, constraints: tuple[Any, ...], bound: Any, covariant: bool, contravariant: bool
) -> Any:
    made = typing.TypeVar(  # type: ignore[misc]
        name, *constraints, bound=bound, covariant=covariant, contravariant=contravariant
    )
    made.__module__ = sys.modules["__main__"].__name__
    return made
