"""AutoGraph and code without source: an error, where TensorFlow warns and runs it as it is.

What TensorFlow would run then is the Python code itself, which tests tensors as if they were
values: another function than the one that was meant.

TensorFlow's own `_fall_back_unconverted` of `autograph.impl.api` is what is replaced; it is looked
up by name once TensorFlow is loaded, whoever loads it, and is not missed where it is not.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from cerebro.errors import ShippingError
from cerebro.shipping.sent_source import SENT, with_users_files

_MODULE = "tensorflow.python.autograph.impl.api"
_FALL_BACK = "_fall_back_unconverted"
_NO_SOURCE = "InaccessibleSourceCodeError"


def refuse_missing_source() -> None:
    """Have AutoGraph raise `ShippingError` for code that was sent without its source."""
    if _MODULE in sys.modules:
        _change(sys.modules[_MODULE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _change(module: ModuleType) -> None:
    fall_back: Callable[..., Any] | None = getattr(module, _FALL_BACK, None)
    if fall_back is None or hasattr(fall_back, "__wrapped__"):
        return

    def refuse(function: Any, args: Any, kwargs: Any, options: Any, error: Exception) -> Any:
        code = _code(function)
        was_sent = code is not None and code.co_filename.startswith(SENT)
        if was_sent and type(error).__name__ == _NO_SOURCE:
            raise _refusal(function, code) from error
        return fall_back(function, args, kwargs, options, error)

    refuse.__wrapped__ = fall_back  # type: ignore[attr-defined]
    setattr(module, _FALL_BACK, refuse)


def _code(function: Any) -> Any:
    return getattr(function, "__code__", None) or getattr(
        vars(type(function)).get("__call__"), "__code__", None
    )


def _refusal(function: Any, code: Any) -> ShippingError:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    error = ShippingError(
        f"AutoGraph cannot convert {name} ({with_users_files(code.co_filename)}, line "
        f"{code.co_firstlineno}): its source could not be sent, because the file is not there or "
        "was changed after it was read. Start the script again; if it has no file, put the "
        "function into one. If it needs no conversion, mark it with "
        "tf.autograph.experimental.do_not_convert"
    )
    # TensorFlow would put another error in its place.
    error.ag_pass_through = True  # type: ignore[attr-defined]
    return error


class _Finder(importlib.abc.MetaPathFinder):
    """Changes TensorFlow's module as it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _change(module)
