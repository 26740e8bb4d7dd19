"""Records: what was read is written again as it was, and what does not fit is refused."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import pickle
from pathlib import Path

import pytest
from written_records import written

from cerebro.errors import JournalDamaged
from cerebro.hopper.units import ModelState, Split
from cerebro.journal.journal import Journal, decode, encode, read_journal
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import (
    KINDS,
    NewModelEntry,
    Predecessor,
    StartedRecord,
    UnknownRecord,
    parse,
)

RUNS = Path(__file__).resolve().parents[1] / "old_runs" / "runs"
FILES = sorted(RUNS.glob("*/journal/*.jsonl"))
LINES = [line for file in FILES for line in file.read_bytes().splitlines(keepends=True)]

NEW = {"model": 2, "mst": {"rate": 1}, "epoch": 1, "parent": 0, "checkpoint": "/c"}
ENDING = {"generation": 1, "length": 9, "sha256": "ab" * 32, "seq": 4}
FIELDS = {
    "generation": {"driver": {"pid": 1}, "versions": {}, "git_commit": None, "predecessor": ENDING},
    "worker": {"worker": 0, "url": "http://w", "state": "lost", "reason": "gone"},
    "started": {
        "attempt": 0, "worker": 1, "model": 2, "epoch": 3, "split": "valid", "partition": 4,
        "reads": 5,
    },
    "committed": {"attempt": 0, "loss": 1, "error": 0.5, "examples": None, "phases": {"run": 1.0}},
    "failed": {"attempt": 0, "failure": "executor", "message": "it died"},
    "model_failed": {"model": 0, "attempt": -1, "failure": "replayed", "message": "so it was"},
    "void": {"model": 0, "version": 1},
    "dropped": {"model": 0, "version": 1},
    "decision": {"asked": [0, 1], "stop": {"1": "STOPPED"}, "add": [NEW]},
    "interrupted": {"reason": "Ctrl-C"},
    "reopened": {"models": [0], "why": "retry_failed"},
    "end": {},
}  # fmt: skip
"""What a record of each kind needs, as on disk; that of a plan comes from a recorded run."""


def contents():
    """One record of each kind."""
    found = {kind: written(kind, 1.5, seq=7, **fields).to_json() for kind, fields in FIELDS.items()}
    found["plan"] = next(c for c in map(decode, LINES) if c["kind"] == "plan")
    return found


CONTENTS = contents()


def test_there_is_one_of_each_kind():
    assert CONTENTS.keys() == KINDS.keys()


@pytest.mark.parametrize("line", LINES)
def test_recorded_lines_are_written_again_as_they_are(line):
    assert encode(parse(decode(line), 1).to_json()) == line


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_known_is_kept(kind):
    content = {**CONTENTS[kind], "later": {"a": [1]}}
    record = parse(content, 3)
    assert type(record) is KINDS[kind]
    assert record.extra == {"later": {"a": [1]}}
    assert record.to_json() == content


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("plan", lambda content: content["plan"].update(later=1)),
        ("decision", lambda content: content["add"][0].update(later=1)),
        ("generation", lambda content: content["predecessor"].update(later=1)),
    ],
)
def test_what_is_not_known_of_what_a_field_holds_is_kept(kind, change):
    content = copy.deepcopy(CONTENTS[kind])
    change(content)
    assert parse(content, 1).to_json() == content


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_it_can_be_pickled(kind, again):
    record = parse({**CONTENTS[kind], "later": 1}, 2)
    assert again(record) == record
    assert again(record).to_json() == record.to_json()


def test_fields_have_the_types_of_the_program():
    started = parse(CONTENTS["started"], 1)
    assert started.split is Split.VALID
    decision = parse(CONTENTS["decision"], 1)
    assert (decision.asked, decision.stop) == ((0, 1), {1: ModelState.STOPPED})
    assert decision.add == (NewModelEntry(2, {"rate": 1}, 1, 0, "/c"),)
    assert parse(CONTENTS["generation"], 2).predecessor == Predecessor(**ENDING)


def test_a_record_that_was_made_is_the_one_that_is_read():
    fields = {**FIELDS["started"], "split": Split.VALID}
    made = StartedRecord(t=1.5, generation=1, seq=7, **fields)
    assert made == parse(CONTENTS["started"], 1)
    assert list(made.to_json()) == ["kind", "t", "generation", *FIELDS["started"], "seq"]


def test_the_generation_of_a_record_is_its_drivers_and_of_the_first_one_its_files():
    assert parse(CONTENTS["end"], 4).generation == 1
    assert parse(CONTENTS["generation"], 4).generation == 4


REQUIRED = [
    (kind, name)
    for kind, content in CONTENTS.items()
    for name in ("seq", "t", *FIELDS.get(kind, ["plan"]))
    if name not in ("reason", "driver", "versions", "git_commit", "predecessor")
]


@pytest.mark.parametrize(("kind", "name"), [*REQUIRED, ("interrupted", "reason")])
def test_a_record_without_a_field_that_it_needs_is_refused(kind, name):
    content = {n: value for n, value in CONTENTS[kind].items() if n != name}
    with pytest.raises(ValueError, match=f"{kind}.* has no {name}"):
        parse(content, 1)


OTHERS = (None, True, 1.5, "text", [None], {"a": None}, [1.5])


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, c in CONTENTS.items() for name in c if name != "kind"]
)
def test_a_field_of_another_type_is_refused(kind, name):
    """At most two of seven values fit, whatever the field's own type is."""
    accepted = []
    for value in OTHERS:
        with contextlib.suppress(ValueError):
            accepted.append(parse({**CONTENTS[kind], name: value}, 1))
    assert len(accepted) <= 2, accepted


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("started", {"split": "test"}, "split of this 'started' record.*'test'"),
        ("started", {"attempt": True}, "attempt of this 'started' record is True: it must be int"),
        ("committed", {"phases": {"load": 1.0}}, "no 'run'"),
        ("committed", {"phases": {"run": "long"}}, "phases"),
        ("decision", {"stop": {"1": "ASLEEP"}}, "ASLEEP"),
        ("decision", {"stop": {"one": "STOPPED"}}, "one"),
        ("decision", {"add": [{**NEW, "epoch": "1"}]}, "epoch"),
        ("decision", {"add": [{"model": 1}]}, "a model has no mst, epoch, parent, checkpoint"),
        ("plan", {"plan": {"id": "x"}}, "the plan has no name, workers"),
        ("plan", {"plan": {**CONTENTS["plan"]["plan"], "seed": "7"}}, "seed is '7'"),
        ("generation", {"predecessor": {"generation": 1}}, "predecessor"),
        ("end", {"kind": 3}, "kind"),
        ("end", {"kind": ["end"]}, "kind"),
    ],
)
def test_what_is_wrong_is_named(kind, changes, said):
    with pytest.raises(ValueError, match=said):
        parse({**CONTENTS[kind], **changes}, 1)


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "moved", "t": 2.0, "generation": 1, "to": "node9", "seq": 8},
        {**CONTENTS["worker"], "state": "asleep"},
    ],
)
def test_what_a_later_version_tells_is_passed_over(content):
    record = parse(content, 1)
    assert type(record) is UnknownRecord
    assert (record.kind, record.t, record.seq) == (content["kind"], content["t"], content["seq"])
    assert record.to_json() == content
    assert list(record.to_json()) == list(content)
    ledger = Ledger.from_records([record])
    assert ledger.last_t == content["t"]
    assert not ledger.workers


@pytest.mark.parametrize("changes", [{"t": "2"}, {"seq": None}, {"generation": "1"}])
def test_a_record_of_a_later_version_has_what_all_records_have(changes):
    content = {"kind": "moved", "t": 2.0, "generation": 1, "seq": 8}
    with pytest.raises(ValueError, match=next(iter(changes))):
        parse({**content, **changes}, 1)


def test_a_journal_that_holds_another_type_is_damaged_at_a_line(tmp_path):
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    paths.create()
    journal = Journal(paths)
    journal.begin(written("generation"))
    journal.append([written("end", 1.0), written("end", 2.0)])
    journal.close()
    lines = paths.generation(1).read_bytes().splitlines(keepends=True)
    lines[1] = encode({**decode(lines[1]), "t": "soon"})
    paths.generation(1).write_bytes(b"".join(lines))
    with pytest.raises(JournalDamaged, match=r"000001\.jsonl, line 2: the t of this 'end' record"):
        read_journal(paths)


def test_json_has_all_that_records_hold():
    """No tuple, enum or object of the program's gets as far as a line."""
    plain = {dict, list, str, int, float, bool, type(None)}

    def types(value):
        yield type(value)
        if isinstance(value, dict):
            yield from itertools.chain(map(type, value), *map(types, value.values()))
        elif isinstance(value, list):
            yield from itertools.chain(*map(types, value))

    for content in CONTENTS.values():
        record = parse(content, 1)
        assert set(types(record.to_json())) <= plain
        assert json.loads(json.dumps(record.to_json())) == record.to_json()
