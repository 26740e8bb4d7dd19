"""What a user's type checker sees of the library."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

if importlib.util.find_spec("mypy") is None:
    pytest.skip("mypy is not installed: it comes with the extra `dev`", allow_module_level=True)

pytestmark = pytest.mark.slow

SCRIPT = """\
from pathlib import Path

import cerebro
from cerebro.data import partition_dirs
from cerebro.search import ASHA, LogUniform
from cerebro.standalone import standalone_schedule


def input_fn(path: str) -> list[float]:
    return []


def model_fn(data: list[float], config: dict[str, float]) -> dict[str, float]:
    return config


def train_fn(model: dict[str, float], data: list[float], train: bool = True) -> tuple[float, float]:
    return 0.0, 0.0


def eval_fn(state: object) -> tuple[list[int], list[dict[str, float]]]:
    return [], []


runs = Path("runs")
result = cerebro.schedule(
    ["http://node1:7777"], [Path("a")], ["b"], None, None,
    input_fn, model_fn, train_fn, [{"rate": 0.1}], eval_fn, runs, resume="auto",
)
search = ASHA({"rate": LogUniform(1e-4, 1e-1)}, max_epochs=9, n=12)
functions = (input_fn, model_fn, train_fn)
again = cerebro.schedule(
    cerebro.LocalCluster(2), ["a"], ["b"], [[1]], [[1]], *functions, search=search
)
cerebro.check(input_fn, model_fn, train_fn, [{"rate": 0.1}], "a", backend="python")
reveal_type(standalone_schedule)
reveal_type(result)
reveal_type(again)
reveal_type(cerebro.load(runs / "grid"))
reveal_type(result.best())
reveal_type(result.best().metrics)
reveal_type(result.complete)
reveal_type(cerebro.LocalCluster(2).urls)
reveal_type(partition_dirs("a"))
reveal_type(cerebro.search.Uniform(0, 1))
reveal_type(cerebro.errors.RunFailed.__name__)
cerebro.load(7)
cerebro.LocalCluster("two")
cerebro.check(input_fn, model_fn, train_fn, [], "a", seed="zero")
cerebro.schedule(["u"], ["a"], ["b"], None, None, *functions, search=search, heartbeat="30")
result.best(mode=1)
result.bset()
cerebro.shedule()
"""

REVEALED = {
    "result": "cerebro.results.result.Result",
    "again": "cerebro.results.result.Result",
    'cerebro.load(runs / "grid")': "cerebro.results.result.Result",
    "result.best()": "cerebro.results.result.Best",
    "result.best().metrics": "dict[str, float]",
    "result.complete": "bool",
    "cerebro.LocalCluster(2).urls": "list[str]",
    'partition_dirs("a")': "list[str]",
    "cerebro.search.Uniform(0, 1)": "cerebro.search.space.Uniform",
    "cerebro.errors.RunFailed.__name__": "str",
}

REFUSED = {
    "cerebro.load(7)": 'Argument 1 to "load" has incompatible type "int"',
    'cerebro.LocalCluster("two")': 'Argument 1 to "LocalCluster" has incompatible type "str"',
    'cerebro.check(input_fn, model_fn, train_fn, [], "a", seed="zero")': (
        'Argument "seed" to "check" has incompatible type "str"'
    ),
    'cerebro.schedule(["u"], ["a"], ["b"], None, None, *functions, search=search, '
    'heartbeat="30")': 'Argument "heartbeat" to "schedule" has incompatible type "str"',
    "result.best(mode=1)": 'Argument "mode" to "best" of "Result" has incompatible type "int"',
    "result.bset()": '"Result" has no attribute "bset"',
    "cerebro.shedule()": 'Module has no attribute "shedule"',
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What mypy says, by line of the script, which lies in a folder of its own."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", "cache",
         "--no-error-summary", "--no-pretty", "script.py"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    lines = SCRIPT.splitlines()
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        match = re.fullmatch(r"script\.py:(\d+): (.+)", line)
        assert match, line
        found.setdefault(lines[int(match[1]) - 1], []).append(match[2])
    return found


def test_nothing_else_in_the_script_is_wrong(said):
    assert {line for line in said if not line.startswith("reveal_type(")} == set(REFUSED)


@pytest.mark.parametrize("expression", REVEALED)
def test_a_type_that_a_user_sees(said, expression):
    (note,) = said[f"reveal_type({expression})"]
    note = note.replace("builtins.", "")  # which older versions of mypy write out
    assert note == f'note: Revealed type is "{REVEALED[expression]}"'


def test_the_originals_name_has_the_types_of_schedule(said):
    (note,) = said["reveal_type(standalone_schedule)"]
    assert "worker_ips: " in note
    assert note.endswith('-> cerebro.results.result.Result"')


@pytest.mark.parametrize("line", REFUSED)
def test_a_mistake_that_is_reported(said, line):
    (error,) = said[line]
    assert REFUSED[line] in error
