"""What the script has registered elsewhere: with Keras, and with modules of its own.

A registry finds a class or function by a text, so that no function need mention it. Entries of the
script's own travel therefore with whatever is sent.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cerebro.shipping import module_origin
from cerebro.shipping.pickler import is_dispatcher

_KERAS = ("keras", "tf_keras")


@dataclass(frozen=True)
class Registrations:
    """Entries of registries: what is to be put where.

    `keras` has (module, key, thing, whether the key is the thing's name); `entries` (module,
    variable, key, thing) of dictionaries in local modules; `things` are those whose creation
    registers them, or which are registered where they are filled.
    """

    keras: list[tuple[str, str, Any, bool]]
    entries: list[tuple[str, str, Any, Any]]
    things: list[Any]


def found(modules: Iterable[str], can_travel: Callable[[Any], bool]) -> Registrations:
    """What the script has registered with Keras and with these local modules, and can travel."""
    modules = set(modules)
    keras = [
        (library, key, thing, is_name)
        for library, key, thing, is_name in _of_keras()
        if thing.__module__ in modules or _is_of_script(thing)
        if can_travel(thing)
    ]
    entries = []
    things = []
    for name in sorted(modules):
        module = sys.modules.get(name)
        for variable, value in list(vars(module).items()) if module is not None else ():
            if type(value) is dict and not variable.startswith("__"):
                entries += [
                    (name, variable, key, thing)
                    for key, thing in value.items()
                    if _is_of_script(thing) and can_travel((key, thing))
                ]
            elif getattr(value, "__module__", None) == name:
                things += [thing for thing in _known_to(value) if can_travel(thing)]
    return Registrations(keras, entries, things)


def restore(registrations: Registrations) -> None:
    """Register the same in this process."""
    for library, key, thing, is_name in registrations.keras:
        saving = importlib.import_module(library).saving
        if is_name and ">" in key:
            saving.register_keras_serializable(*key.split(">", 1))(thing)
        else:
            saving.get_custom_objects()[key] = thing
    for name, variable, key, thing in registrations.entries:
        getattr(importlib.import_module(name), variable).setdefault(key, thing)


def _of_keras() -> list[tuple[str, str, Any, bool]]:
    return [
        (name, key, thing, library.saving.get_registered_name(thing) == key)
        for name in _KERAS
        if (library := sys.modules.get(name)) is not None and hasattr(library, "saving")
        for key, thing in library.saving.get_custom_objects().items()
        if isinstance(thing, (type, types.FunctionType))
    ]


def _is_of_script(thing: Any) -> bool:
    return isinstance(thing, (type, types.FunctionType)) and (
        thing.__module__ == "__main__"
        or (thing.__module__ not in sys.modules and module_origin.is_local(thing.__module__))
    )


def _known_to(value: Any) -> list[Any]:
    """What the script has registered with a class or function of a module."""
    if isinstance(value, type):
        made = [cls for cls in _subclasses(value) if _is_of_script(cls)]
        return made if "__init_subclass__" in vars(value) or type(value) is not type else []
    if is_dispatcher(value) and any(map(_is_of_script, value.registry.values())):
        return [value]
    return []


def _subclasses(cls: type) -> list[type]:
    direct: list[type] = type.__subclasses__(cls)
    return [*direct, *(deeper for child in direct for deeper in _subclasses(child))]
