"""What the example's `main()` asks of the library, and what a user's edits change."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from cerebro.errors import NotARun
from cerebro.search import Trials

pytestmark = pytest.mark.tf

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A copy of the example and its definition files."""
    pytest.importorskip("tensorflow", reason="the example is written for TensorFlow")
    (tmp_path / "examples").mkdir()
    modules = sorted((REPOSITORY / "examples").glob("*.py"))
    for path in modules:
        shutil.copy(path, tmp_path / "examples")
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    for split in ("train", "valid"):
        shutil.copytree(REPOSITORY / "data" / split, tmp_path / "data" / split)
    monkeypatch.syspath_prepend(str(tmp_path / "examples"))
    yield tmp_path
    for path in modules:
        sys.modules.pop(path.stem, None)


@pytest.fixture
def library(monkeypatch):
    """Stands in for the library: records what is asked of it."""
    import cerebro

    seen = SimpleNamespace(calls=[], clusters=[], runs={})

    class LocalCluster:
        def __init__(self, count):
            seen.clusters.append(count)

        def __enter__(self):
            return "local cluster"

        def __exit__(self, *_):
            seen.clusters.append("closed")

    def schedule(*arguments, **options):
        seen.calls.append((arguments, options))
        return result()

    def load(run):
        if run.name not in seen.runs:
            raise NotARun(str(run))
        states, epochs = zip(*seen.runs[run.name], strict=True)
        outcomes = ["failed", *["committed"] * sum(epochs)]
        return SimpleNamespace(
            models=pd.DataFrame({"state": states, "epochs": epochs}),
            units=pd.DataFrame({"outcome": outcomes}),
        )

    monkeypatch.setattr(cerebro, "LocalCluster", LocalCluster, raising=False)
    monkeypatch.setattr(cerebro, "schedule", schedule, raising=False)
    monkeypatch.setattr(cerebro, "load", load, raising=False)
    return seen


def result():
    models = pd.DataFrame(
        {
            "model_id": [0, 1, 2],
            "config.learning_rate": [0.1, 0.2, 0.3],
            "state": ["COMPLETED", "FAILED", "COMPLETED"],
            "epochs": [10, 1, 10],
            "best_epoch": [4, 0, 9],
            "valid_error": [0.31, 0.5, 0.07],
            "best_valid_error": [0.25, 0.5, 0.0625],
            "failure": [None, "model_fn raised KeyError", None],
        }
    )
    best = SimpleNamespace(
        model_id=2,
        config={"learning_rate": 0.3},
        epoch=9,
        metrics={"valid_error": 0.0625},
        checkpoint="/runs/r1/versions/2/weights",
    )
    return SimpleNamespace(models=models, run_dir="/runs/r1", best=lambda: best)


def run(checkout, monkeypatch, *arguments, edits=()):
    """`main()` of the example, as a user who made these edits and gave these arguments."""
    path = checkout / "examples" / "behavior_classification.py"
    source = path.read_text()
    for old, new in edits:
        assert source.count(old) == 1
        source = source.replace(old, new)
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("edited", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    monkeypatch.chdir("/")
    module.main()
    return module


def test_unedited_it_uses_two_local_workers_and_the_sample(checkout, library, monkeypatch):
    module = run(checkout, monkeypatch)
    ((arguments, options),) = library.calls
    data = checkout / "data"
    assert arguments[:5] == (
        "local cluster",
        [str(data / "train" / f"train_{p}.txt") for p in (0, 1)],
        [str(data / "valid" / f"valid_{p}.txt") for p in (0, 1)],
        None,
        None,
    )
    assert arguments[5:8] == (module.input_fn, module.model_fn, module.train_fn)
    assert [tuple(config) for config in arguments[8]] == [tuple(module.SMALL_GRID)] * 4
    assert arguments[9] is module.eval_fn
    assert arguments[10] == str(checkout / "checkpoints")
    assert options == {
        "backend": "tf",
        "search": None,
        "run_name": None,
        "resume": False,
        "takeover_wait": 600,
    }
    assert library.clusters == [2, "closed"]
    assert len(list((data / "sample").glob("*/*.h5"))) == 24
    for path in arguments[1] + arguments[2]:
        assert len(module.input_fn(path)["labels"]) > 700


def test_the_full_grid(checkout, library, monkeypatch):
    run(checkout, monkeypatch, "--full-grid")
    configs = library.calls[0][0][8]
    assert len(configs) == 16
    assert {"learning_rate": 1e-4, "reg_param": 1e-3, "amp_factor": 4, "win_size_mins": 9,
            "batch_size": 128} in configs  # fmt: skip


@pytest.mark.parametrize("grid", [(), ("--full-grid",)])
@pytest.mark.parametrize("name", ["random", "asha", "hyperband"])
def test_another_search_takes_the_place_of_configurations_and_eval_fn(
    checkout, library, monkeypatch, name, grid
):
    module = run(checkout, monkeypatch, "--search", name, *grid)
    ((arguments, options),) = library.calls
    assert arguments[8:10] == (None, None)
    procedure = options["search"]
    assert type(procedure).__name__.lower() in (name, f"{name}search")
    (first, *_) = procedure.decide(Trials({}, workers=2)).begin
    # Every configuration has what `model_fn` reads.
    assert first.config.keys() == module.SMALL_GRID.keys()
    assert (first.config["batch_size"] == 128) == bool(grid)


def test_asha_takes_at_most_half_of_the_units_of_the_grid(checkout, library, monkeypatch):
    module = run(checkout, monkeypatch, "--search", "asha")
    procedure = library.calls[0][1]["search"]
    configs = len(module.grid(module.SMALL_GRID))
    assert procedure.n == configs
    assert procedure.max_units == configs * module.EPOCHS * 4 // 2


def test_the_same_model_in_keras(checkout, library, monkeypatch):
    pytest.importorskip("keras", minversion="3")
    module = run(checkout, monkeypatch, "--keras")
    ((arguments, options),) = library.calls
    import keras_behavior_model as keras_model

    functions = (module.input_fn, keras_model.model_fn, keras_model.train_fn)
    assert arguments[5:8] == functions
    assert options["backend"] == "keras"


def test_workers_of_a_cluster_and_another_folder_for_runs(checkout, library, monkeypatch):
    root = checkout / "runs"
    run(checkout, monkeypatch, "--workers", "http://a:1", "http://b:2", "--ckpt-root", str(root))
    arguments = library.calls[0][0]
    assert arguments[0] == ["http://a:1", "http://b:2"]
    assert arguments[10] == str(root)
    assert library.clusters == []


def test_edited_lists_win(checkout, library, monkeypatch, capsys):
    (checkout / "mine.txt").write_text("# mine\nS1\n")
    run(
        checkout,
        monkeypatch,
        "--workers",
        "http://b:2",
        edits=[
            ("workers: list[str] = []", 'workers = ["http://a:1"]'),
            ('[DATA / "train" / "train_0.txt", DATA / "train" / "train_1.txt"]',
             f'["{checkout}/mine.txt"]'),
            ('[DATA / "valid" / "valid_0.txt", DATA / "valid" / "valid_1.txt"]',
             '["/nowhere/valid.txt"]'),
        ],
    )  # fmt: skip
    arguments = library.calls[0][0]
    assert arguments[:3] == (["http://a:1"], [f"{checkout}/mine.txt"], ["/nowhere/valid.txt"])
    assert "not those of --workers" in capsys.readouterr().out
    # Data of one's own needs no sample.
    assert not (checkout / "data" / "sample").exists()


def make_runs(checkout, library, **models):
    """Run folders, the oldest first, by the (state, epochs) of their models.

    All but the first have a journal that was written later than anything else in the folder.
    """
    root = checkout / "checkpoints"
    for age, (name, states) in enumerate(models.items()):
        (root / name / "journal").mkdir(parents=True)
        (root / name / "journal" / "000001.jsonl").touch()
        os.utime(root / name / "journal" / "000001.jsonl", (2000 + age, 2000 + age))
        for folder in (root / name / "journal", root / name):
            os.utime(folder, (1000 - age, 1000 - age))
        if states is not None:
            library.runs[name] = states
    (root / "notes.txt").write_text("no run")


def test_resume_takes_the_latest_unfinished_run(checkout, library, monkeypatch):
    make_runs(
        checkout,
        library,
        z_old=[("RUNNING", 2), ("RUNNING", 1)],
        a_new=[("COMPLETED", 10), ("RUNNING", 3)],
        b_done=[("COMPLETED", 10), ("FAILED", 1)],
        d_untrained=[("RUNNING", 0)],
        c_other=None,
    )
    run(checkout, monkeypatch, "--resume")
    assert library.calls[0][1] == {
        "backend": "tf",
        "search": None,
        "run_name": "a_new",
        "resume": "auto",
        "takeover_wait": 600,
    }


def test_resume_takes_no_run_of_another_user(checkout, library, monkeypatch):
    """Several people keep their runs in one folder, and some close theirs."""
    make_runs(checkout, library, mine=[("RUNNING", 2)], closed=[("RUNNING", 3)])
    owner = (checkout / "checkpoints").stat().st_uid
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")
    for user in (owner, owner + 1):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        run(checkout, monkeypatch, "--resume")
    assert [options["run_name"] for _, options in library.calls] == ["mine", None]


@pytest.mark.parametrize("search", ["grid", "random", "asha", "hyperband"])
def test_resume_takes_a_run_that_has_ended_once_there_are_more_epochs(
    checkout, library, monkeypatch, search
):
    """Nothing is resumed whose models were trained as long as they would be now."""
    epochs = 9 if search == "asha" else 6
    make_runs(
        checkout,
        library,
        older=[("RUNNING", 5)],
        newer=[("COMPLETED", epochs), ("STOPPED", 3)],
        failed=[("FAILED", 4)],
    )
    for before, after in ((10, 6), (6, 10)):
        run(
            checkout, monkeypatch, "--resume", "--search", search,
            edits=[(f"\nEPOCHS = {before}\n", f"\nEPOCHS = {after}\n")],
        )  # fmt: skip
    assert [options["run_name"] for _, options in library.calls] == ["older", "newer"]
    allowed = [options.get("allow_changed") for _, options in library.calls]
    assert allowed == [None if search == "grid" else ["search"]] * 2


@pytest.mark.parametrize("finished", [True, False])
def test_resume_with_nothing_unfinished_starts_a_run(
    checkout, library, monkeypatch, capsys, finished
):
    if finished:
        make_runs(checkout, library, done=[("COMPLETED", 10), ("STOPPED", 4)])
    run(checkout, monkeypatch, "--resume")
    assert library.calls[0][1]["run_name"] is None
    assert "No unfinished run" in capsys.readouterr().out


def test_it_ends_with_all_models_the_best_and_where_things_lie(
    checkout, library, monkeypatch, capsys
):
    run(checkout, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    header = next(n for n, line in enumerate(lines) if "best_valid_error" in line)
    assert "learning_rate" in lines[header]
    assert [int(line.split()[0]) for line in lines[header + 1 : header + 4]] == [2, 0, 1]
    text = "\n".join(lines[header + 4 :])
    assert "Model 1 failed: model_fn raised KeyError" in text
    for part in (
        "Best: model 2, after epoch 9",
        "0.0625",
        "/runs/r1/versions/2/weights",
        "/runs/r1/logs",
        "/runs/r1/history.csv",
    ):
        assert part in text
