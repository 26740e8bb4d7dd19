"""`~` in a path: the home folder, or an error; never a folder that is called `~`."""

from __future__ import annotations

import numpy as np
import pytest
from test_validation import scheduled

from cerebro.data import partition_arrays
from cerebro.errors import InputError
from cerebro.users import expanded


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_paths_without_one_stay_as_they_are(home):
    for path in ("a", "./~/a", "a/../b", "/a/~"):
        assert expanded(path) == path
    assert expanded(home / "a") == str(home / "a")


def test_what_is_given_to_the_library_lies_in_the_home_folder(home, tmp_path):
    assert scheduled(tmp_path, ckpt_root="~/runs").root == home / "runs"
    arrays = {"x": np.arange(8).reshape(4, 2), "y": np.zeros(4)}
    partition_arrays("~/data", arrays, train=2, valid=0)
    assert (home / "data").is_dir()
    assert not (tmp_path / "~").exists()


def test_without_a_home_folder_it_is_refused(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "")
    with pytest.raises(InputError, match="HOME is ''"):
        scheduled(tmp_path, ckpt_root="~/runs")
    with pytest.raises(InputError, match="HOME is ''"):
        partition_arrays("~", {}, train=2, valid=0)
