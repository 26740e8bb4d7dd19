"""When two drivers with one run id have one folder."""

from __future__ import annotations

from cerebro.storage import FolderIdentity
from cerebro.worker.run_folder import RunFolder

SHARE, AGAIN = 40, 41


def folder(path, device, inode):
    return RunFolder(path, FolderIdentity(device, inode))


def test_a_renamed_folder_is_the_same_and_a_copy_is_not():
    assert folder("/old", SHARE, 7).is_same(folder("/new", SHARE, 7))
    assert not folder("/run", SHARE, 7).is_same(folder("/copy", SHARE, 8))
    assert not folder("/run", SHARE, 7).is_same(folder("/run", SHARE, 8)), "another took the name"


def test_a_share_that_was_mounted_again_has_another_device_and_the_same_folder(tmp_path):
    there = FolderIdentity.of(tmp_path)
    before = RunFolder(str(tmp_path), FolderIdentity(there.device + 1, there.inode))
    assert before.is_same(RunFolder.look(str(tmp_path)))
    (tmp_path / "copy").mkdir()
    assert not before.is_same(RunFolder.look(str(tmp_path / "copy")))


def test_the_inode_of_another_device_says_nothing():
    assert not folder("/nowhere/run", SHARE, 7).is_same(folder("/copy", AGAIN, 7))


def test_what_cannot_be_looked_at_goes_by_its_name():
    gone = RunFolder.look("/nowhere/run")
    assert gone.is_same(RunFolder.look("/nowhere/run"))
    assert not gone.is_same(RunFolder.look("/nowhere/copy"))


def test_what_was_put_back_lacks_generations_that_were_at_work(tmp_path):
    look = RunFolder.look(str(tmp_path))
    assert not look.was_put_back(3), "where there is no journal, nobody can tell"
    (tmp_path / "journal").mkdir()
    assert not look.was_put_back(3)
    for number in (1, 2):
        (tmp_path / "journal" / f"{number:06d}.jsonl").touch()
    assert look.was_put_back(3)
    assert not look.was_put_back(2)
