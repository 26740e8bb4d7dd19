"""Subjects into partitions: sides, balance, files, what is overwritten, and bad data."""

from __future__ import annotations

import json
import os
import random
import re

import h5py
import numpy as np
import pytest
from day_files import write_day, write_subjects

from cerebro.data import load_partitioning, partition_dirs, partition_subjects
from cerebro.errors import AvailabilityError, InputError, PartitionError, SubjectError

WINDOWS = [30, 34, 28, 31, 33, 29, 35, 27, 30, 32, 26, 36]


@pytest.fixture
def data(tmp_path):
    """Twelve subjects of nearly the same size."""
    return write_subjects(tmp_path / "data", WINDOWS)


@pytest.fixture
def make(data, tmp_path):
    """Partitions of `data` in `parts`: two, and a third of the windows to validate."""

    def make(out="parts", **options):
        return partition_subjects(
            data, tmp_path / out, **{"partitions": 2, "valid_fraction": 1 / 3, **options}
        )

    return make


def write_table(tmp_path, *rows):
    path = tmp_path / "subjects.csv"
    path.write_text("\n".join(["subject,split,group", *rows]) + "\n")
    return path


def subjects(side):
    return [name for partition in side.partitions for name in partition.subjects]


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- what is made --------------------------------------------------------------------------------


def test_definition_files_list_what_the_manifest_says(make, data):
    parts = make(test_fraction=0.25)
    listed = []
    for partition in parts.all_partitions():
        directories = partition_dirs(parts.path(partition))
        assert directories == [str(data / name) for name in partition.subjects]
        listed += directories
    assert sorted(listed) == [str(data / f"S{number:02}") for number in range(12)]
    assert load_partitioning(parts.folder) == parts
    assert parts.train_paths() == [os.path.join(parts.folder, f"train_{p}.txt") for p in (0, 1)]


def test_windows_are_counted_where_they_can_be_used(tmp_path):
    for name in ("A", "B"):
        write_day(tmp_path / "d" / name / "2024-01-02.h5", [0, 1, -1, 0, 1], sleeping=[0])
        write_day(tmp_path / "d" / name / "2024-01-01.h5", [0, 0, 1, 1], non_wear=[2], sleeping=[2])
        (tmp_path / "d" / name / "notes.txt").write_text("no day")
    parts = partition_subjects(tmp_path / "d", tmp_path / "p", partitions=1, valid_fraction=0.5)
    (partition,) = parts.folds[0].train.partitions
    assert (partition.sitting, partition.not_sitting, partition.windows) == (3, 3, 6)


def test_sides_come_near_to_their_fractions(tmp_path):
    data = write_subjects(tmp_path / "data", [*WINDOWS, *WINDOWS])
    parts = partition_subjects(
        data, tmp_path / "p", partitions=2, valid_fraction=0.25, test_fraction=0.15
    )
    (fold,) = parts.folds
    total = 2 * sum(WINDOWS)
    assert abs(fold.valid.windows / total - 0.25) < 0.02
    assert abs(parts.test.windows / total - 0.15) < 0.02
    assert parts.notes == []


@pytest.mark.parametrize("seed", range(8))
def test_the_heaviest_partition_is_within_five_percent(tmp_path, seed):
    draw = random.Random(seed)
    windows = [draw.randint(40, 90) for _ in range(24)]
    data = write_subjects(tmp_path / "data", windows)
    parts = partition_subjects(
        data, tmp_path / "p", partitions=3, valid_fraction=0.25, test_fraction=0.15, seed=seed
    )
    (fold,) = parts.folds
    assert abs(parts.test.windows / sum(windows) - 0.15) < 0.02
    for side in (fold.train, fold.valid):
        assert len(side.partitions) == 3
        sums = [partition.windows for partition in side.partitions]
        assert max(sums) <= 1.05 * np.mean(sums)
        assert side.unevenness == pytest.approx(max(sums) / np.mean(sums))


def test_the_same_seed_gives_the_same_files_and_another_one_others(make, tmp_path):
    make()
    make("again")
    make("other", seed=1)
    one, again, other = (content(tmp_path / name) for name in ("parts", "again", "other"))
    assert one == again
    del one["manifest.json"], other["manifest.json"]  # it has the seed
    assert one != other


def test_folds_validate_on_each_subject_once(make):
    parts = make(folds=3, test_fraction=0.2, valid_fraction=None)
    tested = set(parts.test.subjects)
    assert tested
    validated = []
    for number, fold in enumerate(parts.folds):
        train, valid = subjects(fold.train), subjects(fold.valid)
        assert sorted([*train, *valid, *tested]) == [f"S{n:02}" for n in range(12)]
        assert all(f"fold_{number}" in path for path in parts.train_paths(number))
        validated += valid
    assert sorted([*validated, *tested]) == [f"S{n:02}" for n in range(12)]
    with pytest.raises(InputError, match=r"fold is 3; .* has 3 folds"):
        parts.train_paths(3)


def test_folds_validate_on_equal_shares(make):
    for fold in make(folds=3, valid_fraction=None).folds:
        assert fold.valid.windows == pytest.approx(sum(WINDOWS) / 3, rel=0.05)
        assert fold.valid.unevenness <= 1.05
        assert fold.train.unevenness <= 1.05


def test_folds_leave_enough_subjects_to_train_on(tmp_path):
    # Even in windows, one fold would train on a single subject.
    data = write_subjects(tmp_path / "data", [100, 4, 4, 4, 4, 4])
    parts = partition_subjects(data, tmp_path / "p", partitions=3, folds=2)
    assert [len(fold.train.partitions) for fold in parts.folds] == [3, 3]


def test_folds_do_not_use_the_valid_fraction_and_say_so(make):
    assert any("0.2 is not used" in note for note in make(folds=3, valid_fraction=0.2).notes)


def test_replicas_are_with_the_workers_after_the_first(make):
    parts = make(partitions=3, replicas=2)
    (fold,) = parts.folds
    expected = [[1, 0, 1], [1, 1, 0], [0, 1, 1]]
    assert fold.train.availability == fold.valid.availability == expected
    urls = [f"http://n{n}:7777" for n in range(3)]
    dataset = parts.dataset(urls)
    assert dataset.worker_ips == urls
    assert dataset.train_partitions == parts.train_paths()
    assert dataset.valid_availability == expected
    with pytest.raises(AvailabilityError, match=r"2 workers given, .* 3"):
        parts.dataset(urls[:2])


def test_progress_counts_subjects(make):
    calls = []
    make(progress=lambda done, all_: calls.append((done, all_)))
    assert calls == [(number, 12) for number in range(1, 13)]


# --- what a table says ---------------------------------------------------------------------------


def test_splits_are_kept_and_groups_stay_in_one_partition(make, tmp_path):
    table = write_table(
        tmp_path, "S00,test,", "S01,valid,", "S02,train,", "S03,,a", "S04,,a", "S05,valid,b",
        "S06,,b",
    )  # fmt: skip
    for seed in range(3):
        parts = make(f"p{seed}", assign=table, seed=seed)
        (fold,) = parts.folds
        assert parts.test.subjects == ["S00"]
        assert {"S01", "S05", "S06"} <= set(subjects(fold.valid))
        assert "S02" in subjects(fold.train)
        for together in ({"S03", "S04"}, {"S05", "S06"}):
            holders = [p for p in parts.all_partitions() if together & set(p.subjects)]
            assert len(holders) == 1
        assert any("does not list S07, S08, S09, S10, S11" in note for note in parts.notes)


def test_a_table_of_all_splits_needs_no_fraction(make, tmp_path):
    rows = [f"S{n:02},{'valid' if n > 7 else 'train'}," for n in range(12)]
    (fold,) = make(assign=write_table(tmp_path, *rows), valid_fraction=None).folds
    assert sorted(subjects(fold.valid)) == ["S08", "S09", "S10", "S11"]


def test_splits_hold_in_every_fold(make, tmp_path):
    table = write_table(tmp_path, "S00,train,", "S01,valid,", "S02,test,")
    parts = make(folds=3, valid_fraction=None, assign=table)
    assert parts.test.subjects == ["S02"]
    for fold in parts.folds:
        assert "S00" in subjects(fold.train)
        assert "S01" in subjects(fold.valid)


# --- what subjects do not allow ------------------------------------------------------------------


def test_a_subject_that_is_too_heavy_is_named(tmp_path):
    data = write_subjects(tmp_path / "data", [10, 10, 10, 10, 300])
    table = write_table(tmp_path, "S04,train,")
    parts = partition_subjects(
        data, tmp_path / "p", partitions=2, valid_fraction=0.05, assign=table
    )
    assert any("S04 alone has 300" in note for note in parts.notes)


def test_a_heavy_subject_is_not_put_away_into_the_test(tmp_path):
    data = write_subjects(tmp_path / "data", [40, 10, 10, 10, 10, 10, 10])
    parts = partition_subjects(
        data, tmp_path / "p", partitions=2, valid_fraction=0.2, test_fraction=0.1
    )
    assert parts.test.windows == 10


def test_more_subjects_than_partitions_but_not_twice_as_many(make):
    parts = make(partitions=7, valid_fraction=0.25)
    assert any("two of the heaviest are in one partition" in note for note in parts.notes)


def test_validation_has_no_more_partitions_than_subjects(make):
    parts = make(partitions=8, valid_fraction=0.1)
    (fold,) = parts.folds
    assert len(fold.valid.partitions) == len(subjects(fold.valid)) < 8
    assert any("Validation has" in note and "no more subjects" in note for note in parts.notes)
    assert [len(row) for row in fold.valid.availability] == [len(fold.valid.partitions)] * 8


def test_a_fraction_that_whole_subjects_do_not_meet(tmp_path):
    data = write_subjects(tmp_path / "data", [50, 50, 50, 50])
    parts = partition_subjects(data, tmp_path / "p", partitions=1, valid_fraction=0.1)
    assert any("Validation has 25.0 % of the windows" in note for note in parts.notes)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"partitions": 13}, "13 training partitions .* of 12 subjects at most 11 can train"),
        ({"partitions": 11, "test_fraction": 0.1}, "at most 10 can train .*validation and test"),
        ({"folds": 13}, "13 folds .* only 12"),
        ({"folds": 3, "partitions": 9}, "at most 8 can train"),
    ],
)
def test_more_partitions_than_subjects(make, tmp_path, options, says):
    with pytest.raises(SubjectError, match=says):
        make(**options)
    assert not (tmp_path / "parts").exists()


def test_as_many_partitions_as_there_can_be(make):
    for number, options in enumerate(
        [{"partitions": 11}, {"partitions": 10, "test_fraction": 0.1}, {"folds": 12},
         {"folds": 3, "partitions": 8}]
    ):  # fmt: skip
        parts = make(f"p{number}", **options)
        for fold in parts.folds:
            assert len(fold.train.partitions) == options.get("partitions", 2)
            assert subjects(fold.valid)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"partitions": 0}, "partitions=0 must be an integer of 1 or more"),
        ({"partitions": 1.5}, "partitions=1.5 must be an integer"),
        ({"folds": 0}, "folds=0 must be an integer of 1 or more"),
        ({"seed": -1}, "seed=-1 must be an integer of 0 or more"),
        ({"replicas": 3}, "replicas is 3, .* at most 2"),
        ({"valid_fraction": 20}, "valid_fraction=20 must be .*0.2 for 20 %"),
        ({"valid_fraction": float("nan")}, "valid_fraction=nan must be"),
        ({"test_fraction": -0.1}, "test_fraction=-0.1 must be"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"valid_fraction": None}, "the valid fraction is missing"),
    ],
)
def test_numbers_that_cannot_be(make, tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        make(**options)
    assert not (tmp_path / "parts").exists()


# --- data that cannot be used --------------------------------------------------------------------


def damaged(path):
    path.write_bytes(path.read_bytes()[:1000])


def without_labels(path):
    write_day(path, [-1] * 20)


def unused(path):
    write_day(path, [0, 1, -1], sleeping=[0], non_wear=[1])


def lying_elsewhere(path, kind):
    """Have a day's labels lie in another file."""
    other = path.with_name("other")
    with h5py.File(other, "w") as file:
        file["x"] = np.zeros(20, "i8")
    with h5py.File(path, "a") as file:
        del file["label"]
        if kind == "link":
            file["label"] = h5py.ExternalLink(str(other), "/x")
        elif kind == "external":
            file.create_dataset("label", (20,), "i1", external=[(str(other), 0, 20)])
        else:
            layout = h5py.VirtualLayout((20,), "i8")
            layout[:] = h5py.VirtualSource(str(other), "x", (20,))
            file.create_virtual_dataset("label", layout)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: lying_elsewhere(path, "link"), "'label' lie in another file"),
        (lambda path: lying_elsewhere(path, "external"), "'label' lie in another file"),
        (lambda path: lying_elsewhere(path, "virtual"), "'label' lie in another file"),
        (damaged, "2024-01-01.h5 cannot be read as HDF5; it may be damaged"),
        (lambda path: path.write_text("time,data\n"), "2024-01-01.h5 cannot be read as HDF5"),
        (without_labels, "S03 has no usable window: of 20 windows, 20 have no label"),
        (unused, "of 3 windows, 1 have no label, 1 are asleep and 1 without wear"),
        (lambda p: write_day(p, [0], replaced={"label": None}), "h5 has no data set 'label'"),
        (lambda p: write_day(p, [0], replaced={"non_wear": None}), "no data set 'non_wear'"),
        (lambda p: write_day(p, [0, 1], replaced={"sleeping": [0]}), r"'sleeping' has shape \(1,"),
        (lambda p: write_day(p, [0, 1], replaced={"data": np.zeros((3, 2))}), "'data' has shape"),
        (lambda p: write_day(p, [[0], [1]], replaced={"sleeping": [0, 0]}), "'label' has shape"),
        (lambda p: write_day(p, [0, 2]), "'label' holds other values"),
    ],
)
def test_a_subject_that_cannot_be_used(make, data, tmp_path, caplog, spoil, says):
    spoil(data / "S03" / "2024-01-01.h5")
    with pytest.raises(SubjectError, match=says) as caught:
        make()
    assert str(data / "S03") in str(caught.value)
    assert "--skip-unusable" in str(caught.value)
    assert not (tmp_path / "parts").exists()
    parts = make(skip_unusable=True)
    assert list(parts.skipped) == ["S03"]
    assert all("S03" not in partition.subjects for partition in parts.all_partitions())
    assert "S03 is left out" in caplog.text


def acceleration(windows, **odd):
    """A sound signal, in which `w3s2` is the value of window 3, sample 2, axis 1."""
    values = np.random.default_rng(0).normal(0, 0.5, (windows, 100, 3)).astype(np.float32)
    for place, value in odd.items():
        window, sample = map(int, place[1:].split("s"))
        values[window, sample, 1] = value
    return values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e6, -401.0])
def test_acceleration_that_cannot_be_is_named_with_file_window_and_value(make, data, value):
    path = data / "S03" / "2024-01-01.h5"
    write_day(path, [0, 1] * 3000, replaced={"data": acceleration(6000, w5000s2=value)})
    says = rf"{re.escape(str(path))}: 'data' holds {re.escape(f'{value:g}')} in window 5000 \(at "
    with pytest.raises(SubjectError, match=says + r"\[2, 1\]"):
        make()
    assert list(make(skip_unusable=True).skipped) == ["S03"]


def test_acceleration_of_windows_that_are_not_used_does_not_matter(make, data):
    path = data / "S03" / "2024-01-01.h5"
    signal = acceleration(8, w0s0=np.nan, w3s0=np.inf, w4s5=1e9)
    sets = {"data": signal}
    write_day(path, [-1, 1, 0, 1, 1, 0, 1, 1], sleeping=[3], non_wear=[4], replaced=sets)
    assert "S03" not in make().skipped


@pytest.mark.parametrize("kind", [np.float64, np.int16])
def test_acceleration_that_no_monitor_measures_has_a_note(make, data, kind):
    path = data / "S03" / "2024-01-01.h5"
    write_day(path, [0, 1] * 4, replaced={"data": acceleration(8, w2s7=-30.0).astype(kind)})
    (note,) = (note for note in make().notes if "g" in note and "S03" in note)
    assert f"{path}: 1 values of 'data' are beyond 20 g" in note
    assert "the first -30 in window 2" in note


@pytest.mark.parametrize(
    ("name", "values", "value"),
    [("label", [0, 1, np.nan], "nan"), ("label", [0, 1, 7], "7"),
     ("sleeping", [0, 0, np.nan], "nan"), ("non_wear", [0, 1, 2], "2")],
)  # fmt: skip
def test_flags_that_cannot_be_are_named_with_window_and_value(make, data, name, values, value):
    path = data / "S03" / "2024-01-01.h5"
    write_day(path, [0, 1, 1], replaced={name: np.array(values)})
    says = rf"S03/2024-01-01.h5: '{name}' holds other values than .*, first {value}.* in window 2"
    with pytest.raises(SubjectError, match=says):
        make()


def test_all_that_cannot_be_used_are_named_at_once(make, data):
    for name in ("S03", "S07"):
        without_labels(data / name / "2024-01-01.h5")
    with pytest.raises(SubjectError, match=r"2 subjects cannot be used:(.|\n)*S03(.|\n)*S07"):
        make()


def test_no_subject_can_be_used(tmp_path):
    without_labels(tmp_path / "data" / "A" / "2024-01-01.h5")
    with pytest.raises(SubjectError, match=r"no subject in .* can be used"):
        partition_subjects(
            tmp_path / "data", tmp_path / "p", partitions=1, valid_fraction=0.5, skip_unusable=True
        )


def test_a_directory_without_day_files_is_no_subject(make, data, tmp_path):
    (data / "logs").mkdir()
    (data / ".cache").mkdir()
    (data / "readme.txt").write_text("")
    parts = make()
    assert [note for note in parts.notes if "logs" in note and ".cache" not in note]
    with pytest.raises(SubjectError, match=r"logs holds no \.h5 file"):
        make("q", assign=write_table(tmp_path, "logs,train,"))


def test_partitions_may_lie_in_the_data(make, data):
    make(data / "parts")
    assert not any("parts" in note for note in make(data / "parts", force=True).notes)


def test_two_names_of_one_directory(make, data):
    (data / "S99").symlink_to(data / "S03")
    with pytest.raises(SubjectError, match=r"S99 and .*S03 are one directory"):
        make()


def test_a_name_that_cannot_stand_in_a_definition_file(make, data):
    (data / "S03").rename(data / "S03 ")
    with pytest.raises(SubjectError, match="cannot stand in a definition file"):
        make()


def test_folders_that_hold_no_subjects(data, tmp_path):
    options = {"partitions": 1, "valid_fraction": 0.5}
    for source, says in (
        (tmp_path / "gone", "cannot be listed: No such file"),
        (data / "S00", "one subject's directory"),
        (tmp_path / "empty", "holds no subject"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=says):
            partition_subjects(source, tmp_path / "p", **options)


# --- what is there already -----------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(make, tmp_path):
    make()
    before = content(tmp_path / "parts")
    with pytest.raises(InputError, match=r"holds partitions already.*--force"):
        make(seed=1)
    assert content(tmp_path / "parts") == before


def test_force_replaces_what_was_written_and_nothing_else(make, tmp_path):
    make("parts", folds=3, valid_fraction=None)
    folder = tmp_path / "parts"
    (folder / "fold_1" / "mine.txt").write_text("mine")
    (folder / "notes.md").write_text("mine")
    make("parts", force=True)
    assert sorted(content(folder)) == [
        "fold_1/mine.txt", "manifest.json", "notes.md", "train_0.txt", "train_1.txt",
        "valid_0.txt", "valid_1.txt",
    ]  # fmt: skip
    assert not (folder / "fold_0").exists()
    load_partitioning(folder)


@pytest.mark.parametrize("force", [False, True])
def test_a_file_of_somebody_else_is_in_the_way(make, tmp_path, force):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "train_1.txt").write_text("mine")
    with pytest.raises(InputError, match=r"train_1\.txt is there and was not written"):
        make(force=force)
    assert content(folder) == {"train_1.txt": b"mine"}


@pytest.mark.parametrize("changed", ["train_0.txt", "valid_1.txt"])
def test_a_file_that_was_changed_is_somebody_elses(make, tmp_path, changed):
    make()
    folder = tmp_path / "parts"
    with (folder / changed).open("a") as file:
        file.write("# mine\n")
    before = content(folder)
    with pytest.raises(InputError, match=f"{changed} has been changed"):
        make(force=True, partitions=1)
    assert content(folder) == before
    with pytest.raises(PartitionError, match=changed):
        load_partitioning(folder)


def test_a_manifest_of_something_else(make, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for text, says in (
        ('{"name": "app"}', "not written by this library"),
        ("[1]", "not written by this library"),
        ("{", "damaged"),
        (
            json.dumps({"format": 1, "files": {"../x": ""}}),
            "names '../x', which this library does not write",
        ),
    ):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=says):
            make(force=True)
        assert content(folder) == {"manifest.json": text.encode()}


def test_a_manifest_that_cannot_be_loaded(make, tmp_path):
    parts = make()
    path = tmp_path / "parts" / "manifest.json"
    whole = json.loads(path.read_text())
    for change, says in (
        ({"format": 2, "version": "9.1"}, "written by a newer version of this library, 9.1"),
        ({"folds": [{}]}, "has been changed"),
    ):
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(InputError, match=says):
            load_partitioning(parts.folder)
    path.unlink()
    with pytest.raises(InputError, match=r"no manifest\.json in"):
        load_partitioning(parts.folder)


def test_a_file_in_place_of_the_folder(make, tmp_path):
    (tmp_path / "parts").write_text("mine")
    with pytest.raises(InputError, match="is not a folder"):
        make(force=True)


def test_the_manifest_is_written_last_and_a_failure_leaves_no_folder(make, tmp_path, monkeypatch):
    written = []

    def write(path, content):
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device")
        written.append(path.name)
        path.write_bytes(content)

    monkeypatch.setattr("cerebro.data.publishing.write_file", write)
    with pytest.raises(Exception, match="No space left"):
        make()
    assert sorted(written) == ["train_0.txt", "train_1.txt", "valid_0.txt", "valid_1.txt"]
    assert os.listdir(tmp_path) == ["data"]
