"""The example's model applied: which windows it reads, what it says of them, what is written."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cerebro.errors import NotARun

h5py = pytest.importorskip("h5py", reason="day files are HDF5, which TensorFlow brings")
tf = pytest.importorskip("tensorflow.compat.v1", reason="the example is written for TensorFlow")

pytestmark = pytest.mark.tf

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONFIG = {"win_size_mins": 0.5, "amp_factor": 1, "learning_rate": 1e-3, "reg_param": 1e-3}
LENGTH = 3  # ten-second windows of 0.5 minutes
MIDNIGHT = 1_704_153_600  # 2024-01-02 00:00 UTC


def signal(windows, seed):
    return np.random.default_rng(seed).normal(0, 1, (windows, 100, 3))


def write_day(folder, day, start, windows, *, sleeping=(), non_wear=(), label=1, seed=0, jump=None):
    """A day whose windows begin at Unix time `start`; from window `jump` on an hour later."""
    numbers = np.arange(windows)
    times = start + numbers * 10.0
    if jump is not None:
        times[jump:] += 3600
    sets = {
        "time": times,
        "data": signal(windows, seed),
        "sleeping": np.isin(numbers, sleeping).astype(int),
        "non_wear": np.isin(numbers, non_wear).astype(int),
        "label": None if label is None else np.full(windows, label),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{day}.h5", "w") as file:
        for name, values in sets.items():
            if values is not None:
                file.create_dataset(name, data=values)


# -- segments --------------------------------------------------------------------------------


def segments(recordings, folder):
    starts, ends = recordings.read_recording(folder).segments()
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def test_a_segment_goes_on_over_midnight_where_time_does(recordings, tmp_path):
    joined, apart, asleep = tmp_path / "joined", tmp_path / "apart", tmp_path / "asleep"
    for folder in (joined, apart, asleep):
        last = [4] if folder is asleep else []
        write_day(folder, "2024-01-01", MIDNIGHT - 50, 5, sleeping=last)
    write_day(joined, "2024-01-02", MIDNIGHT, 4)
    write_day(apart, "2024-01-02", MIDNIGHT + 10, 4)  # a window is missing
    write_day(asleep, "2024-01-02", MIDNIGHT, 4)
    assert segments(recordings, joined) == [(0, 9)]
    assert segments(recordings, apart) == [(0, 5), (5, 9)]
    assert segments(recordings, asleep) == [(0, 4), (5, 9)]


def test_sleep_non_wear_and_gaps_end_a_segment_and_missing_labels_do_not(recordings, tmp_path):
    write_day(
        tmp_path / "S", "2024-01-01", MIDNIGHT, 12, sleeping=[0, 3], non_wear=[3, 4, 11], label=-1,
        jump=7,
    )  # fmt: skip
    assert segments(recordings, tmp_path / "S") == [(1, 3), (5, 7), (7, 11)]


def test_acceleration_is_that_of_the_days(recordings, tmp_path):
    for day, (start, windows) in enumerate([(-50, 5), (0, 2), (20, 3)]):
        write_day(tmp_path / "S", f"2024-01-0{day + 1}", MIDNIGHT + start, windows, seed=day)
    everything = np.concatenate([signal(n, seed) for seed, n in enumerate((5, 2, 3))])
    recording = recordings.read_recording(tmp_path / "S")
    for start, end in ((0, 10), (4, 8), (5, 6), (9, 10), (3, 5)):
        found = recording.acceleration(start, end)
        assert found.dtype == np.float32
        assert (found == everything[start:end].astype(np.float32)).all()


# -- paddings --------------------------------------------------------------------------------

Z = -1


@pytest.mark.parametrize(
    ("segment", "padding", "windows", "counted"),
    [
        ((10, 16), "drop", [[10, 11, 12], [13, 14, 15]], [10, 11, 12, 13, 14, 15]),
        ((10, 15), "drop", [[10, 11, 12]], [10, 11, 12]),
        ((10, 12), "drop", [], []),
        ((10, 16), "zero", [[10, 11, 12], [13, 14, 15]], [10, 11, 12, 13, 14, 15]),
        ((10, 15), "zero", [[10, 11, 12], [13, 14, Z]], [10, 11, 12, 13, 14]),
        ((10, 11), "zero", [[10, Z, Z]], [10]),
        ((10, 16), "wrap", [[10, 11, 12], [13, 14, 15]], [10, 11, 12, 13, 14, 15]),
        ((10, 14), "wrap", [[10, 11, 12], [11, 12, 13]], [10, 11, 12, 13]),
        ((10, 15), "wrap", [[10, 11, 12], [12, 13, 14]], [10, 11, 12, 13, 14]),
        ((10, 12), "wrap", [[11, 10, 11]], [10, 11]),
        ((10, 11), "wrap", [[10, 10, 10]], [10]),
    ],
)
def test_how_a_segment_is_cut(predict, segment, padding, windows, counted):
    found, counts = predict.sequences(*segment, LENGTH, padding)
    assert found.tolist() == windows
    assert found[counts].tolist() == counted


# -- predictions -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(example, tmp_path_factory):
    """An exported folder, whose model says of about half of all windows that nobody sits."""
    folder = tmp_path_factory.mktemp("model")
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(3)
        windows = tf.placeholder(tf.float32, [None, LENGTH, 100, 3])
        logits = example.cnn_bilstm(windows, LENGTH, 1)
        step = tf.train.AdamOptimizer().minimize(tf.reduce_sum(logits))
        session.run(tf.global_variables_initializer())
        session.run(step, {windows: signal(6, 0).reshape(2, 3, 100, 3)})
        usual = np.median(session.run(logits, {windows: signal(60, 1).reshape(-1, 3, 100, 3)}))
        (bias,) = (v for v in tf.global_variables() if v.op.name == "logits/bias")
        bias.load(session.run(bias) - usual, session)
        tf.train.Saver().save(session, str(folder / "model"), write_meta_graph=False)
    description = {"checkpoint": "model", "backend": "tf", "config": CONFIG}
    (folder / "export.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def direct(example, model):
    """A function: what the graph says of acceleration (3, 100, 3), run for itself."""
    with tf.Graph().as_default() as graph:
        windows = tf.placeholder(tf.float32, [1, LENGTH, 100, 3])
        logits = example.cnn_bilstm(windows, LENGTH, 1)
        rounded = tf.round(tf.sigmoid(logits))
        session = tf.Session(graph=graph)
        tf.train.Saver().restore(session, str(model / "model"))

    def run(acceleration):
        names = {0.0: "sitting", 1.0: "not-sitting"}
        return [names[v] for v in session.run(rounded, {windows: acceleration[None]})[0]]

    # No graph is the default one here: the command runs in a process like that, too.
    yield run
    session.close()


@pytest.fixture
def data(tmp_path):
    """Two subjects: 17 windows over midnight with one of sleep, and 2 windows in all."""
    folder = tmp_path / "data"
    write_day(folder / "A", "2024-01-01", MIDNIGHT - 80, 8, sleeping=[2], seed=1)
    write_day(folder / "A", "2024-01-02", MIDNIGHT, 9, label=0, seed=2)
    write_day(folder / "B", "2024-01-01", MIDNIGHT - 20, 2, label=-1, seed=3)
    return folder


@pytest.fixture
def run(predict, tmp_path, monkeypatch):
    """The command; returns what it wrote, by subject."""

    def run(*arguments, out="out"):
        words = ["predict.py", *map(str, arguments), "--out", str(tmp_path / out)]
        monkeypatch.setattr(sys, "argv", words)
        predict.main()
        paths = sorted((tmp_path / out).glob("*.csv"))
        return {p.stem: pd.read_csv(p, keep_default_na=False) for p in paths}

    return run


@pytest.fixture
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("at_once", [1, 1024])
def test_predictions_are_what_the_graph_says(
    run, model, data, direct, predict, monkeypatch, at_once
):
    monkeypatch.setattr(predict, "WINDOWS_AT_ONCE", at_once)
    table = run(model, data)["A"]
    windows = np.concatenate([signal(8, 1), signal(9, 2)])[3:15]  # after the sleep, without rest
    expected = [p for n in range(0, 12, 3) for p in direct(windows[n : n + 3])]
    assert set(expected) == {"sitting", "not-sitting"}
    assert table["prediction"].tolist() == expected


def test_predictions_of_a_rest(run, model, data, direct):
    windows = np.concatenate([signal(8, 1), signal(9, 2)])
    zeros = np.zeros((1, 100, 3))
    two = signal(2, 3)
    zero, wrap = (
        run(model, data, "--padding", "zero"),
        run(model, data, "--padding", "wrap", out="w"),
    )
    assert len(zero["A"]) == len(wrap["A"]) == 16
    assert zero["A"]["prediction"].tolist()[-2:] == direct(np.vstack([windows[15:], zeros]))[:2]
    assert wrap["A"]["prediction"].tolist()[-2:] == direct(windows[14:])[1:]
    assert zero["B"]["prediction"].tolist() == direct(np.vstack([two, zeros]))[:2]
    assert wrap["B"]["prediction"].tolist() == direct(two[[1, 0, 1]])[1:]
    # What is before the rest does not depend on the padding.
    assert zero["A"]["prediction"].tolist()[2:14] == wrap["A"]["prediction"].tolist()[2:14]


def test_what_a_file_says(run, model, data, tmp_path, utc):
    tables = run(model, data / "B", data / "A", "--padding", "zero")
    assert list(tables) == ["A", "B"]
    a = tables["A"]
    assert list(a) == ["segment", "timestamp", "label", "prediction"]
    assert a["segment"].tolist() == [0] * 2 + [1] * 14
    moments = [f"2024-01-01 23:58:{s}" for s in (40, 50)]
    moments += [f"2024-01-01 23:59:{s}" for s in (10, 20, 30, 40, 50)]
    moments += [f"2024-01-02 00:00:{s}0" for s in range(6)]
    moments += [f"2024-01-02 00:01:{s}0" for s in range(3)]
    assert a["timestamp"].tolist() == moments
    assert a["label"].tolist() == ["not-sitting"] * 7 + ["sitting"] * 9
    assert tables["B"]["label"].tolist() == ["no-label"] * 2
    first = (tmp_path / "out" / "A.csv").read_text().splitlines()[1]
    assert re.fullmatch(r"0,2024-01-01 23:58:40,not-sitting,(not-)?sitting", first)


def test_segments_keep_their_numbers_where_others_are_too_short(run, model, data):
    tables = run(model, data)
    assert set(tables["A"]["segment"]) == {1}
    assert tables["B"].empty
    assert list(tables["B"]) == ["segment", "timestamp", "label", "prediction"]


def test_data_without_labels(run, model, tmp_path):
    write_day(tmp_path / "S", "2024-01-01", MIDNIGHT - 30, 3, label=None)
    write_day(tmp_path / "S", "2024-01-02", MIDNIGHT, 3)
    table = run(model, tmp_path / "S")["S"]
    assert list(table) == ["segment", "timestamp", "prediction"]
    assert len(table) == 6


def test_the_lines_of_the_docs_say_the_same(model, data, direct, tmp_path, monkeypatch):
    text = (Path(__file__).resolve().parents[2] / "docs" / "after.md").read_text()
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Saver()" in b]
    (tmp_path / "posture-model").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = {"acceleration": signal(9, 2).reshape(3, 3, 100, 3)}
    exec(block, names)
    found = np.where(names["not_sitting"], "not-sitting", "sitting").tolist()
    assert found == [direct(windows) for windows in names["acceleration"]]


# -- what is refused -------------------------------------------------------------------------


def test_of_a_folder_of_runs_the_latest_is_taken_and_named(
    run, predict, model, data, tmp_path, monkeypatch, capsys
):
    best = SimpleNamespace(config=CONFIG, checkpoint=str(model / "model"))
    latest = (tmp_path / "runs" / "b", SimpleNamespace(best=lambda: best))
    monkeypatch.setattr(predict, "latest_runs", lambda folder: iter([latest]))
    assert sorted(run(tmp_path / "runs", data)) == ["A", "B"]
    assert f"the best of {tmp_path / 'runs' / 'b'}, the latest" in capsys.readouterr().err


def test_nothing_is_overwritten(run, model, data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "B.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"B\.csv exists already"):
        run(model, data)
    assert os.listdir(tmp_path / "out") == ["B.csv"]
    assert (tmp_path / "out" / "B.csv").read_text() == "mine"


def test_damaged_data_stops_it_or_is_left_out(run, model, data, tmp_path, capsys):
    path = data / "A" / "2024-01-02.h5"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        run(model, data)
    assert not (tmp_path / "out").exists()
    assert list(run(model, data, "--skip-unusable")) == ["B"]
    assert f"left out: {path}" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_data_that_cannot_be_stops_it_or_is_left_out(run, model, data, tmp_path, capsys, value):
    path = data / "A" / "2024-01-02.h5"
    with h5py.File(path, "r+") as file:
        file["data"][1, 2, 0] = value
    with pytest.raises(ValueError, match=re.escape(f"{path}: 'data' holds {value:g} in window 1")):
        run(model, data)
    assert not (tmp_path / "out" / "A.csv").exists()
    assert list(run(model, data, "--skip-unusable")) == ["B"]
    assert f"left out: {path}" in capsys.readouterr().err


def test_a_time_that_is_none(run, model, data):
    with h5py.File(data / "A" / "2024-01-02.h5", "r+") as file:
        file["time"][1] = np.nan
    with pytest.raises(ValueError, match="'time' holds other values than finite numbers: nan"):
        run(model, data)


def test_data_that_is_none(run, model, data, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, words in (("nowhere", "is not a folder"), ("empty", "holds no .h5 file")):
        with pytest.raises(ValueError, match=words):
            run(model, tmp_path / path)
    write_day(tmp_path / "more" / "A", "2024-01-01", MIDNIGHT, 3)
    with pytest.raises(ValueError, match="both called A"):
        run(model, data, tmp_path / "more")


def test_models_that_are_none(run, model, data, tmp_path):
    with pytest.raises(NotARun, match="holds no run"):
        run(data, data)
    wrong = {"amp": {**CONFIG, "amp_factor": 2}, "other": {"units": 3}}
    for name, config in wrong.items():
        folder = tmp_path / name
        folder.mkdir()
        for file in model.glob("model.*"):
            (folder / file.name).write_bytes(file.read_bytes())
        description = {"checkpoint": "model", "config": config}
        (folder / "export.json").write_text(json.dumps(description))
        with pytest.raises(ValueError, match="is not a model of behavior_classification"):
            run(folder, data)
    (tmp_path / "amp" / "model.index").unlink()
    with pytest.raises(ValueError, match="amp/model cannot be read"):
        run(tmp_path / "amp", data)
    assert not (tmp_path / "out").exists()
