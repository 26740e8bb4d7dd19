"""What a function's code refers to: global names, and modules that it imports when it runs."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, ModuleType
from typing import Any

_GLOBAL_OPS = {
    "LOAD_GLOBAL",
    "STORE_GLOBAL",
    "DELETE_GLOBAL",
    "LOAD_NAME",
    "LOAD_FROM_DICT_OR_GLOBALS",
}


def nested(code: CodeType) -> Iterator[CodeType]:
    """A code object and all that are nested in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def global_names(code: CodeType) -> list[str]:
    """The global names that code, and code nested in it, refers to; sorted."""
    return sorted(
        {
            instruction.argval
            for part in nested(code)
            for instruction in dis.get_instructions(part)
            if instruction.opname in _GLOBAL_OPS
        }
    )


def texts(code: CodeType) -> list[str]:
    """The texts among the constants of code and code nested in it."""
    return [text for part in nested(code) for text in part.co_consts if isinstance(text, str)]


def submodules(code: CodeType, used: Iterable[Any]) -> list[str]:
    """Loaded submodules that code reaches through the packages in `used`, as `package.part`."""
    names = {name for part in nested(code) for name in part.co_names}
    packages = [m.__name__ for m in used if isinstance(m, ModuleType) and "__path__" in vars(m)]
    return sorted(
        loaded
        for loaded in list(sys.modules)
        for package in packages
        if loaded.startswith(package + ".")
        and names.issuperset(loaded[len(package) + 1 :].split("."))
    )


def imports(code: CodeType) -> list[tuple[str, int, tuple[str, ...]]]:
    """(module, level, names) of every import statement in code and code nested in it."""
    found = []
    for part in nested(code):
        before: list[dis.Instruction] = []
        for instruction in dis.get_instructions(part):
            if instruction.opname == "IMPORT_NAME":
                level, names = (step.argval for step in before[-2:])
                found.append((instruction.argval, level or 0, tuple(names or ())))
            if instruction.opname not in ("CACHE", "EXTENDED_ARG"):
                before = [*before[-1:], instruction]
    return found
