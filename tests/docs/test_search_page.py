"""The scripts of docs/search.md run, one after another, and print what the page says."""

from __future__ import annotations

import subprocess
import sys

import pytest
from documents import ROOT, blocks, codes, table
from patience import PATIENCE

import cerebro.search

PAGE = ROOT / "docs" / "search.md"


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    script = folder / "script.py"
    script.write_text("\n\n".join(block.text for block in blocks(PAGE, "python")))
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.processes
def test_the_scripts_run(printed):
    assert "Best(model_id=" in printed
    assert "[4, 4]" in printed


@pytest.mark.processes
def test_the_procedure_of_ones_own_goes_to_its_end(printed):
    table = printed[printed.index("config.rate") :]
    assert table.split()[-8:] == ["0", "0.0001", "STOPPED", "3", "1", "0.0100", "COMPLETED", "1"]


def test_the_table_lists_every_procedure():
    named = {codes(row[0])[0].partition("(")[0] for row in table(PAGE, "Search procedures")}
    procedures = {
        name
        for name in cerebro.search.__all__
        if isinstance(getattr(cerebro.search, name), type)
        and issubclass(getattr(cerebro.search, name), cerebro.search.SearchProcedure)
    }
    assert named == procedures - {"SearchProcedure"}
