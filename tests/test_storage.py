"""What lies in a run's folder is opened only if it is a file there, and nothing else is changed."""

from __future__ import annotations

import os
import stat

import pytest

from cerebro import storage
from cerebro.errors import StorageError, UnsafePath

APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


@pytest.fixture
def place(tmp_path):
    """A run's folder with a folder in it, and a file of somebody's outside."""
    (tmp_path / "run/logs").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/0.log").write_text("mine")
    return tmp_path


def make_link(path, outside):
    path.symlink_to(outside / "0.log")


def make_dangling_link(path, outside):
    path.symlink_to(outside / "new")


def make_pipe(path, outside):
    os.mkfifo(path)


def make_folder(path, outside):
    path.mkdir()


def make_link_above(path, outside):
    path.parent.rmdir()
    path.parent.symlink_to(outside)


def make_file_above(path, outside):
    path.parent.rmdir()
    path.parent.write_text("")


PLANTED = [make_link, make_dangling_link, make_pipe, make_folder, make_link_above, make_file_above]


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_no_file_of_the_run_is_neither_read_nor_written(place, plant):
    path = place / "run/logs/0.log"
    plant(path, place / "outside")
    named = path.parent if plant.__name__.endswith("above") else path
    uses = [
        lambda: storage.read_bytes(path, inside=place / "run"),
        lambda: storage.open_file(path, APPEND, inside=place / "run"),
        lambda: storage.write_file(path, b"theirs", inside=place / "run"),
    ]
    for use in uses:
        with pytest.raises(UnsafePath, match=f"{named} is a .* where a"):
            use()
    assert os.listdir(place / "outside") == ["0.log"]
    assert (place / "outside/0.log").read_text() == "mine"
    assert not list((place / "run").glob("**/.tmp-*"))


def test_a_device_is_not_read(place):
    with pytest.raises(UnsafePath, match="is a device"):
        storage.read_bytes("/dev/zero", inside="/dev")


def test_a_file_with_a_second_name_is_read_and_replaced_but_not_written(place):
    path = place / "run/logs/0.log"
    os.link(place / "outside/0.log", path)
    assert storage.read_bytes(path, inside=place / "run") == b"mine"
    with pytest.raises(UnsafePath, match="2 names"):
        storage.open_file(path, APPEND, inside=place / "run")
    storage.write_file(path, b"new", inside=place / "run")
    assert path.read_text() == "new"
    assert (place / "outside/0.log").read_text() == "mine"


def test_links_above_a_run_are_the_users_own(place):
    (place / "scratch").symlink_to(place / "run")
    path = place / "scratch/logs/0.log"
    storage.write_file(path, b"one\n", inside=place / "scratch")
    with storage.open_file(path, APPEND, inside=place / "scratch") as file:
        file.write(b"two\n")
    assert storage.read_bytes(path, inside=place / "scratch") == b"one\ntwo\n"
    assert not list((place / "run").glob("**/.tmp-*"))


def test_no_way_leads_out_of_a_run(place):
    with pytest.raises(UnsafePath, match="is not below"):
        storage.read_bytes(place / "run/logs/../../outside/0.log", inside=place / "run")


def test_a_file_that_is_not_there_is_no_danger(place):
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(place / "run/logs/1.log", inside=place / "run")
    with pytest.raises(StorageError, match="No such file"):
        storage.write_file(place / "run/none/1.log", b"", inside=place / "run")


@pytest.mark.parametrize("plant", [make_link_above, make_file_above])
def test_a_folder_is_not_taken_for_one_that_is_none(place, plant):
    plant(place / "run/logs/0.log", place / "outside")
    with pytest.raises(UnsafePath, match="where a folder must be"):
        storage.make_folder(place / "run/logs")


def test_strangers_can_write_to_nothing_that_is_made_whatever_the_umask(place):
    before = os.umask(0)
    try:
        storage.make_folders(place / "new/folders")
        storage.write_file(place / "new/file", b"")
        storage.open_file(place / "new/log", APPEND, inside=place).close()
    finally:
        os.umask(before)
    made = [place / "new", place / "new/folders", place / "new/file", place / "new/log"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o775, 0o775, 0o664, 0o664]


@pytest.mark.parametrize("plant", [make_link, make_pipe, make_folder])
def test_a_version_holds_files_only(place, plant):
    folder = place / "run/models/0/v000001-g1-a1"
    folder.mkdir(parents=True)
    (folder / "model.pickle").write_text("weights")
    storage.check_version(folder)
    plant(folder / "more", place / "outside")
    with pytest.raises(UnsafePath, match="more is a"):
        storage.check_version(folder)


@pytest.mark.parametrize("name", ["models", "models/0", "models/0/v000001-g1-a1"])
def test_a_version_is_reached_by_folders_only(place, name):
    version = place / "run/models/0/v000001-g1-a1"
    version.mkdir(parents=True)
    (place / "run" / name).rename(place / "outside/moved")
    (place / "run" / name).symlink_to(place / "outside/moved")
    with pytest.raises(UnsafePath, match=f"{place / 'run' / name} is a link"):
        storage.check_version(version)
