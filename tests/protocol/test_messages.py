"""Messages between driver, daemon and executor: there and back through JSON, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import logging
import typing

import pytest
from worker_side import DRIVER, order, run_options

from cerebro.hopper.units import Failure, Split
from cerebro.journal.records import CommittedRecord
from cerebro.protocol.messages import (
    EVENTS,
    AttemptFailed,
    AttemptRan,
    AttemptRunning,
    AttemptTimed,
    AttemptUntimed,
    DrainStarted,
    EventKind,
    ExecutorCannotStart,
    ExecutorDied,
    ExecutorSetup,
    ExecutorStarted,
    HeldRun,
    Item,
    Leaving,
    LoadFailed,
    LoadsDone,
    LoadWaits,
    PartitionLoaded,
    RunOptions,
    SaveWaits,
    Ticket,
    UnitOrder,
    VersionPublished,
    parse_event,
)

PROBLEM = {
    "message": "no such numbers",
    "error": "ValueError",
    "function": "input_fn",
    "traceback": "Traceback …",
    "output": "reading\n",
}
EXAMPLES = [
    ExecutorStarted(devices=["CPU"], pid=42),
    ExecutorCannotStart(**PROBLEM),
    LoadWaits(path="/data/1", cause="not reached"),
    PartitionLoaded(path="/data/1", seconds=0.5),
    LoadFailed(split=Split.VALID, partition=3, path="/data/3", **PROBLEM),
    LoadsDone(),
    AttemptRunning(attempt=7),
    AttemptTimed(attempt=7),
    AttemptUntimed(attempt=7),
    AttemptRan(
        attempt=7, loss=1, error=0.25, examples=None, phases={"run": 1.5}, output="",
        metrics={"auc": 0.5}, states={"auc": {"kind": "AUC"}},
    ),
    SaveWaits(attempt=7, path="/models/v1", cause="disk full"),
    VersionPublished(attempt=7, checkpoint="/models/v1/state", save=0.1, finite=False),
    AttemptFailed(attempt=7, failure=Failure.TIMEOUT, **PROBLEM),
    ExecutorDied(attempts=[7, 8], cause="signal 9 (SIGKILL)", output=""),
    DrainStarted(attempts=[]),
    Leaving(drained=True),
]  # fmt: skip


def through_json(message):
    return json.loads(json.dumps(message.to_json()))


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.kind.value)
def test_every_event_comes_through_json_as_it_was(event):
    content = through_json(event)
    assert content["kind"] == event.kind.value
    assert parse_event(content) == event


def test_every_kind_of_event_has_a_class_and_an_example():
    assert set(EVENTS) == set(EventKind) == {event.kind for event in EXAMPLES}


@pytest.mark.parametrize(
    "message",
    [
        Ticket("run", 2, 3),
        DRIVER,
        HeldRun("run", 2, lease_left=3.5, **vars(DRIVER)),
        run_options(unit_timeout=1.5),
        ExecutorSetup(run_options(), threads=2, gpu=None, gpu_memory_gb=1.5, log_level=20),
        Item(Split.TRAIN, 1, "/data/1"),
        UnitOrder.from_json(order(1, writes="/models/v1")),
    ],
    ids=lambda message: type(message).__name__,
)
def test_every_order_comes_through_json_as_it_was(message):
    again = type(message).from_json(through_json(message))
    assert again == message
    assert [type(value) for value in vars(again).values()] == [
        type(value) for value in vars(message).values()
    ]


def test_an_event_of_an_unknown_kind_is_passed_over(caplog):
    with caplog.at_level(logging.DEBUG, "cerebro.protocol"):
        assert parse_event({"number": 1, "kind": "of_a_later_version", "attempt": 1}) is None
    assert "of_a_later_version" in caplog.text


def test_unknown_fields_are_passed_over():
    event = AttemptTimed(attempt=7)
    assert parse_event({**event.to_json(), "number": 1, "later": [1]}) == event


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.kind.value)
def test_a_field_that_is_missing_is_refused_by_name(event):
    for field in dataclasses.fields(event):
        content = through_json(event)
        given = content.pop(field.name)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            with pytest.raises(ValueError, match=f"^{event.kind.value}: {field.name} is missing"):
                parse_event(content)
        else:
            assert given is not None
            parse_event(content)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.kind.value)
def test_a_field_of_another_type_is_refused_by_name_and_value(event):
    for field in dataclasses.fields(event):
        content = {**through_json(event), field.name: {"odd": ["value"]}}
        with pytest.raises(ValueError, match=rf"^{event.kind.value}: {field.name} must be .*odd"):
            parse_event(content)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (UnitOrder, {**order(1), "attempt": "1"}, "UnitOrder: attempt must be int, not '1'"),
        (UnitOrder, {**order(1), "split": "test"}, "split must be one of 'train', 'valid', not"),
        (Item, 7, "Item must be a JSON object, not 7"),
        (Item, {"split": "train", "path": "a"}, "Item: partition is missing"),
        (RunOptions, {**run_options().to_json(), "keep_data": 1}, "keep_data must be bool, not 1"),
        (
            ExecutorSetup,
            {"options": {"backend": "python"}, "threads": 1},
            "ExecutorSetup: options: deterministic is missing",
        ),
    ],
)
def test_orders_of_another_form_are_refused(kind, content, message):
    with pytest.raises(ValueError, match=message):
        kind.from_json(content)


@pytest.mark.parametrize("content", [None, 7, [], {}, {"kind": 3}, {"kind": ["ran"]}])
def test_what_is_not_an_event_is_refused(content):
    with pytest.raises(ValueError, match="is not an event"):
        parse_event(content)


def test_an_event_that_fails_says_which_failures_there_are():
    content = {**through_json(EXAMPLES[12]), "failure": "fate"}
    with pytest.raises(ValueError, match=r"failed: failure must be one of 'user', .* not 'fate'"):
        parse_event(content)


RAN = {
    "attempt": 1, "loss": 0.5, "error": 0.5, "examples": None, "phases": {"run": 1.0}, "output": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempt", -1),
        ("attempt", 2**60),
        ("loss", 10**400),
        ("examples", float("nan")),
        ("examples", -1.0),
        ("examples", 10**400),
        ("phases", {"run": float("nan")}),
        ("phases", {"run": -1.0}),
        ("phases", {"load": 1.0}),
        ("metrics", {"auc": 10**400}),
        ("states", {"auc": {"settings": json.loads("[" * 60 + "]" * 60)}}),
    ],
)
def test_a_report_out_of_range_is_refused(field, value):
    assert parse_event({**RAN, "kind": "ran"}).loss == 0.5
    with pytest.raises(ValueError, match=field):
        parse_event({**RAN, "kind": "ran", field: value})


def test_what_a_worker_may_say_the_journal_can_hold():
    """One table of bounds for both: else a report could leave a journal that nobody can read."""
    said = typing.get_type_hints(AttemptRan, include_extras=True)
    said |= typing.get_type_hints(VersionPublished, include_extras=True)
    recorded = typing.get_type_hints(CommittedRecord, include_extras=True)
    common = {n for n in said.keys() & recorded.keys() if n != "kind"}
    assert {"attempt", "loss", "examples", "metrics", "states", "phases"} < common
    for name in common - {"checkpoint"}:  # of a training unit only
        assert said[name] == recorded[name], name
