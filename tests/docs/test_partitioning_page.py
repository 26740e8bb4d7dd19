"""What docs/partitioning.md shows is what happens: commands, what they print, and scripts."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys

import pytest
from documents import ROOT, blocks
from patience import PATIENCE

import cerebro
from cerebro.cli.main import main
from cerebro.data import load_partitioning

pytest.importorskip("h5py", reason="day files are HDF5, which TensorFlow brings")

PAGE = ROOT / "docs" / "partitioning.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the sample and the page's table of subjects."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        from deep_postures_sample import write_sample

        write_sample(folder / "data" / "sample")
    (table,) = blocks(PAGE, "csv")
    (folder / "subjects.csv").write_text(table.text)
    return folder


@pytest.fixture(scope="module")
def printed(folder):
    """What each command of the page prints, in order, run one after another."""
    outputs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks(PAGE, "sh"):
            program, *arguments = shlex.split(block.text)
            assert program == "cerebro"
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                assert main(arguments) == 0
            outputs.append(output.getvalue().replace(str(folder), "/home/me"))
    return outputs


def test_the_first_command_prints_what_the_page_shows(printed):
    (shown,) = blocks(PAGE, "text")
    assert shown.text == printed[0]


def test_the_tables_splits_are_kept(folder, printed):
    parts = load_partitioning(folder / "assigned")
    assert parts.test.subjects == ["S01"]
    (fold,) = parts.folds
    assert any("S02" in partition.subjects for partition in fold.train.partitions)
    together = [p.subjects for p in parts.all_partitions() if "S03" in p.subjects]
    assert "S04" in together[0]


@pytest.mark.processes
def test_the_scripts_run(folder, printed):
    script = folder / "script.py"
    script.write_text("\n\n".join(block.text for block in blocks(PAGE, "python")))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    runs = [cerebro.load(path) for path in sorted((folder / "runs").iterdir())]
    assert len(runs) == 5
    for run in runs:
        assert set(run.models["state"]) == {"COMPLETED"}
        assert run.best().config == {"answer": 0}  # sitting is the greater part
    assert load_partitioning(folder / "made_in_python").options["seed"] == 3


def test_every_option_is_on_the_page(capsys):
    with pytest.raises(SystemExit):
        main(["partition", "--help"])
    options = {word.strip("[],") for word in capsys.readouterr().out.split()}
    options = {word for word in options if word.startswith("--")} - {"--help"}
    assert options
    assert all(option in PAGE.read_text() for option in options)
