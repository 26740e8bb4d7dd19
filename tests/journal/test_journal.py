"""The journal: what is written is read, what is damaged is named, one driver writes."""

from __future__ import annotations

import os

import pytest
from written_records import written

from cerebro.errors import JournalDamaged, NotARun, RunHeld, StorageError
from cerebro.journal.journal import Journal, decode, encode, has_begun, read_journal
from cerebro.journal.paths import RunPaths


@pytest.fixture
def paths(tmp_path):
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    paths.create()
    return paths


PLAN = {
    "id": "id", "name": "run", "workers": ["http://w:7777"], "train_partitions": ["/t"],
    "valid_partitions": [], "train_availability": None, "valid_availability": None, "configs": [],
    "backend": "python", "seed": 0, "deterministic": True, "keep_data": True, "functions": {},
}  # fmt: skip


def first():
    return written("generation")


def kinds(paths):
    records, _ = read_journal(paths)
    return [r.kind for r in records]


def write(paths, *names):
    journal = Journal(paths)
    journal.inherit()
    journal.begin(first())
    for name in names:
        journal.append([written(name, 1.0)])
    return journal


def test_records_come_back_in_order_with_rising_numbers(paths):
    write(paths, "a", "b").close()
    records, tail = read_journal(paths)
    assert [r.kind for r in records] == ["generation", "a", "b"]
    assert [r.seq for r in records] == [1, 2, 3]
    assert (tail.generation, tail.seq) == (1, 3)


def test_nan_and_large_numbers_survive():
    record = decode(encode({"loss": float("nan"), "n": 2**70, "text": "\x00\u2028"}))
    assert record["loss"] != record["loss"]
    assert (record["n"], record["text"]) == (2**70, "\x00\u2028")


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_left_out_and_overtaken(paths, cut):
    write(paths, "a", "b").close()
    path = paths.generation(1)
    os.truncate(path, path.stat().st_size - cut)
    assert kinds(paths) == ["generation", "a"]
    write(paths, "c").close()
    assert kinds(paths) == ["generation", "a", "generation", "c"]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_hole_in_the_last_write_is_a_torn_write(paths, lost):
    """A crash may leave any pages of what was not synced."""
    journal = write(paths, "a")
    before = paths.generation(1).stat().st_size
    journal.append([written(kind, 2.0) for kind in ("b", "c", "d")])
    journal.close()
    path = paths.generation(1)
    content = bytearray(path.read_bytes())
    lengths = [len(line) for line in bytes(content[before:]).splitlines(keepends=True)]
    start = before + sum(lengths[:lost])
    content[start : start + lengths[lost]] = bytes(lengths[lost])
    path.write_bytes(content)
    kept = ["generation", "a", "b"][: 2 + lost]
    assert kinds(paths) == kept
    write(paths, "e").close()
    assert kinds(paths) == [*kept, "generation", "e"]


def test_a_hole_before_the_last_write_is_damage(paths):
    """It was synced, so something may have followed from it."""
    journal = write(paths, "a")
    journal.append([written(kind, 2.0) for kind in ("b", "c", "d")])
    journal.close()
    path = paths.generation(1)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"a"', b"\0\0\0"))
    with pytest.raises(JournalDamaged, match=r"000001\.jsonl, line 2"):
        read_journal(paths)


def test_damage_in_the_middle_is_refused_with_file_and_line(paths):
    write(paths, "a", "b", "c").close()
    path = paths.generation(1)
    content = bytearray(path.read_bytes())
    content[content.index(b'"b"') + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalDamaged, match=r"000001\.jsonl, line 3"):
        read_journal(paths)


def test_what_a_replaced_driver_adds_is_void(paths):
    stale = write(paths, "a")
    new = write(paths, "b")
    stale.append([written("stale", 2.0)])
    new.append([written("c", 2.0)])
    assert kinds(paths) == ["generation", "a", "generation", "b", "c"]


def test_damage_to_what_a_later_generation_was_built_on_is_refused(paths):
    write(paths, "a").close()
    write(paths, "b").close()
    path = paths.generation(1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + encode({"kind": "forged", "t": 1.0, "seq": 2}))
    with pytest.raises(JournalDamaged, match="built on"):
        read_journal(paths)


def test_one_driver_claims_a_generation(paths, monkeypatch):
    """Two that look at the same time see the same: the file system lets one of them create it."""
    write(paths, "a")
    monkeypatch.setattr(RunPaths, "generations", lambda _: [])
    with pytest.raises(RunHeld, match="another driver"):
        Journal(paths)


def test_a_driver_whose_claim_was_overtaken_is_told(paths):
    write(paths, "a").close()
    slow = Journal(paths)
    write(paths, "b").close()
    with pytest.raises(RunHeld, match="another driver"):
        slow.inherit()


def test_what_is_added_between_claim_and_reading_counts_and_later_does_not(paths):
    before = write(paths, "a")
    journal = Journal(paths)
    before.append([written("in time", 1.0)])
    assert [r.kind for r in journal.inherit()] == ["generation", "a", "in time"]
    before.append([written("late", 1.0)])
    journal.begin(first())
    assert kinds(paths) == ["generation", "a", "in time", "generation"]


def test_a_first_record_that_comes_after_a_later_claim_is_void(paths):
    slow = Journal(paths)
    slow.inherit()
    write(paths, "b").close()
    slow.begin(first())
    slow.append([written("late", 1.0)])
    assert kinds(paths) == ["generation", "b"]
    write(paths, "c").close()
    assert kinds(paths) == ["generation", "b", "generation", "c"]


def test_a_run_has_begun_once_a_plan_counts(paths):
    """A driver that was replaced before it wrote its plan begins nothing when it wakes."""
    slow = write(paths)
    assert not has_begun(paths)
    write(paths).close()  # and its driver dies
    slow.append([written("plan", 1.0, plan=PLAN)])
    assert kinds(paths) == ["generation", "generation"]
    assert not has_begun(paths)
    new = write(paths)
    new.append([written("plan", 1.0, plan=PLAN), written("a", 1.0)])
    new.close()
    assert has_begun(paths)
    write(paths).close()
    paths.generation(5).touch()
    assert has_begun(paths)
    assert kinds(paths) == ["generation", "generation", "generation", "plan", "a", "generation"]


def test_a_claim_that_was_never_written_does_not_stand_in_the_way(paths):
    write(paths, "a").close()
    paths.generation(2).touch()
    assert kinds(paths) == ["generation", "a"]
    write(paths, "b").close()
    assert kinds(paths) == ["generation", "a", "generation", "b"]
    assert paths.generations() == [1, 2, 3]


def test_a_write_that_fails_opens_a_new_generation_and_loses_nothing(paths, monkeypatch):
    journal = write(paths, "a")
    real, calls = os.write, []

    def failing(descriptor, content):
        calls.append(content)
        if len(calls) == 1:
            real(descriptor, content[:7])
            raise OSError(28, "No space left on device")
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", failing)
    waits = []
    journal.append([written("b", 1.0), written("c", 1.0)], lambda *w: waits.append(w))
    assert "000001.jsonl: No space left" in str(waits[0][0])
    monkeypatch.undo()
    journal.append([written("d", 1.0)])
    assert kinds(paths) == ["generation", "a", "generation", "b", "c", "d"]
    assert paths.generations() == [1, 2]


def test_storage_that_stays_broken_is_an_error_that_names_the_file(paths, monkeypatch):
    journal = write(paths, "a")

    def failing(descriptor, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(StorageError, match="No space left"):
        journal.append([written("b", 1.0)])


def waited(trouble, seconds):
    """Wait for no time at all."""


def test_storage_that_is_full_for_long_uses_up_no_generations(paths, monkeypatch):
    journal = write(paths, "a")
    waits = []

    def full(descriptor):
        raise OSError(28, "No space left on device")

    def wait(trouble, seconds):
        waits.append(seconds)
        if len(waits) == 9:
            monkeypatch.undo()

    monkeypatch.setattr(os, "fsync", full)
    journal.append([written("b", 1.0)], wait)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert paths.generations() == [1, 2]
    assert kinds(paths) == ["generation", "a", "generation", "b"]
    assert not list(paths.journal.glob(".tmp-*"))


def test_a_wait_that_gives_up_leaves_a_journal_that_can_go_on(paths, monkeypatch):
    journal = write(paths, "a")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    def give_up(trouble, seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyboardInterrupt):
        journal.append([written("b", 1.0)], give_up)
    monkeypatch.undo()
    journal.append([written("c", 1.0)])
    assert [k for k in kinds(paths) if k != "generation"] == ["a", "c"]


def test_a_driver_that_waits_for_storage_learns_that_it_was_replaced(paths, monkeypatch):
    journal = write(paths, "a")
    calls = []
    real = os.fsync

    def once(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", once)
    with pytest.raises(RunHeld, match="another driver"):
        journal.append([written("b", 1.0)], lambda *_: write(paths, "other"))
    # The other has found the record whose sync had failed, and built on it.
    assert kinds(paths) == ["generation", "a", "b", "generation", "other"]


def test_what_a_replaced_driver_adds_is_void_after_a_claim_that_was_never_written(paths):
    stale = write(paths, "a")
    paths.generation(2).touch()
    new = write(paths, "b")
    stale.append([written("stale", 2.0)])
    new.append([written("c", 2.0)])
    assert kinds(paths) == ["generation", "a", "generation", "b", "c"]


def test_a_folder_without_a_journal_is_no_run(tmp_path):
    with pytest.raises(NotARun, match="no journal"):
        read_journal(RunPaths(tmp_path))


@pytest.mark.parametrize("failures", [(1, 3), (1, 4), (1, 5), (1, 2, 4)])
def test_records_whose_sync_failed_again_and_again_count_once(paths, monkeypatch, failures):
    """They stand in every file that was tried, and nobody knows how much of each is durable.

    The first sync is the record's; then come the probe's, the claim's, its folder's, the record's.
    """
    journal = write(paths, "a")
    real, calls = os.fsync, []

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) in failures:
            raise OSError(5, "Input/output error")
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    journal.append([written("b", 1.0)], waited)
    monkeypatch.undo()
    journal.append([written("c", 1.0)])
    assert paths.generations() == [1, 2, 3]
    assert [k for k in kinds(paths) if k != "generation"] == ["a", "b", "c"]
