"""The fingerprint changes with what a function does, and with nothing else."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from patience import PATIENCE

from cerebro import renamed
from cerebro.shipping import fingerprint

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
    return [helper(x) + y for _ in range(2)] if x in {"p", "q", "r"} else np.zeros(len(NAMES))
"""


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
     ("range(2)", "range(3)"), ('"p", "q"', '"p", "s"')],
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
