"""Classes work on a worker as in the script, whatever their creation does, or stay here."""

from __future__ import annotations

import pytest

MODULE = """
import functools

KNOWN = {}
CALLS = []
ORDER = {}

class Plugin:
    known = {}
    def __init_subclass__(cls, /, code, scale=1, **more):
        super().__init_subclass__(**more)
        if cls.__name__ in Plugin.known:
            raise ValueError(f"{cls.__name__} is there already")
        Plugin.known[cls.__name__] = cls
        cls.code = code * scale

class Meta(type):
    def __new__(meta, name, bases, body, tag="none"):
        cls = super().__new__(meta, name, bases, body)
        KNOWN[name] = tag
        return cls
    def __init__(cls, name, bases, body, tag="none"):
        super().__init__(name, bases, body)

class Checked(type):
    rules = []
    def __new__(meta, name, bases, body):
        if "kind" not in body or not callable(body["rule"]):
            raise TypeError(f"{name} has no kind and rule")
        cls = super().__new__(meta, name, bases, body)
        meta.rules.append(cls)
        return cls

def register(function):
    ORDER[function.__name__] = function
    return function

@functools.singledispatch
def area(shape):
    return -1

def total(shapes):
    return sum(map(area, shapes))
"""


def test_what_creation_does_happens_once(ship):
    """To what travels by value it has happened; to what goes by name it happens again."""
    script = """
    import helpers

    FACTOR = 3

    class Named:
        def __init_subclass__(cls, /, code, **more):
            super().__init_subclass__(**more)
            cls.code = code

    class Small(Named, code=7):
        pass

    class Registry:
        known = {}
        made = 0
        def __init_subclass__(cls):
            if cls.__name__ in Registry.known:
                raise ValueError(f"{cls.__name__} is there already")
            Registry.known[cls.__name__] = cls
            Registry.made += 1

    class Mlp(Registry):
        pass

    class Deep(Mlp):
        pass

    class ByModule(helpers.Plugin, code=FACTOR, scale=2):
        pass

    class Unmentioned(helpers.Plugin, code=1):
        pass

    class OwnMeta(type):
        made = []
        def __new__(meta, name, bases, body, *, tag):
            cls = super().__new__(meta, name, bases, body)
            type.__setattr__(cls, "tag", tag)
            meta.made.append(name)
            return cls
        def __init__(cls, name, bases, body, *, tag):
            super().__init__(name, bases, body)
        def __setattr__(cls, name, value):
            raise AttributeError("frozen")

    class Tagged(metaclass=OwnMeta, tag="own"):
        pass

    class ModuleMeta(metaclass=helpers.Meta, tag="module"):
        pass

    class Ruled(metaclass=helpers.Checked):
        kind = "ruled"
        def rule(self):
            return [Ruled is type(self), FACTOR, super().__hash__ is not None]
        @staticmethod
        def static():
            return Ruled.kind
        @property
        def own(self):
            return Ruled.kind

    class Typed:
        def __set_name__(self, owner, name):
            self.name = f"{owner.__name__}.{name}"
            names.append(name)
        def __get__(self, instance, owner):
            return self.name

    names = []

    class Described:
        field = Typed()

    class Item:
        def __class_getitem__(cls, key):
            return (cls.__name__, key)

    @helpers.register
    def build():
        return "built"

    import late
    late.KNOWN["build"] = build

    def known():
        import late
        return late.KNOWN["build"]() + late.KNOWN["own"]

    def probe():
        made = [ByModule, Tagged, ModuleMeta]
        return {
            "keyword": Small.code, "registry": sorted(Registry.known), "made": Registry.made,
            "same": Registry.known["Mlp"] is Mlp and Registry.known["Deep"] is Deep,
            "bases": Deep.__bases__ == (Mlp,),
            "module": [ByModule.code, sorted(helpers.Plugin.known)],
            "metaclass": [Tagged.tag, OwnMeta.made, type(Tagged) is OwnMeta],
            "module metaclass": helpers.KNOWN["ModuleMeta"],
            "described": [Described.field, names], "item": Item[3],
            "ruled": [Ruled().rule(), Ruled.static(), Ruled().own],
            "rules": helpers.Checked.rules == [Ruled],
            "still": later(), "built": helpers.ORDER["build"](), "late": known(),
        }

    def later():
        class Later(Registry):
            pass
        class Other(ByModule, code=4):
            pass
        return [Later.__name__ in Registry.known, Other.code]
    """
    files = {"helpers.py": MODULE, "late.py": 'KNOWN = dict(own="own")\n'}
    answer = ship(script, ["probe"], "probe()", files)
    assert answer["keyword"] == 7
    assert answer["registry"] == ["Deep", "Mlp"]
    assert answer["made"] == 2
    assert answer["same"]
    assert answer["bases"]
    assert answer["module"] == [6, ["ByModule", "Unmentioned"]]
    assert answer["metaclass"] == ["own", ["Tagged"], True]
    assert answer["module metaclass"] == "module"
    assert answer["ruled"] == [[True, 3, True], "ruled", "ruled"]
    assert answer["rules"]
    assert answer["described"] == ["Described.field", ["field"]]
    assert answer["item"] == ["Item", 3]
    assert answer["still"] == [True, 4]
    assert answer["built"] == "built"
    assert answer["late"] == "builtown"


def test_enumerations(ship):
    script = """
    import enum, sys

    Color = enum.Enum("Color", "RED GREEN")
    Size = enum.IntEnum("Size", {"SMALL": 1, "LARGE": 5})

    class Shade(enum.Enum):
        DARK = 1
        BLACK = 1
        LIGHT = enum.auto()
        @classmethod
        def _missing_(cls, value):
            return cls.DARK if value == "night" else None
        def deeper(self):
            return Shade.DARK

    class Unit(bytes, enum.Enum):
        def __new__(cls, value, label):
            made = bytes.__new__(cls, [value])
            made._value_ = value
            made.label = label
            return made
        X = (3, "x axis")
        Y = (4, "y axis")

    class Word(str, enum.Enum):
        def _generate_next_value_(name, start, count, last):
            return name.lower()
        FIRST = enum.auto()
        __hidden = 3
        @property
        def loud(self):
            return self.value.upper()

    class Access(enum.Flag):
        READ = enum.auto()
        WRITE = enum.auto()
        BOTH = READ | WRITE

    keep = {"boundary": enum.KEEP} if sys.version_info >= (3, 11) else {}
    class Bits(enum.IntFlag, **keep):
        A = 1
        B = 2

    class Op(enum.Enum):
        ADD = "+"
        SUB = "-"
        def __call__(self, a, b):
            return a + b if self is Op.ADD else a - b

    class Base(enum.Enum):
        def who(self):
            return f"I am {self.name}"
    class Derived(Base):
        ME = object

    mixed = Access.READ | Access.WRITE
    chosen = {Shade.DARK: [Color.RED], "unit": Unit.Y}

    def probe(color=Color.GREEN):
        import copy, pickle
        return {
            "functional": [c.name for c in Color] + [color is Color(2)],
            "size": [Size.LARGE + 1, Size(1).name],
            "alias": [Shade.BLACK is Shade.DARK, len(Shade), list(Shade.__members__)],
            "missing": Shade("night").name, "next": Shade.LIGHT.value,
            "method": Shade.LIGHT.deeper() is Shade.DARK,
            "unit": [Unit.X.value, list(Unit.X), Unit(4).label, Unit.Y is chosen["unit"]],
            "word": [Word.FIRST == "first", Word("first").loud, Word.FIRST.upper()],
            "flag": [mixed is Access.BOTH, Access.READ in mixed, (Access.READ & mixed).name],
            "bits": int(Bits(9)), "invert": (~Access.READ).name,
            "call": Op.SUB(5, 2), "derived": [Derived.ME.who(), Derived.ME.value is object],
            "key": chosen[Shade.BLACK][0] is Color.RED,
            "copied": copy.deepcopy(Unit.X) is Unit.X and pickle.loads(pickle.dumps(Shade.DARK))
                is Shade.DARK,
            "iter": [m.name for m in Access if m.value < 3], "repr": repr(Shade.LIGHT),
            "cannot": cannot(),
        }

    def cannot():
        try:
            Color.RED = 3
        except AttributeError:
            return True
    """
    answer = ship(script, ["probe"], "probe()")
    assert answer["functional"] == ["RED", "GREEN", True]
    assert answer["size"] == [6, "SMALL"]
    assert answer["alias"] == [True, 2, ["DARK", "BLACK", "LIGHT"]]
    assert (answer["missing"], answer["next"], answer["method"]) == ("DARK", 2, True)
    assert answer["unit"] == [3, [3], "y axis", True]
    assert answer["word"] == [True, "FIRST", "FIRST"]
    assert answer["flag"] == [True, True, "READ"]
    assert (answer["bits"], answer["invert"]) == (9, "WRITE")
    assert (answer["call"], answer["derived"]) == (3, ["I am ME", True])
    assert answer["key"]
    assert answer["copied"]
    assert answer["cannot"]
    assert answer["iter"] == ["READ", "WRITE"]
    assert answer["repr"] == "<Shade.LIGHT: 2>"


def test_classes_of_the_standard_library(ship):
    script = """
    import abc, collections.abc, dataclasses, functools, numbers, typing
    import helpers

    T = typing.TypeVar("T")

    @dataclasses.dataclass(frozen=True, slots=True, order=True)
    class Point:
        x: int
        y: int = dataclasses.field(default=2, repr=False)
        tags: list = dataclasses.field(default_factory=list, compare=False)
        kind: typing.ClassVar[str] = "point"

    @dataclasses.dataclass(slots=True, frozen=True)
    class Point3(Point):
        z: int = 0
        def __post_init__(self):
            object.__setattr__(self, "z", self.z + 1)

    class Movie(typing.TypedDict, total=False):
        title: str

    class Sized(typing.Protocol):
        def size(self) -> int: ...

    @typing.runtime_checkable
    class Named(typing.Protocol):
        name: str
        def shout(self) -> str: ...

    class Cat:
        name = "cat"
        def shout(self):
            return "miau"

    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...
        @property
        @abc.abstractmethod
        def sides(self): ...

    class Square(Shape):
        sides = 4
        def area(self):
            return 4

    class Stranger:
        pass
    Shape.register(Stranger)
    collections.abc.Sequence.register(Stranger)

    class Stack(typing.Generic[T]):
        def __init__(self):
            self.items: list[T] = []
    class Ints(Stack[int]):
        pass

    class Pair(typing.NamedTuple):
        left: int
        right: Cat = Cat

    class Slots:
        __slots__ = ("__private", "open", "__weakref__")
        def __init__(self):
            self.__private, self.open = 1, 2
        def both(self):
            return self.__private + self.open

    class Lazy:
        calls = 0
        @functools.cached_property
        def value(self):
            Lazy.calls += 1
            return 3
        @functools.singledispatchmethod
        def kind(self, value):
            return "thing"
        @kind.register
        def _(self, value: int):
            return "int"

    @functools.singledispatch
    def show(value):
        return "thing"
    @show.register
    def _(value: int):
        return f"int {value}"
    @show.register(list)
    def show_list(value):
        return [show(item) for item in value]
    @show.register
    def _(value: Cat):
        return value.shout()

    @helpers.area.register
    def square_area(shape: Square):
        return shape.area()

    def probe():
        import weakref
        slots, lazy = Slots(), Lazy()
        weakref.ref(slots)
        try:
            Shape()
            abstract = False
        except TypeError:
            abstract = True
        return {
            "point": [repr(Point(1)), Point(1) < Point(2), Point(1, tags=[5]) == Point(1)],
            "point3": [Point3(1).z, hasattr(Point3(1), "__dict__"), Point3.kind],
            "hash": hash(Point(1)) == hash((1, 2)),
            "movie": [Movie(title="x"), sorted(Movie.__optional_keys__), typing.is_typeddict(Movie)
                if hasattr(typing, "is_typeddict") else True],
            "protocol": [isinstance(Cat(), Named), isinstance(3, Named), Sized._is_protocol],
            "abstract": abstract,
            "virtual": [isinstance(Stranger(), Shape), issubclass(Square, Shape),
                        issubclass(Cat, Shape), isinstance(Stranger(), collections.abc.Sequence)],
            "generic": [str(Stack[int]), Ints.__orig_bases__[0].__args__ == (int,),
                        Stack.__parameters__ == (T,)],
            "pair": [Pair(1).right is Cat, Pair._fields],
            "slots": [slots.both(), hasattr(slots, "__dict__")],
            "lazy": [lazy.value, lazy.value, Lazy.calls, lazy.kind(1), lazy.kind("")],
            "show": [show(1), show([2, ""]), show(Cat()), show.__name__],
            "area": helpers.total([Square(), Square()]), "default": helpers.area(3),
        }
    """
    answer = ship(script, ["probe"], "probe()", {"helpers.py": MODULE})
    assert answer["point"] == ["Point(x=1, tags=[])", True, True]
    assert answer["point3"] == [1, False, "point"]
    assert answer["hash"]
    assert answer["movie"] == [{"title": "x"}, ["title"], True]
    assert answer["protocol"] == [True, False, True]
    assert answer["abstract"]
    assert answer["virtual"] == [True, True, False, True]
    assert answer["generic"][0].endswith("Stack[int]")
    assert answer["generic"][1:] == [True, True]
    assert answer["pair"] == [True, ["left", "right"]]
    assert answer["slots"] == [3, False]
    assert answer["lazy"] == [3, 3, 1, "int", "thing"]
    assert answer["show"] == ["int 1", ["int 2", "thing"], "miau", "show"]
    assert (answer["area"], answer["default"]) == (8, -1)


REFUSED = """
import datetime, enum, sys
import helpers
from cerebro import shipping
from cerebro.errors import ShippingError

def refusal(function):
    try:
        shipping.pack({"model_fn": function})
    except ShippingError as error:
        return str(error)

class Made(helpers.Plugin, code=len(sys.argv)):
    pass

class Between(helpers.Plugin, code=5):
    def __init_subclass__(cls, /, label, **more):
        super().__init_subclass__(code=len(label), **more)

class Below(Between, label="abc"):
    pass

def local(code):
    class Inner(helpers.Plugin, code=code):
        pass
    return Inner
code = 3
inner = local(4)

class Day(datetime.date, enum.Enum):
    FIRST = 2020, 1, 1

messages = [refusal(lambda: Made), refusal(lambda: [Day.FIRST]),
            refusal(lambda: Below), refusal(lambda: inner)]

def probe():
    return messages
"""


def test_what_cannot_be_repeated_is_refused_by_name(ship):
    made, day, below, inner = ship(REFUSED, ["probe"], "probe()", {"helpers.py": MODULE})
    assert "class Made is made with the keyword 'code'" in made
    assert "module beside the script" in made
    assert "class Below is made with the keyword 'code'" in below
    assert "Inner is made with the keyword 'code'" in inner
    assert "enumeration Day hold data of date" in day


@pytest.mark.tf
def test_what_is_registered_with_keras(ship):
    """By its name, also where no function mentions it."""
    script = """
    import keras

    @keras.saving.register_keras_serializable(package="mine")
    class Scale(keras.layers.Layer):
        def call(self, x):
            return 2.0 * x

    @keras.saving.register_keras_serializable("mine", "twice")
    def double(x):
        return 2 * x

    keras.saving.get_custom_objects()["plain"] = double

    model = keras.Sequential([
        keras.Input((1,)), Scale(), keras.layers.Dense(1, activation=double, use_bias=False,
        kernel_initializer="ones"),
    ])
    text = model.to_json()

    def probe():
        import keras
        made = keras.models.model_from_json(text)
        names = [keras.saving.get_registered_name(type(made.layers[0]))]
        plain = keras.saving.get_registered_object("plain")
        return [plain(float(made(keras.ops.ones((1, 1)))[0, 0])), *names]
    """
    assert ship(script, ["probe"], "probe()") == [8.0, "mine>Scale"]


REGISTRIES = """
import collections, dataclasses, enum, functools, types, weakref

class Kind(enum.Enum):
    ONE = 1

@dataclasses.dataclass(frozen=True)
class Entry:
    cls: type
    rate: float = 0.5

class Proxy:
    def __init__(self):
        object.__setattr__(self, "known", {})
    def __getattr__(self, name):
        if name in self.known:
            return self.known[name]
        raise AttributeError(name)

class Base:
    hooks = []

def traced(function):
    return lambda: function()

class Item:
    def __init__(self, name, lock=None):
        self.name, self.lock = name, lock

import threading
OWN = Item("own", threading.Lock())
LIST, SET, BY_CLASS, DEQUE = [OWN, "first"], {1}, {}, collections.deque(maxlen=5)
DEFAULTS, ORDERED = collections.defaultdict(list), collections.OrderedDict(z=OWN)
NESTED, TUPLES, INSTANCES = {"a": {"b": []}}, {}, {}
WEAK, WEAK_SET = weakref.WeakValueDictionary(), weakref.WeakSet()
ALIAS, VIEW = LIST, types.MappingProxyType(BY_CLASS)
BY_KIND, ENTRIES, PROXY, TABLE, HANDLER = {Kind.ONE: []}, [], Proxy(), None, traced(int)
CURRENT, UNTOUCHED, USERS = None, [OWN], collections.UserDict()

class Registry:
    items = {}
    def __init__(self):
        self.known, self.names, self.lock = {"own": OWN}, [], OWN.lock
    def add(self, cls):
        self.known[cls.__name__] = cls
        self.names.append(cls.__name__)

class Slotted:
    __slots__ = ("known",)
    def __init__(self):
        self.known = []

REGISTRY, SLOTTED = Registry(), Slotted()
add = REGISTRY.add
add_part = functools.partial(Registry.add, REGISTRY)

def closed():
    known = []
    def add(cls=None):
        known.extend([cls] if cls else [])
        return known
    return add
closed = closed()

def by_default(cls=None, known=[]):
    known.extend([cls] if cls else [])
    return known

def everywhere(cls):
    global CURRENT, TABLE, HANDLER
    CURRENT = cls
    TABLE = {"x": {"y": (Entry(cls), max)}}
    HANDLER = traced(cls.made)
    BY_KIND[Kind.ONE] += [cls, len, Item, Kind.ONE]
    ENTRIES.append(Entry(cls, 0.25))
    PROXY.known["k"] = cls
    Base.hooks.append(cls)
    Base.make = cls.make
    LIST.insert(1, cls)
    SET.add(cls); WEAK_SET.add(cls); DEQUE.append(cls); SLOTTED.known.append(cls)
    BY_CLASS[cls] = "x"
    DEFAULTS["k"].append(cls)
    ORDERED["k"] = cls
    ORDERED.move_to_end("z")
    NESTED["a"]["b"].append(cls)
    NESTED["new"] = [cls]
    TUPLES["k"] = (cls, {"o": 1})
    INSTANCES["k"] = cls()
    WEAK["k"] = cls
    USERS["k"] = cls
    add(cls)
    Registry.items[cls.__name__] = cls
    closed(cls)
    by_default(cls)
    everywhere.seen = [cls]
    return cls

def names(things):
    return [getattr(t, "__name__", getattr(t, "name", t)) for t in things]

def state():
    return {
        "list": names(LIST), "set": sorted(map(str, names(SET))), "by class": names(BY_CLASS),
        "deque": names(DEQUE), "defaults": names(DEFAULTS["k"]), "ordered": names(ORDERED.values()),
        "nested": names(NESTED["a"]["b"]) + names(NESTED["new"]), "tuple": names(TUPLES["k"]),
        "instance": type(INSTANCES["k"]).__name__, "weak": names(WEAK.values()),
        "weak set": names(WEAK_SET), "object": [names(REGISTRY.known.values()), REGISTRY.names],
        "class": names(Registry.items.values()), "current": names([CURRENT]),
        "closure": names(closed()), "default": names(by_default()), "slots": names(SLOTTED.known),
        "kinds": list(map(str, names(BY_KIND[Kind.ONE]))),
        "entries": [[e.cls.__name__, e.rate] for e in ENTRIES],
        "proxy": PROXY.k.__name__, "table": TABLE["x"]["y"][0].cls.__name__, "handler": HANDLER(),
        "hooks": names(Base.hooks), "make": Base().make(),
        "attribute": names(everywhere.seen), "user": names(USERS.values()), "view": names(VIEW),
        "same": [ALIAS is LIST, LIST[0] is OWN, LIST[0] is UNTOUCHED[0], add.__self__ is REGISTRY,
                 REGISTRY.lock is OWN.lock, CURRENT is LIST[1], REGISTRY.known["own"] is OWN,
                 type(INSTANCES["k"]) is CURRENT, add_part.args[0] is REGISTRY,
                 BY_KIND[Kind.ONE][2] is Item, type(ENTRIES[0]) is Entry, ENTRIES[0].cls is CURRENT,
                 DEQUE.maxlen == 5, ORDERED["z"] is OWN, DEFAULTS["more"] == []],
    }
"""


def test_what_is_registered_in_any_container_of_a_module(ship):
    """It is there on the worker as in the script, among what is the module's own."""
    script = """
    import json
    import helpers

    @helpers.everywhere
    class Mine:
        @staticmethod
        def made():
            return "made"
        def make(self):
            return "make"

    @helpers.LIST.append
    def hook():
        return "hooked"

    expected = json.dumps(helpers.state())

    def probe():
        import helpers
        return json.loads(expected), helpers.state(), helpers.LIST[-1]()
    """
    expected, there, hooked = ship(script, ["probe"], "probe()", {"helpers.py": REGISTRIES})
    assert there == expected
    assert all(there["same"])
    assert there["list"] == ["own", "Mine", "first", "hook"]
    assert hooked == "hooked"


def test_what_cannot_be_put_into_a_module_is_refused_by_name(ship):
    script = """
    import threading, weakref
    import helpers
    from cerebro import shipping
    from cerebro.errors import ShippingError

    class Mine:
        def __init__(self, held):
            self.held = held

    def refusal(value, key="k"):
        helpers.NESTED["a"] = {key: value}
        try:
            shipping.pack({"model_fn": lambda: helpers})
        except ShippingError as error:
            return str(error)
        finally:
            del helpers.NESTED["a"]

    messages = [refusal(Mine(threading.Lock())), refusal(weakref.ref(Mine)),
                refusal(Mine, key=helpers.OWN)]

    def probe():
        return messages
    """
    lock, weak, key = ship(script, ["probe"], "probe()", {"helpers.py": REGISTRIES})
    assert "helpers.NESTED['a']['k']" in lock.replace('"', "'")
    assert "a lock" in lock
    assert "a weak reference" in weak
    assert "use a text as the key" in key


def test_what_the_script_has_made_of_a_modules_classes(ship):
    """It comes along where it lies beside the script's own and can travel."""
    script = """
    import helpers

    class Mine:
        pass

    helpers.ENTRIES += [helpers.Item("a"), Mine]
    helpers.USERS.update(a=helpers.Item("a"), mine=Mine)
    helpers.SET |= {helpers.Item("a"), Mine}

    def probe():
        things = [helpers.ENTRIES, helpers.USERS.values(), helpers.SET]
        return [sorted(map(str, helpers.names(held))) for held in things]
    """
    entries, users, in_set = ship(script, ["probe"], "probe()", {"helpers.py": REGISTRIES})
    assert entries == users == ["Mine", "a"]
    assert in_set == ["1", "Mine", "a"]


def test_what_the_script_has_made_of_a_modules_classes_is_not_left_out_silently(ship):
    script = """
    import helpers

    class Mine:
        pass

    helpers.LIST += [helpers.OWN, Mine]

    def probe():
        return helpers.names(helpers.LIST)
    """
    with pytest.raises(AssertionError, match=r"helpers\.LIST cannot be put there"):
        ship(script, ["probe"], "probe()", {"helpers.py": REGISTRIES})
