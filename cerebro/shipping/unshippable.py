"""What cannot travel, and how to say which variable holds it."""

from __future__ import annotations

import io
import sqlite3
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

from cerebro.formatting import shorten
from cerebro.shipping import code

_HELD: list[tuple[Any, str, str]] = [
    (io.IOBase, "an open file", "open it inside the function"),
    (type(threading.Lock()), "a lock", "make it inside the function"),
    (type(threading.RLock()), "a lock", "make it inside the function"),
    (
        (threading.Condition, threading.Event, threading.Semaphore, threading.Barrier),
        "a threading primitive",
        "make it inside the function",
    ),
    (threading.Thread, "a thread", "start it inside the function"),
    (threading.local, "thread-local data", "make it inside the function"),
    (sqlite3.Connection, "a database connection", "connect inside the function"),
    (types.GeneratorType, "a generator that has been made", "call its function inside"),
    ((types.CoroutineType, types.AsyncGeneratorType), "a coroutine", "call its function inside"),
    (types.FrameType, "a stack frame", "leave it out"),
    (types.TracebackType, "a traceback", "leave it out"),
]

_HELD_BY_NAME: list[tuple[str, tuple[str, ...], str, str]] = [
    ("tensorflow", ("Session", "InteractiveSession"), "a TensorFlow session", "use the one passed"),
    ("tensorflow", ("Graph", "FuncGraph"), "a TensorFlow graph", "build it inside model_fn"),
    ("tensorflow", ("EagerTensor",), "an eager tensor", "take its .numpy() first"),
    (
        "tensorflow",
        ("Tensor", "SymbolicTensor", "Operation", "Variable", "RefVariable", "ResourceVariable"),
        "a part of a TensorFlow graph",
        "build it inside model_fn",
    ),
    ("h5py", ("File", "Group", "Dataset"), "an open HDF5 file", "open it inside the function"),
    ("socket", ("socket",), "a socket", "open it inside the function"),
    ("subprocess", ("Popen",), "a process", "start it inside the function"),
    ("multiprocessing", ("Process", "Queue", "Pool"), "a process", "start it inside the function"),
    ("weakref", ("ReferenceType", "ref", "weakref"), "a weak reference", "hold the object itself"),
]


def why_unshippable(thing: Any) -> tuple[str, str] | None:
    """Return (what it is, what to do instead) for a thing that cannot travel, or None."""
    if isinstance(thing, (io.StringIO, io.BytesIO)):
        return None
    for kind, what, remedy in _HELD:
        if isinstance(thing, kind):
            return what, remedy
    for cls in type(thing).__mro__:
        top = cls.__module__.partition(".")[0]
        for module, names, what, remedy in _HELD_BY_NAME:
            if top == module and cls.__name__ in names:
                return what, remedy
    if type(thing).__name__ in ("ReferenceType", "weakref"):
        return "a weak reference", "hold the object itself"
    return None


def children(thing: Any) -> Iterator[tuple[str, Any]]:
    """What a thing holds, each with the words that lead to it."""
    if isinstance(thing, types.FunctionType):
        for name in code.global_names(thing.__code__):
            if name in thing.__globals__:
                yield f"global {name!r}", thing.__globals__[name]
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
            try:
                yield f"closure {name!r}", cell.cell_contents
            except ValueError:
                continue
        for number, value in enumerate(thing.__defaults__ or ()):
            yield f"default {number}", value
        for name, value in (thing.__kwdefaults__ or {}).items():
            yield f"default {name!r}", value
        yield from ((f"attribute {name!r}", value) for name, value in vars(thing).items())
    elif isinstance(thing, dict):
        yield from ((f"item {shorten(key, 40)}", value) for key, value in thing.items())
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from ((f"item {number}", value) for number, value in enumerate(thing))
    elif isinstance(thing, types.MethodType):
        yield "function", thing.__func__
        yield "instance", thing.__self__
    elif isinstance(thing, (staticmethod, classmethod)):
        yield "function", thing.__func__
    elif isinstance(thing, property):
        yield from (("getter", f) for f in (thing.fget, thing.fset, thing.fdel) if f is not None)
    elif isinstance(thing, types.ModuleType):
        return
    else:
        if hasattr(thing, "func") and hasattr(thing, "keywords"):
            yield from (("function", thing.func), ("arguments", thing.args))
            yield "arguments", thing.keywords
        if hasattr(thing, "__wrapped__"):
            yield "wrapped function", thing.__wrapped__
        attributes = getattr(thing, "__dict__", {})
        yield from ((f"attribute {name!r}", value) for name, value in list(attributes.items()))


def trace(
    thing: Any, can_travel: Callable[[Any], bool], seen: frozenset[int] = frozenset()
) -> tuple[list[str], Any]:
    """The way to the innermost held thing that cannot travel, and the thing."""
    seen = seen | {id(thing)}
    if why_unshippable(thing) is None:
        for label, child in children(thing):
            if id(child) not in seen and not can_travel(child):
                way, culprit = trace(child, can_travel, seen)
                return [label, *way], culprit
    return [], thing
