"""The example's notebook as a person runs it: all cells, in a kernel."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from patience import PATIENCE

import cerebro

pytestmark = [pytest.mark.tf, pytest.mark.slow]
REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOK = REPOSITORY / "examples" / "behavior_classification.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return pytest.importorskip("nbformat").read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs(notebook):
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert NOTEBOOK.stat().st_size < 20_000


def test_all_cells_run_and_the_search_is_one_output_that_was_updated(notebook, tmp_path):
    pytest.importorskip("tensorflow")
    nbclient = pytest.importorskip("nbclient")
    (tmp_path / "examples").mkdir()
    shutil.copy(NOTEBOOK.with_name("deep_postures_sample.py"), tmp_path / "examples")
    for split in ("train", "valid"):
        shutil.copytree(REPOSITORY / "data" / split, tmp_path / "data" / split)
    client = nbclient.NotebookClient(
        notebook, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path / "examples")}}
    )
    client.execute()
    outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}

    result = cerebro.load(tmp_path / "checkpoints" / "notebook")
    best = result.best()
    assert list(result.models["epochs"]) == [4] * 4
    view, value = outputs["schedule"]
    assert view.output_type == "display_data"
    assert re.search(r"^run +notebook .* ended$", view.data["text/plain"], re.MULTILINE)
    assert "4 COMPLETED" in view.data["text/html"].replace("</span>", "")
    assert f"best: model {best.model_id}" in value.data["text/html"], "the result as a table"

    (history,) = outputs["history"]
    assert "valid_error" in history.data["text/html"]
    (report,) = outputs["report"]
    assert report.data["text/html"].startswith("<div><iframe srcdoc=")
    assert "cerebro report" in report.data["text/html"]
    (curves,) = outputs["curves"]
    assert curves.data["text/html"].count("<polyline") == 4
    said = outputs["best"][-1].text
    accuracy, majority = map(float, re.findall(r"(?:accuracy|majority) ([\d.]+)", said))
    assert accuracy > majority
