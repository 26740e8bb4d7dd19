"""Where the time of a run went: the parts are told apart, and sum up to the makespan."""

from __future__ import annotations

import math

import pandas
import pytest

from testbed.timeline import INSIDE, PARTS, timeline


def unit(worker, start, ran, end, split="train", outcome="committed", **phases):
    seconds = {"load": 0.0, "build": 0.0, "restore": 0.0, "fetch": 0.0, "wait": 0.0}
    seconds["save"] = end - ran if split == "train" else math.nan
    times = {"start": start, "ran": ran, "end": end}
    return {"worker": worker, "split": split, "outcome": outcome, **times, **seconds, **phases}


UNITS = [
    unit(0, 10.0, 14.0, 14.5, run=3.0, build=0.5, restore=0.25, fetch=0.125),
    unit(0, 14.01, 18.01, 18.5, run=4.0),
    unit(1, 11.0, 13.0, 13.1, run=1.5, wait=0.25),
    unit(1, 15.0, 17.0, 17.0, split="valid", run=2.0),
]


def test_the_parts_sum_up_to_the_makespan():
    found = timeline(pandas.DataFrame(UNITS), 2)
    assert found.makespan == 8.5
    assert tuple(found.parts) == PARTS
    assert sum(found.parts.values()) == pytest.approx(8.5)
    assert found.ratio == pytest.approx(8.5 / 5.25)
    assert found.train_seconds == [1.5, 3.0, 4.0]


def test_each_second_is_in_its_part():
    parts = timeline(pandas.DataFrame(UNITS), 2).parts
    assert parts[INSIDE] == 10.5 / 2
    assert parts["build"] == 0.5 / 2
    assert parts["load and restore"] == 0.25 / 2
    assert parts["fetch"] == 0.125 / 2
    assert parts["wait for the saver"] == 0.25 / 2
    assert parts["RPC and executor"] == pytest.approx((0.125 + 0.25) / 2)
    assert parts["placement and journal"] == pytest.approx(0.01 / 2)
    assert parts["nothing to start"] == pytest.approx((1.0 + 2.0) / 2)
    assert parts["idle at the tail"] == pytest.approx((18.5 - 18.01 + 18.5 - 17.0) / 2)


def test_a_worker_without_units_was_idle():
    parts = timeline(pandas.DataFrame(UNITS[:2]), 2).parts
    assert sum(parts.values()) == pytest.approx(8.5)
    assert parts["idle at the tail"] == pytest.approx((8.5 + 18.5 - 18.01) / 2)


def test_a_run_with_a_failed_attempt_is_no_measurement():
    with pytest.raises(ValueError, match="lost"):
        timeline(pandas.DataFrame([*UNITS, unit(0, 1.0, 2.0, 2.0, outcome="lost", run=1.0)]), 2)
