"""How a value is shown in a message that says what it changed from, and to.

The text is the same in every process: it names no address, and no `repr` of a user's class is
called.
"""

from __future__ import annotations

import enum
import functools
import re
import reprlib
import types
from typing import Any

LIMIT = 72
"""The most characters of a text."""

_SAFE_MODULES = {"datetime", "decimal", "fractions", "pathlib", "uuid", "re", "zoneinfo"}
"""Modules of classes whose `repr` says the value, and nothing else."""

_HELD_BACK = re.compile(
    r"passw|passphrase|secret|credential|(api|access|private)_?key|(?<![a-z])token(?![a-z])",
    re.IGNORECASE,
)


def short_text(value: Any, name: str = "") -> str:
    """A value in at most `LIMIT` characters; nothing of one whose name says that it is secret."""
    if _HELD_BACK.search(name):
        return ""
    return cut(_SHORT.repr(value))


def cut(text: str) -> str:
    """A text's first `LIMIT` characters."""
    return text if len(text) <= LIMIT else text[: LIMIT - 1] + "…"


class _Short(reprlib.Repr):
    """`reprlib` without addresses: an instance of a class that is not known is named by it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = 8
        self.maxdict = 6
        self.maxstring = self.maxother = self.maxlong = LIMIT

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """In the order of the dictionary, which counts."""
        if not x:
            return "{}"
        if level <= 0:
            return "{...}"
        items = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}"
            for key, value in list(x.items())[: self.maxdict]
        ]
        return "{" + ", ".join([*items, *(["..."] if len(x) > self.maxdict else [])]) + "}"

    def repr_int(self, x: int, level: int) -> str:
        return str(x) if x.bit_length() < 1000 else f"an int of {x.bit_length()} bits"

    def repr_set(self, x: set[Any] | frozenset[Any], level: int) -> str:
        """In the order of the texts: the one that a set has is by chance."""
        if not x:
            return f"{type(x).__name__}()"
        shown = sorted(self.repr1(element, level - 1) for element in x) if level > 0 else ["..."]
        if len(shown) > self.maxset:
            shown[self.maxset :] = ["..."]
        text = "{" + ", ".join(shown) + "}"
        return text if type(x) is set else f"{type(x).__name__}({text})"

    repr_frozenset = repr_set

    def _named_dict(self, x: Any, level: int) -> str:
        return f"{type(x).__name__}({self.repr_dict(dict(x), level)})"

    repr_OrderedDict = repr_defaultdict = repr_Counter = repr_mappingproxy = _named_dict

    def repr_Namespace(self, x: Any, level: int) -> str:
        return f"{type(x).__name__}({self.repr_dict(vars(x), level)})"

    repr_SimpleNamespace = repr_Namespace

    def repr_array(self, x: Any, level: int) -> str:
        return self.repr_instance(x, level)

    def repr_instance(self, x: Any, level: int) -> str:
        kind = type(x)
        if x is None or x is Ellipsis or kind in (bool, float, complex, bytes, bytearray, range):
            return repr(x)[: self.maxother]
        if isinstance(x, type):
            return f"class {x.__qualname__}"
        if isinstance(x, enum.Enum):
            return f"{kind.__qualname__}.{x._name_}"
        if isinstance(x, types.ModuleType):
            return f"module {x.__name__}"
        if isinstance(x, functools.partial):
            return f"partial of {self.repr1(x.func, level)}"
        if isinstance(x, (types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
            return f"function {x.__qualname__}"
        module = str(kind.__module__)
        if module.partition(".")[0] == "numpy":
            return self._of_numpy(x)
        if module.partition(".")[0] == "pandas" and hasattr(x, "shape"):
            return f"{kind.__name__} of shape {x.shape}"
        if module.partition(".")[0] in _SAFE_MODULES:
            return repr(x)[: self.maxother]
        return _one(kind)

    def _of_numpy(self, x: Any) -> str:
        if hasattr(x, "dtype") and hasattr(x, "tolist"):
            if x.shape == ():
                value = x.tolist()
                text = str(x) if type(value).__module__ == "numpy" else self.repr1(value, 1)
                return f"{x.dtype} {text}"
            what = f"{x.dtype} array of shape {x.shape}"
            return f"{what}: {self.repr1(x.tolist(), 3)}" if x.size <= self.maxlist else what
        if hasattr(x, "newbyteorder"):
            return f"type {x}"
        return _one(type(x))


def _one(kind: type) -> str:
    name = kind.__qualname__
    return f"{'an' if name[:1].upper() in 'AEIOU' else 'a'} {name}"


_SHORT = _Short()
