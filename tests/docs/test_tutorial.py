"""docs/tutorial.md, once through: its commands and its script, in order, in one folder."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys

import pytest
from documents import ROOT, blocks
from patience import PATIENCE

import cerebro

pytestmark = [pytest.mark.slow, pytest.mark.tf]

PAGE = ROOT / "docs" / "tutorial.md"
EXAMPLE = "examples/behavior_classification.py"
SMALLER = {
    "\nEPOCHS = 10\n": "\nEPOCHS = 1\n",
    '[7, 9],\n    "batch_size": [4],': '[7],\n    "batch_size": [4],',
    "LocalCluster(2)": "LocalCluster(1)",
}
"""What makes the example's search short: most of the time TensorFlow starts."""


def edit(checkout, changes):
    """Change the example, as its reader does."""
    example = checkout / EXAMPLE
    source = example.read_text()
    for old, new in changes.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    example.write_text(source)


@pytest.fixture
def checkout(tmp_path):
    """The examples with made-up data, as `make example` leaves them, for small searches.

    One day of each subject is enough to go through the page.
    """
    pytest.importorskip("tensorflow", reason="the example is written for TensorFlow")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    edit(tmp_path, SMALLER)
    code = "import sys; from deep_postures_sample import write_sample; write_sample(sys.argv[1])"
    sample = str(tmp_path / "data" / "sample")
    subprocess.run([sys.executable, "-c", code, sample], cwd=tmp_path / "examples", check=True)
    for day in sorted((tmp_path / "data" / "sample").glob("*/*.h5")):
        if day.stem != "2024-03-04":
            day.unlink()
    return tmp_path


@pytest.fixture
def environment(tmp_path):
    """Where `python` and `cerebro` are those of this interpreter, whatever is installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    main = "import sys; from cerebro.cli.main import main; sys.exit(main())"
    for name, arguments in (("python", ""), ("cerebro", f"-c '{main}'")):
        command = folder / name
        command.write_text(f"#!/bin/sh\nexec '{sys.executable}' {arguments} \"$@\"\n")
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(path for path in paths if path),
        "HOME": str(tmp_path),
    }


@pytest.fixture
def earlier(checkout):
    """A run that is in `runs` already, interrupted: none of the commands may take it for theirs."""
    folder = checkout / "runs" / "run-20200101-000000"
    shutil.copytree(ROOT / "tests" / "old_runs" / "runs" / "interrupted", folder)
    return folder


def contents(folder):
    """All files of a folder, by path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def walk(checkout, environment):
    """Do what the page says; returns what was printed last.

    What may be there from a walk before is written twice: partitions, and the report.
    """
    commands = [block.text for block in blocks(PAGE, "sh")]
    assert commands[:2] == ["make example\n", "source .venv/bin/activate\n"]
    twice = [text for text in commands if " partition " in text or " report " in text]
    assert len(twice) == 2
    (script,) = blocks(PAGE, "python")
    steps = [["bash", "-c", text] for text in commands[2:] for _ in range(1 + (text in twice))]
    steps.append(["python", "-c", script.text])
    for step in steps:
        if "--resume" in step[2]:
            edit(checkout, {"\nEPOCHS = 1\n": "\nEPOCHS = 2\n"})
        done = subprocess.run(
            step, cwd=checkout, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, (step, done.stdout, done.stderr)
    return done.stdout


def test_the_tutorial_where_a_run_is_already(checkout, environment, earlier):
    before = contents(earlier)
    exported = walk(checkout, environment).strip()
    first, run = sorted((checkout / "runs").iterdir())
    assert first == earlier
    assert contents(earlier) == before, "a walk makes a run, and resumes its own"
    assert cerebro.load(run).models["epochs"].tolist() == [2, 2]
    assert exported == str(checkout / f"posture-model-{run.name}")
    made = (
        "report.html",
        f"predictions/{run.name}",
        f"evaluation/{run.name}/per_subject.csv",
        exported,
    )
    assert [name for name in made if not (checkout / name).exists()] == []
    assert run.name in (checkout / "report.html").read_text()
