"""A model of a run in a folder of its own, and another run that begins with it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from toy import partitions

import cerebro
from cerebro import errors
from cerebro.results import model_export

CURVES = [{"curve": [0.2, 0.5]}, {"curve": [0.4, 0.1]}, {"curve": None}]
"""Validation errors by epoch: model 0 is best after its first, model 1 after its second, model 2
fails.
"""


def made_functions(eval_fn):
    """A model whose validation error is what its configuration says."""

    def input_fn(path):
        return path

    def model_fn(data, config):
        return {"visits": [], "curve": config["curve"]}

    def train_fn(model, data, train=True):
        if train:
            model["visits"].append(data)
        value = model["curve"][(len(model["visits"]) - 1) // 2]
        return value, value

    return input_fn, model_fn, train_fn, eval_fn


def two_epochs(state):
    return [i for i, s in state.items() if s["epoch"] == 1], []


def search(cluster, folder, configs, eval_fn=two_epochs, **changed):
    return cerebro.schedule(
        cluster, partitions(folder / "data", 2), partitions(folder / "data", 1, "valid"),
        None, None, *made_functions(eval_fn)[:3], configs, eval_fn,
        ckpt_root=str(folder / "ckpt"), backend="python", **changed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(cluster, tmp_path_factory):
    """A run that has ended, of two models and one that failed."""
    return search(cluster, tmp_path_factory.mktemp("run"), CURVES, run_name="curves", seed=3)


def load_model(path):
    with open(path, "rb") as file:
        return pickle.load(file)


def describe(folder):
    return json.loads((Path(folder) / "export.json").read_text())


def test_it_holds_the_weights_and_what_belongs_to_them(run, tmp_path):
    best = run.best()
    folder = run.export(best.model_id, tmp_path / "new" / "posture")
    assert folder == str(tmp_path / "new" / "posture")
    assert sorted(os.listdir(folder)) == ["export.json", "model.pickle"]
    assert os.listdir(tmp_path / "new") == ["posture"]
    content = describe(folder)
    weights = Path(folder, content["checkpoint"])
    assert weights.read_bytes() == Path(best.checkpoint).read_bytes()
    assert content["config"] == {"curve": [0.4, 0.1]} == best.config
    assert content["metrics"] == best.metrics
    assert (content["model_id"], content["epoch"]) == (1, 1)
    assert (content["run"], content["seed"], content["backend"]) == ("curves", 3, "python")
    assert content["versions"]["cerebro"] == cerebro.__version__


def test_the_best_epoch_is_taken_unless_one_is_named(run, tmp_path):
    best = run.export(0, tmp_path / "best")
    last = run.export(0, tmp_path / "last", epoch=1)
    assert len(load_model(Path(best, "model.pickle"))["visits"]) == 2
    assert len(load_model(Path(last, "model.pickle"))["visits"]) == 4
    assert describe(best)["metrics"]["valid_error"] == 0.2
    assert describe(last)["metrics"]["valid_error"] == 0.5


def test_without_a_number_the_newest_epoch_is_taken_and_json_stays_json(cluster, tmp_path):
    nan = float("nan")
    result = search(cluster, tmp_path, [{"curve": [nan, nan]}])
    content = describe(result.export(0, tmp_path / "nan"))
    assert content["epoch"] == 1
    assert content["metrics"] == dict.fromkeys(content["metrics"])


@pytest.mark.parametrize(
    ("model", "epoch", "error", "words"),
    [
        (7, None, errors.InputError, "model 7 is not known.*0 to 2"),
        (2, None, errors.RunError, "model 2 .*has no weights: it is FAILED"),
        (1, 0, errors.RunError, "epoch 0 are not kept.*: 1$"),
        (1, 5, errors.InputError, "epoch=5.*of these: 1$"),
    ],
)
def test_what_is_not_there_is_named_and_nothing_is_written(
    run, tmp_path, model, epoch, error, words
):
    with pytest.raises(error, match=words):
        run.export(model, tmp_path / "export", epoch)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("made", ["file", "folder"])
def test_what_exists_is_left_alone(run, tmp_path, made):
    path = tmp_path / "mine"
    if made == "file":
        path.write_text("mine")
    else:
        path.mkdir()
    with pytest.raises(errors.InputError, match="mine exists already"):
        run.export(0, path)
    assert os.listdir(tmp_path) == ["mine"]
    assert path.read_text() == "mine" if made == "file" else not os.listdir(path)


def test_it_appears_whole_or_not_at_all(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(model_export, "publish_folder", full)
        with pytest.raises(errors.StorageError, match=r"posture: No space left"):
            run.export(0, tmp_path / "posture")
    assert not os.listdir(tmp_path)


def test_weights_that_a_run_has_replaced_meanwhile(run, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(run.run_dir, copy)
    result = cerebro.load(copy)
    shutil.rmtree(copy / "models" / "0")
    (copy / "models" / "0").mkdir()
    with pytest.raises(errors.RunError, match=r"are gone.*export the model again"):
        result.export(0, tmp_path / "posture")
    with monkeypatch.context() as patch:
        patch.setattr(model_export, "listed", lambda _: ["model.pickle"])  # and then it went
        with pytest.raises(errors.RunError, match="are gone"):
            result.export(0, tmp_path / "posture")
    # The folder of a run may be moved: what lies in it is what is exported.
    assert describe(result.export(1, tmp_path / "other"))["run_dir"] == str(copy)
    assert sorted(os.listdir(tmp_path)) == ["copy", "other"]


def test_a_version_that_is_a_link_is_not_exported(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.run_dir, copy)
    private = tmp_path / "private"
    private.write_text("private")
    result = cerebro.load(copy)
    for checkpoint in copy.glob("models/0/*/model.pickle"):
        checkpoint.unlink()
        checkpoint.symlink_to(private)
    with pytest.raises(errors.UnsafePath, match="is a link"):
        result.export(0, tmp_path / "posture")
    assert sorted(os.listdir(tmp_path)) == ["copy", "private"]


def test_another_run_begins_with_it(cluster, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run.export(0, "begin")

    def eval_fn(state):
        if len(state) == 1:
            return [0], [{"init_ckpt_path": "begin", "added": True}]
        return list(state), []

    source = load_model("begin/model.pickle")
    result = search(cluster, tmp_path, [{"init_ckpt_path": "begin"}], eval_fn)
    for checkpoint in result.models["checkpoint"]:
        model = load_model(checkpoint)
        assert model["visits"][: len(source["visits"])] == source["visits"]
        assert len(model["visits"]) == len(source["visits"]) + 2


@pytest.mark.parametrize(
    ("backend", "content", "words"),
    [
        ("python", None, "without export.json"),
        ("python", "{", "export.json cannot be read"),
        ("python", "[]", "export.json cannot be read"),
        ("tf", '{"checkpoint": "model.pickle", "backend": "python"}', "backend 'python'.*'tf'"),
        ("python", '{"checkpoint": "gone", "backend": "python"}', "gone does not exist"),
        ("python", '{"checkpoint": "../other", "backend": "python"}', "the name of a file in"),
        ("python", '{"checkpoint": "/etc/passwd", "backend": "python"}', "the name of a file in"),
        ("python", '{"checkpoint": "..", "backend": "python"}', "the name of a file in"),
        ("python", '{"checkpoint": ["a"], "backend": "python"}', "the name of a file in"),
        ("python", '{"checkpoint": "link", "backend": "python"}', "link is a link"),
        ("keras", '{"checkpoint": "pipe", "backend": "keras"}', "pipe is a pipe"),
        ("tf", '{"checkpoint": "model", "backend": "tf"}', "model.index is a link"),
        ("python", "[" * 100_000, "export.json cannot be read"),
    ],
)
def test_a_folder_that_no_run_can_begin_with(tmp_path, backend, content, words):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "other").touch()
    (folder / "link").symlink_to(tmp_path / "other")
    (folder / "model.index").symlink_to(tmp_path / "other")
    os.mkfifo(folder / "pipe")
    if content is not None:
        (folder / "export.json").write_text(content)
    with pytest.raises(errors.ConfigurationError, match=rf"initial_msts\[0\].*{words}"):
        cerebro.schedule(
            ["http://127.0.0.1:1"], ["a"], ["b"], None, None, *made_functions(None)[:3],
            [{"init_ckpt_path": str(folder)}], two_epochs, str(tmp_path), backend=backend,
        )  # fmt: skip
