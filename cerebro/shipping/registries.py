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

from cerebro.shipping import held_by_modules
from cerebro.shipping.held_by_modules import Filled, is_of_script
from cerebro.shipping.pickler import is_dispatcher

_KERAS = ("keras", "tf_keras")


@dataclass(frozen=True)
class Registrations:
    """Entries of registries: what is to be put where.

    `keras` has (module, key, thing, whether the key is the thing's name); `things` are those whose
    creation registers them, or which are registered where they are filled; `contents` has what to
    put into which of `modules`.
    """

    keras: list[tuple[str, str, Any, bool]]
    things: list[Any]
    contents: tuple[tuple[str, Filled], ...]
    modules: tuple[str, ...]


def found(modules: Iterable[str], size: Callable[[Any], int | None]) -> Registrations:
    """What the script has registered with Keras and with these local modules.

    `size` gives the bytes that a thing takes when it travels, None for one that cannot. A class
    that registers itself when it is made, and cannot travel, is left out: who uses it is refused.

    Raises `ShippingError` for what has been put into a module otherwise and cannot travel.
    """
    modules = set(modules)
    keras = [
        (library, key, thing, is_name)
        for library, key, thing, is_name in _of_keras()
        if thing.__module__ in modules or is_of_script(thing)
        if size(thing) is not None
    ]
    known = [
        thing
        for name in sorted(modules)
        if name in sys.modules
        for value in list(vars(sys.modules[name]).values())
        if getattr(value, "__module__", None) == name
        for thing in _known_to(value)
    ]
    things: list[Any] = []
    left_out: list[Any] = []
    for thing in known:
        (left_out if size(thing) is None else things).append(thing)
    contents = held_by_modules.taken(modules, size, left_out)
    return Registrations(keras, things, tuple(contents), tuple(sorted(modules)))


_held: list[Registrations] = []
"""What has been registered here: a module may hold it weakly, as the script's own variables do."""


def restore(registrations: Registrations) -> None:
    """Register the same in this process."""
    for library, key, thing, is_name in registrations.keras:
        saving = importlib.import_module(library).saving
        if is_name and ">" in key:
            saving.register_keras_serializable(*key.split(">", 1))(thing)
        else:
            saving.get_custom_objects()[key] = thing
    fill_modules(registrations, importlib.import_module)


def fill_modules(
    registrations: Registrations, module: Callable[[str], Any], *, keep: bool = False
) -> None:
    """Fill the modules that `module` gives; with `keep`, what others have put there stays.

    Raises `ShippingError` where a module has made something else than in the script.
    """
    _held.append(registrations)
    contents = [(module(name), filled) for name, filled in registrations.contents]
    held_by_modules.put(registrations.modules, contents, keep=keep)


def _of_keras() -> list[tuple[str, str, Any, bool]]:
    return [
        (name, key, thing, library.saving.get_registered_name(thing) == key)
        for name in _KERAS
        if (library := sys.modules.get(name)) is not None and hasattr(library, "saving")
        for key, thing in library.saving.get_custom_objects().items()
        if isinstance(thing, (type, types.FunctionType))
    ]


def _known_to(value: Any) -> list[Any]:
    """What the script has registered with a class or function of a module."""
    if isinstance(value, type):
        made = [cls for cls in _subclasses(value) if is_of_script(cls)]
        return made if "__init_subclass__" in vars(value) or type(value) is not type else []
    if is_dispatcher(value) and any(map(is_of_script, value.registry.values())):
        return [value]
    return []


def _subclasses(cls: type) -> list[type]:
    direct: list[type] = type.__subclasses__(cls)
    return [*direct, *(deeper for child in direct for deeper in _subclasses(child))]
