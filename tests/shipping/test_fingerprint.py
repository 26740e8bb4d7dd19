"""The fingerprint changes with what a function does, and with nothing else."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from patience import PATIENCE

from cerebro import errors, renamed, search
from cerebro.driver.changes import changed_parts
from cerebro.shipping import PARTS_KEPT, fingerprint, fingerprint_and_parts, walk

BASE = """
import numpy as np
RATE = 3
NAMES = {"a", "b", "c", "d"}
class Helper:
    factor = 2
    def scale(self, x):
        return x * self.factor
helper_object = Helper()
def helper(x):
    return helper_object.scale(x) + RATE
def target(x, y=1):
    "A docstring."
    # a comment
    return [helper(x) + y for _ in range(2)] if x in {"p", "q", "r"} else empty()
def empty():
    return np.zeros(len(NAMES), dtype=int)
"""


def parts(thing):
    return fingerprint_and_parts(thing)[1]


def of(text):
    namespace = {"__name__": "__main__"}
    exec(compile(textwrap.dedent(text), "script.py", "exec"), namespace)
    return fingerprint(namespace["target"])


@pytest.mark.parametrize(
    ("old", "new"),
    [("# a comment", "# another"), ("import numpy", "\n\n\nimport numpy"), ("A doc", "Another doc"),
     ("RATE = 3", "RATE = 3\nUNUSED = 5")],
)  # fmt: skip
def test_what_does_not_matter(old, new):
    assert of(BASE) == of(BASE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [("RATE = 3", "RATE = 4"), ("factor = 2", "factor = 3"), ("y=1", "y=2"), ("+ RATE", "- RATE"),
     ("x * self.factor", "x + self.factor"), ('"a", ', ""), ("np.zeros", "np.ones"),
     ("range(2)", "range(3)"), ('"p", "q"', '"p", "s"'), ("dtype=int", "order=int")],
)  # fmt: skip
def test_what_matters(old, new):
    assert of(BASE) != of(BASE.replace(old, new))


def test_captured_arrays_count_by_content():
    def with_array(array):
        def target():
            return array

        return target

    assert fingerprint(with_array(np.arange(3))) == fingerprint(with_array(np.arange(3)))
    assert fingerprint(with_array(np.arange(3))) != fingerprint(with_array(np.arange(4)))


@pytest.mark.processes
def test_it_is_the_same_in_every_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        BASE + "\nfrom cerebro.shipping import fingerprint\nprint(fingerprint(target))\n"
    )
    seen = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True,
            timeout=PATIENCE, check=True,
        )  # fmt: skip
        seen.add(done.stdout)
    assert len(seen) == 1


@pytest.mark.processes
def test_a_module_beside_the_script_counts_with_its_text(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import helpers\ndef target():\n    return helpers.f()\n"
        "from cerebro.shipping import fingerprint\nprint(fingerprint(target))\n"
    )
    seen = []
    for value in (1, 1, 2):
        (tmp_path / "helpers.py").write_text(f"def f():\n    return {value}\n")
        done = subprocess.run(
            [sys.executable, "-B", str(script)], capture_output=True, text=True, timeout=PATIENCE,
            check=True,
        )  # fmt: skip
        seen.append(done.stdout)
    assert seen[0] == seen[1] != seen[2]


def test_version_1_names_things_of_the_package_by_their_old_modules(monkeypatch):
    """As if modules of captured things had moved."""

    def target():
        return partition_dirs, Partition, instance, module, of_instances

    from cerebro.data import Partition, partition_dirs

    # Enough for several frames of a pickle, which end where they did before.
    instance = Partition("train/0.txt", [f"subject {n}" for n in range(20_000)], 2, 3)
    module, things = sys.modules[Partition.__module__], (Partition, partition_dirs)
    of_instances = functools.partial(partition_dirs, path=instance)
    before = fingerprint(target, 1)
    for home in {thing.__module__ for thing in things}:
        moved = f"cerebro.data.moved.to_{home.rpartition('.')[2]}"
        monkeypatch.setitem(renamed.MODULES, renamed.old_name(home), moved)
        monkeypatch.setitem(sys.modules, moved, sys.modules[home])
        monkeypatch.setattr(sys.modules[home], "__name__", moved)
        for thing in vars(sys.modules[home]).copy().values():
            if getattr(thing, "__module__", None) == home:
                monkeypatch.setattr(thing, "__module__", moved)
    homes = [thing.__module__ for thing in things]
    assert all(home.startswith("cerebro.data.moved.to_") for home in homes)
    assert fingerprint(target, 1) == before
    assert [thing.__module__ for thing in things] == homes, "they were put back"
    monkeypatch.setattr(renamed, "MODULES", {})
    assert fingerprint(target, 1) != before


def test_the_place_of_things_of_the_package_does_not_count(monkeypatch):
    from cerebro.data import Partition, partition_dirs

    instance = Partition("train/0.txt", [], 2, 3)
    of_instances = functools.partial(partition_dirs, path=instance)

    def target():
        return partition_dirs, Partition, instance, of_instances

    before = fingerprint(target, 2)
    moved = "cerebro.data.moved"
    monkeypatch.setitem(sys.modules, moved, sys.modules[Partition.__module__])
    monkeypatch.setattr(Partition, "__module__", moved)
    assert fingerprint(target, 2) == before


def test_another_thing_of_the_package_counts_in_each_version():
    def using(thing):
        def target():
            return thing

        return target

    from cerebro.data import Partition, partition_arrays, partition_dirs

    for version in (1, 2):
        things = (
            partition_arrays, partition_dirs, Partition, Partition("a", [], 1, 2),
            Partition("a", [], 2, 2), functools.partial(partition_dirs),
            functools.partial(partition_arrays),
        )  # fmt: skip
        assert len({fingerprint(using(thing), version) for thing in things}) == len(things)
    assert fingerprint(using(Partition), 1) != fingerprint(using(Partition), 2)


SCRIPT = """
import json
import helpers
from package.inner import Shared
from helpers import scaled
from cerebro.shipping import fingerprint_and_parts

def target(x):
    import late
    return helpers.f(x), Shared, scaled(x), late.value()

print(json.dumps(fingerprint_and_parts(target)))
"""

FILES = {
    "helpers.py": (
        "import time\nSTARTED = time.time()\nSCALE = 1.0\n\n\ndef f(x):\n    return x * SCALE\n\n\n"
        "def scaled(x, by=2):\n    return f(x) * by\n"
    ),
    "package/__init__.py": "",
    "package/inner.py": "class Shared:\n    factor = 1\n\n    def run(self):\n        return 1\n",
    "late.py": "WORDS = {'a', 'b', 'c'}\n\n\ndef value():\n    return WORDS, 'one'\n",
}


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """Run a script with modules beside it, one edit each: the fingerprint and parts of each."""

    def run(number, file="", old="", new=""):
        folder = tmp_path_factory.mktemp("beside")
        for name, text in FILES.items():
            assert old in text or name != file
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text.replace(old, new) if name == file else text)
        (folder / "script.py").write_text(SCRIPT)
        done = subprocess.run(
            [sys.executable, "-B", "script.py"], cwd=folder, capture_output=True, text=True,
            timeout=PATIENCE, check=True, env={**os.environ, "PYTHONHASHSEED": str(number)},
        )  # fmt: skip
        return json.loads(done.stdout)

    first = run(0)
    return first, run


@pytest.mark.processes
@pytest.mark.parametrize(
    "edit",
    [
        ("helpers.py", "def f", "# a comment\n\n\ndef f"),
        ("helpers.py", "return x", '"Says what it does."\n    return x'),
        ("package/__init__.py", "", '"""Things."""\n'),
        ("package/inner.py", "factor = 1", "factor = 1  # one"),
        ("late.py", "WORDS =", "\n\nWORDS ="),
    ],
)
def test_comments_in_a_module_beside_the_script_do_not_count(beside, edit):
    first, run = beside
    assert run(1, *edit)[0] == first[0]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("helpers.py", "SCALE = 1.0", "SCALE = 2.0"),
         "global helpers.SCALE changed from 1.0 to 2.0"),
        (("helpers.py", "x * SCALE", "x / SCALE"), "code of f changed"),
        (("helpers.py", "by=2", "by=3"), "default by of scaled changed from 2 to 3"),
        (("package/inner.py", "factor = 1", "factor = 3"),
         "attribute factor of class Shared changed from 1 to 3"),
        (("late.py", "'c'", "'d'"),
         "constants in code of module late changed from frozenset({'a', 'b', 'c'})"),
        (("late.py", "'one'", "'two'"),
         "constants in code of module late.value changed from 'one' to 'two'"),
    ],
)  # fmt: skip
def test_a_change_in_a_module_beside_the_script_is_named(beside, edit, said):
    (digest, before), run = beside
    changed, now = run(1, *edit)
    assert changed != digest
    assert any(said in text for text in changed_parts(before, now))


def test_a_docstring_that_is_added_does_not_count():
    assert of("def target(): return 1") == of("def target():\n    'One.'\n    return 1")


def test_a_large_array_is_recorded_by_its_digest_alone():
    table = np.arange(2_000_000.0)

    def target():
        return table

    (held,) = (part for name, part in parts(target).items() if name == "closure table")
    assert held[1:] == ["float64 array of shape (2000000,)", None]
    assert len(json.dumps(parts(target))) < 1000
    many = {f"name {n}": list(range(20)) for n in range(20)}
    assert len(parts(lambda: [many] * 3)) <= PARTS_KEPT
    before = fingerprint(target)
    table[-1] = 0
    assert fingerprint(target) != before


def test_functions_that_use_each_other_take_no_time():
    """Walking over them again wherever one is met would never end."""
    names = [f"f{n}" for n in range(40)]
    lines = [f"def {name}():\n    return {', '.join(names)}\n" for name in names]
    registered = f"ALL = {{{', '.join(names)}}}\ndef target():\n    return ALL, f0\n"
    assert of("\n".join([*lines, registered])) == of("\n".join([*reversed(lines), registered]))


def test_what_is_nested_in_too_many_levels_is_refused():
    value = []
    for _ in range(2000):
        value = [value]
    with pytest.raises(errors.ShippingError, match="target uses a value that holds others"):
        fingerprint(lambda_of(value))


def test_a_walk_that_takes_long_says_through_what_it_goes(monkeypatch, caplog):
    monkeypatch.setattr(walk, "SLOW_SECONDS", 0.0)
    fingerprint(lambda_of(len))
    assert "looking through all that target uses" in caplog.text
    assert "variables, the newest: function closure value" in caplog.text


def lambda_of(value):
    def target():
        return value

    target.__qualname__ = "target"
    return target


# --- search procedures ----------------------------------------------------------------------------


def test_parameters_of_a_procedure_that_have_their_defaults_do_not_count(monkeypatch):
    plain = search.RandomSearch({"rate": [0.1, 0.2]}, n=3, epochs=2)
    assert fingerprint(plain) == fingerprint(
        search.RandomSearch({"rate": [0.1, 0.2]}, n=3, epochs=2, seed=0, metric="valid_error")
    )
    before = parts(plain)
    for other in (
        search.RandomSearch({"rate": [0.1, 0.2]}, n=4, epochs=2),
        search.RandomSearch({"rate": [0.1, 0.3]}, n=3, epochs=2),
        search.RandomSearch({"rate": search.Uniform(0.1, 0.2)}, n=3, epochs=2),
        search.RandomSearch({"rate": [0.1, 0.2]}, n=3, epochs=2, seed=1),
        search.GridSearch({"rate": [0.1, 0.2]}, epochs=2),
    ):
        assert fingerprint(other) != fingerprint(plain)
    seeded = search.RandomSearch({"rate": [0.1, 0.2]}, n=3, epochs=2, seed=1)
    assert changed_parts(before, parts(seeded)) == ["attribute seed changed from 0 to 1"]
    held = search.MedianStopping(plain)
    assert fingerprint(held) != fingerprint(search.MedianStopping(seeded))


def test_a_parameter_that_a_later_version_adds_does_not_count(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Later(search.RandomSearch):
        patience: int = 5

    for name in ("__module__", "__qualname__"):
        setattr(Later, name, getattr(search.RandomSearch, name))
    arguments = {"space": {"rate": search.LogUniform(0.1, 0.2)}, "n": 3, "epochs": 2}
    now = fingerprint(search.RandomSearch(**arguments))
    assert fingerprint(Later(**arguments)) == now
    assert fingerprint(Later(**arguments, patience=6)) != now


OWN = """
import dataclasses
from cerebro.search import Decision, SearchProcedure
LEAST = 3
@dataclasses.dataclass(frozen=True)
class Own(SearchProcedure):
    rates: tuple
    wanted: float = 0.5
    names: frozenset = frozenset({"a", "b", "c"})
    def decide(self, trials):
        # which go on
        return Decision(go_on=[t.model for t in trials if t.epochs < LEAST])
target = Own((0.1, 0.2))
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("(0.1, 0.2)", "(0.1, 0.3)", ["attribute rates[1] changed from 0.2 to 0.3"]),
        ("LEAST = 3", "LEAST = 4", ["global LEAST changed from 3 to 4"]),
        ("t.epochs < LEAST", "t.epochs <= LEAST", ["code of Own.decide.<listcomp> changed"]),
        ("# which go on", "# others", []),
        ("class Own", "\n\nclass Other: pass\n@dataclasses.dataclass(frozen=True)\nclass Own", []),
        ("target = Own((0.1, 0.2))", "target = Own((0.1, 0.2), wanted=0.5, mode='min')", []),
    ],
)
def test_a_procedure_of_ones_own_counts_with_its_code_and_attributes(old, new, said):
    if sys.version_info >= (3, 12):
        said = [text.replace(".<listcomp>", "") for text in said]
    one, other = made(OWN), made(OWN.replace(old, new))
    assert (fingerprint(one) != fingerprint(other)) == bool(said)
    assert changed_parts(parts(one), parts(other)) == said


def made(text):
    namespace = {"__name__": "__main__"}
    exec(compile(text, "script.py", "exec", dont_inherit=True), namespace)
    return namespace["target"]


# --- runs of before -------------------------------------------------------------------------------

OLD = """
import collections, types
import numpy as np
from cerebro.data import Partition
class Helper:
    factor = 2
    def scale(self, x):
        return x * self.factor
HELD = [collections.deque([1, 2]), types.MappingProxyType({"a": 1}), Helper(), np.arange(3),
        types.SimpleNamespace(rate=0.1), collections.Counter("hello"), Partition("a", [], 1, 2)]
def target(x, y=1):
    return HELD, x + y, [z for z in x]
"""


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="another Python, another bytecode")
def test_what_earlier_versions_give_stays_as_it_is():
    """Runs that were recorded with them are compared by them."""
    assert [fingerprint(made(OLD), version) for version in (1, 2)] == [
        "830b5393dcec9a8c63695c3f5055fb99c50900c603f95d3ff331753df361157b",
        "06584fa752ad3fc9d0b56b81dc443eaab311407610a78b362fcc3745311088ca",
    ]
