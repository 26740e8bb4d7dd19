"""Fingerprints in two processes with different hash seeds: the same for what is the same.

And another one for what is not, with the name of the variable, and what it was and is.
"""

from __future__ import annotations

import re
import string

import pytest
from elsewhere import Elsewhere
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebro.driver.changes import changed_parts

pytestmark = pytest.mark.processes

PRELUDE = """
import abc, argparse, array, collections, contextlib, dataclasses, datetime, decimal, enum
import fractions, functools, io, itertools, logging, math, operator, os, pathlib, random, re, sys
import threading, types, typing, uuid, weakref
from random import random as drawn, shuffle
import numpy as np
from numpy.random import rand

class Holder:
    def __init__(self, held, other=None):
        self.held = held
        self.other = other
    def method(self):
        return self.held

class Slots:
    __slots__ = ("held", "never")
    def __init__(self, held):
        self.held = held

@dataclasses.dataclass
class Settings:
    held: object
    columns: list = dataclasses.field(default_factory=lambda: ["x", "y"])

@dataclasses.dataclass(frozen=True, order=True)
class Frozen:
    held: object = 1

class Pair(typing.NamedTuple):
    held: object
    other: int = 3

class OwnDict(dict):
    pass

class OwnSet(set):
    pass

class Stated:
    def __init__(self, held):
        self.held, self.lock = held, threading.Lock()
    def __getstate__(self):
        return {"held": self.held}

class Locked:
    def __init__(self, held):
        self.held, self.lock = held, threading.Lock()

def make(held):
    def inner():
        return held
    return inner

def use(*things, **named):
    return things

def circle(held):
    first, second = Holder(held), Holder({"a", "b"})
    first.other, second.other = second, first
    return first

def within_itself(held):
    made = [held]
    made.append(made)
    return made
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("elsewhere"))
    started = [Elsewhere(seed, folder) for seed in (1, 2)]
    yield started
    for process in started:
        process.close()


def script(value, before=""):
    return f"{PRELUDE}{before}\nVALUE = {value}\ndef target(x, y=1):\n    return VALUE\n"


def moved(value):
    """The same, with comments and blank lines, and functions at other places of the file."""
    prelude = PRELUDE.replace("\nclass ", "\n# a comment\n\nclass ").replace(
        "def make(held):\n", 'def make(held):\n    # what it holds\n    "Says so."\n'
    )
    target = (
        'def target(x, y=1):\n    "Is documented."\n\n    # and has a comment\n    return VALUE\n'
    )
    return f"# a comment\n\n\n{target}\n{prelude}\n# another\nVALUE = (\n\n    {value}\n)\n"


atoms = st.one_of(
    st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=8), st.booleans(),
    st.none(), st.complex_numbers(allow_nan=False, allow_infinity=False),
).map(
    lambda value: re_named(repr(value))
)  # fmt: skip
words = st.text(string.ascii_lowercase, min_size=1, max_size=6)
hashable = st.recursive(
    st.one_of(st.integers(), words).map(repr),
    lambda inner: st.lists(inner, min_size=1, max_size=4).flatmap(
        lambda some: st.sampled_from(
            [f"frozenset({{{', '.join(some)}}})", f"({', '.join(some)},)", f"Frozen({some[0]})"]
        )
    ),
    max_leaves=6,
)


def re_named(text):
    return text.replace("nan", "np.nan").replace("inf", "np.inf")


ONE = [
    "[{0}]", "({0},)", "{{'a': {0}}}", "collections.deque([{0}], maxlen=3)",
    "collections.OrderedDict(a={0})", "collections.defaultdict(lambda: 3, a={0})",
    "collections.ChainMap({{'a': {0}}}, {{}})", "types.MappingProxyType({{'a': {0}}})",
    "types.SimpleNamespace(a={0})", "argparse.Namespace(a={0}, b=1)",
    "functools.partial(use, a={0})", "functools.partial(use, {0})",
    "functools.partialmethod(use, {0})", "Holder({0})", "Holder({0}).method", "Slots({0})",
    "Settings({0})", "Frozen({0})", "Pair({0})", "OwnDict(a={0})", "Stated({0})", "Locked({0})",
    "make({0})", "staticmethod(make({0}))", "functools.lru_cache(make({0}))",
    "functools.wraps(use)(make({0}))", "circle({0})", "within_itself({0})",
    "np.array([{0}, None], dtype=object)", "np.array([[{0}, 1]], dtype=object)[0]",
    "np.array([({0}, 2.5)], dtype=[('a', 'O'), ('b', 'f4')])", "[1, {0}].append",
    "operator.methodcaller('f', {0})", "ValueError({0})", "itertools.chain([{0}])",
    "{{'a': {0}}}.values()", "type('Made', (), {{'held': {0}}})",
    "type('Made', (Holder,), {{'held': {0}}})(1)",
    "enum.Enum('Color', {{'RED': 1, 'BLUE': ({0},)}})", "[lambda: 1, lambda held={0}: held]",
]  # fmt: skip
"""Values with another one in them."""

SETS = [
    "{{{0}}}",
    "OwnSet({{{0}}})",
    "frozenset({{{0}}})",
    "dict.fromkeys(sorted([{0}], key=repr))",
]

values = st.recursive(
    atoms | st.lists(hashable, min_size=1, max_size=6).map(
        lambda some: SETS[len(some) % 3].format(", ".join(some))
    ),
    lambda inner: st.builds(str.format, st.sampled_from(ONE), inner)
    | st.lists(inner, max_size=4).map(lambda some: f"[{', '.join(some)}]"),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(value=values)
def test_a_value_has_one_fingerprint_in_every_process(processes, value):
    one, other = processes
    digest, parts = one.of(script(value))
    assert other.of(script(value)) == (digest, parts)
    assert other.of(moved(value))[0] == digest
    assert not any(" at 0x" in text or "0x7f" in text for _, text, _ in parts.values())


@settings(max_examples=100, deadline=None)
@given(ways=st.lists(st.sampled_from(ONE), min_size=1, max_size=3))
def test_another_value_has_another_fingerprint_that_names_it(processes, ways):
    def within(value):
        for way in ways:
            value = way.format(value)
        return script(value)

    one, other = processes
    (digest, before), (changed, now) = one.of(within("1.5")), other.of(within("2.5"))
    assert digest != changed
    (said,) = changed_parts(before, now)
    assert any(name in said for name in ("global VALUE", "held", "BLUE"))
    assert changed_parts(before, other.of(within("1.5"))[1]) == []


SAYS_NO_VALUE = {
    "operator.methodcaller('f', {0})", "ValueError({0})", "itertools.chain([{0}])",
}  # fmt: skip


@pytest.mark.parametrize("way", [way for way in ONE if way not in SAYS_NO_VALUE])
def test_it_says_from_what_to_what(processes, way):
    one, other = processes
    before, now = (p.of(script(way.format(v)))[1] for p, v in ((one, "1.5"), (other, "2.25")))
    (said,) = changed_parts(before, now)
    assert re.search(r" changed from .*\b1\.5\b.* to .*\b2\.25\b", said)


KINDS = [
    "np.array(['sit', 'stand'], dtype=object)", "np.array({'a', 'b'}, dtype=object)",
    "np.arange(6).reshape(2, 3).T", "np.arange(10)[::2]", "np.empty(0)",
    "np.array(3.5)", "np.float32(2)",
    "np.ma.array([1.0, 2.0], mask=[0, 1])", "np.ma.masked_all(4)", "np.longdouble([1, 2])",
    "np.array(['2020-01-01'], dtype='M8[ns]')", "np.rec.array([(1,)], dtype=[('a', 'i4')])",
    "np.array([(1, 2)], dtype=np.dtype({'names': ['a', 'b'], 'formats': ['i1', 'f8'],"
    " 'offsets': [0, 8], 'itemsize': 64}))", "np.dtype('f4')", "np.add", "np.random.default_rng(3)",
    "np.random.RandomState(3)", "random.Random(3)", "[drawn, shuffle, rand, np.sum, len, math.sin]",
    "{frozenset({'a', 'b'}), frozenset({'c'})}", "{lambda: 1, lambda: 2}", "{make(1), make(2)}",
    "{circle(1), circle(2)}", "{Holder, Settings, Pair}", "{len, print, np.sum}",
    "collections.Counter('hello')", "re.compile('a+', re.I)", "array.array('d', [1, 2])",
    "datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)", "decimal.Decimal('1.50')",
    "fractions.Fraction(1, 3)", "uuid.UUID(int=5)", "pathlib.Path('/a/b')", "range(3)",
    "[1, True, 1.0, 0.0, -0.0, 10 ** 5000, ..., NotImplemented]", "io.StringIO('abc')",
    "threading.RLock()", "(i for i in range(3))", "weakref.ref(Holder)", "sys.stdout", "os.environ",
    "weakref.WeakValueDictionary(a=Holder)", "logging.getLogger('x')", "object()", "slice(1, 2)",
    "[list[int], typing.Optional[int], typing.Any, typing.TypeVar('T')]", "str.upper",
    "(1).__add__", "operator.itemgetter(1)", "ValueError('a', {'x', 'y'})",
    "contextlib.contextmanager(use)",
    "functools.cached_property(use)", "argparse.ArgumentParser('x')", "memoryview(b'abc')",
    "make.__code__", "{'a': 1}.keys()", "functools.singledispatch(use)",
]  # fmt: skip


def test_kinds_of_values(processes):
    """Each is the same in every process and at every place, and none is like another."""
    one, other = processes
    found = [one.of(script(kind)) for kind in KINDS]
    assert [other.of(moved(kind))[0] for kind in KINDS] == [digest for digest, _ in found]
    assert [other.of(script(kind))[1] for kind in KINDS] == [parts for _, parts in found]
    assert len({digest for digest, _ in found}) == len(KINDS)


def test_numbers_of_different_types_differ(processes):
    numbers = ["1", "True", "1.0", "np.float64(1)", "np.int64(1)", "1 + 0j", "'1'", "b'1'", "[1]"]
    numbers += ["0.0", "-0.0", "np.nan", "np.array(1)", "np.array([1])", "np.array([[1]])", "(1,)"]
    numbers += ["{1}", "frozenset({1})", "{1: 1}", "{1: 1, 2: 2}", "{2: 2, 1: 1}", "None", "'None'"]
    digests = [processes[0].of(script(number))[0] for number in numbers]
    assert len(set(digests)) == len(numbers)
    assert processes[1].of(script("float('nan')"))[0] == processes[0].of(script("-np.nan"))[0]


PANDAS = [
    "pd.DataFrame({'a': [1, 2], 'b': ['x', None], 'c': [{'p', 'q'}, 2.5]})", "pd.NaT", "pd.NA",
    "pd.DataFrame({'a': pd.Categorical(['u', 'v']), 'b': pd.to_datetime(['2020-01-01'] * 2)})",
    "pd.Series([1, None], dtype='Int64', index=pd.MultiIndex.from_tuples([('a', 1), ('b', 2)]))",
    "pd.Index(['a', 'b'])", "pd.RangeIndex(3)", "pd.Timestamp('2020-01-01', tz='Europe/Paris')",
    "pd.date_range('2020', periods=3)", "pd.interval_range(0, 3)", "pd.Series(['a', 'b']).unique()",
    "pd.period_range('2020-01', periods=3, freq='M')", "pd.DataFrame({'a': [1, 3]})",
    "pd.DataFrame({'a': [1, 3.5]})", "pd.DataFrame({'b': [1, 3]})",
]  # fmt: skip


def test_tables(processes):
    one, other = processes
    imported = "import pandas as pd\n"
    found = [one.of(script(kind, imported)) for kind in PANDAS]
    assert [other.of(script(kind, imported)) for kind in PANDAS] == found
    assert len({digest for digest, _ in found}) == len(PANDAS)


USED = """
WORDS = {{"x", "y", "z"}}
SCALE = 1.0
OPTIONS = argparse.Namespace(columns=WORDS, rate=0.1)
TOKEN = "{token}"

class Helper:
    factor = 2
    @functools.cached_property
    def squared(self):
        return self.factor ** 2
    @property
    def half(self):
        return self.factor / 2
    @classmethod
    def made(cls):
        return cls()
    def scale(self, x):
        return x * self.factor

@dataclasses.dataclass
class Net:
    width: int = 8
    names: list = dataclasses.field(default_factory=lambda: ["x"])

class Color(enum.Enum):
    RED = 1

class Registered:
    kinds = {{}}
    def __init_subclass__(cls):
        Registered.kinds[cls.__name__] = cls

class First(Registered):
    pass

def deeper(x):
    return x * SCALE

def nested(x, power=2):
    return [deeper(y) ** power for y in x]

def outer(captured):
    def train_fn(model, data, rate=0.5, *, train=True):
        return nested(data), captured, OPTIONS, Helper(), Net(), Color.RED, First, TOKEN
    return train_fn

target = outer(3)
"""

CHANGES = [
    ("SCALE = 1.0", "SCALE = 2.0", "global SCALE changed from 1.0 to 2.0"),
    ("rate=0.1", "rate=0.2", "global OPTIONS.rate changed from 0.1 to 0.2"),
    ('"y", "z"', '"y"', "global OPTIONS.columns changed from {'x', 'y', 'z'} to {'x', 'y'}"),
    ("rate=0.5", "rate=0.25", "default rate changed from 0.5 to 0.25"),
    ("train=True", "train=False", "default train changed from True to False"),
    ("outer(3)", "outer(4)", "closure captured changed from 3 to 4"),
    ("power=2", "power=3", "default power of nested changed from 2 to 3"),
    ("factor = 2", "factor = 3", "attribute factor of class Helper changed from 2 to 3"),
    ("width: int = 8", "width: int = 9",
     "field width.default of class Net changed from 8 to 9"),
    ('["x"]', '["y"]', "constants in code of Net.<lambda> changed from 'x' to 'y'"),
    ("RED = 1", "RED = 2", "member RED of class Color changed from 1 to 2"),
    ("x * SCALE", "x / SCALE", "code of deeper changed"),
    ("x * self.factor", "x + self.factor", "code of Helper.scale changed"),
    ("self.factor / 2", "self.factor / 4", "constants in code of Helper.half changed from 2 to 4"),
    ("nested(data)", "nested(train)", "its code changed"),
    ("    pass", "    level = 1", "attribute level of class First is new (1)"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), CHANGES)
def test_it_says_which_variable_has_changed(processes, old, new, said):
    text = PRELUDE + USED.format(token="very secret")
    assert old in text
    one, other = processes
    (digest, before), (changed, now) = one.of(text), other.of(text.replace(old, new))
    assert digest != changed
    assert changed_parts(before, now) == [said]


def test_what_is_secret_by_its_name_is_not_recorded(processes):
    one, other = (
        p.of(PRELUDE + USED.format(token=t)) for p, t in zip(processes, "pq", strict=True)
    )
    assert changed_parts(one[1], other[1]) == ["global TOKEN changed"]


def test_use_changes_nothing(processes):
    used = """
import copy, pickle
for thing in (Helper(), Net(), Color.RED, First()):
    copy.deepcopy(thing)
    pickle.dumps(thing)
isinstance(3, collections.abc.Sized)
target(None, [1, 2])
nested([2])
"""
    text = PRELUDE + USED.format(token="t") + "helper = Helper()\n"
    captured = "target = outer([helper, functools.lru_cache(deeper)])\n"
    one, other = processes
    assert one.of(text + captured + used + "helper.squared\n") == other.of(text + captured)
