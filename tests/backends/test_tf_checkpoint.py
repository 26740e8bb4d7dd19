"""States on disk: exact, readable by TensorFlow alone, and damage never goes unseen."""

from __future__ import annotations

import os

import numpy as np
import pytest
from tf_toy import handler, task

from cerebro.backends.base import Options
from cerebro.backends.tf.checkpoint import CheckpointWriter, read_state
from cerebro.backends.tf.host_memory import ALIGNMENT, HostMemory, as_array
from cerebro.backends.tf.runtime import tf, v1, v1_behaviour
from cerebro.errors import StorageError, VersionDamaged

pytestmark = pytest.mark.tf

STATE = {
    "w/deep/name": np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32),
    "half": np.arange(6).astype(tf.bfloat16.as_numpy_dtype).reshape(2, 3),
    "text": as_array(b"tail\0"),
    "texts": np.array([b"a\0", b""], object),
    "flags": np.array([True, False]),
    "steps": np.array(2**40),
    "empty": np.zeros((0, 3), np.float64),
    "nan": np.array([np.nan, -0.0], np.float32),
}


@pytest.fixture(autouse=True)
def _v1():
    with v1_behaviour():
        yield


@pytest.fixture
def writer():
    made = CheckpointWriter(Options())
    yield made
    made.close()


def content(array):
    return array.tolist() if array.dtype == object else array.tobytes()


def same(left, right):
    return left.keys() == right.keys() and all(
        (left[name].dtype, left[name].shape, content(left[name]))
        == (right[name].dtype, right[name].shape, content(right[name]))
        for name in left
    )


def test_every_type_comes_back_bit_by_bit(tmp_path, writer):
    assert writer.write(STATE, str(tmp_path)) == "model"
    assert sorted(os.listdir(tmp_path)) == ["model.data-00000-of-00001", "model.index"]
    state = read_state(str(tmp_path / "model"))
    assert same(state, STATE)
    again = read_state(str(tmp_path / "model"))
    assert not any(np.shares_memory(state[name], again[name]) for name in state)


def test_states_lie_where_tensorflow_takes_them_uncopied(tmp_path, writer):
    state = {"w": np.ones((3, 5), np.float32)[:, 1:], "b": np.ones(1 << 20, np.int8)[1:]}
    writer.write(state, str(tmp_path))
    copies = list(HostMemory().copy(state).values())
    read = list(read_state(str(tmp_path / "model")).values())
    assert all(array.ctypes.data % ALIGNMENT == 0 for array in copies + read)
    assert all(array.flags.c_contiguous for array in copies)
    for copy, array in zip(copies, state.values(), strict=True):
        assert np.array_equal(copy, array)
        assert not np.shares_memory(copy, array)


def test_memory_serves_another_state_only_when_it_was_given_back():
    memory = HostMemory()
    first = memory.copy(STATE)
    second = memory.copy(STATE)
    assert same(first, STATE)
    assert not np.shares_memory(first["half"], second["half"])
    memory.give_back(first)
    changed = {**STATE, "half": STATE["half"] + 1}
    third = memory.copy(changed)
    assert np.shares_memory(first["half"], third["half"])
    assert same(third, changed)
    assert same(second, STATE)


def test_memory_much_larger_than_a_state_is_let_go():
    memory = HostMemory()
    large = memory.copy({"w": np.zeros(1 << 20, np.int8)})
    memory.give_back(large)
    small = memory.copy({"w": np.zeros(1 << 10, np.int8)})
    assert not np.shares_memory(large["w"], small["w"])


def test_tensorflow_alone_reads_it(tmp_path):
    tool = handler()
    data = tool.load("p", 1)
    state = tool.run(task(), data, None).state
    prefix = str(tmp_path / tool.write(state, str(tmp_path)))
    tool.close()
    with tf.Graph().as_default(), v1.Session() as session:
        hidden = v1.get_variable("hidden", [3, 8], initializer=v1.zeros_initializer())
        slot = v1.get_variable("hidden/Adam", [3, 8], initializer=v1.zeros_initializer())
        v1.train.Saver().restore(session, prefix)
        assert np.array_equal(session.run(hidden), state["hidden"])
        assert np.array_equal(session.run(slot), state["hidden/Adam"])
    assert tf.train.load_checkpoint(prefix).has_tensor("beta1_power")


def test_a_plain_savers_checkpoint_is_read(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        w = v1.get_variable("w", initializer=np.float32([1.5, 2.5]))
        session.run(w.initializer)
        prefix = v1.train.Saver().save(session, str(tmp_path / "mine"))
    assert read_state(prefix)["w"].tolist() == [1.5, 2.5]


def test_states_of_other_shapes_and_types_share_a_writer(tmp_path, writer):
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        state = {"a": np.zeros(number + 1, np.float32), "b": np.array(number)}
        if number == 2:
            state["c"] = np.array(True)
        writer.write(state, str(folder))
        assert same(read_state(str(folder / "model")), state)


def test_flipped_bytes_are_found_or_harmless(tmp_path, writer):
    writer.write(STATE, str(tmp_path))
    prefix = str(tmp_path / "model")
    found = 0
    for suffix in (".index", ".data-00000-of-00001"):
        path = prefix + suffix
        with open(path, "rb") as file:
            whole = file.read()
        for place in range(0, len(whole), 5):
            damaged = bytearray(whole)
            damaged[place] ^= 0x10
            with open(path, "wb") as file:
                file.write(damaged)
            try:
                state = read_state(prefix)
            except VersionDamaged:
                found += 1
            else:
                # The index has a few bytes that mean nothing.
                assert suffix == ".index"
                assert same(state, STATE)
        with open(path, "wb") as file:
            file.write(whole)
    assert found > 300


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_files_cut_short_or_gone_are_found(tmp_path, writer, suffix):
    writer.write(STATE, str(tmp_path))
    prefix = str(tmp_path / "model")
    size = os.path.getsize(prefix + suffix)
    for length in (size - 1, size // 2, 1, 0):
        os.truncate(prefix + suffix, length)
        with pytest.raises(VersionDamaged, match="model cannot be read"):
            read_state(prefix)
    os.unlink(prefix + suffix)
    with pytest.raises(VersionDamaged, match="model cannot be read"):
        read_state(prefix)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path, writer):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"write the checkpoint .*file/folder/model: Not a dir"):
        writer.write(STATE, str(tmp_path / "file" / "folder"))
