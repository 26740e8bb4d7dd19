"""Where a module comes from: installed, so that a worker has it too, or the user's own."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import site
import sys
import sysconfig
from types import ModuleType


@functools.lru_cache(maxsize=1)
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.update(site.getsitepackages() if hasattr(site, "getsitepackages") else ())
    folders.add(site.getusersitepackages())
    return tuple(os.path.realpath(folder) + os.sep for folder in folders)


@functools.lru_cache(maxsize=1)
def _distributed_packages() -> frozenset[str]:
    return frozenset(importlib.metadata.packages_distributions())


def is_local(name: str) -> bool:
    """Whether the module `name` is the user's own: neither built in, nor installed.

    `__main__` is. A module that lies outside the installation's folders counts as installed all
    the same if a distribution claims its top-level name (an editable installation).
    """
    top = name.partition(".")[0]
    if name == "__main__":
        return True
    if top == "cerebro" or top in sys.builtin_module_names:
        return False
    places = _places(name)
    if not places:
        # Made at run time, under a name that cannot be imported: it travels by value.
        return name not in sys.modules and not _can_be_found(name)
    if all(os.path.realpath(place).startswith(_installed_folders()) for place in places):
        return False
    return top not in _distributed_packages()


def _can_be_found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _places(name: str) -> list[str]:
    """A module's file, or a package's folders; empty for one that has neither."""
    module = sys.modules.get(name)
    if module is None:
        # To find a submodule is to import its package, TensorFlow perhaps: the package will do.
        parent = name.rpartition(".")[0]
        sought = name if not parent or parent in sys.modules else name.partition(".")[0]
        try:
            spec = importlib.util.find_spec(sought)
        except (ImportError, ValueError, AttributeError):
            return []
        if spec is None:
            return []
        if spec.origin and os.path.exists(spec.origin):
            return [spec.origin]
        return list(spec.submodule_search_locations or [])
    file = module.__dict__.get("__file__")
    if isinstance(file, str):
        return [file]
    return [str(place) for place in module.__dict__.get("__path__", None) or []]


def find_by_name(module: str, qualname: str) -> object:
    """Return what this name refers to in a loaded module, or None."""
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def module_reference(module: ModuleType) -> tuple[str, str | None] | None:
    """How to import a module object again: (name, None), or (parent, attribute) where its own
    name does not lead back to it (lazy loaders); None if nothing does."""
    name = module.__name__
    if sys.modules.get(name) is module or _can_be_found(name):
        return name, None
    for parent_name, parent in list(sys.modules.items()):
        if isinstance(parent, ModuleType):
            for attribute, value in list(vars(parent).items()):
                if value is module:
                    return parent_name, attribute
    return None
