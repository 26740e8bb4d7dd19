"""Weights files and checkpoints from somebody else: what no version holds is refused unread."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import time

import numpy as np
import pytest

pytest.importorskip("keras")

import h5py
import ml_dtypes

from cerebro.backends.base import Options
from cerebro.backends.checksum import with_checksum
from cerebro.backends.keras import hdf5_structure
from cerebro.backends.keras.constants import NAME, check_constants
from cerebro.backends.keras.weights_format import ATTRIBUTE, NOTES, parse
from cerebro.backends.tf.bundle_index import check_bundle
from cerebro.backends.tf.checkpoint import CheckpointWriter, read_state
from cerebro.backends.tf.private import tensor_bundle_pb2
from cerebro.backends.tf.runtime import tf, v1
from cerebro.errors import VersionDamaged, VersionRefused

pytestmark = pytest.mark.tf

PRIVATE = b"-- PRIVATE KEY OF SOMEBODY ELSE "
KERNEL = "layers/dense/vars/0"
KERNEL_SHAPE = (8, 1)


def made(change=lambda file, folder: None, folder=None, **options):
    """A weights file of one layer, as bytes, after `change(file, folder)`."""
    memory = io.BytesIO()
    with h5py.File(memory, "w", **options) as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "dense"
        group["1"] = np.ones(1, "f4")
        change(file, folder)
    return memory.getvalue()


def refused(content, *said):
    with pytest.raises(VersionRefused) as caught:
        parse(content, "sent.weights.h5")
    for text in ("sent.weights.h5", *said):
        assert text in str(caught.value)
    assert PRIVATE.decode() not in str(caught.value)


def private(folder):
    path = folder / "private"
    path.write_bytes(PRIVATE)
    return str(path)


# --- HDF5 ----------------------------------------------------------------------------------------


def test_what_a_weights_file_holds_is_read():
    given = {
        "single": np.arange(6, dtype="<f4").reshape(2, 3),
        "double": np.array([1.5, np.nan]),
        "half": np.array([0.5], "f2"),
        "other end first": np.array([1.5, -2.5], ">f4"),
        "count": np.array(7, "i8"),
        "seeds": np.array([1, 2**32 - 1], "u4"),
        "flags": np.array([True, False]),
        "complex": np.array([1 + 2j], "c8"),
        "empty": np.zeros((0, 3), "f4"),
    }

    def fill(file, _):
        for name, value in given.items():
            file[name] = value
        brain = np.array([1.5, -3], ml_dtypes.bfloat16)
        file.create_dataset("brain", data=brain).attrs["dtype"] = "bfloat16"

    arrays = parse(made(fill), "good.weights.h5").arrays
    assert arrays["brain"].dtype == ml_dtypes.bfloat16
    assert arrays["brain"].tolist() == [1.5, -3]
    for name, value in given.items():
        assert arrays[name].dtype == value.dtype, name
        assert np.array_equal(arrays[name], value, equal_nan=value.dtype.kind == "f"), name
    assert list(parse(made(fill, track_order=True), "good.weights.h5").arrays) != []


def external(file, folder):
    where = [(private(folder), 0, 32)]
    file.create_dataset(KERNEL, KERNEL_SHAPE, "f4", external=where)


def external_in_parts(file, folder):
    where = [(private(folder), 0, 16), (private(folder), 16, 16)]
    file.create_dataset(KERNEL, KERNEL_SHAPE, "f4", external=where)


def virtual(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.frombuffer(PRIVATE, "f4").reshape(KERNEL_SHAPE)
    layout = h5py.VirtualLayout(KERNEL_SHAPE, "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", KERNEL_SHAPE)
    file.create_virtual_dataset(KERNEL, layout)


def external_link(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.frombuffer(PRIVATE, "f4").reshape(KERNEL_SHAPE)
    file[KERNEL] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def external_group(file, folder):
    file["layers/other"] = h5py.ExternalLink(str(folder / "other.h5"), "/")


def soft_link(file, _):
    file[KERNEL] = h5py.SoftLink("/layers/dense/vars/1")


def second_name(file, _):
    file[KERNEL] = file["layers/dense/vars/1"]


def way_round(file, _):
    file["layers/dense/again"] = file["layers"]


def root_again(file, _):
    file["layers/root"] = file["/"]


def compressed(file, _):
    file.create_dataset(KERNEL, (2**30, 2**10), "f4", chunks=(2**10, 2**10), compression="gzip")


def in_chunks(file, _):
    file.create_dataset(KERNEL, data=np.ones(KERNEL_SHAPE, "f4"), chunks=(4, 1))


def in_its_header(file, _):
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(KERNEL_SHAPE)
    h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F32LE, space, how)


def never_written(file, _):
    file.create_dataset(KERNEL, (2**40, 2**10), "f4")


def of(dtype, value=None, shape=None):
    def change(file, _):
        file.create_dataset("odd", shape, dtype, value)

    return change


def reference(file, _):
    file.create_dataset("odd", data=file["layers"].ref, dtype=h5py.ref_dtype)


def region(file, _):
    found = file["layers/dense/vars/1"]
    file.create_dataset("odd", data=found.regionref[:], dtype=h5py.regionref_dtype)


def named_type(file, _):
    file["kind"] = np.dtype("f4")


def no_shape(file, _):
    file["odd"] = h5py.Empty("f4")


def typed_as(name, value):
    def change(file, _):
        file.create_dataset("odd", data=value).attrs["dtype"] = name

    return change


def deep(file, _):
    file.create_group("/".join("g" * (hdf5_structure.DEPTH + 2)))


def long_name(file, _):
    file.create_group("n" * (hdf5_structure.NAME_BYTES + 1))


def noted(value):
    def change(file, _):
        file.attrs[ATTRIBUTE] = value

    return change


TEXTS = h5py.string_dtype()

HOSTILE = [
    (external, KERNEL, "external storage"),
    (external_in_parts, KERNEL, "external storage"),
    (virtual, KERNEL, "virtual data set"),
    (external_link, KERNEL, "a link to another file"),
    (external_group, "layers/other", "a link to another file"),
    (soft_link, KERNEL, "a soft link"),
    (second_name, "second name"),
    (way_round, "layers/dense/again", "second name"),
    (root_again, "layers/root", "second name"),
    (compressed, KERNEL, "chunks"),
    (in_chunks, KERNEL, "chunks"),
    (in_its_header, "compact", "in its header"),
    (never_written, KERNEL, "takes 4503599627370496 bytes"),
    (of(TEXTS, ["a", "b"]), "odd", "not one of numbers"),
    (of("S5", np.array([b"a"])), "odd", "not one of numbers"),
    (of(h5py.vlen_dtype("f4"), shape=(1,)), "odd", "not one of numbers"),
    (of(np.dtype([("a", "f4"), ("b", "i4")]), shape=(1,)), "odd", "not one of numbers"),
    (of(h5py.enum_dtype({"A": 1, "B": 2}), 1), "odd", "not one of numbers"),
    (of(np.dtype("V7"), np.zeros(2, "V7")), "odd", "not one of numbers"),
    (reference, "odd", "not one of numbers"),
    (region, "odd", "not one of numbers"),
    (named_type, "kind", "neither a group nor an array"),
    (no_shape, "odd", "no shape"),
    (typed_as("finfo", np.zeros(2, "V2")), "odd", "finfo"),
    (typed_as("bfloat16", np.zeros(2, "f8")), "odd", "bfloat16"),
    (typed_as(7, np.zeros(2, "V2")), "odd@dtype", "not one text"),
    (deep, "groups within groups"),
    (long_name, "too long"),
    (noted(3), f"@{ATTRIBUTE}", "not one text"),
    (noted(["a", "b"]), f"@{ATTRIBUTE}", "not one text"),
]


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: f"{case[0].__name__}: {case[-1]}")
def test_what_no_weights_file_holds_is_refused_unread(case, tmp_path):
    change, *said = case
    content = made(change, tmp_path)
    began = time.process_time()
    refused(content, *said)
    refused(with_checksum(content), *said)
    assert time.process_time() - began < 5


def test_what_is_named_in_the_attribute_of_a_version_is_bounded():
    for text in ("{", "[" * 100_000, '{"hyperparameters": 3}', '{"hyperparameters": {"a": "b"}}'):
        refused(with_checksum(made(noted(text))), ATTRIBUTE)
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver="latest") as file:
        file["a"] = np.ones(2**18, "f4")
        file.attrs[ATTRIBUTE] = "x" * (hdf5_structure.TEXT_CHARACTERS + 1)
    refused(with_checksum(memory.getvalue()), "characters")


def test_a_name_that_is_like_ours_makes_no_version_of_a_file():
    def fill(file, _):
        for name in ("cerebro", "cerebrospinal_fluid"):
            file[f"layers/{name}/vars/0"] = np.ones(2, "f4")
            file[f"layers/{name}"].attrs["name"] = name

    assert "layers/cerebro/vars/0" in parse(made(fill), "good.weights.h5").arrays
    version = made(noted(json.dumps({NOTES: {"learning_rate": 0.5}})))
    assert parse(with_checksum(version), "v").hyperparameters == {"learning_rate": 0.5}
    with pytest.raises(VersionDamaged, match="checksum"):
        parse(version, "v")


@pytest.mark.parametrize("content", [b"", b"{}", b"not what HDF5 is" * 100])
def test_what_is_no_hdf5_is_said_to_be_none_or_damaged(content):
    with pytest.raises(VersionDamaged, match=r"sent.json is not a weights .* or .* are damaged"):
        parse(content, "sent.json")


def test_a_file_holds_little_but_its_arrays(monkeypatch):
    refused(made() + bytes(4 * 2**20), "its 1 arrays take 4 of them")
    monkeypatch.setattr(hdf5_structure, "OBJECTS", 3)
    refused(made(), "more than 3 groups and arrays")


def test_a_file_that_hdf5_never_comes_back_from_ends_the_process(monkeypatch):
    content = made()
    child = os.fork()
    if not child:
        monkeypatch.setattr(hdf5_structure, "_array", lambda *_: signal.pause())
        parse(content, "sent.weights.h5", deadline=0.1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert list(parse(content, "sent.weights.h5", deadline=100).arrays) == ["layers/dense/vars/1"]


def test_digests_that_are_none_are_refused():
    good = {"config": "a", "constants": {"b": "c"}}
    check_constants(np.frombuffer(json.dumps(good).encode(), np.uint8), "v")
    check_constants(None, "v")
    for text in ("", "[]", "{}", '{"config": 1, "constants": {}}', "[" * 100_000):
        with pytest.raises(VersionRefused, match=f"v: '{NAME}'"):
            check_constants(np.frombuffer(text.encode(), np.uint8), "v")
    with pytest.raises(VersionRefused, match="no text"):
        check_constants(np.zeros(3), "v")


# --- bundles -------------------------------------------------------------------------------------


def varint(number):
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def block(entries):
    body = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries
    )
    return body + struct.pack("<II", 0, 1)


def write_index(prefix, entries):
    """An index, with no checksums: these are TensorFlow's to look at."""
    content = block(entries) + bytes(5)
    handle = varint(0) + varint(len(content) - 5)
    start, index = len(content), block([(b"~", handle)])
    content += index + bytes(5)
    footer = varint(0) + varint(0) + varint(start) + varint(len(index))
    content += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    with open(f"{prefix}.index", "wb") as file:
        file.write(content)


def header(shards=1):
    return b"", tensor_bundle_pb2.BundleHeaderProto(num_shards=shards).SerializeToString()


def entry(name="w", dtype=1, shape=(2,), size=8, **more):
    made = tensor_bundle_pb2.BundleEntryProto(dtype=dtype, size=size, **more)
    for axis in shape or ():
        made.shape.dim.add().size = axis
    if shape is None:
        made.shape.unknown_rank = True
    return name.encode(), made.SerializeToString()


INDEXES = [
    ([header(0)], "0 data files"),
    ([header(2**30)], "data files"),
    ([header(), entry(dtype=20)], "'w' is", "resource"),
    ([header(), entry(dtype=21)], "'w' is", "variant"),
    ([header(), entry(dtype=99)], "'w' is", "not known"),
    ([header(), entry(shape=(2**40, 2**20))], "(1099511627776, 1048576)"),
    ([header(), entry(shape=(2**62, 0))], "is none"),
    ([header(), entry(shape=(-1,))], "its shape (-1,) is none"),
    ([header(), entry(shape=None)], "its shape is none"),
    ([header(), entry(shape=(1,) * 300)], "its shape is none"),
    ([header(), entry(dtype=7, shape=(2**40,))], "takes"),
    ([header(), entry(shard_id=1)], "a data file that is not there"),
    ([header(), entry(shard_id=-1)], "a data file that is not there"),
    ([header(), entry("b"), entry("a")], "out of order"),
    ([header(), entry("a"), entry("a")], "twice"),
]


@pytest.mark.parametrize("case", INDEXES, ids=lambda case: case[-1])
def test_what_no_checkpoint_holds_is_refused_before_it_is_read(case, tmp_path):
    entries, *said = case
    prefix = str(tmp_path / "model")
    (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(8))
    write_index(prefix, entries)
    with pytest.raises(VersionRefused) as caught:
        read_state(prefix)
    for text in (f"{prefix}.index", *said):
        assert text in str(caught.value)


def test_an_index_that_is_damaged_is_no_crash(tmp_path):
    prefix = str(tmp_path / "model")
    (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(8))
    write_index(prefix, [header(), entry()])
    check_bundle(prefix)
    for entries in ([], [entry()], [header(), entry(offset=1)], [header(), (b"w", b"\xff\xff")]):
        write_index(prefix, entries)
        with pytest.raises(VersionDamaged, match="cannot be read"):
            read_state(prefix)


def text(*lengths, size=None):
    """A tensor of texts of these lengths, and its data: all but the characters."""
    data = b"".join(map(varint, lengths)) + bytes(4)
    return data, entry(dtype=7, shape=(len(lengths),), size=len(data) if size is None else size)


@pytest.mark.parametrize("lengths", [(2**20,), (2**40,), (2**63,), (0, 1), (2**63, 2**63)])
def test_texts_are_no_longer_than_their_data(lengths, tmp_path):
    prefix = str(tmp_path / "model")
    data, tensor = text(*lengths)
    (tmp_path / "model.data-00000-of-00001").write_bytes(data)
    write_index(prefix, [header(), tensor])
    with pytest.raises(VersionRefused, match=f"'w' .* its texts have {sum(lengths)} characters"):
        read_state(prefix)
    data, tensor = text(0, 3, 0, size=10)
    (tmp_path / "model.data-00000-of-00001").write_bytes(data + b"abc")
    write_index(prefix, [header(), tensor])
    check_bundle(prefix)


def test_tensors_need_no_more_than_there_is(tmp_path):
    prefix = str(tmp_path / "model")
    (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(16))
    write_index(prefix, [header(), entry("a"), entry("b", offset=8)])
    check_bundle(prefix)
    part = tensor_bundle_pb2.BundleEntryProto().slices.add()
    parts = {"slices": [part], "size": 0, "shape": (4,)}
    for tensors in (
        [entry("a"), entry("b", offset=8), entry("c")],
        [entry("a", **parts), entry("b", **parts)],
    ):
        write_index(prefix, [header(), *tensors])
        with pytest.raises(VersionRefused, match=r"model.index .* some of them are the same"):
            read_state(prefix)


def test_a_variable_in_parts_is_read(tmp_path):
    value = np.arange(8, dtype=np.float32).reshape(4, 2)
    prefix = str(tmp_path / "model")
    with tf.Graph().as_default(), v1.Session() as session:
        parts = tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=["w", "w"],
            shape_and_slices=["4 2 0,2:0,2", "4 2 2,2:0,2"],
            tensors=[value[:2], value[2:]],
        )
        session.run(parts)
    assert read_state(prefix)["w"].tolist() == value.tolist()


def test_what_is_no_prefix_is_said_to_be_none(tmp_path):
    for name in ("model.ckpt", "model.index"):
        (tmp_path / name).write_bytes(b"V1")
        with pytest.raises(VersionRefused, match=f"{name} is a file, .* named by its prefix"):
            read_state(str(tmp_path / name))


def test_a_checkpoint_is_files_of_its_own(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "sent"
    source.mkdir()
    folder.mkdir()
    writer = CheckpointWriter(Options())
    writer.write({"w": np.ones(3, np.float32)}, str(source))
    writer.close()
    # A folder, in which a file says where the checkpoint is to be found.
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{source / "model"}"\n')
    with pytest.raises(VersionDamaged):
        read_state(str(folder))
    names = ("model.index", "model.data-00000-of-00001")
    for linked in names:
        for name in names:
            (folder / name).unlink(missing_ok=True)
            if name == linked:
                (folder / name).symlink_to(source / name)
            else:
                (folder / name).write_bytes((source / name).read_bytes())
        with pytest.raises(VersionRefused, match=f"{linked} is a link"):
            read_state(str(folder / "model"))
