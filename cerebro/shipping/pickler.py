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
from cerebro.shipping import code, module_origin, rebuild
from cerebro.shipping.modules import Sources
from cerebro.shipping.unshippable import why_unshippable

_LRU_CACHE = type(functools.lru_cache(lambda: None))

_HEAP_TYPE = 1 << 9
"""The flag of classes that are made at run time; the others are the interpreter's own."""

_CLASS_LEFT_OUT = {"__dict__", "__weakref__", "_abc_impl", "__abstractmethods__", "__firstlineno__"}
"""Attributes that a class gets when it is made."""


class Unshippable(ShippingError):
    """A thing that cannot travel was met; the way to it is found out later."""


class Pickler(pickle.Pickler):
    """Pickles for a process that has none of the user's code.

    `sources` collects the local modules that are referred to. With `registered` (on a worker),
    classes that came by value are named instead of sent again. `met` is called with each thing that
    is not of one of Python's own plain types.
    """

    def __init__(
        self,
        file: io.BytesIO,
        sources: Sources,
        *,
        registered: bool = False,
        met: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._sources = sources
        self._registered = registered
        self._met = met
        self._namespaces: dict[str, _Namespace] = {}
        self._filled: set[int] = set()
        self.files: set[str] = set()

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
        if kind is _Namespace:
            return rebuild.namespace, (thing.module,)
        if kind is types.CellType:
            return rebuild.empty_cell, ()
        if kind is types.CodeType:
            return marshal.loads, (marshal.dumps(thing),)
        if kind is property:
            return property, (thing.fget, thing.fset, thing.fdel, thing.__doc__)
        if kind in (staticmethod, classmethod):
            return kind, (thing.__func__,)
        if kind is _LRU_CACHE and not self._goes_by_name(thing):
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
        if self._goes_by_name(function):
            return NotImplemented
        part, globals_ = function.__code__, function.__globals__
        self.files.add(part.co_filename)
        self._sources.add_imports(part, str(globals_.get("__package__") or ""))
        module = str(globals_.get("__name__", "__main__"))
        namespace = self._namespaces.setdefault(module, _Namespace(module))
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
        return rebuild.empty_function, arguments, state, None, None, rebuild.fill_function

    # --- classes ---------------------------------------------------------------------------------

    def _class(self, cls: type) -> Any:
        if not cls.__flags__ & _HEAP_TYPE or self._goes_by_name(cls):
            return NotImplemented
        known = rebuild.CLASSES.get((cls.__module__, cls.__qualname__))
        if self._registered and known is cls:
            return rebuild.registered_class, (cls.__module__, cls.__qualname__)
        if isinstance(cls, enum.EnumMeta):
            return self._enumeration(cls)
        attributes = dict(vars(cls))
        early = {
            name: attributes.pop(name)
            for name in ("__module__", "__qualname__", "__slots__")
            if name in attributes
        }
        early["__qualname__"] = cls.__qualname__
        slots = early.get("__slots__", ())
        for name in (*_CLASS_LEFT_OUT, *((slots,) if isinstance(slots, str) else slots)):
            attributes.pop(name, None)
        for name in [n for n, v in attributes.items() if isinstance(v, types.MemberDescriptorType)]:
            del attributes[name]
        if isinstance(cls, abc.ABCMeta):
            attributes["__abstractmethods__"] = frozenset(cls.__abstractmethods__)
        bases = getattr(cls, "__orig_bases__", None) if "__orig_bases__" in vars(cls) else None
        if bases is None or typing.NamedTuple in bases:
            bases = cls.__bases__
        arguments = (type(cls), cls.__name__, tuple(bases), early)
        return rebuild.empty_class, arguments, attributes, None, None, rebuild.fill_class

    def _enumeration(self, cls: enum.EnumMeta) -> Any:
        members = {str(name): member.value for name, member in vars(cls)["_member_map_"].items()}
        generated = {"_generate_next_value_", "_missing_", "__new__", "__reduce_ex__"}
        attributes = {
            name: value
            for name, value in vars(cls).items()
            if name not in members
            and not (name.startswith("_") and name.endswith("_") and not name.startswith("__"))
            and not isinstance(value, enum.property if hasattr(enum, "property") else ())
            and (isinstance(value, (types.FunctionType, property, staticmethod, classmethod)))
            and name not in generated
        }
        early = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        of_members = {
            str(name): {k: v for k, v in vars(member).items() if not k.startswith("_")}
            for name, member in vars(cls)["_member_map_"].items()
        }
        arguments = (type(cls), cls.__name__, cls.__bases__, members, early)
        state = (attributes, of_members)
        return rebuild.enum_class, arguments, state, None, None, rebuild.fill_enum

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
class _Namespace:
    """Stands for the globals of what travels by value from one module."""

    module: str


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
