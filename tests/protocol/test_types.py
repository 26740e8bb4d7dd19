"""Calls of other types than a method declares are refused before anything is done."""

from __future__ import annotations

from typing import Any

import pytest
from patience import SOON
from worker_side import order

from cerebro.errors import RpcFault
from cerebro.protocol.types import checked, fits


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        ("x", str, True),
        (3, str, False),
        (None, str | None, True),
        ([1, 2], list[int], True),
        ([1, "2"], list[int], False),
        ({"a": [1]}, dict[str, Any], True),
        ({"a": 1}, dict[str, str], False),
        ("ab", list[str], False),
    ],
)
def test_types(value, hint, expected):
    assert fits(value, hint) is expected


def test_a_method_is_not_entered_with_another_type():
    entered = []

    def method(path: str, times: int) -> None:
        entered.append(path)

    with pytest.raises(ValueError, match="method: times must be int, not True"):
        checked(method)(path="a", times=True)
    assert not entered
    checked(method)(path="a", times=2)
    assert entered == ["a"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("probe_storage", {"write": "/nowhere/x", "read": [3]}),
        ("probe_storage", {"write": 3, "read": []}),
        ("events", {"after": 0, "wait": "1"}),
        ("preload", {"items": [{"split": "train", "partition": "0", "path": "a"}]}),
        ("preload", {"items": [7]}),
        ("unstage", {"attempt": [1]}),
        ("start", {"order": {**order(1), "attempt": "1"}}),
        ("start", {"order": {**order(1), "path": 3}}),
        ("forget", {"models": [None]}),
        ("orders", {"orders": [{"method": "start", "params": {"order": {"attempt": 1}}}]}),
        ("orders", {"orders": [{"method": "close_run", "params": {}}]}),
        ("orders", {"orders": [{"method": ["start"], "params": {}}]}),
        ("orders", {"orders": [{"method": "unstage", "params": 7}]}),
        ("orders", {"orders": [{"method": "unstage", "params": {"ticket": {}, "attempt": 1}}]}),
    ],
)
def test_a_worker_refuses_other_types_and_works_on(side, method, params):
    side.open()
    ticket = {} if method == "probe_storage" else {"ticket": side.ticket}
    with pytest.raises(RpcFault):
        side.client.call(method, SOON, **ticket, **params)
    side.start(5)
    assert side.until("ran", attempt=5)


@pytest.mark.parametrize("field", ["generation", "incarnation"])
def test_true_is_not_a_number_in_a_ticket(side, field):
    side.open()
    ticket = {**side.ticket, field: True}
    with pytest.raises(RpcFault, match=f"Ticket: {field} must be int, not True"):
        side.client.call("events", SOON, ticket=ticket, after=0, wait=0.0)
