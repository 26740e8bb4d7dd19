"""Modules beside the script: their source travels, and is imported there under the same name.

So `import helpers` at the top, `from helpers import f` and an import inside a function all give
the one module, whose classes and functions have one identity; and what a module does when it is
imported happens on the worker as well. Values of plain data that the script has set since
(`helpers.SETTING = 3`) are set again. The files of a package travel with it.

What a module does with Python's and NumPy's random generators while it is imported is the same on
every worker, and is not noticed by whoever draws from them meanwhile.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import io
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

from cerebro.errors import ShippingError
from cerebro.seeding import derive, seeded
from cerebro.shipping import code, module_origin, sent_source
from cerebro.shipping.package_files import PackageFiles

_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclass(frozen=True)
class Source:
    """One local module: its name, file, text, and the plain data that it holds now.

    `folder` is that of a package.
    """

    name: str
    is_package: bool
    file: str
    text: str
    data: dict[str, Any]
    folder: str | None = None


class Sources:
    """Collects the local modules that shipped things refer to, and those that these import."""

    def __init__(self) -> None:
        self.found: dict[str, Source] = {}

    def add(self, name: str) -> None:
        """Add a local module with its parents and what it imports; others are passed over."""
        if name in self.found or name == "__main__" or not module_origin.is_local(name):
            return
        parent = name.rpartition(".")[0]
        if parent:
            self.add(parent)
            if parent not in self.found and parent not in sys.modules:
                return  # not here at all; whoever imports it will say so
        source = _read(name)
        if source is None:
            return
        self.found[name] = source
        package = name if source.is_package else parent
        for module, level, names in _imports_of_text(source):
            self._add_import(module, level, names, package)

    def add_imports(self, part: CodeType, package: str) -> None:
        """Add the local modules that code imports when it runs."""
        for module, level, names in code.imports(part):
            self._add_import(module, level, names, package)

    def add_named(self, part: CodeType) -> None:
        """Add the local modules whose names are among the texts in code.

        `importlib.resources.files("package")` and `import_module("package.part")` import nothing
        that code shows otherwise. A text may be there for another reason, so that one which cannot
        be sent is left out.
        """
        for name in code.texts(part):
            if _NAME.fullmatch(name) and name not in self.found:
                with contextlib.suppress(ShippingError, SyntaxError, ImportError, OSError):
                    if name in sys.modules or _is_package(name):
                        self.add(name)

    def _add_import(self, module: str, level: int, names: Iterable[str], package: str) -> None:
        if level:
            base = package.split(".")
            base = base[: len(base) - (level - 1)]
            module = ".".join([*base, module] if module else base)
        self.add(module)
        for name in names:
            if _exists(f"{module}.{name}"):
                self.add(f"{module}.{name}")


def _is_package(name: str) -> bool:
    """Whether a package, with a file of its own, is found under a name at the top."""
    spec = None if "." in name else importlib.machinery.PathFinder.find_spec(name)
    return spec is not None and bool(spec.origin) and spec.submodule_search_locations is not None


def _exists(name: str) -> bool:
    if name in sys.modules:
        return True
    parent = sys.modules.get(name.rpartition(".")[0])
    if parent is None or not hasattr(parent, "__path__"):
        return False
    return importlib.machinery.PathFinder.find_spec(name, list(parent.__path__)) is not None


def _read(name: str) -> Source | None:
    module = sys.modules.get(name)
    if module is not None and isinstance(module.__loader__, Importer):
        return module.__loader__.source(name)
    spec = module.__spec__ if module is not None else importlib.util.find_spec(name)
    if spec is None:
        return None
    is_package = spec.submodule_search_locations is not None
    folder = next(iter(spec.submodule_search_locations or ()), None)
    if not spec.origin:
        return Source(name, is_package, f"<package {name}>", "", {}, folder)
    if not spec.origin.endswith(".py"):
        raise ShippingError(
            f"the module {name} ({spec.origin}) lies beside the script and is not written in "
            "Python, so it cannot travel to the workers: install it on each of them"
        )
    with open(spec.origin, "rb") as file:
        text = importlib.util.decode_source(file.read())
    if module is None:
        return Source(name, is_package, spec.origin, text, {}, folder)
    text = _text_of(module, spec.origin, text)
    return Source(name, is_package, spec.origin, text, plain_data(module), folder)


def _text_of(module: ModuleType, file: str, text: str) -> str:
    """The text that a module was imported from: what the file says may have changed since."""
    if type(module.__loader__) is not importlib.machinery.SourceFileLoader:
        return text  # such as pytest's, which compiles something else
    functions = [part for part in _functions_of(module) if part.co_filename == file]
    readings = [text, *map("".join, sent_source.readings(file))]
    for reading in readings:
        made = sent_source.compiled(file, reading)
        strangers = [
            part
            for part in functions
            if not any(sent_source.is_same(part, other) for other in made)
        ]
        if not strangers:
            return reading
    raise ShippingError(
        f"{file} has been changed since the module {module.__name__} was imported from it: its "
        f"function {strangers[0].co_name} is another one there. Start the script again, or import "
        "the module anew (importlib.reload)"
    )


def _functions_of(module: ModuleType) -> list[CodeType]:
    """The code of the functions and methods that a module defines."""
    found = []
    for thing in list(vars(module).values()):
        holds = [thing]
        if isinstance(thing, type) and thing.__module__ == module.__name__:
            holds = list(vars(thing).values())
        for held in holds:
            function = inspect.unwrap(getattr(held, "__func__", held))
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                found.append(function.__code__)
    return found


def plain_data(module: ModuleType) -> dict[str, Any]:
    """The plain data that a module holds now, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if not (name.startswith("__") and name.endswith("__")) and is_plain(value)
    }


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is plain data: numbers, texts, and builtin containers of them."""
    if type(value) in _PLAIN:
        return True
    if depth > 20:
        return False
    if type(value) in (list, tuple, set, frozenset):
        return all(is_plain(item, depth + 1) for item in value)
    if type(value) is dict:
        return all(is_plain(k, depth + 1) and is_plain(v, depth + 1) for k, v in value.items())
    return False


def _imports_of_text(source: Source) -> list[tuple[str, int, tuple[str, ...]]]:
    found: list[tuple[str, int, tuple[str, ...]]] = []
    for node in ast.walk(ast.parse(source.text, source.file)):
        if isinstance(node, ast.Import):
            found.extend((alias.name, 0, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found.append((node.module or "", node.level, names))
    return found


class Importer(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports shipped modules from their text, before any of the same name that lies here.

    `names` are the file names of their code, by module.
    """

    def __init__(
        self, sources: Iterable[Source], names: Mapping[str, str], files: PackageFiles
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._names = dict(names)
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        source = self._sources.get(fullname) or self._among_files(fullname)
        if source is None:
            return None
        origin = self._files.place(source.file)
        spec = importlib.machinery.ModuleSpec(
            fullname, self, origin=origin, is_package=source.is_package
        )
        spec.has_location = True
        return spec

    def _among_files(self, fullname: str) -> Source | None:
        """A module of a package that came with its files: one that nothing mentions by name."""
        parent, _, name = fullname.rpartition(".")
        folder = self._sources[parent].folder if parent in self._sources else None
        if folder is None:
            return None
        for file, inner in (
            (os.path.join(folder, name, "__init__.py"), os.path.join(folder, name)),
            (os.path.join(folder, f"{name}.py"), None),
        ):
            content = self._files.sent(file)
            if content is not None:
                text = importlib.util.decode_source(content)
                found = Source(fullname, inner is not None, file, text, {}, inner)
                self._sources[fullname] = found
                self._names[fullname] = sent_source.name_of(file, text)
                lines = io.StringIO(text).readlines()
                sent_source.show({self._names[fullname]: lines})
                return found
        return None

    def source(self, fullname: str) -> Source:
        """A module that travelled here, as it was sent."""
        return self._sources[fullname]

    def get_source(self, fullname: str) -> str:
        return self._sources[fullname].text

    def get_code(self, fullname: str) -> CodeType:
        source = self._sources[fullname]
        return compile(source.text, self._names[fullname], "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        return self._sources[fullname].is_package

    def exec_module(self, module: ModuleType) -> None:
        with seeded(derive(0, "module", module.__name__)):
            super().exec_module(module)
        vars(module).update(self._sources[module.__name__].data)

    def get_data(self, path: str) -> bytes:
        """The content of a file that travelled, by its path; for `pkgutil.get_data`."""
        return self._files.read(path)

    def get_resource_reader(self, fullname: str) -> Any:
        """The files of a package; for `importlib.resources`."""
        folder = self._sources[fullname].folder
        return None if folder is None else self._files.reader(folder)


def install(sources: list[Source], names: Mapping[str, str], files: PackageFiles) -> None:
    """Let shipped modules be imported in this process.

    `names` are the file names of their code, `files` those of their packages.
    """
    if sources:
        for source in sources:
            sys.modules.pop(source.name, None)
        sys.meta_path.insert(0, Importer(sources, names, files))
