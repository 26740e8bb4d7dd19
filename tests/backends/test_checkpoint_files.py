"""Published files are files, and of a size that can be: nothing else is opened."""

from __future__ import annotations

import os
import socket

import pytest

from cerebro.backends import checkpoint_files
from cerebro.backends.checkpoint_files import behind_link, check_regular, read_file
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


def test_a_link_is_followed_where_its_maker_could_have_put_the_file(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    file = tmp_path / "scratch" / "model-7.weights.h5"
    file.write_bytes(b"content")
    (tmp_path / "disk").symlink_to("scratch")
    (tmp_path / "newest").symlink_to("disk/../scratch/model-7.weights.h5")
    (tmp_path / "latest").symlink_to("newest")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert behind_link(str(tmp_path / "latest")) == str(file)
    monkeypatch.chdir(tmp_path)
    assert behind_link("latest") == str(file)
    for name in ("scratch/model-7.weights.h5", "nowhere", "dangling", "round"):
        assert behind_link(name) == name

    real, owner = os.lstat, os.getuid() + 5

    def of_another(*names):
        def lstat(path, **more):
            found = list(real(path, **more))
            found[4] = owner if os.path.basename(path) in names else 2**30
            return os.stat_result(found)

        monkeypatch.setattr(os, "lstat", lstat)

    monkeypatch.setattr(os, "geteuid", lambda: 2**30)
    of_another("latest")
    assert behind_link("latest") == "latest"
    of_another("newest")
    assert behind_link("latest") == "latest"
    of_another("latest", "newest", file.name)
    assert behind_link("latest") == str(file)
