"""User functions by value: what a driver sends, a worker can run without any of the user's files.

    module_origin  which modules are installed, and which are the user's own
    code           what a function's code refers to
    modules        modules beside the script, which travel as source
    pickler        how things are taken
    rebuild        how they are made again
    unshippable    what cannot travel, and which variable holds it
    fingerprint    whether a function has changed

Both sides run the same minor version of Python, because code travels as compiled. Only bytes of
authenticated origin may be unpacked: unpacking runs code.
"""

from __future__ import annotations

import io
import linecache
import pickle
import platform
from collections.abc import Callable, Mapping
from typing import Any

from cerebro.errors import ShippingError
from cerebro.formatting import shorten
from cerebro.shipping import modules, rebuild
from cerebro.shipping.fingerprint import FINGERPRINT_VERSION, fingerprint
from cerebro.shipping.modules import Sources
from cerebro.shipping.pickler import Pickler
from cerebro.shipping.unshippable import children, trace, why_unshippable

__all__ = ["FINGERPRINT_VERSION", "dumps", "fingerprint", "loads", "pack", "unpack"]

FORMAT = 1
SIZE_LIMIT = 32_000_000
"""Bytes that the functions and what they captured may take; they must fit into one remote call."""


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def pack(functions: Mapping[str, Any]) -> bytes:
    """The functions with all they need, in one piece: what they share stays shared.

    Plain values may stand beside them.

    Raises `ShippingError`, naming the variable, for what cannot travel.
    """
    sources = Sources()
    content = io.BytesIO()
    pickler = Pickler(content, sources)
    try:
        pickler.dump(dict(functions))
    except Exception as error:
        raise _explain(functions, error) from error
    if content.tell() > SIZE_LIMIT:
        raise _too_large(functions, content.tell())
    files = {file: linecache.getlines(file) for file in sorted(pickler.files)}
    head = {"format": FORMAT, "python": _python()}
    return (
        b"".join(
            pickle.dumps(part)
            for part in (head, {"modules": list(sources.found.values()), "files": files})
        )
        + content.getvalue()
    )


def unpack(blob: bytes) -> dict[str, Any]:
    """The functions of a `pack`, made in this process.

    What belonged to the script becomes part of this process's `__main__`. Raises `ShippingError`
    for a blob of another Python version or format, and if what the functions need is not here.
    """
    content = io.BytesIO(blob)
    head = pickle.load(content)
    if head != {"format": FORMAT, "python": _python()}:
        raise ShippingError(
            f"the functions were packed by Python {head.get('python')} in format "
            f"{head.get('format')}, and this is Python {_python()}, format {FORMAT}: install the "
            "same versions on driver and workers"
        )
    attachments = pickle.load(content)
    rebuild.show_source(attachments["files"])
    modules.install(attachments["modules"])
    try:
        functions = pickle.load(content)
    except ImportError as error:
        raise ShippingError(
            f"the functions need the module {error.name!r}, which cannot be imported on this "
            f"worker ({error}): install it there"
        ) from error
    return dict(functions)


def dumps(
    thing: Any, into: io.BytesIO | None = None, met: Callable[[Any], object] | None = None
) -> bytes:
    """A pickle of a user's object, to be read by `loads` where the same functions were unpacked.

    Classes of the script and of modules stand in it by name, so that `pickle.load` in the script
    reads it too. It is written `into` a file in memory, if there is one, and `met` is called with
    each thing in it that is not of one of Python's own plain types. Raises what pickle raises.
    """
    content = io.BytesIO() if into is None else into
    Pickler(content, Sources(), registered=True, met=met).dump(thing)
    return content.getvalue()


def loads(content: bytes) -> Any:
    """The object of a `dumps`."""
    return pickle.loads(content)


def _can_travel(thing: Any) -> bool:
    try:
        Pickler(io.BytesIO(), Sources()).dump(thing)
    except Exception:
        return False
    return True


def _explain(functions: Mapping[str, Any], error: Exception) -> ShippingError:
    """The error for functions that cannot be packed, with the way to what is at fault."""
    for name, function in functions.items():
        if _can_travel(function):
            continue
        way, culprit = trace(function, _can_travel)
        path = " -> ".join([name, *way])
        reason = why_unshippable(culprit)
        if reason is not None:
            what, remedy = reason
            return ShippingError(
                f"{name} cannot travel to the workers: {path} holds {what} "
                f"({shorten(culprit, 80)}): {remedy}"
            )
        return ShippingError(
            f"{name} cannot travel to the workers: {path} holds {shorten(culprit, 80)} "
            f"({type(error).__name__}: {error}): make it inside the function"
        )
    return ShippingError(f"the functions cannot travel to the workers: {error}")


def _too_large(functions: Mapping[str, Any], size: int) -> ShippingError:
    largest = (0, "")
    for name, function in functions.items():
        for label, child in children(function):
            content = io.BytesIO()
            Pickler(content, Sources()).dump(child)
            largest = max(largest, (content.tell(), f"{name} -> {label}"))
    return ShippingError(
        f"the functions and what they captured take {size / 1e6:.0f} MB, more than the "
        f"{SIZE_LIMIT / 1e6:.0f} MB that may travel: {largest[1]} alone takes "
        f"{largest[0] / 1e6:.0f} MB; data belongs into a file that input_fn reads"
    )
