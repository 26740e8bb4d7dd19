"""Arrays into partitions: every example once, sizes, classes, the same bytes again, bad arrays."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebro.data import (
    load_array_partitioning,
    load_partitioning,
    partition_arrays,
    partition_subjects,
    read_arrays,
)
from cerebro.data.arrays.dealing import deal
from cerebro.data.arrays.files import to_bytes
from cerebro.errors import AvailabilityError, InputError, PartitionError, UnsafePath

NUMBERS = np.arange(50)
X = np.stack([NUMBERS, -NUMBERS], axis=1).astype(np.float32)
Y = NUMBERS % 5


@pytest.fixture
def make(tmp_path):
    """Partitions of 50 examples of five classes in `parts`: three, and two of ten to validate."""

    def make(*arrays, out="parts", **options):
        return partition_arrays(
            tmp_path / out, *(arrays or (X, Y)), **{"train": 3, "valid": 2, **options}
        )

    return make


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


# --- who goes where ------------------------------------------------------------------------------


@st.composite
def deals(draw):
    """Arguments of `deal`: up to 200 examples, with or without classes of any sizes."""
    train, valid = draw(st.integers(1, 9)), draw(st.integers(0, 5))
    validating = draw(st.integers(valid, valid * 20)) if valid else 0
    examples = validating + draw(st.integers(train, 100))
    classes = None
    if draw(st.booleans()):
        number = st.integers(0, draw(st.integers(0, 6)))
        classes = np.array(draw(st.lists(number, min_size=examples, max_size=examples)))
    return examples, validating, train, valid, classes, draw(st.integers(0, 2**40))


@settings(max_examples=300, deadline=None)
@given(deals())
def test_each_example_once_sides_and_partitions_of_their_sizes_and_classes_spread(arguments):
    examples, validating, train, valid, classes, _ = arguments
    dealt = deal(*arguments)
    assert (len(dealt.train), len(dealt.valid)) == (train, valid)
    everything = np.concatenate([*dealt.train, *dealt.valid])
    assert sorted(everything) == list(range(examples))
    for partitions, size in ((dealt.train, examples - validating), (dealt.valid, validating)):
        sizes = [len(rows) for rows in partitions]
        assert sum(sizes) == size
        assert not sizes or max(sizes) - min(sizes) <= 1
        if classes is None or not partitions:
            continue
        for one in np.unique(classes):
            counts = [np.sum(classes[rows] == one) for rows in partitions]
            assert max(counts) - min(counts) <= 1
            due = np.sum(classes == one) * size / examples
            assert abs(sum(counts) - due) < 1
    again = deal(*arguments)
    for one, two in zip(everything, np.concatenate([*again.train, *again.valid]), strict=True):
        assert one == two


def test_another_seed_gives_another_order():
    first, second = (deal(100, 20, 1, 1, None, seed) for seed in (0, 1))
    assert first.train[0].tolist() != second.train[0].tolist()
    assert set(first.valid[0]) != set(second.valid[0])


def test_the_order_is_that_of_every_version_of_numpy():
    """What was drawn once; the stream of a bit generator is promised to stay."""
    dealt = deal(10, 4, 2, 1, np.arange(10) % 2, 7)
    assert [rows.tolist() for rows in (*dealt.train, *dealt.valid)] == [
        [9, 2, 6],
        [4, 3, 5],
        [7, 8, 1, 0],
    ]


def test_a_file_has_the_bytes_of_every_version_of_python_and_numpy():
    arrays = {"arr_0": X[:4], "arr_1": np.array(["a", "bc"])}
    digest = "b8fa9be46acf273ae685c4f97f9c6638629ca497bbf0074ee27cf72703773221"
    assert hashlib.sha256(to_bytes(arrays)).hexdigest() == digest


def test_members_of_a_class_are_not_neighbours_in_a_partition():
    (rows,) = deal(1000, 0, 1, 0, np.arange(1000) % 2, 0).train
    changes = np.sum(np.diff(rows % 2) != 0)
    assert 400 < changes < 600


# --- what is written -----------------------------------------------------------------------------

FORMS = st.sampled_from(["<f4", ">f8", "i1", "u2", "?", "<c8", "<U3", "S2", "<M8[s]"])


@settings(max_examples=40, deadline=None)
@given(
    examples=st.integers(5, 40),
    forms=st.lists(st.tuples(FORMS, st.lists(st.integers(0, 3), max_size=3)), max_size=3),
    seed=st.integers(0, 2**63),
)
def test_rows_stay_together_as_they_were_and_the_bytes_are_the_same_again(examples, forms, seed):
    draw = np.random.default_rng(examples)
    arrays = [np.arange(examples)]
    for dtype, shape in forms:
        kind = "i8" if dtype.startswith("<M8") else "u1"
        arrays.append(draw.integers(0, 99, (examples, *shape)).astype(kind).astype(dtype))
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for name in ("one", "two"):
            parts = partition_arrays(
                Path(folder, name), *arrays, train=3, valid=1, valid_fraction=0.3, seed=seed
            )
            made.append(content(parts.folder))
        assert made[0] == made[1]
        assert load_array_partitioning(parts.folder) == parts
        seen = []
        for partition in (*parts.train, *parts.valid):
            rows, *others = read_arrays(parts.path(partition))
            assert len(rows) == partition.examples
            seen.extend(rows)
            for array, other in zip(arrays[1:], others, strict=True):
                assert other.dtype == array.dtype
                np.testing.assert_array_equal(other, array[rows])
        assert sorted(seen) == list(range(examples))


def test_paths_and_the_manifest(make, tmp_path):
    parts = make(seed=4)
    folder = str(tmp_path / "parts")
    assert parts.train_paths() == [os.path.join(folder, f"train_{p}.npz") for p in range(3)]
    assert parts.valid_paths() == [os.path.join(folder, f"valid_{p}.npz") for p in range(2)]
    assert [p.examples for p in parts.train] == [14, 13, 13]
    assert [p.examples for p in parts.valid] == [5, 5]
    said = json.loads((tmp_path / "parts" / "manifest.json").read_text())
    assert said["options"]["seed"] == 4
    assert said["arrays"] == {
        "arr_0": {"dtype": "<f4", "shape": [2]},
        "arr_1": {"dtype": Y.dtype.str, "shape": []},
    }
    assert set(said["files"]) == {p.file for p in (*parts.train, *parts.valid)}
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".tmp")]


def test_numpy_reads_a_partition(make):
    with np.load(make().train_paths()[0]) as file:
        assert file.files == ["arr_0", "arr_1"]
        assert (file["arr_0"][:, 0] % 5 == file["arr_1"]).all()


def test_named_arrays_come_back_by_name(make):
    parts = make({"image": X, "y": Y, "sample-weight": NUMBERS / 64}, stratify=True)
    found = read_arrays(parts.train_paths()[0])
    assert list(found) == ["image", "y", "sample-weight"]
    assert (found["image"][:, 0] == found["sample-weight"] * 64).all()


def test_one_array_comes_back_as_a_tuple_of_one(make):
    (found,) = read_arrays(make(X).valid_paths()[0])
    assert found.shape == (5, 2)


def test_lists_columns_of_a_table_and_fortran_order_are_written_as_arrays_are(make, tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"y": Y}, index=NUMBERS[::-1])
    make(X, Y, out="arrays")
    make(X.tolist(), Y, out="lists")
    make(np.asfortranarray(X), table["y"], out="others")
    arrays, lists, others = (content(tmp_path / name) for name in ("arrays", "lists", "others"))
    assert arrays == others
    assert lists["train_0.npz"] != arrays["train_0.npz"]  # Python's floats are doubles


@pytest.mark.parametrize("stratify", [True, Y, Y[:, None], Y.astype(float), list(map(str, Y))])
def test_every_partition_has_each_class_alike(make, stratify):
    parts = make(X, Y, stratify=stratify)
    for path in (*parts.train_paths(), *parts.valid_paths()):
        counts = np.bincount(read_arrays(path)[1], minlength=5)
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 1


def test_without_validation_the_fraction_does_not_count(make):
    parts = make(valid=0)
    assert parts.valid_paths() == []
    assert sum(partition.examples for partition in parts.train) == 50


# --- workers that hold their share ---------------------------------------------------------------


def test_each_worker_holds_its_share_and_replicas_are_with_those_after(make):
    parts = make()
    urls = ["http://a:7777", "http://b:7777"]
    dataset = parts.dataset(urls)
    assert dataset[:3] == (urls, parts.train_paths(), parts.valid_paths())
    assert dataset.train_availability == [[1, 0, 1], [0, 1, 0]]
    assert dataset.valid_availability == [[1, 0], [0, 1]]
    assert parts.dataset(urls, replicas=2).train_availability == [[1, 1, 1], [1, 1, 1]]
    with pytest.raises(AvailabilityError, match="replicas is 3, and there are 2 workers"):
        parts.dataset(urls, replicas=3)
    with pytest.raises(InputError, match="replicas=0 must be an integer"):
        parts.dataset(urls, replicas=0)


# --- what is in the way --------------------------------------------------------------------------


def test_what_is_there_stays_unless_it_was_written_so(make, tmp_path):
    make()
    before = content(tmp_path / "parts")
    with pytest.raises(InputError, match=r"holds partitions already: .* force"):
        make(seed=1)
    assert content(tmp_path / "parts") == before
    make(seed=1, train=2, force=True)
    after = content(tmp_path / "parts")
    assert set(before) - set(after) == {"train_2.npz"}
    assert after["train_0.npz"] != before["train_0.npz"]
    (tmp_path / "parts" / "train_1.npz").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"train_1.npz has been changed since"):
        make(force=True)
    assert (tmp_path / "parts" / "train_0.npz").read_bytes() == after["train_0.npz"]


def test_a_file_of_the_same_name_is_not_overwritten(make, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "valid_1.npz").write_text("mine")
    with pytest.raises(InputError, match=r"valid_1.npz is there and was not written"):
        make()
    assert os.listdir(tmp_path / "parts") == ["valid_1.npz"]


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_is_neither_read_nor_replaced(make, tmp_path, kind):
    make()
    path = tmp_path / "parts" / "train_1.npz"
    path.rename(tmp_path / "mine")
    if kind == "link":
        path.symlink_to(tmp_path / "mine")
    else:
        os.mkfifo(path)
    before = {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(UnsafePath, match=f"{path} is a {kind}"):
        make(seed=1, force=True)
    assert {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_partitions_of_subjects_are_replaced_by_those_of_arrays(make, tmp_path):
    """And neither kind is taken for the other when it is loaded."""
    from day_files import write_subjects

    data = write_subjects(tmp_path / "data", [30, 34, 28, 31])
    partition_subjects(data, tmp_path / "parts", partitions=2, valid_fraction=0.5)
    with pytest.raises(InputError, match="of subjects, not of arrays: use load_partitioning"):
        load_array_partitioning(tmp_path / "parts")
    make(force=True)
    assert not list((tmp_path / "parts").glob("*.txt"))
    with pytest.raises(InputError, match="of arrays, not of subjects: use load_array_partitioning"):
        load_partitioning(tmp_path / "parts")


def test_a_partition_that_is_another_one_than_was_written(make):
    parts = make()
    first, second = (Path(path) for path in parts.train_paths()[:2])
    first.write_bytes(second.read_bytes())
    with pytest.raises(PartitionError, match=r"train_0.npz is gone, or is not what"):
        load_array_partitioning(parts.folder)
    first.unlink()
    with pytest.raises(PartitionError, match=r"train_0.npz is gone"):
        load_array_partitioning(parts.folder)


def test_a_manifest_that_was_changed(make, tmp_path):
    make()
    path = tmp_path / "parts" / "manifest.json"
    said = json.loads(path.read_text())
    del said["arrays"]
    path.write_text(json.dumps(said))
    with pytest.raises(InputError, match="has been changed"):
        load_array_partitioning(tmp_path / "parts")


# --- reading -------------------------------------------------------------------------------------


def flipped(path):
    """One bit of an array's values is another."""
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 200] ^= 1
    path.write_bytes(content)


def another_array(path):
    """A file of NumPy's, and no archive."""
    with path.open("wb") as file:
        np.save(file, X)


@pytest.mark.parametrize(
    "spoil",
    [
        flipped,
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("a,b\n1,2\n"),
        lambda path: path.unlink(),
        another_array,
        lambda path: np.savez(path, np.array([None])),
    ],
)
def test_a_partition_that_cannot_be_read_is_named(make, spoil):
    path = Path(make().train_paths()[0])
    spoil(path)
    with pytest.raises(PartitionError, match=r"train_0.npz cannot be read as a partition"):
        read_arrays(path)


# --- arrays and numbers that cannot be -----------------------------------------------------------

RARE = np.where(NUMBERS < 4, 9, 0)


@pytest.mark.parametrize(
    ("arrays", "options", "says"),
    [
        ((X, Y[:-1]), {}, r"array 0 \(from 0\) has 50, array 1 \(from 0\) has 49"),
        (({"x": X, "y": Y[:-1]},), {}, "array 'x' has 50, array 'y' has 49"),
        ((X, Y.astype(object)), {}, "array 1 .* has the dtype object"),
        ((X, [[1], [1, 2]] * 25), {}, "array 1 .* cannot be made an array"),
        ((X, 3), {}, "array 1 .* is one value, 3"),
        (({},), {}, "no array was given"),
        (({"a/b": X},), {}, "an array is called 'a/b'"),
        (({"arr_0": X},), {}, "an array is called 'arr_0'"),
        (({1: X},), {}, "an array is called 1"),
        ((X[:3], Y[:3]), {}, "of 3 examples 1 are for validation, with .* 2 validation partitions"),
        ((X, Y), {"train": 41}, "of 50 examples 40 are for training, .* 41 training partitions"),
        ((X, Y), {"train": 51, "valid": 0}, "of 50 examples 50 are for training, and"),
        ((X, Y), {"valid_fraction": 0}, "of 50 examples 0 are for validation"),
        ((X, Y), {"valid_fraction": 20}, "valid_fraction=20 must be"),
        ((X, Y), {"train": 0}, "train=0 must be an integer of 1 or more"),
        ((X, Y), {"valid": 1.5}, "valid=1.5 must be an integer"),
        ((X, Y), {"seed": -1}, "seed=-1 must be an integer of 0 or more"),
        ((X,), {"stratify": True}, "there is no second array"),
        ((X, X), {"stratify": True}, r"shape \(50, 2\); .*argmax"),
        ((X, Y), {"stratify": Y[:-1]}, r"stratify has the shape \(49,\)"),
        ((X, np.where(Y == 1, np.nan, Y)), {"stratify": True}, "NaN in 10 places, first .* 1 "),
        (
            (X, np.where(Y == 1, np.datetime64("NaT"), np.datetime64("2024-01-01"))),
            {"stratify": True},
            "NaN in 10 places",
        ),
        ((X, RARE), {"stratify": True}, "of class 9 there are 1 examples for validation, .* of 2"),
        ((X, RARE), {"stratify": True, "train": 4, "valid": 1}, "of class 9 there are 3 examples"),
    ],
)
def test_what_cannot_be(make, tmp_path, arrays, options, says):
    with pytest.raises(InputError, match=says):
        make(*arrays, **options)
    assert not (tmp_path / "parts").exists()


def test_strangers_can_write_to_nothing_whatever_the_umask(make, tmp_path):
    before = os.umask(0)
    try:
        make(out="new/parts")
    finally:
        os.umask(before)
    assert not any(path.stat().st_mode & stat.S_IWOTH for path in (tmp_path / "new").rglob("*"))
    assert not (tmp_path / "new").stat().st_mode & stat.S_IWOTH


def test_a_link_in_the_place_of_a_fold_is_not_followed(tmp_path):
    from cerebro.data import publishing

    (tmp_path / "parts").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "parts/fold_1").symlink_to(tmp_path / "theirs")
    files = {"fold_0/train_0.txt": b"a", "fold_1/train_0.txt": b"b"}
    with pytest.raises(UnsafePath, match="fold_1 is a link"):
        publishing.publish(str(tmp_path / "parts"), files, lambda _: b"{}", force=False)
    assert os.listdir(tmp_path / "parts") == ["fold_1"]
    assert os.listdir(tmp_path / "theirs") == []


@pytest.mark.parametrize("kind", ["pipe", "nested"])
def test_a_manifest_that_cannot_be_read_is_refused(make, tmp_path, kind):
    (tmp_path / "parts").mkdir()
    path = tmp_path / "parts/manifest.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"manifest.json (cannot be read|is damaged)"):
        make(force=True)


def test_storage_that_fails_leaves_nothing(make, tmp_path, monkeypatch):
    from cerebro.data import publishing
    from cerebro.errors import StorageError

    write_file = publishing.write_file

    def full(path, content):
        if Path(path).name == "valid_0.npz":
            raise StorageError("no space left")
        write_file(path, content)

    monkeypatch.setattr(publishing, "write_file", full)
    with pytest.raises(StorageError):
        make()
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_finite_are_said_with_array_row_and_value(tmp_path, caplog):
    x, y = np.ones((9000, 2, 3), np.float32), np.zeros(9000)
    partition_arrays(tmp_path / "sound", x, y, np.array(["nan"] * 9000), train=2, valid=1)
    assert caplog.text == ""
    x[8999, 1, 2], x[5, 0, 0], y[17] = np.nan, -np.inf, np.inf
    partition_arrays(tmp_path / "odd", x, y, train=2, valid=1)
    assert "array 0 (from 0) holds numbers that are not finite in 2 rows of 9000" in caplog.text
    assert "first -inf in row 5 (from 0)" in caplog.text
    assert "array 1 (from 0) holds numbers that are not finite in 1 row of 9000" in caplog.text
    assert "first inf in row 17" in caplog.text
