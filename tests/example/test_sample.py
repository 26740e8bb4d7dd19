"""The made-up data set: its layout, that it is always the same, and that it is worth learning."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="the sample is written as HDF5, which TensorFlow brings")

REPOSITORY = Path(__file__).resolve().parents[2]


def load_generator():
    path = REPOSITORY / "examples" / "deep_postures_sample.py"
    spec = importlib.util.spec_from_file_location("deep_postures_sample", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up by name
        spec.loader.exec_module(module)
    return module


generator = load_generator()


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "sample"
    assert generator.write_sample(root) is True
    return root


def days(root: Path, subject: str = "*") -> list[dict[str, np.ndarray]]:
    found = []
    for path in sorted(root.glob(f"{subject}/*.h5")):
        with h5py.File(path, "r") as file:
            found.append({name: file[name][...] for name in file})
    return found


def usable(day: dict[str, np.ndarray]) -> np.ndarray:
    return (day["label"] != -1) & (day["sleeping"] == 0) & (day["non_wear"] == 0)


def test_layout(sample):
    names = [str(path.relative_to(sample)) for path in sorted(sample.glob("*/*"))]
    assert names == [
        f"{subject}/{day}.h5" for subject in generator.SUBJECTS for day in generator.DAYS
    ]
    for day in days(sample):
        windows = len(day["time"])
        assert day["data"].shape == (windows, 100, 3)
        assert day["data"].dtype == np.float32
        for name in ("sleeping", "non_wear", "label"):
            assert day[name].shape == (windows,)
        assert set(np.unique(day["label"])) == {-1, 0, 1}


def test_times_are_windows_of_ten_seconds_with_one_gap_a_day(sample):
    for day in days(sample):
        steps = np.diff(day["time"])
        assert (steps[steps != 10] >= 600).all()
        assert (steps != 10).sum() == 1
        # Nothing that is used for training lies beside the gap.
        before = np.flatnonzero(steps != 10)
        assert day["non_wear"][before].all()
        assert day["non_wear"][before + 1].all()


def test_every_day_has_sleep_non_wear_and_unlabelled_windows(sample):
    for day in days(sample):
        assert day["sleeping"].any()
        assert day["non_wear"].any()
        awake = (day["sleeping"] == 0) & (day["non_wear"] == 0)
        assert (day["label"][awake] == -1).any()


def test_both_classes_in_every_subject_and_sitting_in_about_six_of_ten(sample):
    labels = [
        np.concatenate([day["label"][usable(day)] for day in days(sample, subject)])
        for subject in generator.SUBJECTS
    ]
    assert all(set(values) == {0, 1} for values in labels)
    shares = [(values == 0).mean() for values in labels]
    assert 0.55 < np.mean(shares) < 0.67


def test_acceleration_is_about_one_g_and_steps_show_near_two_hertz(sample):
    values = days(sample)
    length = np.concatenate([np.linalg.norm(day["data"].mean(axis=1), axis=1) for day in values])
    assert (np.abs(length - 1) < 0.1).all()
    vertical = np.concatenate(
        [day["data"][usable(day) & (day["label"] == 1), :, 0] for day in values]
    )
    spectrum = np.abs(np.fft.rfft(vertical - vertical.mean(axis=1, keepdims=True), axis=1))
    hertz = np.fft.rfftfreq(100, d=0.1)
    assert 1.5 < hertz[np.argmax(spectrum.mean(axis=0))] < 2.4


def test_sitting_has_little_movement(sample):
    movement = {0: [], 1: []}
    for day in days(sample):
        for label, windows in movement.items():
            windows.append(day["data"][usable(day) & (day["label"] == label)].std(axis=1).max(1))
    sitting, upright = (np.median(np.concatenate(movement[label])) for label in (0, 1))
    assert sitting < 0.03 < upright


def test_no_threshold_on_one_axis_separates_the_classes(sample):
    values = days(sample)
    tilt = np.concatenate([day["data"][usable(day)].mean(axis=1)[:, 2] for day in values])
    label = np.concatenate([day["label"][usable(day)] for day in values])
    errors = [((tilt < threshold) != (label == 1)).mean() for threshold in np.linspace(0, 1, 101)]
    assert 0.08 < min(errors) < 0.3


def test_the_same_seed_gives_the_same_data_and_another_seed_other_data(sample, tmp_path):
    generator.write_sample(tmp_path / "again")
    generator.write_sample(tmp_path / "other", seed=1)
    again, other = days(tmp_path / "again"), days(tmp_path / "other")
    for one, two in zip(days(sample), again, strict=True):
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(days(sample)[0]["data"][:6], other[0]["data"][:6])


def test_it_is_small(sample):
    assert sum(path.stat().st_size for path in sample.glob("*/*")) < 20e6


def test_a_sample_that_exists_is_left_as_it_is(sample, monkeypatch):
    monkeypatch.setattr(generator, "_write_day", None)  # nothing is even made beside it
    before = {path: path.stat().st_mtime_ns for path in sample.rglob("*")}
    assert generator.write_sample(sample) is False
    assert {path: path.stat().st_mtime_ns for path in sample.rglob("*")} == before


def test_an_incomplete_sample_is_refused_not_mended(tmp_path):
    root = tmp_path / "sample"
    generator.write_sample(root)
    lost = root / "S03" / f"{generator.DAYS[1]}.h5"
    lost.unlink()
    with pytest.raises(FileExistsError, match=f"lacks {lost}"):
        generator.write_sample(root)
    assert not lost.exists()


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(generator, "_write_day", fail)
    with pytest.raises(OSError, match="disk full"):
        generator.write_sample(tmp_path / "sample")
    assert os.listdir(tmp_path) == []


def test_two_processes_that_write_it_at_once_agree(tmp_path, monkeypatch):
    root = tmp_path / "sample"
    rename = os.rename

    def second(source, target):
        monkeypatch.setattr(os, "rename", rename)
        assert generator.write_sample(root) is True
        rename(source, target)

    monkeypatch.setattr(os, "rename", second)
    assert generator.write_sample(root) is False
    assert os.listdir(tmp_path) == ["sample"]
    assert len(days(root)) == len(generator.SUBJECTS) * len(generator.DAYS)


def test_the_definition_files_list_all_its_subjects(sample):
    data = REPOSITORY / "data"
    listed = []
    for name in ("train/train_0", "train/train_1", "valid/valid_0", "valid/valid_1"):
        lines = (data / f"{name}.txt").read_text().splitlines()
        directories = [line for line in lines if line and not line.startswith("#")]
        assert directories
        listed += directories
    assert sorted(listed) == [f"../sample/{name}" for name in generator.SUBJECTS]
