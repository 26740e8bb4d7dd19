"""Whether a run's folder is itself, moved, or a copy; and of whom its driver.json speaks."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from hand_written_run import ME
from written_records import written

from cerebro.errors import RunHeld, StorageError
from cerebro.journal import identity
from cerebro.journal.identity import original_of
from cerebro.journal.journal import Journal, decode, encode
from cerebro.journal.ownership import Ownership, check_free, read_holder, sign_of_life, successor
from cerebro.journal.paths import RunPaths


def drive(root, run):
    """Another driver's turn, as far as the journal tells of it."""
    paths = RunPaths(root)
    paths.root.mkdir(exist_ok=True)
    paths.create()
    journal = Journal(paths)
    if journal.generation > 1:
        journal.inherit()
    journal.begin(written("generation", run=run, folder=str(root)))
    journal.close()
    return paths


def copied(paths, name):
    target = paths.root.parent / name
    shutil.copytree(paths.root, target)
    return RunPaths(target)


@pytest.fixture
def exp(tmp_path):
    return drive(tmp_path / "exp", "A")


def test_a_folder_that_was_moved_is_itself(exp, tmp_path):
    assert original_of(exp) is None
    moved = RunPaths(exp.root.rename(tmp_path / "moved"))
    assert original_of(moved) is None
    exp.root.mkdir()
    assert original_of(moved) is None, "a folder without a run has taken the name"
    exp.root.rmdir()
    exp.root.write_text("a file has taken the name")
    assert original_of(moved) is None


def test_a_folder_whose_name_another_run_has_taken_is_itself(exp, tmp_path):
    moved = RunPaths(exp.root.rename(tmp_path / "moved"))
    drive(exp.root, "B")
    assert original_of(moved) is None
    assert original_of(exp) is None


def test_a_copy_is_known_as_long_as_the_original_is_there(exp):
    copy = copied(exp, "copy")
    assert original_of(copy) == exp.root
    assert original_of(exp) is None, "the original is never a copy of the copy"
    shutil.rmtree(exp.root)
    assert original_of(copy) is None, "it takes the place of what is gone"


def test_a_copy_that_was_driven_is_itself_and_has_copies_of_its_own(exp):
    copy = drive(copied(exp, "copy").root, "B")
    assert original_of(copy) is None
    assert original_of(exp) is None
    again = copied(copy, "again")
    assert original_of(again) == copy.root
    shutil.rmtree(copy.root)
    assert original_of(again) is None


def test_a_copy_is_known_by_any_id_that_the_original_has_had(exp):
    """A folder that was put in the place of its original, and had to take another id there."""
    copy = copied(exp, "copy")
    drive(exp.root, "B")
    assert original_of(copy) == exp.root


def test_another_path_to_the_folder_makes_no_copy_of_it(exp, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(exp.root)
    assert original_of(RunPaths(tmp_path / "link")) is None

    # Two mounts of one share have two device numbers.
    (tmp_path / "mount").symlink_to(exp.root)
    monkeypatch.setattr(identity, "same_folder", lambda one, other: False)
    before = sorted(os.listdir(exp.root))
    assert original_of(RunPaths(tmp_path / "mount")) is None
    assert sorted(os.listdir(exp.root)) == before
    assert original_of(copied(exp, "copy")) == exp.root


def test_an_old_journal_says_by_its_checkpoints_where_it_lay(exp):
    lines = [decode(line) for line in exp.generation(1).read_bytes().splitlines(keepends=True)]
    del lines[0]["folder"]
    exp.generation(1).write_bytes(b"".join(map(encode, lines)))
    assert original_of(copied(exp, "unknown")) is None
    committed = {"kind": "committed", "checkpoint": f"{exp.root}/models/0/v000001-g1-a1/model"}
    exp.generation(1).write_bytes(b"".join(map(encode, [*lines, committed])))
    assert original_of(copied(exp, "copy")) == exp.root
    assert original_of(exp) is None


def test_a_journal_that_names_no_folder_of_this_host_is_of_a_moved_run(exp):
    for number, folder in enumerate(("relative", "/proc/self", "/nowhere", "/etc/passwd", "")):
        copy = copied(exp, f"copy{number}")
        lines = [decode(line) for line in copy.generation(1).read_bytes().splitlines(True)]
        lines[0]["folder"] = folder
        copy.generation(1).write_bytes(b"".join(map(encode, lines)))
        assert original_of(copy) is None


# --- driver.json --------------------------------------------------------------------------------


def hold(paths, **changed):
    """`driver.json` of a driver that lives: this process."""
    entry = {**ME, "folder": str(paths.root), **changed}
    paths.driver.write_text(json.dumps(entry))


def never(seconds):
    pytest.fail("waited")


@pytest.mark.parametrize("old", [False, True])
def test_a_copy_of_a_run_that_is_driven_is_free(exp, old):
    """Also where the driver is of an earlier version, which says not where it drives."""
    hold(exp, **({"folder": None} if old else {}))
    copy = copied(exp, "copy")
    check_free(copy, say=print, wait=never)
    sign = sign_of_life(copy)
    assert (sign.alive, "nobody drives this copy" in sign.how) == (False, True)
    with pytest.raises(RunHeld):
        check_free(exp, say=print, wait=never)
    assert sign_of_life(exp).alive


def test_a_copy_that_is_driven_itself_is_held(exp):
    """Also before its driver has written the first record: then the journal is the original's."""
    hold(exp)
    copy = copied(exp, "copy")
    hold(copy)
    with pytest.raises(RunHeld):
        check_free(copy, say=print, wait=never)
    assert sign_of_life(copy).alive


def test_a_folder_that_was_moved_while_its_driver_lives_is_held(exp, tmp_path):
    hold(exp)
    moved = RunPaths(exp.root.rename(tmp_path / "moved"))
    with pytest.raises(RunHeld):
        check_free(moved, say=print, wait=never)
    drive(exp.root, "B")
    with pytest.raises(RunHeld):
        check_free(moved, say=print, wait=never)
    assert sign_of_life(moved).alive


def test_a_copied_holder_of_a_later_generation_has_not_taken_the_copy_up(exp):
    """A folder is copied file by file, while its drivers come and go."""
    copy = copied(exp, "copy")
    hold(copy, folder=str(exp.root), generation=5)
    assert successor(copy, lambda: 2) is None
    hold(copy, generation=5)
    assert "process" in successor(copy, lambda: 2)


def test_a_driver_whose_folder_was_moved_away_leaves_the_next_run_alone(exp, tmp_path):
    """Its claim, and that its process is gone, belong to the folder that it had."""
    ownership = Ownership(exp, lambda: 1)
    try:
        assert not ownership.replaced()
        exp.root.rename(tmp_path / "moved")
        # Nothing is there yet, as where a share is not mounted.
        with pytest.raises(StorageError, match=r"not there any more: mount it, or move it back"):
            ownership.check()
        new = drive(exp.root, "B")
        hold(new, counter=77)
        assert ownership.replaced()
        with pytest.raises(Exception, match="moved away while it was driven") as caught:
            ownership.check()
        assert type(caught.value).__name__ == "Superseded"
    finally:
        ownership.release()
    assert read_holder(new)["counter"] == 77
    assert read_holder(new)["released"] is False


def test_a_mirror_of_a_run_does_not_make_the_run_a_copy_whose_driver_is_elsewhere(exp):
    """The mirror lies, on this host, where the driver has the run on its own."""
    mirror = exp
    holder = {**ME, "folder": str(mirror.root), "host": "elsewhere", "here": "another boot"}
    live = copied(mirror, "mounted")
    mirror.driver.write_text(json.dumps({**holder, "counter": 3}))
    live.driver.write_text(json.dumps({**holder, "counter": 3}))
    assert not sign_of_life(live).alive, "it may have come with a copy"
    live.driver.write_text(json.dumps({**holder, "counter": 4}))
    assert sign_of_life(live).alive
    waited = []

    def wait(seconds):
        waited.append(seconds)
        live.driver.write_text(json.dumps({**holder, "counter": 5}))

    with pytest.raises(RunHeld, match="elsewhere"):
        check_free(live, say=print, clock=lambda: float(len(waited)), wait=wait)
