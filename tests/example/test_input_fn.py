"""Reading a partition: which windows are kept, where segments end, and what bad files say."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

from cerebro.errors import PartitionError

h5py = pytest.importorskip("h5py", reason="day files are HDF5, which TensorFlow brings")

pytestmark = pytest.mark.tf


def write_day(path, label, *, sleeping=(), non_wear=(), first=0, replaced=()):
    """A day whose window i holds the value `first + i`; `replaced` data sets come last."""
    windows = len(label)
    sets = {
        "time": np.arange(windows) * 10.0,
        "data": np.broadcast_to(
            np.arange(first, first + windows, dtype=np.float64)[:, None, None], (windows, 100, 3)
        ),
        "sleeping": np.isin(np.arange(windows), sleeping).astype(int),
        "non_wear": np.isin(np.arange(windows), non_wear).astype(int),
        "label": np.array(label),
    }
    sets.update(replaced)
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in sets.items():
            if values is not None:
                file.create_dataset(name, data=values)


@pytest.fixture
def definition(tmp_path):
    """A definition file that lists the subjects A and B, in the order B, A."""
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
    path = tmp_path / "train_0.txt"
    path.write_text("B\nA\n")
    return path


@pytest.mark.parametrize("long_segment", [2, 1000])
@pytest.mark.parametrize("listing", [sorted, lambda names: sorted(names, reverse=True)])
def test_segments_end_at_dropped_windows_and_at_a_days_end(
    example, definition, tmp_path, monkeypatch, listing, long_segment
):
    # With 2, days are read segment by segment, but for A's first, which has too short ones.
    monkeypatch.setattr(example, "LONG_SEGMENT", long_segment)
    # Subject B comes first, its days by date in whatever order the file system lists them.
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listing(listdir(path)))
    write_day(tmp_path / "B" / "2024-01-10.h5", [1, 1, -1, 0, 0, 0], first=100)
    write_day(tmp_path / "B" / "2024-01-09.h5", [0, 1, 0, 1, 0], sleeping=[0, 4], first=200)
    write_day(tmp_path / "A" / "2024-01-01.h5", [1] * 7, non_wear=[2, 3], sleeping=[3], first=300)
    write_day(tmp_path / "A" / "2024-01-02.h5", [-1, -1], first=400)
    (tmp_path / "A" / "notes.txt").write_text("not a day")
    data = example.input_fn(str(definition))
    kept = [201, 202, 203, 100, 101, 103, 104, 105, 300, 301, 304, 305, 306]
    assert data["acceleration"].dtype == np.float32
    assert data["acceleration"].shape == (13, 100, 3)
    assert (data["acceleration"] == np.array(kept)[:, None, None]).all()
    assert data["labels"].dtype == np.float32
    assert data["labels"].tolist() == [1, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert data["offsets"].tolist() == [0, 3, 5, 8, 10, 13]
    assert data["path"] == str(definition)


@pytest.mark.parametrize("long_segment", [1, 1000])
@pytest.mark.parametrize("storage", [{"chunks": (4, 100, 3)}, {"compression": "gzip"}])
def test_data_sets_in_chunks(example, definition, tmp_path, monkeypatch, storage, long_segment):
    monkeypatch.setattr(example, "LONG_SEGMENT", long_segment)
    for name, first in (("B", 0), ("A", 50)):
        path = tmp_path / name / "2024-01-01.h5"
        write_day(path, [-1, 1, 0, 1, 1, -1, 0, 0, 1, 0, -1], first=first)
        with h5py.File(path, "a") as file:
            values = file["data"][...]
            del file["data"]
            file.create_dataset("data", data=values, **storage)
    data = example.input_fn(str(definition))
    kept = [1, 2, 3, 4, 6, 7, 8, 9, 51, 52, 53, 54, 56, 57, 58, 59]
    assert (data["acceleration"] == np.array(kept)[:, None, None]).all()
    assert data["offsets"].tolist() == [0, 4, 8, 12, 16]


def test_the_order_of_training_follows_numpys_seed(example, definition, tmp_path):
    for name in ("A", "B"):
        write_day(tmp_path / name / "2024-01-01.h5", [0, 1])
    seeds = []
    for seed in (3, 3, 4):
        np.random.seed(seed)
        seeds.append(example.input_fn(str(definition))["shuffle_seed"])
    assert seeds[0] == seeds[1] != seeds[2]


def refused(example, definition, *parts):
    with pytest.raises(ValueError, match=re.escape(str(parts[0]))) as caught:
        example.input_fn(str(definition))
    for part in parts:
        assert str(part) in str(caught.value)


def test_a_subject_without_day_files(example, definition, tmp_path):
    write_day(tmp_path / "B" / "2024-01-01.h5", [0, 1])
    refused(example, definition, tmp_path / "A", definition, "no .h5 file")


def test_a_damaged_file(example, definition, tmp_path):
    path = tmp_path / "B" / "2024-01-01.h5"
    write_day(path, [0] * 50)
    path.write_bytes(path.read_bytes()[:5000])
    refused(example, definition, path, "damaged")


def test_values_that_lie_in_another_file(example, definition, tmp_path):
    path = tmp_path / "B" / "2024-01-01.h5"
    write_day(path, [0] * 50)
    with h5py.File(path, "a") as file:
        del file["label"]
        file.create_dataset("label", (50,), "i1", external=[("/proc/self/environ", 0, 50)])
    refused(example, definition, path, "'label' lie in another file")


def test_a_file_that_is_no_hdf5(example, definition, tmp_path):
    path = tmp_path / "B" / "2024-01-01.h5"
    path.write_text("time,data\n")
    refused(example, definition, path, "HDF5")


@pytest.mark.parametrize("name", ["data", "sleeping", "non_wear", "label"])
def test_a_missing_data_set(example, definition, tmp_path, name):
    path = tmp_path / "B" / "2024-01-01.h5"
    write_day(path, [0, 1], replaced={name: None})
    refused(example, definition, path, repr(name))


def test_the_time_is_not_needed(example, definition, tmp_path):
    for name in ("A", "B"):
        write_day(tmp_path / name / "2024-01-01.h5", [0, 1], replaced={"time": None})
    assert len(example.input_fn(str(definition))["labels"]) == 4


@pytest.mark.parametrize(
    ("name", "values", "part"),
    [
        ("data", np.zeros((2, 50, 3)), "(2, 50, 3)"),
        ("data", np.zeros((2, 300)), "(2, 300)"),
        ("sleeping", np.zeros(3), "'sleeping' has shape (3,)"),
        ("label", np.zeros((2, 1)), "'label' has shape (2, 1)"),
        ("label", np.array([0, 2]), "other values than"),
    ],
)
def test_data_of_another_form(example, definition, tmp_path, name, values, part):
    path = tmp_path / "B" / "2024-01-01.h5"
    write_day(path, [0, 1], replaced={name: values})
    refused(example, definition, path, part)


def test_a_partition_without_usable_windows(example, definition, tmp_path):
    for name in ("A", "B"):
        write_day(tmp_path / name / "2024-01-01.h5", [-1, 1], sleeping=[1])
    refused(example, definition, definition, "no labelled window")


def test_a_bad_definition_file(example, tmp_path):
    path = tmp_path / "train_0.txt"
    path.write_text("gone\n")
    with pytest.raises(PartitionError, match=r"train_0\.txt, line 1"):
        example.input_fn(str(path))


@pytest.mark.parametrize("long_segment", [1, 1000])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e6, 1e300])
def test_acceleration_that_cannot_be(
    example, definition, tmp_path, monkeypatch, long_segment, value
):
    """Named by file, window and value; in windows that are not used it does not matter."""
    monkeypatch.setattr(example, "LONG_SEGMENT", long_segment)
    data = np.ones((6, 100, 3))
    data[3, 4, 1] = value
    for name in ("A", "B"):
        path = tmp_path / name / "2024-01-01.h5"
        write_day(path, [1, -1, 0, 1, 0, 1], sleeping=[3], replaced={"data": data})
    assert len(example.input_fn(str(definition))["labels"]) == 8
    write_day(path, [1, -1, 0, 1, 0, 1], replaced={"data": data})
    seen = f"{np.inf if value == 1e300 else value:g}"
    refused(example, definition, path, f"{seen} in window 3 (at [4, 1]")


@pytest.mark.parametrize("name", ["label", "sleeping", "non_wear"])
def test_flags_that_cannot_be(example, definition, tmp_path, name):
    path = tmp_path / "B" / "2024-01-01.h5"
    write_day(path, [0, 1, 0], replaced={name: np.array([0, 1, np.nan])})
    refused(example, definition, path, f"{name!r} holds other values than", "nan in window 2")


def test_acceleration_that_no_monitor_measures_is_said(example, definition, tmp_path, capsys):
    for name, first in (("A", 0), ("B", 30)):
        write_day(tmp_path / name / "2024-01-01.h5", [0, 1, 0], first=first)
    example.input_fn(str(definition))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(str(tmp_path / "B" / "2024-01-01.h5"))
    assert "900 values of 'data' are beyond 20 g" in line
