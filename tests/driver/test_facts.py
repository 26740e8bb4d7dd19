"""What a worker says of itself, before it is believed."""

from __future__ import annotations

import pytest

from cerebro import machine
from cerebro.driver.admission import check_facts, check_holder
from cerebro.errors import NotAWorker

FACTS = {**machine.versions(), **machine.host(), "threads": 2, "gpu": None, "held": None}


def test_what_a_worker_says_is_taken():
    check_facts("http://a:7777", {**FACTS, "later": {"a": [1]}})


@pytest.mark.parametrize(
    "facts",
    [
        None,
        5,
        [],
        {},
        {**FACTS, "pid": 10**400},
        {**FACTS, "host": 5},
        {**FACTS, "threads": -1},
        {**FACTS, "devices": 5},
        {**FACTS, "keras": ["3"]},
        {**FACTS, "later": [[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]},
    ],
)
def test_what_no_worker_says_is_refused(facts):
    with pytest.raises(NotAWorker, match="what answers at http://a:7777 says of itself"):
        check_facts("http://a:7777", facts)


def test_a_run_that_nobody_can_hold_is_refused():
    with pytest.raises(NotAWorker, match="says that it holds a run, and not which"):
        check_holder("http://a:7777", {**FACTS, "held": {"run": "../x"}}, "id")
