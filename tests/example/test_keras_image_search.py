"""The image search: its data, what it asks of the library, and a search as a newcomer runs it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from patience import PATIENCE

import cerebro
from cerebro.data import read_arrays
from cerebro.search import ASHA, GridSearch, RandomSearch

pytest.importorskip("keras", minversion="3.7", reason="the example is written for Keras 3")

pytestmark = pytest.mark.tf
SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "keras_image_search.py"


@pytest.fixture
def script(tmp_path):
    """A copy of the script, where its data and runs are its own."""
    (tmp_path / "examples").mkdir()
    shutil.copy(SCRIPT.with_name("digits.csv.gz"), tmp_path / "examples")
    return Path(shutil.copy(SCRIPT, tmp_path / "examples"))


@pytest.fixture
def module(script):
    spec = importlib.util.spec_from_file_location("keras_image_search_copy", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def asked(module, monkeypatch):
    """What `main()` asks of the library, which does nothing; and the clusters it starts."""
    asked = SimpleNamespace(calls=[], clusters=[])

    class LocalCluster:
        def __init__(self, count):
            asked.clusters.append(count)

        def __enter__(self):
            return "local cluster"

        def __exit__(self, *_):
            asked.clusters.append("closed")

    monkeypatch.setattr(cerebro, "LocalCluster", LocalCluster)
    monkeypatch.setattr(
        cerebro, "schedule", lambda *arguments, **options: asked.calls.append((arguments, options))
    )
    monkeypatch.setattr(module, "report", lambda result, parts: None)
    return asked


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["keras_image_search.py", *arguments])
    module.main()


# --- data ----------------------------------------------------------------------------------------


def test_the_digits(module):
    images, labels = module.digits()
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    # As the source says of its test set.
    assert list(np.bincount(labels)) == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_partitions_are_the_same_when_the_script_is_run_again(module):
    parts = module.make_partitions()
    assert module.make_partitions() == parts
    images, labels = read_arrays(parts.valid_paths()[0])
    assert images.dtype == np.float32
    assert images.shape[1:] == (8, 8, 1)
    assert np.bincount(labels).min() >= 17


# --- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "procedure"), [("grid", GridSearch), ("random", RandomSearch), ("asha", ASHA)]
)
def test_a_search_on_two_local_workers(module, asked, monkeypatch, tmp_path, name, procedure):
    run(module, monkeypatch, "--search", name)
    ((arguments, options),) = asked.calls
    assert asked.clusters == [2, "closed"]
    assert arguments[0] == "local cluster"
    assert [len(paths) for paths in arguments[1:3]] == [4, 2]
    assert arguments[3:] == (None, None, read_arrays, module.model_fn, None)
    assert isinstance(options.pop("search"), procedure)
    assert options == {
        "ckpt_root": str(tmp_path / "checkpoints"),
        "backend": "keras",
        "run_name": None,
        "resume": False,
    }


def test_workers_of_a_cluster_and_a_run_that_goes_on(module, asked, monkeypatch):
    run(module, monkeypatch, "--workers", "http://a:1", "http://b:2", "--run-name", "r", "--resume")
    ((arguments, options),) = asked.calls
    assert asked.clusters == []
    assert arguments[0] == ["http://a:1", "http://b:2"]
    assert (options["run_name"], options["resume"]) == ("r", "auto")
    assert options["allow_changed"] == ["search"], "so that it may ask for more epochs"


def test_to_resume_takes_a_name(module, asked, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(module, monkeypatch, "--resume")
    assert "--resume needs --run-name" in capsys.readouterr().err
    assert not asked.calls


# --- a search ------------------------------------------------------------------------------------


def said(script, *arguments):
    """What the script prints, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_finds_a_model_that_plain_keras_reads_and_a_run_that_has_ended_stays(script, tmp_path):
    output = said(script, "--run-name", "images")
    result = cerebro.load(tmp_path / "checkpoints" / "images")
    assert list(result.models["state"]) == ["COMPLETED"] * 4
    assert list(result.models["epochs"]) == [6] * 4
    best = result.best()
    assert best.metrics["valid_error"] < 0.4  # guessing errs in nine of ten
    assert re.search(rf"Best: model {best.model_id}\b", output)
    assert repr(best.checkpoint) in output
    accuracy = float(re.search(r"accuracy on the validation images: (\S+)", output)[1])
    assert accuracy == pytest.approx(1 - best.metrics["valid_error"], abs=1e-4)
    assert said(script, "--run-name", "images", "--resume") == output
    assert len(cerebro.load(tmp_path / "checkpoints" / "images").units) == len(result.units)
