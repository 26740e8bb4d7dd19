"""What of the script the variables of modules hold, however deep: taken there, put in place here.

What a module's containers and objects hold after its import is the module's own and stays what it
is; what the script has put among it is added, in the order that it has in the script. With it goes
the plain data that lies in the same containers.
"""

from __future__ import annotations

import collections
import enum
import functools
import gc
import io
import sys
import types
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cerebro.errors import ShippingError
from cerebro.formatting import shorten
from cerebro.shipping import module_origin
from cerebro.shipping.modules import Sources, is_plain
from cerebro.shipping.pickler import LRU_CACHE, Pickler, is_dispatcher
from cerebro.shipping.unshippable import trace, why_unshippable

_DEPTH = 12
"""Levels of containers in containers that are filled; what lies deeper is put there whole."""
_WHOLE = 1_000_000
"""Bytes of a container that is sent whole as well, for where the module does not make it."""

_TRIES = 50
"""The most containers in a variable of which it is tried whether they can travel whole."""

_MAPPINGS = (dict, weakref.WeakValueDictionary, weakref.WeakKeyDictionary)
_SEQUENCES = (list, collections.deque)
_SETS = (set, weakref.WeakSet)
_WRAPPERS = (functools.partial, types.MethodType, staticmethod, classmethod, property)
_OPEN_LIBRARIES = {"collections", "types", "queue"}
"""Libraries into whose objects it is looked as into those of a module."""
_OWN_WAYS = {
    "__getattr__", "__getattribute__", "__getnewargs__", "__getnewargs_ex__", "__getstate__",
    "__new__", "__reduce__", "__reduce_ex__", "__setstate__",
}  # fmt: skip
_NAMED = (type, types.FunctionType, types.BuiltinFunctionType)
_ABSENT = object()


@dataclass(frozen=True)
class Own:
    """Stands for what is of the module's own."""


@dataclass(frozen=True)
class Given:
    """A value to be put there."""

    value: Any


@dataclass(frozen=True)
class Filled:
    """A container or object to be filled, with what to put at which key or attribute.

    `kind` says how it is filled, `of` what it must be there, `way` which variable it is of; `whole`
    has it, for where there is none, if it can travel.
    """

    kind: str
    of: str
    way: str
    items: list[tuple[Any, Any]]
    whole: list[Any]


def is_of_script(thing: Any) -> bool:
    """Whether a thing is a class or function of the script, and not of a module that has a file."""
    if not issubclass(type(thing), (type, types.FunctionType, LRU_CACHE)):
        return False
    module = getattr(thing, "__module__", None)
    return isinstance(module, str) and (
        module == "__main__"
        or (bool(module) and module not in sys.modules and module_origin.is_local(module))
    )


def taken(
    modules: Collection[str],
    size: Callable[[Any], int | None],
    left_out: Iterable[Any],
) -> list[tuple[str, Filled]]:
    """What to put into which of these modules.

    `size` gives the bytes that a thing takes when it travels, None for one that cannot. Things in
    `left_out` count as the module's own.

    Raises `ShippingError`, naming the variable, for what cannot be put there.
    """
    loaded = {name: sys.modules[name] for name in sorted(modules) if name in sys.modules}
    taker = _Taker(loaded, size, left_out)
    found = []
    for name, module in loaded.items():
        items = [
            (variable, taker.variable(value, f"{name}.{variable}"))
            for variable, value in _variables(module)
            if taker.holds(value)
        ]
        if items:
            found.append((name, Filled("module", "module", name, items, [])))
    return found


def put(modules: Collection[str], contents: list[tuple[Any, Filled]], *, keep: bool) -> None:
    """Put into modules what they hold in the script, where `modules` are all that came with it.

    With `keep`, what another script has put there stays. Raises `ShippingError`, naming the
    variable, where a module has made something else than in the script.
    """
    putter = _Putter(modules, keep)
    for module, node in contents:
        putter.put(module, node)


def _variables(module: types.ModuleType) -> list[tuple[str, Any]]:
    return [(name, v) for name, v in list(vars(module).items()) if not name.startswith("__")]


class _Script:
    """Knows which things hold something of the script, wherever it lies in them."""

    def __init__(self, modules: Collection[str], left_out: Iterable[Any] = ()) -> None:
        self._modules = modules
        self._left_out = {id(thing) for thing in left_out}
        self._known: dict[int, tuple[Any, bool]] = {}

    def holds(self, thing: Any) -> bool:
        if id(thing) not in self._known:
            self._explore(thing)
        return self._known[id(thing)][1]

    def _explore(self, start: Any) -> None:
        holders: dict[int, list[int]] = {}
        met = {id(start): start}
        left, found = [start], []
        while left:
            thing = left.pop()
            known = self._known.get(id(thing), (thing, None))[1]
            if known is False:
                continue
            if known or self._is_script(thing):
                found.append(id(thing))
                continue
            for held in self.held(thing):
                if type(held) not in (str, int, float, bool, bytes, type(None)):
                    holders.setdefault(id(held), []).append(id(thing))
                    if id(held) not in met:
                        met[id(held)] = held
                        left.append(held)
        holding = set(found)
        while found:
            for holder in holders.get(found.pop(), ()):
                if holder not in holding:
                    holding.add(holder)
                    found.append(holder)
        self._known.update((i, (thing, i in holding)) for i, thing in met.items())

    def _is_script(self, thing: Any) -> bool:
        return any(
            is_of_script(part)
            and not self.is_left_out(part)
            and part.__module__ not in self._modules
            for part in (thing, type(thing))
        )

    def is_left_out(self, thing: Any) -> bool:
        return id(thing) in self._left_out

    def held(self, thing: Any) -> Iterator[Any]:
        """What a thing holds."""
        if isinstance(thing, weakref.ref) and type(thing).__module__ == "weakref":
            yield thing()
        elif isinstance(thing, (tuple, frozenset)):
            yield from list(thing)
        elif type(thing) in _WRAPPERS:
            yield from _wrapped(thing)
        elif (kind := self.kind(thing)) is not None:
            for key, value in items_of(thing, kind):
                yield value
                if kind == "mapping":
                    yield key
        elif not issubclass(type(thing), (type, types.ModuleType, *_NAMED)):
            for held in gc.get_referents(thing):
                if held is not type(thing) and is_of_script(held):
                    yield held

    def kind(self, thing: Any) -> str | None:
        """How a thing of a module is filled; None for what is not."""
        of = type(thing)
        if of is types.MappingProxyType:
            return "view"
        if of in _WRAPPERS:
            parts = _wrapped(thing)
            return None if any(type(p) is tuple or self._is_script(p) for p in parts) else "view"
        if isinstance(thing, _MAPPINGS):
            return "mapping"
        if isinstance(thing, _SEQUENCES):
            return "sequence"
        if isinstance(thing, _SETS):
            return "set"
        if issubclass(of, type):
            return "class" if thing.__module__ in self._modules else None
        if of is types.FunctionType:
            own = thing.__module__ in self._modules and not is_dispatcher(thing)
            return "function" if own else None
        module = of.__module__
        if isinstance(module, str) and (module in self._modules or module in _OPEN_LIBRARIES):
            return None if isinstance(thing, types.ModuleType) else "object"
        return None


def items_of(thing: Any, kind: str) -> list[tuple[Any, Any]]:
    """What a thing holds, each with its key, attribute or place."""
    if kind == "view":
        return list(enumerate(_wrapped(thing)))
    if kind == "mapping":
        return list(_mapping_class(thing).items(thing))
    if kind in ("sequence", "set"):
        return list(enumerate(list(thing)))
    if kind == "class":
        return [item for item in vars(thing).items() if item[0] not in ("__dict__", "__weakref__")]
    if kind == "function":
        cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
        return [
            *((("attribute", name), value) for name, value in vars(thing).items()),
            *((("cell", name), value) for name, cell in cells for value in _content(cell)),
            *((("default", n), value) for n, value in enumerate(thing.__defaults__ or ())),
            *((("keyword", n), value) for n, value in (thing.__kwdefaults__ or {}).items()),
        ]
    attributes = list((getattr(thing, "__dict__", None) or {}).items())
    for cls in type(thing).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            slot = vars(cls).get(name) or vars(cls).get(f"_{cls.__name__.lstrip('_')}{name}")
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    attributes.append((slot.__name__, slot.__get__(thing)))
                except AttributeError:
                    continue
    return attributes


def _wrapped(thing: Any) -> list[Any]:
    if isinstance(thing, types.MappingProxyType):
        return [held for held in gc.get_referents(thing) if isinstance(held, dict)]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    names = ("__func__", "__self__", "fget", "fset", "fdel")
    return [getattr(thing, name) for name in names if getattr(thing, name, None) is not None]


def _content(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _mapping_class(thing: Any) -> Any:
    """The class whose methods reach a mapping's items, whatever its own class does there."""
    classes = (collections.OrderedDict, *_MAPPINGS)
    return next(cls for cls in classes if isinstance(thing, cls))


def _is_named(thing: Any) -> bool:
    if isinstance(thing, enum.Enum):
        return _is_named(type(thing))
    if not issubclass(type(thing), _NAMED) or "<" in thing.__qualname__:
        return False
    # A builtin method that is bound to a list, say, has its name, too.
    return type(thing) is not types.BuiltinFunctionType or isinstance(
        thing.__self__, types.ModuleType
    )


def _is_key(thing: Any) -> bool:
    parts = thing if type(thing) in (tuple, frozenset) else (thing,)
    return all(is_plain(part) or _is_named(part) for part in parts)


def _what(thing: Any) -> str:
    of = thing if isinstance(thing, (type, types.FunctionType)) else type(thing)
    return f"{type(thing).__name__} {of.__module__}.{of.__qualname__}"


class _Taker(_Script):
    def __init__(
        self,
        modules: Collection[str],
        size: Callable[[Any], int | None],
        left_out: Iterable[Any],
    ) -> None:
        super().__init__(modules, left_out)
        self._size = size
        self._nodes: dict[int, Filled] = {}
        self._tries = 0

    def variable(self, value: Any, way: str) -> Own | Given | Filled:
        """What to put into a variable of a module."""
        self._tries = 0
        return self._node(value, way, 0, False)

    def _node(self, thing: Any, way: str, depth: int, fits: bool) -> Own | Given | Filled:
        """What to put in place of a thing; what holds it `fits` if it travels whole itself."""
        if not self.holds(thing):
            named = _is_named(thing) and self._size(thing) is not None
            return Given(thing) if is_plain(thing) or named else Own()
        if id(thing) in self._nodes:
            return self._nodes[id(thing)]
        kind = None if self._is_script(thing) or depth > _DEPTH else self.kind(thing)
        if kind is None:
            if not fits and self._size(thing) is None:
                raise self._refused(thing, way)
            return Given(thing)
        if not fits and self._tries < _TRIES:
            self._tries += 1
            fits = self._fits_whole(thing)
        whole = [thing] if fits else []
        fits = fits and not isinstance(thing, _NAMED)  # those go by name
        made = self._nodes[id(thing)] = Filled(kind, _what(thing), way, [], whole)
        for key, value in items_of(thing, kind):
            if self.is_left_out(key):
                continue
            if kind == "mapping" and not self.holds(key) and not _is_key(key):
                if self.holds(value):
                    raise ShippingError(
                        f"{way} holds {shorten(value, 80)}, which is of the script, under a key "
                        f"that is an object of its own ({shorten(key, 80)}), so that it cannot be "
                        "put there on the workers: use a text as the key"
                    )
                continue
            if kind == "mapping" and self.holds(key) and self._size(key) is None:
                raise self._refused(key, way)
            if kind in ("class", "object", "function") and not self.holds(value):
                name = key[1] if isinstance(key, tuple) else key
                if str(name).startswith("__") or not is_plain(value):
                    continue
            place = f".{key}" if kind in ("class", "object") else f"[{shorten(key, 40)}]"
            place = "" if kind in ("view", "function", "set") else place
            made.items.append((key, self._node(value, way + place, depth + 1, fits)))
        return made

    def _fits_whole(self, thing: Any) -> bool:
        content = io.BytesIO()
        try:
            Pickler(content, Sources(), met=self._refuse_own_ways).dump(thing)
        except Exception:  # whatever a user's method raises
            return False
        return content.tell() <= _WHOLE

    def _refuse_own_ways(self, thing: Any) -> None:
        """Raise for an object of a module's class that says itself how it is to be made again.

        It is the module that makes it, most likely, and may make no second one.
        """
        for cls in type(thing).__mro__:
            ways = [vars(cls).get(name) for name in _OWN_WAYS]
            if any(getattr(way, "__module__", None) in self._modules for way in ways):
                raise TypeError(f"{cls.__qualname__} says how it travels")

    def _refused(self, thing: Any, way: str) -> ShippingError:
        _, culprit = trace(thing, lambda part: self._size(part) is not None)
        what, remedy = why_unshippable(culprit) or (
            "what cannot travel",
            "register it where it is used, or in a module beside the script",
        )
        return ShippingError(
            f"the script has put {shorten(thing, 80)} into {way}, where it cannot be put on the "
            f"workers: it holds {what} ({shorten(culprit, 80)}): {remedy}"
        )


class _Putter(_Script):
    def __init__(self, modules: Collection[str], keep: bool) -> None:
        super().__init__(modules)
        self._keep = keep
        self._done: dict[int, Any] = {}

    def put(self, there: Any, node: Own | Given | Filled) -> Any:
        """What is to be where something else is now, which may be filled and stay."""
        if isinstance(node, Own):
            return there
        if isinstance(node, Given):
            return self._given(there, node.value)
        if id(node) not in self._done:
            is_there = node.kind == "module" or _fits(there, node)
            if not (is_there or node.whole):
                raise _differs(node)
            found = self._done[id(node)] = there if is_there else node.whole[0]
            if is_there or node.kind in ("class", "function"):
                getattr(self, f"_fill_{node.kind}")(found, node)
        return self._done[id(node)]

    def _given(self, there: Any, value: Any) -> Any:
        if there is _ABSENT:
            return value
        if self._keep and (is_plain(value) or self.holds(there)):
            return there
        if type(there) is type(value) and type(there) in (list, dict, set) and is_plain(there):
            if there != value:
                there.clear()
                there.extend(value) if type(there) is list else there.update(value)
            return there
        return there if is_plain(value) and is_plain(there) and there == value else value

    def _fill_module(self, module: Any, node: Filled) -> None:
        for name, inner in node.items:
            there = vars(module).get(name, _ABSENT)
            found = self.put(there, inner)
            if found is not there:
                setattr(module, name, found)

    def _fill_class(self, cls: type, node: Filled) -> None:
        self._fill_attributes(vars(cls), node, lambda n, v: type.__setattr__(cls, n, v))

    def _fill_object(self, thing: Any, node: Filled) -> None:
        attributes = dict(items_of(thing, "object"))
        self._fill_attributes(attributes, node, lambda n, v: object.__setattr__(thing, n, v))

    def _fill_attributes(
        self, attributes: Any, node: Filled, set_: Callable[[str, Any], None]
    ) -> None:
        for name, inner in node.items:
            there = attributes.get(name, _ABSENT)
            found = self.put(there, inner)
            if found is not there and found is not _ABSENT:
                set_(name, found)

    def _fill_view(self, view: Any, node: Filled) -> None:
        parts = _wrapped(view)
        if len(parts) != len(node.items):
            raise _differs(node)
        for there, (_, inner) in zip(parts, node.items, strict=True):
            if self.put(there, inner) is not there and not isinstance(inner, Given):
                raise _differs(node)

    def _fill_function(self, function: Any, node: Filled) -> None:
        there = dict(items_of(function, "function"))
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for (place, name), inner in node.items:
            found = self.put(there.get((place, name), _ABSENT), inner)
            if found is _ABSENT or found is there.get((place, name), _ABSENT):
                continue
            if place == "attribute":
                setattr(function, name, found)
            elif place == "cell":
                cells[name].cell_contents = found
            elif place == "keyword":
                function.__kwdefaults__[name] = found
            else:
                defaults = list(function.__defaults__)
                defaults[name] = found
                function.__defaults__ = tuple(defaults)

    def _fill_mapping(self, mapping: Any, node: Filled) -> None:
        methods = _mapping_class(mapping)
        before = dict(methods.items(mapping))
        after = {}
        for key, inner in node.items:
            found = self.put(before.get(key, _ABSENT), inner)
            if found is _ABSENT and node.whole:
                found = node.whole[0][key]
            if found is not _ABSENT:
                after[key] = found
        if self._keep:
            after = {**before, **{k: v for k, v in after.items() if k not in before}}
        for key in [*methods.keys(mapping)]:
            methods.__delitem__(mapping, key)
        for key, value in {**after, **{k: v for k, v in before.items() if k not in after}}.items():
            methods.__setitem__(mapping, key, value)

    def _fill_sequence(self, there: Any, node: Filled) -> None:
        before = list(there)
        nodes = [inner for _, inner in node.items]
        if self._keep and any(map(self.holds, before)):
            return
        if len(before) == len(nodes) and all(map(_fits, before, nodes)):
            after = list(map(self.put, before, nodes))
        else:
            left = iter(self._own(before, node))
            after = [self.put(next(left) if type(n) is Own else _ABSENT, n) for n in nodes]
        there.clear()
        there.extend(after)

    def _own(self, there: Iterable[Any], node: Filled) -> list[Any]:
        """The module's own items there; those that the script has added come behind them."""
        own = list(filter(self._is_own, there))
        number = sum(isinstance(inner, Own) for _, inner in node.items)
        if len(own) == number:
            return own
        if len(own) > number or not node.whole or (own and node.kind == "set"):
            raise _differs(node)
        whole = list(filter(self._is_own, node.whole[0]))
        if len(whole) != number or list(map(_what, own)) != list(map(_what, whole[: len(own)])):
            raise _differs(node)
        return own + whole[len(own) :]

    def _is_own(self, thing: Any) -> bool:
        return not (self.holds(thing) or is_plain(thing) or _is_named(thing))

    def _fill_set(self, there: Any, node: Filled) -> None:
        before = [thing for thing in list(there) if self.holds(thing)]
        if self._keep and before:
            return
        own = self._own(there, node)
        for thing in before:
            there.discard(thing)
        for thing in own:
            there.add(thing)
        for _, inner in node.items:
            if not isinstance(inner, Own):
                there.add(self.put(_ABSENT, inner))


def _fits(there: Any, node: Own | Given | Filled) -> bool:
    return isinstance(node, (Own, Given)) or (there is not _ABSENT and _what(there) == node.of)


def _differs(node: Filled) -> ShippingError:
    return ShippingError(
        f"what the script has put into {node.way} cannot be put there on this worker: the module "
        "makes something else there when it is imported, or the script has put in what cannot "
        "travel, too: put it there in the module itself, or inside the functions"
    )
