"""The report: one file that needs nothing else, with every model, whatever users call things."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import dom, without_policy

import cerebro
from cerebro.cli.main import main
from cerebro.errors import InputError, NotARun
from cerebro.report.axes import axis
from cerebro.report.contents import PARTS
from cerebro.results import report_contents as of_run

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 2
EVIL = "</script><script>alert(1)</script>"


def model_fn(data, config):
    return {"visits": 0, **config}


def train_fn(model, data, train=True):
    model["visits"] += train
    if model["note"] == EVIL and model["visits"] > 2:
        raise ValueError(f"cannot go on with {EVIL}\nsecond line")
    error = model["rate"] / (1 + model["visits"])
    return error, error, 5


def eval_fn(state):
    return [m for m, progress in state.items() if progress["epoch"] >= EPOCHS - 1], []


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A run in which the last model fails in its second epoch."""
    notes = ["plain", "ÄÖ & <b>", EVIL]
    configs = [{"rate": 10.0**-n, "note": note, "same": 1} for n, note in enumerate(notes)]
    root = tmp_path_factory.mktemp("report")
    with cerebro.LocalCluster(2) as cluster:
        return cerebro.schedule(
            cluster, ["a", "b"], ["c"], None, None, str, model_fn, train_fn, configs, eval_fn,
            root, backend="python", run_name="small", progress=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert result.report(path, methods=True) == str(path)
    return path


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_no_other_file(page):
    for tag, attributes in Elements(page.read_text()).found:
        assert tag not in ("link", "iframe", "img", "object")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert "@import" not in page.read_text()
    assert "url(" not in page.read_text()


def test_what_users_write_is_text_and_nothing_else(page):
    text = page.read_text()
    assert EVIL not in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text
    assert "<b>ÄÖ" not in text


def test_every_model_has_a_row_the_best_first(page, result):
    order = re.findall(r"<tr data-model='(\d+)'", page.read_text())
    assert sorted(order) == ["0", "1", "2"]
    assert order[0] == str(result.best().model_id)
    assert "second line" in page.read_text()


def test_parts_of_the_time_sum_up_to_the_run(result):
    contents = of_run.contents(result._paths, result._ledger, result._timeline)
    for worker in contents.workers:
        assert set(worker.spent) == set(PARTS)
        assert sum(worker.spent.values()) == pytest.approx(contents.seconds)
        assert all(seconds >= 0 for seconds in worker.spent.values())
    bars = [bar for worker in contents.workers for bar in worker.bars]
    assert len(bars) == len(result.units)
    assert sum(bar.outcome == "user" for bar in bars) == 1


def test_the_methods_paragraph_tells_what_was_done(page):
    text = page.read_text()
    for said in ("3 configurations", "2 partitions", "seed 0", "Deterministic operations were"):
        assert said in text


def test_notes_say_what_failed(result):
    (note,) = result.notes
    assert note.startswith("1 model failed (2)")


def test_a_report_is_replaced_and_nothing_else_is(result, tmp_path):
    path = Path(result.report())
    assert path == Path(result.run_dir) / "report.html"
    assert result.report(path) == str(path)
    other = tmp_path / "thesis.html"
    other.write_text("<html>mine</html>")
    with pytest.raises(InputError, match="is not a report"):
        result.report(other)
    assert other.read_text() == "<html>mine</html>"
    with pytest.raises(InputError, match="is a folder"):
        result.report(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        result.report(tmp_path / "not" / "there.html")


def test_a_run_without_an_epoch_has_a_report_that_says_so(result, tmp_path):
    run = tmp_path / "cut"
    shutil.copytree(result.run_dir, run)
    (journal,) = (run / "journal").iterdir()
    lines = journal.read_bytes().splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if b'"committed"' in line)
    journal.write_bytes(b"".join(lines[: first + 1]))
    cut = cerebro.load(run)
    text = Path(cut.report(tmp_path / "cut.html")).read_text()
    assert "No model has ended an epoch yet" in text
    assert "This run has not ended" in text
    assert "id='curves'" not in text


def test_the_command_writes_it_and_says_what_to_know(result, tmp_path, capsys):
    target = tmp_path / "out.html"
    assert main(["report", result.run_dir, "--out", str(target)]) == 0
    told = capsys.readouterr()
    assert told.out == f"{target}\n"
    assert "1 model failed" in told.err
    assert main(["report", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    with pytest.raises(NotARun):
        cerebro.load(tmp_path)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.1, 0.01, 0.001], "log"),
        ([16, 64], "linear"),
        ([10, 20, 30], "linear"),
        ([0.0, 0.1, 10.0], "linear"),
        ([1e-5, 1e-1], "log"),
        (["relu", "tanh"], "category"),
        ([True, False], "category"),
        ([1, "auto"], "category"),
    ],
)
def test_axes_fit_their_values(values, kind):
    found = axis("x", [{"x": value} for value in values] + [{}])
    assert found.kind == kind
    assert found.values[-1] is None


def test_what_is_installed_has_the_scripts_and_the_style(tmp_path):
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path)]
    command += ["build_py", "-d", str(tmp_path / "lib")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    there = {path.name for path in (ROOT / "cerebro" / "report").glob("*.[jc]s*")}
    installed = {path.name for path in (tmp_path / "lib" / "cerebro" / "report").iterdir()}
    assert there
    assert there <= installed


def test_a_browser_draws_everything(page, tmp_path):
    made = dom(page, tmp_path)
    assert "data-drawn-ms" in made, "a script failed"
    curves = re.findall(r'<path class="curve[^>]*data-place="(\d)"', made)
    assert curves.count("0") == 2  # in training and in validation
    assert re.search(r"<canvas[^>]*aria-label=\"[^\"]+\"", made)
    assert "alert(1)" in made
    assert not re.search(r"<script>\s*alert", made)


def test_a_click_on_a_column_sorts_the_table(page, tmp_path):
    clicked = tmp_path / "clicked.html"
    script = "document.querySelectorAll('#models thead th')[0].firstElementChild.click();"
    text = without_policy(page.read_text())
    clicked.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    made = dom(clicked, tmp_path)
    assert re.findall(r'<tr data-model="(\d)"', made) == ["0", "1", "2"]
    assert 'aria-sort="ascending"' in made
