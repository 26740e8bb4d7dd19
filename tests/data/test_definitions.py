"""Partition definition files: what they may hold, and what each mistake says."""

from __future__ import annotations

import re

import pytest

from cerebro.data import partition_dirs
from cerebro.errors import PartitionError


@pytest.fixture
def folder(tmp_path):
    """A folder `defs` for definition files, beside two directories of data, S01 and S02."""
    for name in ("defs", "S01", "S02"):
        (tmp_path / name).mkdir()
    return tmp_path


def write(folder, content: str):
    path = folder / "defs" / "train_0.txt"
    path.write_text(content, encoding="utf-8")
    return path


def refused(path, *parts: str) -> str:
    with pytest.raises(PartitionError) as caught:
        partition_dirs(path)
    message = str(caught.value)
    for part in parts:
        assert part in message
    return message


def test_directories_in_the_order_of_the_file(folder):
    path = write(folder, f"../S02\n{folder}/S01\n")
    assert partition_dirs(path) == [str(folder / "S02"), str(folder / "S01")]


def test_blank_lines_comments_and_white_space_are_skipped(folder):
    path = write(folder, "# subjects\n\n  ../S01  \r\n   \n  # ../S02\n")
    assert partition_dirs(path) == [str(folder / "S01")]


def test_a_relative_path_counts_from_the_file_not_the_working_directory(folder, monkeypatch):
    path = write(folder, "../S01")
    monkeypatch.chdir(path.parent)
    assert partition_dirs("train_0.txt") == [str(folder / "S01")]
    monkeypatch.chdir("/")
    assert partition_dirs(str(path)) == [str(folder / "S01")]


def test_names_may_hold_hashes_blanks_and_a_byte_order_mark(folder):
    (folder / "S 03#b").mkdir()
    path = write(folder, "\ufeff../S 03#b\n")
    assert partition_dirs(path) == [str(folder / "S 03#b")]


def test_missing_file(folder):
    refused(folder / "defs" / "no.txt", "there is no partition definition file", "no.txt")


def test_a_directory_in_place_of_the_file(folder):
    refused(folder / "S01", str(folder / "S01"), "is a directory")


def test_file_that_cannot_be_read(folder):
    path = write(folder, "../S01")
    refused(f"{path}/inside", "cannot be read", "train_0.txt")


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing\n"])
def test_empty_file(folder, content):
    path = write(folder, content)
    refused(path, str(path), "lists no directory")


def test_directory_that_is_not_there(folder):
    path = write(folder, "../S01\n\n../S09\n")
    refused(path, f"{path}, line 3", str(folder / "S09"), "no directory")


def test_directory_that_cannot_be_looked_at(folder):
    path = write(folder, f"../S01\n../{'x' * 300}\n")
    refused(path, f"{path}, line 2: cannot read", "File name too long")


def test_something_that_is_no_directory(folder):
    (folder / "notes").write_text("x")
    path = write(folder, "../notes\n")
    refused(path, f"{path}, line 1", "not a directory")


def test_a_directory_listed_twice_under_other_spellings(folder):
    (folder / "link").symlink_to(folder / "S01")
    for second in ("../S01", "../S02/../S01/", "../link"):
        path = write(folder, f"# first\n../S01\n{second}\n")
        message = refused(path, f"{path}, line 3")
        assert re.search(r"already listed in line 2\b", message)


def test_a_file_that_is_no_text(folder):
    path = folder / "defs" / "train_0.txt"
    path.write_bytes(b"../S01\n\xff\xfe\n")
    refused(path, f"{path}, line 2", "not UTF-8")
