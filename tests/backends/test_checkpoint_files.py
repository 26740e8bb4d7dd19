"""Published files are files, and of a size that can be: nothing else is opened."""

from __future__ import annotations

import os
import socket

import pytest

from cerebro.backends import checkpoint_files
from cerebro.backends.checkpoint_files import check_regular, read_file
from cerebro.errors import StorageError, VersionDamaged, VersionRefused


@pytest.fixture
def descriptors():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def odd_things(folder):
    """Things that are no files, by what they are called."""
    (folder / "private").write_bytes(b"private")
    (folder / "link").symlink_to(folder / "private")
    (folder / "dangling").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket"))
    return {
        folder / "link": "a link.*name the file that it leads to",
        folder / "dangling": "a link",
        folder / "pipe": "a pipe",
        folder / "folder": "a folder",
        folder / "socket": "a socket",
        "/dev/zero": "a device",
    }


def test_nothing_but_a_file_is_read(tmp_path, descriptors):
    for path, said in odd_things(tmp_path).items():
        with pytest.raises(VersionRefused, match=f"{path} is {said}"):
            read_file(str(path))
        with pytest.raises(VersionRefused, match=f"{path} is {said}"):
            check_regular(str(path))


def test_a_file_is_no_larger_than_it_can_be(tmp_path, monkeypatch, descriptors):
    path = tmp_path / "large"
    path.write_bytes(b"content")
    assert read_file(str(path), 7) == b"content"
    with pytest.raises(VersionRefused, match=r"large has .* no more than"):
        read_file(str(path), 6)
    os.truncate(path, 2**43)  # with nothing in it
    with pytest.raises(VersionRefused, match="more than the memory of this host"):
        read_file(str(path))
    with pytest.raises(VersionRefused):
        checkpoint_files.file_size(str(path))


def test_what_is_gone_is_damage_and_what_is_refused_for_now_is_not(tmp_path, monkeypatch):
    with pytest.raises(VersionDamaged, match="is gone"):
        read_file(str(tmp_path / "v1" / "model"))
    (tmp_path / "file").touch()
    with pytest.raises(VersionDamaged, match="is not a file"):
        read_file(str(tmp_path / "file" / "model"))
    with pytest.raises(StorageError, match="cannot read"):
        read_file("/nowhere/at/all/model")
