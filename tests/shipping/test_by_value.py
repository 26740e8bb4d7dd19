"""What a script defines runs in a process that has none of its files."""

from __future__ import annotations

import pytest
from patience import PATIENCE


def test_functions_of_a_script(ship):
    """Globals, helpers, closures, defaults, lambdas, decorators, recursion, shared state."""
    script = """
    import functools
    import math
    import numpy as np
    from collections import Counter as Tally
    from math import floor as down

    RATE = 3
    UNUSED = open(__file__)
    calls = []

    def logged(function):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            calls.append(function.__name__)
            return function(*args, **kwargs)
        return inner

    def helper(x):
        return x * RATE + math.floor(0.5) + down(0.7) + int(np.float64(1))

    @logged
    def decorated(x, y=2, *, z=3):
        "Its docstring."
        return helper(x) + y + z

    def even(n):
        return True if n == 0 else odd(n - 1)

    def odd(n):
        return False if n == 0 else even(n - 1)

    def make_counter():
        count = 0
        def add():
            nonlocal count
            count += 1
            return count
        def read():
            return count
        return add, read

    add, read = make_counter()
    add()

    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    def self_referential():
        def walk(n):
            return 0 if n == 0 else 1 + walk(n - 1)
        return walk

    walk = self_referential()
    square = lambda x: x ** 2
    partial = functools.partial(helper, 5)

    @functools.lru_cache(maxsize=4)
    def cached(x):
        calls.append("cached")
        return x + 1

    def numbers():
        yield from range(3)

    async def later():
        return 7

    def comprehension():
        return [RATE * i for i in range(2)] + [square(j) for j in range(2)]

    def seen_calls():
        return list(calls)

    def tally():
        return dict(Tally("aab"))
    """
    names = ["decorated", "even", "add", "read", "factorial", "walk", "square", "partial"]
    names += ["cached", "numbers", "later", "comprehension", "seen_calls", "tally"]
    call = """
    import asyncio
    answer = {
        "decorated": decorated(2), "doc": decorated.__doc__, "even": even(10),
        "counter": [add(), add(), read()], "factorial": factorial(5), "walk": walk(4),
        "square": square(3), "partial": partial(), "cached": [cached(1), cached(1)],
        "numbers": list(numbers()), "later": asyncio.run(later()),
        "comprehension": comprehension(), "calls": seen_calls(), "tally": tally(),
        "module": decorated.__module__,
    }
    """
    answer = ship(script, names, call)
    assert answer["decorated"] == 2 * 3 + 1 + 2 + 3
    assert answer["doc"] == "Its docstring."
    assert answer["even"] is True
    assert answer["counter"] == [2, 3, 3]
    assert (answer["factorial"], answer["walk"], answer["square"]) == (120, 4, 9)
    assert answer["partial"] == 16
    assert answer["cached"] == [2, 2]
    assert answer["calls"] == ["decorated", "cached"]
    assert answer["numbers"] == [0, 1, 2]
    assert answer["later"] == 7
    assert answer["comprehension"] == [0, 3, 0, 1]
    assert answer["tally"] == {"a": 2, "b": 1}
    assert answer["module"] == "__main__"


def test_classes_of_a_script(ship):
    script = """
    from __future__ import annotations
    import abc, contextlib, dataclasses, enum, functools, typing
    from collections import OrderedDict

    T = typing.TypeVar("T")

    class Base(abc.ABC):
        registry = {}
        def __init_subclass__(cls, **kwargs):
            super().__init_subclass__(**kwargs)
            Base.registry[cls.__name__] = kwargs
        @abc.abstractmethod
        def name(self): ...
        @property
        def shout(self):
            return self.name().upper()
        @staticmethod
        def two():
            return 2
        @classmethod
        def make(cls, *args):
            return cls(*args)

    class Child(Base):
        __slots__ = ("value",)
        def __init__(self, value):
            super().__init__()
            self.value = value
        def name(self):
            return f"child {self.value}"
        def twin(self):
            return __class__(self.value)

    class Table(OrderedDict):
        def first(self):
            return next(iter(self))

    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int
        y: int = 5
        tags: list = dataclasses.field(default_factory=list)

    class Pair(typing.NamedTuple):
        left: int
        right: int = 2
        def total(self):
            return self.left + self.right

    class Color(enum.Enum):
        RED = 1
        BLUE = "b"
        @property
        def low(self):
            return self.name.lower()

    class Level(enum.IntEnum):
        LOW = 1
        HIGH = 2

    class Planet(enum.Enum):
        EARTH = (5.9, 6.3)
        MARS = (0.6, 3.3)
        def __init__(self, mass, radius):
            self.mass = mass
            self.radius = radius
        @property
        def ratio(self):
            return self.mass / Planet.EARTH.mass

    class Access(enum.Flag):
        READ = enum.auto()
        WRITE = enum.auto()
        BOTH = READ | WRITE

    @dataclasses.dataclass(slots=True)
    class Slotted:
        a: int = 1
        @functools.cache
        def twice(self):
            return 2

    class Lazy:
        @functools.cached_property
        def value(self):
            return [3]

    @contextlib.contextmanager
    def opened(x):
        yield x + 1

    class Box(typing.Generic[T]):
        def __init__(self, item: T):
            self.item = item

    class Meta(type):
        def __call__(cls, *args):
            made = super().__call__(*args)
            made.stamped = True
            return made

    class Stamped(metaclass=Meta):
        pass

    class Node:
        def __init__(self, child=None):
            self.child = child
        def depth(self):
            return 1 + (self.child.depth() if isinstance(self.child, Node) else 0)

    shared = Node(Node())
    bound = Child(9).name

    def probe():
        child = Child.make(3)
        try:
            Base()
            abstract = False
        except TypeError:
            abstract = True
        point = Point(1)
        return {
            "child": [child.name(), child.shout, child.two(), child.twin().value],
            "slots": not hasattr(child, "__dict__") or "value" not in child.__dict__,
            "abstract": abstract,
            "registered": sorted(Base.registry),
            "table": Table(a=1, b=2).first(),
            "point": [point.x, point.y, point.tags, repr(point)],
            "replaced": dataclasses.replace(point, x=4).x,
            "fields": [f.name for f in dataclasses.fields(Point)],
            "pair": [Pair(1).total(), Pair(1)._replace(right=7).total()],
            "color": [Color.RED.value, Color("b").name, Color.BLUE.low, len(Color)],
            "level": [Level.HIGH > Level.LOW, int(Level.HIGH)],
            "box": Box[int](3).item,
            "planet": [Planet.MARS.radius, Planet.EARTH.ratio, Planet((0.6, 3.3)).name],
            "access": [Access.READ in Access.BOTH, (Access.READ | Access.WRITE) is Access.BOTH],
            "slotted": [Slotted().a, hasattr(Slotted(), "__dict__")],
            "lazy": Lazy().value,
            "opened": opened(1).__enter__(),
            "stamped": Stamped().stamped,
            "depth": shared.depth(),
            "bound": bound(),
            "identity": type(shared) is Node,
        }
    """
    answer = ship(script, ["probe"], "probe()")
    assert answer["child"] == ["child 3", "CHILD 3", 2, 3]
    assert answer["slots"]
    assert answer["abstract"]
    assert "Child" in answer["registered"]
    assert answer["table"] == "a"
    assert answer["point"] == [1, 5, [], "Point(x=1, y=5, tags=[])"]
    assert answer["replaced"] == 4
    assert answer["fields"] == ["x", "y", "tags"]
    assert answer["pair"] == [3, 8]
    assert answer["color"] == [1, "BLUE", "blue", 2]
    assert answer["level"] == [True, 2]
    assert (answer["box"], answer["stamped"], answer["depth"]) == (3, True, 2)
    assert answer["bound"] == "child 9"
    assert answer["planet"] == [3.3, 1.0, "MARS"]
    assert answer["access"] == [True, True]
    assert answer["slotted"] == [1, False]
    assert answer["lazy"] == [3]
    assert answer["opened"] == 2
    assert answer["identity"]


def test_modules_beside_the_script(ship):
    """At the top, by name, inside a function; packages, relative imports, changed settings."""
    files = {
        "helpers.py": """
            import inner_helper
            SETTING = 1
            LOADED = []
            class Model:
                pass
            def make():
                return Model()
            def setting():
                return SETTING + inner_helper.more()
            if __name__ == "__main__":
                raise RuntimeError("not here")
        """,
        "inner_helper.py": "def more():\n    return 100\n",
        "late.py": "VALUE = 42\n",
        "package/__init__.py": "from .part import answer\nNAME = 'p'\n",
        "package/part.py": "from . import other\ndef answer():\n    return other.BASE + 1\n",
        "package/other.py": "BASE = 10\n",
        "package/deep/__init__.py": "",
        "package/deep/leaf.py": "from ..other import BASE\nLEAF = BASE * 2\n",
    }
    script = """
    import helpers
    from helpers import Model
    from package import answer as answer_function
    import package.deep.leaf
    helpers.SETTING = 3

    def probe():
        import late
        from package import part
        made = helpers.make()
        return [helpers.setting(), isinstance(made, Model), answer_function(), late.VALUE,
                part.other.BASE, package.deep.leaf.LEAF, Model.__module__]
    """
    answer = ship(script, ["probe"], "probe()", files)
    assert answer == [103, True, 11, 42, 10, 20, "helpers"]


def test_objects_of_the_script_are_pickled_by_name(ship, tmp_path):
    """A model that the worker saves is read by another, and by plain pickle in the script."""
    script = """
    class Model:
        def __init__(self):
            self.weight = 1

    def local():
        class Inner:
            value = 5
        return Inner

    Inner = local()

    def model_fn():
        return [Model(), Inner()]

    def check(models):
        return isinstance(models[0], Model) and isinstance(models[1], Inner) and models[0].weight
    """
    saved = tmp_path / "saved"
    call = f"""
    models = model_fn()
    models[0].weight = 7
    content = dumps(models)
    assert b"Model" in content and len(content) < 300
    open({str(saved)!r}, "wb").write(dumps(models[0]))
    answer = check(loads(content))
    """
    assert ship(script, ["model_fn", "check"], call) == 7
    call = f"check([loads(open({str(saved)!r}, 'rb').read()), model_fn()[1]])"
    assert ship(script, ["model_fn", "check"], call) == 7
    plain = f"import pickle\nloaded = pickle.load(open({str(saved)!r}, 'rb'))\ndef w(): return 1\n"
    ship(script + "\n    " + plain.replace("\n", "\n    ") + "assert loaded.weight == 7\n",
         ["model_fn"], "1")  # fmt: skip


def test_tracebacks_show_the_users_lines(ship, tmp_path):
    script = """
    def fail():
        marker = 1
        raise ValueError("as it should")  # the line to see
    """
    call = """
    import traceback, os
    try:
        fail()
    except ValueError:
        answer = traceback.format_exc()
    """
    ship(script, ["fail"], "1")
    blob = tmp_path / "blob"
    (tmp_path / "home" / "script.py").unlink()
    import subprocess
    import sys
    import textwrap

    code = f"from cerebro.shipping import unpack\nblob = open({str(blob)!r}, 'rb').read()\n"
    code += "fail = unpack(blob)['fail']" + textwrap.dedent(call) + "\nprint(answer)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert "# the line to see" in done.stdout, done.stdout + done.stderr


@pytest.mark.tf
def test_tensorflow_travels_by_name(ship):
    pytest.importorskip("tensorflow")
    script = """
    import tensorflow as tf
    import tensorflow.compat.v1 as tf1
    from tensorflow.compat.v1 import global_variables

    class Slow(tf1.train.GradientDescentOptimizer):
        def minimize(self, loss, **kwargs):
            return super().minimize(loss * 0.5, **kwargs)

    def model_fn():
        keras = tf.keras.layers
        with tf.Graph().as_default():
            weight = tf1.get_variable("w", [2], initializer=tf1.ones_initializer())
            loss = tf.reduce_sum(weight ** 2)
            step = Slow(0.1).minimize(loss)
            with tf1.Session() as session:
                session.run(tf1.global_variables_initializer())
                session.run(step)
                return [float(x) for x in session.run(weight)] + [len(global_variables())]
    """
    answer = ship(script, ["model_fn"], "model_fn()")
    assert answer == pytest.approx([0.9, 0.9, 1])


def test_what_a_function_would_import_is_not_imported_to_ship_it(ship):
    """Finding out where a submodule lies would import its package, which may take seconds."""
    script = """
    import sys

    def model_fn(path):
        import tensorflow.compat.v1 as tf
        return tf.constant

    def loaded(path):
        return seen

    from cerebro import shipping
    shipping.pack({"model_fn": model_fn})
    seen = "tensorflow" in sys.modules
    """
    assert ship(script, ["loaded"], 'loaded("")') is False


def test_a_class_that_one_process_made_is_read_by_others_that_never_saw_it(ship):
    """It is made by a function when that runs, and pickled again where it was read."""
    script = """
        def model_fn():
            class Local:
                def value(self):
                    return 42

            return Local()
    """
    call = """
        import subprocess
        from cerebro.shipping import dumps, loads

        # As in another process, into which the model came by its pickle.
        model = loads(dumps(functions["model_fn"]()))
        model.seen = 1
        again = dumps(model)
        code = "import sys; from cerebro.shipping import loads; "
        code += "model = loads(sys.stdin.buffer.read()); print(model.value(), model.seen)"
        done = subprocess.run([sys.executable, "-c", code], input=again, capture_output=True)
        answer = (done.stdout or done.stderr).decode()
    """
    assert ship(script, ["model_fn"], call) == "42 1\n"
