"""Models of a script's own classes are read by programs that are not the script."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from patience import PATIENCE

import cerebro
from cerebro import errors, shipping
from cerebro.backends import plain_model
from cerebro.backends.checksum import with_checksum

ROOT = Path(__file__).parents[2]

LAYERS = """
import enum

GAIN = 1


class Dense:
    def __init__(self, w):
        self.w = w

    def __call__(self, x):
        from scaling import scaled

        return scaled(self.w * x) * GAIN


class Mode(enum.Enum):
    ADD = 1
    SUB = 2


KINDS = {}
KNOWN = []


def relu(x):
    return max(x, 0)
"""

SCALING = """
FACTOR = 10


def scaled(x):
    return FACTOR * x
"""

SEARCH = """
import dataclasses
import enum
import functools
import sys
from collections import namedtuple
from pathlib import Path
from typing import NamedTuple

import layers
import numpy as np
from layers import Dense, Mode

import cerebro

OFFSET = 100


class Base:
    registry = []

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        Base.registry.append(cls.__name__)


class Net(Base):
    class Inner:
        def __init__(self, v):
            self.v = v

    def __init__(self, w):
        self.w = np.float64(w)
        self.inner = Net.Inner(5)
        self.dense = Dense(2)
        self.mode = Mode.SUB
        self.color = Color.RED
        self.point = Point(1, 2)
        self.pair = Pair(3, 4)
        self.setting = Setting(7)
        self.function = shifted
        self.step = lambda x: x + OFFSET
        self.partial = functools.partial(shifted, by=3)
        self.relu = layers.relu
        self.module = layers
        self.local = make_local()
        self.visits = 0

    def predict(self, x):
        return {
            "w": float(self.w * x), "inner": self.inner.v, "dense": self.dense(x),
            "mode": self.mode is layers.Mode.SUB and self.mode.name,
            "color": self.color is Color.RED and self.color.name, "point": self.point.total(),
            "pair": self.pair.b, "setting": dataclasses.asdict(self.setting),
            "function": self.function(x), "step": self.step(x), "partial": self.partial(x),
            "relu": self.relu(-x), "module": self.module.relu(x), "local": self.local.value,
            "isinstance": isinstance(self, Base) and isinstance(self.dense, layers.Dense),
            "registry": Base.registry, "kind": layers.KINDS["net"] is layers.KNOWN[0] is type(self),
            "visits": self.visits,
        }


layers.KINDS["net"] = Net
layers.KNOWN.append(Net)


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class Point(NamedTuple):
    x: int
    y: int

    def total(self):
        return self.x + self.y


Pair = namedtuple("Pair", "a b")


@dataclasses.dataclass
class Setting:
    value: int
    more: list = dataclasses.field(default_factory=list)


def shifted(x, by=1):
    return x + by


def make_local():
    class Local:
        value = 42

    return Local()


def input_fn(path):
    return float(Path(path).read_text())


def model_fn(data, config):
    return Net(config["w"])


def train_fn(model, data, train=True):
    model.visits += train
    return 1.0 / model.w, 0.5 / model.w


def stop(state):
    return [i for i, s in state.items() if s["epoch"] == 1], []


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    parts = []
    for n in range(4):
        (folder / f"p{n}").write_text(str(n))
        parts.append(folder / f"p{n}")

    def search(name, config, **options):
        return cerebro.schedule(
            cluster, parts[:3], parts[3:], None, None, input_fn, model_fn, train_fn, [config],
            stop, folder / "runs", backend="python", run_name=name, progress="off", **options,
        )

    with cerebro.LocalCluster(2) as cluster:
        result = search("one", {"w": 3})
        again = search("again", {"w": 3}, replay=result.run_dir)
        exported = result.export(0, folder / "exported")
        further = search("further", {"w": 3, "init_ckpt_path": exported})
    own = cerebro.load_model(result.best().checkpoint)
    print("own", type(own) is Net, type(own.color) is Color, own.mode is Mode.SUB)
    print("exported", type(cerebro.load_model(exported)) is Net)
    pairs = [r.models["checkpoint"][0] for r in (result, again)]
    print("same", *{Path(path).read_bytes() == Path(pairs[0]).read_bytes() for path in pairs})
    print("further", cerebro.load_model(further.models["checkpoint"][0]).visits)
"""

READER = """
import glob
import json
import pickle
import sys

import cerebro
import layers

OFFSET = "mine"


class Net:
    pass


if __name__ == "__main__":
    with open(f"{sys.argv[1]}/exported/model.pickle", "rb") as file:
        exported = pickle.load(file)
    print(json.dumps(exported.predict(2)))
    versions = glob.glob(f"{sys.argv[1]}/runs/one/models/0/v*/model.pickle")
    for path in (*versions, f"{sys.argv[1]}/exported"):
        model = cerebro.load_model(path)
        assert type(model) is type(exported)
        model.visits = 3
        assert model.predict(2) == exported.predict(2)
    print(len(versions), OFFSET, layers.relu(1), type(exported) is Net, "scaling" in sys.modules)
"""

PREDICTED = {
    "w": 6.0, "inner": 5, "dense": 40, "mode": "SUB", "color": "RED", "point": 3, "pair": 4,
    "setting": {"value": 7, "more": []}, "function": 3, "step": 102, "partial": 5, "relu": 0,
    "module": 2, "local": 42, "isinstance": True, "registry": ["Net"], "kind": True,
    "visits": 3,
}  # fmt: skip


def program(folder, text, *arguments, **modules):
    """What a script in a folder of its own prints."""
    folder.mkdir()
    for name, content in {**modules, "program": text}.items():
        (folder / f"{name}.py").write_text(content)
    done = subprocess.run(
        [sys.executable, "program.py", *map(str, arguments)], cwd=folder, text=True, check=False,
        capture_output=True, timeout=PATIENCE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The lines that the script has printed, and the folder with its runs."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "out").mkdir()
    lines = program(folder / "script", SEARCH, folder / "out", layers=LAYERS, scaling=SCALING)
    return lines, folder / "out"


@pytest.mark.processes
def test_the_script_gets_its_own_classes_and_a_replay_the_same_bytes(searched):
    assert searched[0] == ["own True True True", "exported True", "same True", "further 9"]


@pytest.mark.processes
def test_another_program_reads_export_and_versions_wherever_the_run_lies(searched, tmp_path):
    """It has a class and a module of the same names, which stay its own."""
    moved = tmp_path / "moved"
    shutil.copytree(searched[1], moved)
    wrong = "def relu(x):\n    return 'my own'\n"
    said, own = program(tmp_path / "other", READER, moved, layers=wrong)
    assert json.loads(said) == PREDICTED
    assert own == "3 mine my own False False"


@pytest.mark.processes
def test_the_code_is_stored_once_for_a_run(searched):
    for run in ("one", "again", "further"):
        (code,) = (searched[1] / "runs" / run / "code").iterdir()
        for version in glob.glob(f"{searched[1]}/runs/{run}/models/0/v*/model.pickle"):
            state = plain_model.read_whole(version)
            assert plain_model.code_named(state) == code.name
            assert len(state) < code.stat().st_size


@pytest.mark.processes
def test_looking_at_a_run_and_exporting_from_it_runs_none_of_its_code(searched, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(searched[1] / "runs" / "one", run)
    (code,) = (run / "code").iterdir()
    code.write_bytes(with_checksum(b"no pickle at all"))
    result = cerebro.load(run)
    result.report()
    exported = result.export(0, tmp_path / "exported")
    with pytest.raises(Exception, match="invalid load key"):
        cerebro.load_model(exported)


def test_what_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "model.pickle", tmp_path / "no folder" / "model.pickle"):
        with pytest.raises(errors.InputError, match="does not exist: give the checkpoint of"):
            cerebro.load_model(path)


@pytest.mark.processes
def test_what_cannot_be_read_says_why(searched, tmp_path):
    version = glob.glob(f"{searched[1]}/runs/one/models/0/v*/model.pickle")[0]
    alone = tmp_path / "a" / "b" / "c" / "model.pickle"
    alone.parent.mkdir(parents=True)
    shutil.copy(version, alone)
    with pytest.raises(errors.VersionDamaged, match=r"folder of its run.*use Result\.export"):
        cerebro.load_model(alone)
    alone.write_bytes(alone.read_bytes()[:-20])
    with pytest.raises(errors.VersionDamaged, match="checksum"):
        cerebro.load_model(alone)
    alone.write_bytes(with_checksum(b"\x89HDF weights"))
    with pytest.raises(errors.InputError, match="not a model of backend 'python'"):
        cerebro.load_model(alone)
    # As versions were before code was stored beside them.
    alone.write_bytes(with_checksum(plain_model.read_whole(version)[:-36]))
    with pytest.raises(errors.ShippingError, match="saved without its code: load it in the script"):
        cerebro.load_model(alone)


@pytest.mark.processes
def test_another_minor_version_of_python_is_refused(searched, monkeypatch):
    version = glob.glob(f"{searched[1]}/runs/one/models/0/v*/model.pickle")[0]
    with monkeypatch.context() as other:
        other.setattr(shipping, "_apart", {})
        other.setattr(shipping, "_python", lambda: "3.99")
        for path in (version, searched[1] / "exported"):
            with pytest.raises(
                errors.ShippingError, match=r"saved by Python 3\.1\d .*Python 3\.99"
            ):
                cerebro.load_model(path)


def test_plain_values_name_no_code(tmp_path):
    content, needs_code = shipping.dumped({"weights": [1.0], "path": Path("a")})
    assert not needs_code
    path = tmp_path / "model.pickle"
    path.write_bytes(with_checksum(content))
    assert cerebro.load_model(path) == {"weights": [1.0], "path": Path("a")}


@pytest.mark.processes
def test_a_package_that_is_missing_is_named_when_it_is_used(tmp_path):
    """Others of the run's functions may need what this program has not."""
    folder = tmp_path / "installed"
    folder.mkdir()
    text = """
        import pickle, sys, types
        import cerebro
        from cerebro import shipping
        from cerebro.backends import plain_model

        rare = types.ModuleType("rare")
        rare.__file__ = sys.prefix
        class Thing: pass
        Thing.__module__ = "rare"
        rare.Thing = Thing
        sys.modules["rare"] = rare
        sys.modules["rare"].__file__ = shipping.__file__.replace("cerebro", "rare")

        class Net:
            def predict(self, x):
                return x + 1
            def other(self):
                return rare.Thing()

        if __name__ == "__main__":
            from cerebro.shipping import module_origin
            module_origin._distributed_packages = lambda: frozenset({"rare"})
            code = shipping.pack({"model_fn": lambda: (Net, rare.Thing), "kept": Net})
            content = shipping.dumps(Net())
            with open(sys.argv[1], "wb") as file:
                file.write(plain_model.self_contained(content, code))
    """
    program(tmp_path / "one", textwrap.dedent(text), tmp_path / "file")
    reader = """
        import pickle, sys
        with open(sys.argv[1], "rb") as file:
            model = pickle.load(file)
        print(model.predict(1))
        try:
            model.other()
        except ModuleNotFoundError as error:
            print(error)
    """
    said = program(tmp_path / "two", textwrap.dedent(reader), tmp_path / "file")
    assert said == ["2", "rare.Thing is used, and rare is not installed"]
