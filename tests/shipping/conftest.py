"""Two processes: a script in one folder packs its functions, a worker in another unpacks them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from patience import PATIENCE

PACK = """
from cerebro import shipping as _shipping
with open({blob!r}, "wb") as _file:
    _file.write(_shipping.pack({{{names}}}))
"""

WORKER = """
import json, sys
sys.path[:] = [p for p in sys.path if p != ""]
from cerebro.shipping import dumps, loads, unpack
with open({blob!r}, "rb") as file:
    functions = unpack(file.read())
"""


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def ship(tmp_path):
    """Ship functions of a script; returns what the worker's code prints as JSON.

    `script` defines the functions in `names`; `files` lie beside it; `call` is an expression (or
    code that sets `answer`) in which the functions are known by their names. The worker runs
    `before` first.
    """

    def ship(script, names, call, files=None, before=""):
        home, away = tmp_path / "home", tmp_path / "away"
        home.mkdir(exist_ok=True)
        away.mkdir(exist_ok=True)
        for name, text in (files or {}).items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        blob = str(tmp_path / "blob")
        pairs = ", ".join(f"{name!r}: {name}" for name in names)
        text = textwrap.dedent(script) + PACK.format(blob=blob, names=pairs)
        (home / "script.py").write_text(text)
        run([sys.executable, "script.py"], home)
        call = textwrap.dedent(call)
        if "answer" not in call:
            call = f"answer = {call}"
        code = before + WORKER.format(blob=blob) + "globals().update(functions)\n" + call
        output = run([sys.executable, "-c", code + "\nprint(json.dumps(answer))"], away)
        return json.loads(output.splitlines()[-1])

    return ship
