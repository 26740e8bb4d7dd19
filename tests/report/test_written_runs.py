"""Reports of larger runs, of runs with faults, and of runs that were stopped."""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from pathlib import Path

import pytest
from browser import BROWSER, dom, without_policy

import cerebro
from cerebro.cli.main import main
from cerebro.journal import records
from cerebro.report.contents import Bar, Contents, Epoch, ReportedModel, ReportedWorker
from cerebro.report.data import packed
from cerebro.report.sections import seconds
from testbed.written_run import Shape, write_run

FAULTS = Shape(24, 4, 8, 4, 3, failing=frozenset({3, 9}), death_every=150, lost=2)


@pytest.fixture(scope="module")
def with_faults(tmp_path_factory):
    """A run in which models fail, executors die, and a worker is lost for a while."""
    folder = tmp_path_factory.mktemp("written") / "faults"
    write_run(folder, FAULTS)
    return cerebro.load(folder)


def embedded(path):
    """The numbers inside a page."""
    text = re.search(r"id='data'>(.*?)</script>", Path(path).read_text(), re.DOTALL)[1]
    return json.loads(text, parse_constant=pytest.fail)


def test_the_bars_of_the_page_are_the_attempts_of_the_run(with_faults):
    data = embedded(with_faults.report())
    units = with_faults.units
    for worker in data["workers"]:
        own = units[units["worker"] == worker["id"]].sort_values("start")
        starts = [step * data["tick"] for step in accumulate(worker["step"])]
        assert starts == pytest.approx(list(own["start"]), abs=data["tick"])
        assert [data["models"][place]["id"] for place in worker["model"]] == list(own["model_id"])
        assert worker["partition"] == list(own["partition"])
        assert worker["valid"] == [int(split == "valid") for split in own["split"]]
        assert [data["outcomes"][n] for n in worker["outcome"]] == list(own["outcome"])
    assert [f for o, f in zip(data["outcomes"], data["failures"], strict=True) if o == "committed"]
    marked = {o for o, f in zip(data["outcomes"], data["failures"], strict=True) if f}
    assert marked == {"executor", "lost", "user"}
    assert data["workers"][2]["away"][-1][1] - data["workers"][2]["away"][-1][0] > 10


def test_what_went_wrong_stands_in_a_table(with_faults):
    text = Path(with_faults.report()).read_text()
    table = re.search(r"<table id='troubles'>.*?</table>", text, re.DOTALL)[0]
    units = with_faults.units
    bad = units[~units["outcome"].isin(["committed", "discarded"])]
    assert table.count("<tr><td") == len(bad) + 1  # and the lost worker
    assert "no sign of life for 30 s" in table
    assert "all is lost&lt;/b&gt;" in table


def test_the_paragraph_names_grid_failures_and_faults(with_faults, tmp_path):
    text = Path(with_faults.report(tmp_path / "r.html", methods=True)).read_text()
    said = re.search(r"<blockquote>(.*?)</blockquote>", text)[1]
    assert "They differed in learning_rate (0.1, 0.01, 0.001, 0.0001), units (" in said
    assert "All had batch_size 32." in said
    assert "8 partitions (8,000 examples), the validation data in 4 (4,000 examples)" in said
    assert "22 models were trained for 3 epochs. 2 models were ended by an error" in said
    assert "user (2) and worker lost (1)" in said
    assert "TensorFlow 2.21.0" in said
    assert "weighted by their numbers of examples" in said


def test_a_full_grid_is_called_one(tmp_path):
    write_run(tmp_path / "grid", Shape(256, 2, 1, 1, 1))
    text = Path(cerebro.load(tmp_path / "grid").report(methods=True)).read_text()
    assert "They were the full grid over learning_rate" in text
    assert "There were no faults on the way." in text


def test_a_run_that_was_stopped_says_how_to_go_on(tmp_path):
    write_run(tmp_path / "stopped", Shape(4, 2, 4, 2, 3, stop=20))
    result = cerebro.load(tmp_path / "stopped")
    stopped, no_epoch = result.notes
    assert "run_name='stopped', resume=True" in stopped
    assert "7 units of the 24 of a first epoch are done" in no_epoch
    data = embedded(result.report())
    assert "running" in data["outcomes"]


def test_a_run_of_a_later_version_is_refused_in_a_sentence(tmp_path, capsys, monkeypatch):
    write_run(tmp_path / "later", Shape(1, 1, 1, 0, 1))
    monkeypatch.setattr(records, "FORMAT", records.FORMAT - 1)
    assert main(["report", str(tmp_path / "later")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was written by cerebro-dl 2.0.0" in line
    assert not (tmp_path / "later" / "report.html").exists()


def test_numbers_that_are_none_are_gaps():
    nan, inf = math.nan, math.inf
    epochs = [Epoch(0, nan, inf, 0.5, 0.25), Epoch(1, 1.0, 1.0, nan, nan)]
    model = ReportedModel(7, {"rate": nan}, "COMPLETED", epochs, best=epochs[0])
    bars = [Bar(7, 0, False, 0, 1.0, 2.5, "committed")]
    workers = [ReportedWorker(0, "http://w", "", bars)]
    contents = Contents("n", "/r", "now", 10.0, [], [model], workers, [], [], 0.0, [])
    (found,) = json.loads(packed(contents), parse_constant=pytest.fail)["models"]
    assert found["train_loss"] == [None, 1.0]
    assert found["train_error"] == [None, 1.0]
    assert found["valid_error"] == [0.25, None]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0042, "0.0042 s"),
        (9.94, "9.9 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (8040, "2 h 14 min"),
        (266400, "3 d 2 h"),
    ],
)
def test_durations(value, said):
    assert seconds(value) == said


POINT_AND_CLICK = """
const canvas = document.querySelector("#gantt canvas"), box = canvas.getBoundingClientRect();
const told = [];
const tip = () => document.getElementById("tip").textContent;
const move = (x) => canvas.dispatchEvent(new PointerEvent("pointermove",
  { clientX: box.left + x, clientY: box.top + 12 }));
for (let x = 64; x < box.width - 10; x += x < 80 ? 1 : 7) { move(x); told.push(tip()); }
const key = (name) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
for (let n = 0; n < 8; n++) key("+");
for (let x = 70; x < box.width - 10; x += 7) { move(x); told.push(tip()); }
canvas.dispatchEvent(new PointerEvent("pointerleave"));
document.querySelector("#models tbody tr").click();
const metric = document.getElementById("metric");
metric.value = "loss";
metric.dispatchEvent(new Event("change"));
const seen = document.createElement("pre");
seen.id = "seen";
seen.textContent = JSON.stringify({
  told,
  rows: [...document.querySelectorAll("#models tr.marked")].map((row) => row.dataset.model),
  curves: [...document.querySelectorAll(".curve.marked")].map((line) => line.dataset.place),
  dimmed: document.querySelectorAll(".curve.dimmed").length,
  panels: document.querySelectorAll("#axes svg").length,
  label: document.querySelector("#train-curves svg").getAttribute("aria-label"),
  bars: canvas.dataset.bars,
});
document.body.append(seen);
"""


@pytest.mark.processes
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_pointing_names_units_and_a_click_marks_a_model_everywhere(with_faults, tmp_path):
    path = tmp_path / "page.html"
    with_faults.report(path)
    text = without_policy(path.read_text())
    text = text.replace("</body>", f"<script>{POINT_AND_CLICK}</script></body>")
    path.write_text(text)
    made = dom(path, tmp_path)
    seen = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', made, re.DOTALL)[1])
    units = with_faults.units
    assert int(seen["bars"]) == len(units)
    named = [
        [int(number) for number in found.groups()[:2]] + [found[3], int(found[4])]
        for told in seen["told"]
        for found in [
            re.match(r"model (\d+), epoch (\d+), (training|validation) partition (\d+)\n", told)
        ]
        if found
    ]
    assert len(named) > 100
    first = units[units["worker"] == 0]
    split = first["split"].map({"train": "training", "valid": "validation"})
    there = set(zip(first["model_id"], first["epoch"], split, first["partition"], strict=True))
    assert {tuple(unit) for unit in named} <= there
    kinds = "".join(seen["told"])
    for said in ("waits for", "loads data for", "away for", "(http://node0:7777)"):
        assert said in kinds
    best = str(with_faults.best().model_id)
    assert seen["rows"] == [best]
    assert seen["curves"] == [best, best]
    assert seen["dimmed"] > 20
    assert seen["panels"] == 4
    assert seen["label"] == "train loss of each model by epoch"
