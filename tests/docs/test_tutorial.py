"""docs/tutorial.md, once through: its commands and its script, in order, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys

import pytest
from documents import ROOT, blocks
from patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.tf]

PAGE = ROOT / "docs" / "tutorial.md"


@pytest.fixture
def checkout(tmp_path):
    """The examples with made-up data, as `make example` leaves them, for searches of one epoch.

    One day of each subject is enough to go through the page.
    """
    pytest.importorskip("tensorflow", reason="the example is written for TensorFlow")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    example = tmp_path / "examples" / "behavior_classification.py"
    source = example.read_text()
    assert "\nEPOCHS = 10\n" in source
    example.write_text(source.replace("\nEPOCHS = 10\n", "\nEPOCHS = 1\n"))
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


def test_the_tutorial_once_through(checkout, environment):
    commands = [block.text for block in blocks(PAGE, "sh")]
    assert commands[:2] == ["make example\n", "source .venv/bin/activate\n"]
    (script,) = blocks(PAGE, "python")
    steps = [*(["bash", "-c", text] for text in commands[2:]), ["python", "-c", script.text]]
    for step in steps:
        done = subprocess.run(
            step, cwd=checkout, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, (step, done.stdout, done.stderr)
    assert "posture-model" in done.stdout
    for made in ("report.html", "predictions", "evaluation/per_subject.csv", "posture-model"):
        assert (checkout / made).exists(), made
