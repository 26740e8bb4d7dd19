"""Which versions stay: the newest, the one before, the best, and what a child will read."""

from __future__ import annotations

import math

from cerebro.hopper.retention import Retention


def epochs(retention, errors, per_epoch=2):
    """Commit `per_epoch` versions for each error. Returns what is still there."""
    present, version = set(), 0
    for error in errors:
        for _ in range(per_epoch):
            version += 1
            present.add(version)
            for stale in retention.committed(0, version):
                retention.dropped(0, stale)
                present.remove(stale)
        for stale in retention.epoch_ended(0, version, error):
            retention.dropped(0, stale)
            present.remove(stale)
    return present


def test_the_newest_the_one_before_and_the_best_are_kept():
    assert epochs(Retention(), [0.5, 0.1, 0.3]) == {4, 5, 6}
    assert epochs(Retention(), [0.1, 0.5, 0.3, 0.2]) == {2, 7, 8}


def test_the_end_of_the_last_epoch_is_kept_where_models_may_be_copied():
    retention = Retention(keep_epoch_ends=True)
    assert epochs(retention, [0.1, 0.5, 0.3], per_epoch=3) == {3, 8, 9}
    present = set()
    for version in (10, 11):
        present.add(version)
        for stale in retention.committed(0, version):
            retention.dropped(0, stale)
            present.add(-stale)
    assert present == {10, 11, -8}, "3 is the best, 9 the epoch's end"


def test_a_number_that_is_no_number_is_never_the_best():
    assert epochs(Retention(), [math.nan, 0.5, math.nan, math.nan]) == {4, 7, 8}
    assert epochs(Retention(), [math.nan, math.nan, math.nan]) == {5, 6}


def test_an_infinite_error_is_the_best_where_there_is_no_other():
    assert epochs(Retention(), [math.inf, math.nan, math.inf]) == {2, 5, 6}


def test_the_best_version_stays_the_best_when_it_has_to_be_made_again():
    retention = Retention()
    epochs(retention, [0.1])
    retention.voided(0, 2)
    gone = retention.committed(0, 2)
    for version in (3, 4, 5, 6):
        gone += retention.committed(0, version)
        if version % 2 == 0:
            gone += retention.epoch_ended(0, version, 0.2)
    assert 2 not in gone


def test_what_a_child_will_read_is_kept_until_every_child_has_read_it():
    retention = Retention()
    epochs(retention, [math.nan])
    retention.pin(0, 2)
    retention.pin(0, 2)
    assert 2 not in retention.committed(0, 3) + retention.committed(0, 4)
    assert 2 not in retention.unpin(0, 2)
    assert 2 in retention.unpin(0, 2)


def test_infinity_is_the_best_only_where_there_is_no_number():
    assert epochs(Retention(), [math.inf, math.inf, math.inf]) == {2, 5, 6}
    assert epochs(Retention(), [math.inf, 0.5, math.inf, 0.7]) == {4, 7, 8}


def test_a_version_that_turns_out_to_be_ruined_makes_room_for_the_next_best():
    retention = Retention()
    assert epochs(retention, [0.1]) == {1, 2}
    retention.ruined(0, [2])
    gone = retention.committed(0, 3)
    gone += retention.epoch_ended(0, 3, 0.4)
    for version in (4, 5, 6):
        gone += retention.committed(0, version)
    assert {1, 2, 3, 4, 5, 6}.difference(gone) == {3, 5, 6}, "3 is the best"
