"""A way through a function and all that it uses, part by part: fingerprints of version 3.

Each variable, each piece of code and each attribute of a class is a part, with a digest of its own,
so that it can be said which one has changed. Functions, classes and modules of the user's own are
parts wherever they are met, and stand in others by their name; what is installed counts by its name
alone. Values are walked by their structure: no address, hash seed or position gets in.

Decided here:

- The order of a dictionary and of a list counts; that of a set, of attributes and of keyword
  arguments does not.
- `1`, `True` and `1.0` differ, so do `0.0` and `-0.0`. NaN equals NaN.
- Whether two variables hold one object, or two that are equal, does not count.
- What can be written down nowhere (a lock, an open file, a session) counts by its type.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import functools
import hashlib
import inspect
import logging
import os
import sys
import time
import types
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cerebro.errors import ShippingError
from cerebro.shipping import arrays, code, instructions, module_origin
from cerebro.shipping.modules import Source, Sources, is_plain
from cerebro.shipping.short_text import cut, short_text
from cerebro.shipping.unshippable import why_unshippable

logger = logging.getLogger(__name__)

PACKAGE = __name__.partition(".")[0]

SLOW_SECONDS = 10.0
"""A walk that takes longer says so, and again after twice the time."""

PARTS_KEPT = 400
"""The most parts of a function that are kept to say what has changed; the digest is over all."""

_ITEMS_KEPT = 30
_LEVELS_KEPT = 3

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})

_CLASS_LEFT_OUT = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__",
    "__static_attributes__", "__dataclass_fields__", "__match_args__", "_abc_impl",
    "__abstractmethods__", "__slotnames__",
}  # fmt: skip

_LRU_CACHE = type(functools.lru_cache(lambda: None))
_DICT_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_METHODS_OF_DATACLASSES = {
    "__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__",
    "__setattr__", "__delattr__", "__getstate__", "__setstate__", "__replace__",
}  # fmt: skip
_WEAK = {"weakref", "_weakrefset"}
_KERAS = {"keras", "tensorflow", "tf_keras"}
_BUILTIN = (types.BuiltinFunctionType, types.MethodWrapperType)
_DESCRIPTORS = (types.WrapperDescriptorType, types.MethodDescriptorType,
                types.ClassMethodDescriptorType, types.GetSetDescriptorType,
                types.MemberDescriptorType)  # fmt: skip


class Part(NamedTuple):
    """One part: its digest, its value in short, and the part that holds it, if any."""

    digest: str
    text: str
    within: str | None = None


@dataclass(frozen=True)
class _Place:
    """Where a value is, in words: `global CONFIG['rate']`, or `default y` ` of helper`.

    The place of the thing that is walked over has no words.
    """

    words: str = ""
    owner: str = ""
    level: int = 0

    def __str__(self) -> str:
        return f"{self.words}{self.owner}" or "it"

    def at(self, access: str) -> _Place:
        """The place of what a value holds: `.name`, `[number]`, or words behind a space."""
        if not self.words:
            access = f"attribute {access[1:]}" if access[0] == "." else access
            access = f"item {access[1:-1]}" if access[0] == "[" else access.strip()
        return _Place(self.words + access, self.owner, self.level + 1)


class _Code(NamedTuple):
    """A code object, what it does, the globals that it reads, and whether it imports any."""

    part: types.CodeType
    instructions: instructions.Instructions
    global_names: list[str]
    imports: bool


@dataclass
class _Shared:
    """What the walks over one thing share: of what lies in sets the digests, by id.

    And what was found out once: of code by id, of modules by name.
    """

    contents: dict[int, tuple[bytes, Any]] = field(default_factory=dict)
    open: list[int] = field(default_factory=list)
    lowest: int = sys.maxsize
    local: dict[str, bool] = field(default_factory=dict)
    read: dict[int, _Code] = field(default_factory=dict)

    def code(self, part: types.CodeType) -> _Code:
        """What is known of a code object, which is kept with it."""
        if id(part) not in self.read:
            found = instructions.read(part)
            imports = bool(code.imports(part))
            self.read[id(part)] = _Code(part, found, code.global_names(part), imports)
        return self.read[id(part)]


class _Text(str):
    """A text that stands for itself in a part."""

    __slots__ = ()


class Walk:
    """A walk over one thing: `digest` is over all of it, `parts` are those of it that are kept."""

    def __init__(self, thing: Any, shared: _Shared | None = None) -> None:
        self._shared = shared or _Shared()
        self._root = thing
        self._digests: list[tuple[str, bytes]] = []
        self._variables: dict[str, Part] = {}
        self._held: dict[str, Part] = {}
        self._names: dict[int, tuple[str, Any]] = {}
        self._taken: Counter[str] = Counter()
        self._queue: deque[Callable[[], None]] = deque()
        self._globals: set[tuple[str, str]] = set()
        self._modules: dict[str, Source] = {}
        self._loaded: set[str] = set()
        self._known: dict[tuple[int, bool], tuple[bytes, Any]] = {}
        self._open: dict[int, int] = {}
        self._tied: dict[int, tuple[int, int, Any]] = {}
        self._lowest = sys.maxsize
        self._in_set = 0
        self._element = 0
        self.digest = self._all(thing)
        kept = [*self._variables.items(), *self._held.items()]
        self.parts = dict(kept[:PARTS_KEPT])

    def _all(self, thing: Any) -> str:
        self._add("it", _Place(), thing)
        began, patience = time.monotonic(), SLOW_SECONDS
        while self._queue:
            self._queue.popleft()()
            if time.monotonic() - began > patience:
                self._tell(patience)
                patience *= 2
        self._data_of_modules()
        total = hashlib.sha256()
        for key, digest in sorted(self._digests):
            total.update(_joined("part", key.encode("utf-8", "surrogatepass"), digest))
        return total.hexdigest()

    def _tell(self, seconds: float) -> None:
        """Say that a walk takes long, and through what it goes."""
        name = getattr(self._root, "__qualname__", type(self._root).__qualname__)
        logger.warning(
            "looking through all that %s uses, to know later whether it has changed, has taken "
            "%.0f s so far (%d variables, the newest: %s): let it use only what it needs, not an "
            "object that leads to many others",
            name,
            seconds,
            len(self._digests),
            cut(self._digests[-1][0]),
        )

    # --- parts -----------------------------------------------------------------------------------

    def _add(self, key: str, place: _Place, value: Any) -> None:
        """Walk over the value of a variable, a part of its own."""
        self._tied.clear()
        self._add_digest(key, place, self._value(value, place), value)

    def _add_digest(self, key: str, place: _Place, digest: bytes, value: Any) -> None:
        self._digests.append((key, digest))
        self._keep(self._variables, place, digest, value)

    def _keep(
        self,
        kept: dict[str, Part],
        place: _Place,
        digest: bytes,
        value: Any,
        within: _Place | None = None,
    ) -> None:
        label = str(place)
        if self._shared.open or len(kept) >= PARTS_KEPT or label in kept:
            return
        text = str(value) if isinstance(value, _Text) else short_text(value, label)
        short = hashlib.sha256(digest).hexdigest()[:16]
        kept[label] = Part(short, text, None if within is None else str(within))

    def _items(self, place: _Place | None, items: Sequence[tuple[str, Any]]) -> list[bytes]:
        """Walk over the values that another one holds; a few are kept, to say which has changed."""
        if place is None or len(items) > _ITEMS_KEPT or place.level >= _LEVELS_KEPT:
            return [self._value(value) for _, value in items]
        found = []
        for access, value in items:
            at = place.at(access)
            found.append(self._value(value, at))
            self._keep(self._held, at, found[-1], value, place)
        return found

    # --- values ----------------------------------------------------------------------------------

    def _value(self, thing: Any, place: _Place | None = None) -> bytes:
        """Bytes that stand for a value, a few of them however large it is."""
        if type(thing) in _PLAIN:
            return _plain(thing)
        reference = self._reference(thing)
        if reference is not None:
            return reference
        ident, depth = id(thing), len(self._open)
        known = self._known.get((ident, self._in_set > 0))
        if known is not None:
            return known[0]
        if ident in self._open:
            self._lowest = min(self._lowest, self._open[ident])
            return b"again, %d up" % (depth - self._open[ident])
        if ident in self._tied:
            number, lowest, _ = self._tied[ident]
            self._lowest = min(self._lowest, lowest)
            return b"again, number %d" % number
        self._open[ident] = depth
        outer, self._lowest = self._lowest, sys.maxsize
        try:
            digest = self._structure(thing, place)
        finally:
            del self._open[ident]
        closed = self._lowest >= depth  # nothing above is part of it
        if self._lowest > depth or (closed and not self._in_set):
            # The same wherever it is met. It is kept, so that no other thing gets its id.
            self._known[ident, self._in_set > 0] = (digest, thing)
        else:
            # Part of a circle, which looks different from each of its members; which of them a set
            # comes to first is by chance.
            lowest = self._element if closed else self._lowest
            self._tied[ident] = (len(self._tied), lowest, thing)
            outer = outer if closed else min(outer, lowest)
        self._lowest = outer
        return digest

    def _structure(self, thing: Any, place: _Place | None) -> bytes:
        kind = type(thing)
        if kind in (list, tuple):
            named = [(f"[{number}]", value) for number, value in enumerate(thing)]
            return _joined(kind.__name__, *self._items(place, named))
        if kind in (dict, types.MappingProxyType):
            return _joined(kind.__name__, *self._dictionary(thing.items(), place))
        if isinstance(thing, (set, frozenset)):
            return self._set(thing, place)
        if kind in (bytearray, memoryview):
            return _joined(kind.__name__, bytes(thing))
        if kind in _DICT_VIEWS:
            return _joined(kind.__name__, self._value(list(thing), place))
        if kind is types.CellType:
            return _joined("cell", *(self._value(value) for value in _of_cell(thing)))
        if kind is types.CodeType:
            return self._code(thing)
        found = self._callable(thing, place)
        if found is not None:
            return found
        content = arrays.content(thing)
        if content is not None:
            return _joined("data", *(self._value(part) for part in content))
        if _has_no_content(thing):
            return self._by_type(thing)
        return self._instance(thing, place)

    def _dictionary(
        self, items: Iterable[tuple[Any, Any]], place: _Place | None
    ) -> Iterator[bytes]:
        pairs = list(items)
        keys = [self._value(key) for key, _ in pairs]
        values = self._items(place, [(f"[{short_text(key)}]", value) for key, value in pairs])
        for pair in zip(keys, values, strict=True):
            yield from pair

    def _attributes(self, attributes: Mapping[Any, Any], place: _Place | None) -> bytes:
        """By name: it does not matter which was set first."""
        if not all(isinstance(name, str) for name in attributes):
            return _joined("state", *self._dictionary(attributes.items(), place))
        named = sorted(attributes.items())
        values = self._items(place, [(f".{name}", value) for name, value in named])
        pairs = zip((_plain(str(name)) for name, _ in named), values, strict=True)
        return _joined("attributes", *(part for pair in pairs for part in pair))

    def _set(self, thing: Any, place: _Place | None) -> bytes:
        """Elements in the order of their digests: that in which a set has them is by chance."""
        shared, kind = self._shared, type(thing)
        if id(thing) in shared.open:
            return self._met_again(thing)
        found = []
        tied, self._in_set = dict(self._tied), self._in_set + 1
        outer, self._element = self._element, len(self._open)
        shared.open.append(id(thing))
        for element in thing:
            found.append(self._value(element))
            self._tied = dict(tied)
        shared.open.pop()
        self._in_set, self._element = self._in_set - 1, outer
        if kind not in (set, frozenset):
            return _joined(
                "set", self._value(kind), self._attributes(_attributes_of(thing), place),
                *sorted(found),
            )  # fmt: skip
        return _joined(kind.__name__, *sorted(found))

    def _by_type(self, thing: Any) -> bytes:
        return _joined("one of", self._value(type(thing)))

    # --- instances -------------------------------------------------------------------------------

    def _instance(self, thing: Any, place: _Place | None) -> bytes:
        kind = type(thing)
        if isinstance(thing, enum.Enum):
            return _joined("member", self._value(kind), self._value(thing._name_))
        if any(_is_own(c.__module__) and "__dataclass_fields__" in vars(c) for c in kind.__mro__):
            return self._declared(thing, place)
        if any(str(c.__module__).partition(".")[0] in _KERAS for c in kind.__mro__):
            if hasattr(kind, "get_config"):
                return self._configured(thing, place)
            if hasattr(kind, "python_function"):  # what tf.function makes
                return _joined("traced", *self._items(place, _of_traced(thing)))
        reduced = _reduced(thing)
        if isinstance(reduced, str):
            return self._by_name(getattr(thing, "__module__", None) or kind.__module__, reduced)
        if reduced is None:
            attributes = _attributes_of(thing) if self._is_local(kind.__module__) else {}
            return _joined("instance", self._by_type(thing), self._attributes(attributes, place))
        make, arguments, state, items, pairs = reduced
        parts = [self._value(make)]
        fields = getattr(kind, "_fields", ())
        if isinstance(thing, tuple) and len(fields) == len(arguments) - 1:  # a named tuple
            parts += [self._value(kind)]
            named = zip(fields, arguments[1:], strict=True)
            parts += self._items(place, [(f".{name}", value) for name, value in named])
        else:
            parts += [self._value(argument) for argument in arguments]
        if _is_of_slots(state):
            own = _without_cached(kind, state[0] or {})
            parts += [self._attributes(own, place), self._attributes(state[1], place)]
        elif state is None or isinstance(state, dict):
            parts.append(self._attributes(_without_cached(kind, state or {}), place))
        else:
            parts.append(self._value(state))
        parts += self._items(place, [(f"[{n}]", value) for n, value in enumerate(items)])
        parts += self._dictionary(pairs, place)
        return _joined("instance", *parts)

    def _declared(self, thing: Any, place: _Place | None) -> bytes:
        """A search procedure, or the like: its parameters, without those that have their defaults.

        So one that a later version adds, with a default, changes nothing.
        """
        declared = {f.name: f for f in dataclasses.fields(thing)}
        values = {name: getattr(thing, name, None) for name in sorted(declared)}
        digests = self._items(place, [(f".{name}", value) for name, value in values.items()])
        parts = [self._value(type(thing))]
        for name, digest in zip(values, digests, strict=True):
            default = declared[name].default
            if default is dataclasses.MISSING or self._value(default) != digest:
                parts += [_plain(name), digest]
        others = {n: v for n, v in _attributes_of(thing).items() if n not in declared}
        return _joined("declared", *parts, self._attributes(others, place))

    def _configured(self, thing: Any, place: _Place | None) -> bytes:
        """A thing of Keras, by its configuration and weights."""
        try:
            held = [(" configuration", thing.get_config())]
            held.append((" weights", list(getattr(thing, "get_weights", list)())))
        except Exception:  # a user's method, or one that the thing does not support
            held = []
        attributes = {}
        if self._is_local(type(thing).__module__):
            attributes = {name: v for name, v in _attributes_of(thing).items() if is_plain(v)}
        own = self._attributes(attributes, place)
        return _joined("configured", self._value(type(thing)), *self._items(place, held), own)

    # --- what can be called ----------------------------------------------------------------------

    def _callable(self, thing: Any, place: _Place | None) -> bytes | None:
        kind = type(thing)
        if isinstance(thing, (functools.partial, functools.partialmethod)):
            arguments = [(f" argument {n}", value) for n, value in enumerate(thing.args)]
            arguments += [(f" keyword {n}", v) for n, v in sorted(thing.keywords.items())]
            names = [_plain(name) for name in sorted(thing.keywords)]
            values = self._items(place, [(" function", thing.func), *arguments])
            attributes = {} if kind is functools.partialmethod else vars(thing)
            own = self._attributes(attributes, place)
            return _joined("partial", self._value(kind), *names, b"", *values, own)
        if kind is types.MethodType:
            return self._found(thing) or _joined(
                "method",
                self._value(thing.__func__),
                *self._items(place, [(" instance", thing.__self__)]),
            )
        if isinstance(thing, _BUILTIN):
            if thing.__self__ is None or isinstance(thing.__self__, types.ModuleType):
                return self._by_name(thing.__module__, thing.__qualname__)
            found = self._found(thing)
            if found is not None:
                return found
            held = self._items(place, [(" instance", thing.__self__)])
            return _joined("method", thing.__name__.encode(), *held)
        if isinstance(thing, _DESCRIPTORS):
            return _joined("method", thing.__name__.encode(), self._value(thing.__objclass__))
        if kind in (staticmethod, classmethod):
            return _joined(kind.__name__, self._value(thing.__func__))
        if kind is property:
            accessors = (thing.fget, thing.fset, thing.fdel)
            return _joined("property", *(self._value(accessor) for accessor in accessors))
        if kind is functools.cached_property:
            return _joined("cached_property", self._value(thing.func))
        if kind is _LRU_CACHE:
            parameters = self._value(thing.cache_parameters())
            return _joined("lru_cache", self._value(thing.__wrapped__), parameters)
        return None

    def _found(self, method: Any) -> bytes | None:
        """A method of an object that a module has, such as `random.random`: by its name there."""
        home = type(method.__self__).__module__
        if self._is_local(home):
            return None
        found = getattr(sys.modules.get(home), method.__name__, None)
        return self._by_name(home, method.__name__) if found == method else None

    # --- functions, classes, modules -------------------------------------------------------------

    def _reference(self, thing: Any) -> bytes | None:
        """What stands for a function, class or module wherever it is met; None for all else."""
        if isinstance(thing, types.FunctionType):
            module = thing.__module__ or "__main__"
            found = module_origin.find_by_name(module, thing.__qualname__)
            if found is thing and not self._is_local(module):
                return self._by_name(module, thing.__qualname__)
            return self._mine(thing, "function", thing.__qualname__, self._function)
        if isinstance(thing, type):
            if not self._is_local(thing.__module__):
                return self._by_name(thing.__module__, thing.__qualname__)
            return self._mine(thing, "class", thing.__qualname__, self._class)
        if isinstance(thing, types.ModuleType):
            name = thing.__name__
            if name == "__main__" or not self._is_local(name):
                return self._by_name("module", name)
            self._add_modules(lambda sources: sources.add(name))
            return _joined("module", name.encode())
        if thing is NotImplemented or thing is os.environ:
            return self._by_name("builtins", "NotImplemented" if thing is NotImplemented else "env")
        return None

    def _is_local(self, module: Any) -> bool:
        known = self._shared.local
        if module not in known:
            known[module] = module_origin.is_local(str(module))
        return known[module]

    def _by_name(self, module: str | None, name: str) -> bytes:
        """What is installed. Of this package it has no module, so that it may move."""
        home = PACKAGE if _is_own(module) else str(module)
        return _joined("named", home.encode(), name.encode())

    def _mine(
        self, thing: Any, kind: str, name: str, walk: Callable[[Any, str, str], None]
    ) -> bytes:
        """A function or class of the user's own, by a name that no other has in this walk."""
        if self._in_set:
            return self._content(thing)
        if id(thing) not in self._names:
            title = f"{kind} {name}"
            self._taken[title] += 1
            number = f" ({self._taken[title]})" if self._taken[title] > 1 else ""
            root = thing is self._root
            key = kind if root else title + number
            self._names[id(thing)] = (key, thing)
            owner = "" if root else f" of {title if kind == 'class' else name}{number}"
            self._queue.append(lambda: walk(thing, key, owner))
        return _joined("mine", self._names[id(thing)][0].encode())

    def _content(self, thing: Any) -> bytes:
        """A function or class in a set, by all that it is: there is no order to name it by."""
        shared = self._shared
        if id(thing) in shared.contents:
            return shared.contents[id(thing)][0]
        if id(thing) in shared.open:
            return self._met_again(thing)
        depth = len(shared.open)
        shared.open.append(id(thing))
        outer, shared.lowest = shared.lowest, sys.maxsize
        try:
            digest = bytes.fromhex(Walk(thing, shared).digest)
        finally:
            shared.open.pop()
        if shared.lowest > depth:
            shared.contents[id(thing)] = (digest, thing)
        shared.lowest = min(outer, shared.lowest)
        return digest

    def _met_again(self, thing: Any) -> bytes:
        position = self._shared.open.index(id(thing))
        self._shared.lowest = min(self._shared.lowest, position)
        return b"again, %d out" % (len(self._shared.open) - position)

    def _function(self, function: types.FunctionType, key: str, owner: str) -> None:
        part, globals_ = function.__code__, function.__globals__
        home = str(globals_.get("__name__", "__main__"))
        if self._is_local(home):
            self._code_parts(part, key, owner)
            package = str(globals_.get("__package__") or "")
            known = self._shared.code(part)
            used = {n: globals_[n] for n in known.global_names if n in globals_}
            for name, value in used.items():
                self._global(home, name, value)
            submodules = code.submodules(part, used.values())
            if known.imports:
                self._add_modules(lambda sources: sources.add_imports(part, package))
            for name in submodules:
                self._add_modules(lambda sources, name=name: sources.add(name))  # type: ignore[misc]
        else:
            self._add_digest(
                f"{key} code", _code_place(owner), self._by_name(home, part.co_name), _Text("")
            )
            if home == "functools" and hasattr(function, "registry"):  # of singledispatch
                self._add(f"{key} registry", _Place("registry", owner), dict(function.registry))
                return
        for kind, values in _values_of(function).items():
            for name, value in values.items():
                self._add(f"{key} {kind} {name}", _Place(f"{kind} {name}", owner), value)

    def _global(self, module: str, name: str, value: Any) -> None:
        if (module, name) not in self._globals:
            self._globals.add((module, name))
            full = name if module == "__main__" else f"{module}.{name}"
            self._queue.append(lambda: self._add(f"global {full}", _Place(f"global {full}"), value))

    def _code_parts(self, part: types.CodeType, key: str, owner: str) -> None:
        """The instructions of code as one part, its constants as another, and what is nested."""
        found = self._shared.code(part).instructions
        self._loaded |= found.loaded
        steps = _joined("code", found.steps)
        self._add_digest(f"{key} code", _code_place(owner), steps, _Text(""))
        shown = ", ".join(short_text(constant) for constant in found.constants)
        constants = _joined("constants", *(self._value(c) for c in found.constants))
        place = _Place("constants in " + _code_place(owner).words, owner)
        self._add_digest(f"{key} constants", place, constants, _Text(cut(shown) or "none"))
        for number, inner in enumerate(found.inner):
            within = f"{owner[4:]}." if owner else ""
            self._code_parts(inner, f"{key}/{number}", f" of {within}{inner.co_name}")

    def _code(self, part: types.CodeType) -> bytes:
        found = self._shared.code(part).instructions
        self._loaded |= found.loaded
        inner = [self._code(nested) for nested in found.inner]
        return _joined("code", found.steps, *map(self._value, found.constants), b"", *inner)

    def _class(self, cls: type, key: str, owner: str) -> None:
        self._add(f"{key} bases", _Place("bases", owner), (type(cls), *cls.__bases__))
        attributes = dict(vars(cls))
        if isinstance(cls, enum.EnumMeta):
            members = {str(name): found._value_ for name, found in cls._member_map_.items()}
            self._add(f"{key} members", _Place("members", owner), list(members))
            for name, value in members.items():
                self._add(f"{key} member {name}", _Place(f"member {name}", owner), value)
            attributes = {n: v for n, v in attributes.items() if self._is_written(n, v, members)}
        if "__dataclass_fields__" in attributes:
            fields = {
                name: declared
                for name, declared in attributes["__dataclass_fields__"].items()
                if name in attributes.get("__annotations__", {})
            }
            self._add(f"{key} fields", _Place("fields", owner), list(fields))
            for name, declared in fields.items():
                attributes.pop(name, None)
                self._add(f"{key} field {name}", _Place(f"field {name}", owner), declared)
        for name, value in sorted(attributes.items()):
            left_out = name in _CLASS_LEFT_OUT or isinstance(
                value, (types.MemberDescriptorType, types.GetSetDescriptorType)
            )
            if not left_out and not _is_of_a_dataclass(name, value, attributes):
                self._add(f"{key}.{name}", _Place(f"attribute {name}", owner), value)

    def _is_written(self, name: str, value: Any, members: Mapping[str, Any]) -> bool:
        """Whether an attribute of an enumeration stands in its body, and is no member."""
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if name in members or not isinstance(function, types.FunctionType):
            return False
        return self._is_local(function.__globals__.get("__name__", "__main__"))

    def _add_modules(self, collect: Callable[[Sources], None]) -> None:
        """Add modules beside the script, each with what it imports."""
        sources = Sources()
        try:
            collect(sources)
        except ShippingError:  # not written in Python: it counts by its name
            return
        for name, source in sorted(sources.found.items()):
            if name in self._modules:
                continue
            self._modules[name] = source
            part = compile(source.text, source.file, "exec", dont_inherit=True)
            self._queue.append(
                lambda part=part, name=name: self._code_parts(  # type: ignore[misc]
                    part, f"module {name}", f" of module {name}"
                )
            )

    def _data_of_modules(self) -> None:
        """What modules beside the script hold now, as far as any code may read it."""
        everything = self._loaded & {"globals", "vars", "__dict__"}
        for module, source in sorted(self._modules.items()):
            for name, value in sorted(source.data.items()):
                if everything or name in self._loaded:
                    self._global(module, name, value)
        while self._queue:
            self._queue.popleft()()


def _joined(kind: str, *parts: bytes) -> bytes:
    digest = hashlib.sha256(kind.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _plain(thing: Any) -> bytes:
    kind = type(thing)
    content: bytes
    if kind is str:
        content = thing.encode("utf-8", "surrogatepass")
    elif kind is bytes:
        content = thing
    else:
        content = (f"{thing:x}" if kind is int else repr(thing)).encode()
    if len(content) > 64:
        content = hashlib.sha256(content).digest()
        return b"long " + kind.__name__.encode() + b" " + content
    return kind.__name__.encode() + b" " + content


def _has_no_content(thing: Any) -> bool:
    """Whether a thing is one that cannot be written down, or refers to others weakly."""
    classes = type(thing).__mro__
    # Some classes in C have a descriptor there, for their instances.
    named = all(isinstance(cls.__module__, str) for cls in classes)
    return type(thing).__module__ in _WEAK or (named and why_unshippable(thing) is not None)


def _is_own(module: Any) -> bool:
    return str(module).partition(".")[0] == PACKAGE


def _of_cell(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _attributes_of(thing: Any) -> dict[str, Any]:
    """Its attributes, without those that it works out once they are asked for."""
    attributes = getattr(thing, "__dict__", None)
    return _without_cached(type(thing), attributes) if isinstance(attributes, dict) else {}


def _without_cached(kind: type, attributes: Mapping[Any, Any]) -> dict[Any, Any]:
    return {
        name: value
        for name, value in attributes.items()
        if not isinstance(inspect.getattr_static(kind, str(name), None), functools.cached_property)
    }


def _reduced(thing: Any) -> Any:
    """What pickle would make of a thing, in full; None where it cannot."""
    reduce = copyreg.dispatch_table.get(type(thing))
    try:
        found = thing.__reduce_ex__(4) if reduce is None else reduce(thing)
        if isinstance(found, str):
            return found
        make, arguments, state, items, pairs = (*found, None, None, None)[:5]
        return make, tuple(arguments), state, list(items or ()), list(pairs or ())
    except Exception:  # a user's method, or one that says that it cannot
        return None


def _is_of_slots(state: Any) -> bool:
    """Whether a state has attributes and slots, as that of a class with `__slots__`."""
    if not isinstance(state, tuple) or len(state) != 2:
        return False
    return isinstance(state[0], (dict, type(None))) and isinstance(state[1], dict)


def _of_traced(function: Any) -> list[tuple[str, Any]]:
    names = ("input_signature", "_autograph", "_jit_compile", "_reduce_retracing")
    options = [(f" {name.lstrip('_')}", getattr(function, name, None)) for name in names]
    return [(" function", function.python_function), *options]


def _values_of(function: types.FunctionType) -> dict[str, dict[str, Any]]:
    """What a function holds, by what it is and by name."""
    part = function.__code__
    positional = part.co_varnames[: part.co_argcount]
    defaults = function.__defaults__ or ()
    closure: dict[str, Any] = {}
    for name, cell in zip(part.co_freevars, function.__closure__ or (), strict=True):
        closure.update((name, value) for value in _of_cell(cell))
    named = dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True))
    return {
        "default": {**named, **(function.__kwdefaults__ or {})},
        "closure": closure,
        "attribute": dict(sorted(vars(function).items())),
    }


def _is_of_a_dataclass(name: str, value: Any, attributes: Mapping[str, Any]) -> bool:
    """Whether a method was written by `dataclass`: the fields say what it does."""
    if "__dataclass_fields__" not in attributes or name not in _METHODS_OF_DATACLASSES:
        return False
    part = getattr(getattr(value, "__wrapped__", value), "__code__", None)
    name_of_code = getattr(part, "co_qualname", "__create_fn__")
    return getattr(part, "co_filename", "") == "<string>" and "__create_fn__" in name_of_code


def _code_place(owner: str) -> _Place:
    return _Place("code" if owner else "its code", owner)
