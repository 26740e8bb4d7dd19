"""docs/journal.md describes the records that the code writes, and all of them."""

from __future__ import annotations

import dataclasses
import re
import zlib
from pathlib import Path

import pytest
from simulated_cluster import Fault, Noise, Shape, simulate
from toy import functions, partitions
from written_records import written

import cerebro
from cerebro import errors
from cerebro.hopper.units import Failure, ModelState
from cerebro.journal import ledger
from cerebro.journal.journal import encode, read_journal
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import FORMAT
from cerebro.journal.records import KINDS as CLASSES
from cerebro.journal.worker_states import WorkerState
from cerebro.results.tables import PHASES
from cerebro.search import GridSearch

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "journal.md").read_text()
EVERYWHERE = {"seq", "kind", "t", "generation"}
TOGETHER = {"write"}


def rows(heading):
    """The rows of the table under a heading, as cells."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def codes(text):
    return re.findall(r"`([^`]+)`", text)


KINDS = {codes(row[0])[0]: row[1] for row in rows("Kinds of records")}
OPTIONAL = {kind: set(re.findall(r"\(`(\w+)`\)", fields)) for kind, fields in KINDS.items()}
REQUIRED = {kind: set(codes(fields)) - OPTIONAL[kind] for kind, fields in KINDS.items()}
MEANINGS = {name: row[1] for row in rows("Fields") for name in codes(row[0])}
ALWAYS_ADDED = set(codes(MEANINGS["add"])).difference(re.findall(r"\(`(\w+)`\)", MEANINGS["add"]))


def test_every_kind_and_field_is_described():
    """In the order of the code; brackets are around fields that are left out."""
    assert list(KINDS) == list(CLASSES)
    for kind, cls in CLASSES.items():
        own = {field.name for field in dataclasses.fields(cls)}
        own -= {"t", "generation", "seq", "extra", "recorded"}
        assert own == REQUIRED[kind] | OPTIONAL[kind], kind
        older = {"ran"} if kind == "committed" else set()  # left out of the first journals
        assert set(cls.LEFT_OUT) - older == OPTIONAL[kind], kind


def test_every_field_is_explained():
    used = set().union(*REQUIRED.values(), *OPTIONAL.values())
    assert used | {"traceback", "version"} == set(MEANINGS)


def test_words_that_fields_take():
    assert set(codes(MEANINGS["phases"])) == set(PHASES)
    failures = {f.value for f in Failure} | {"lost", ledger.DISCARDED, "replayed"}
    assert set(codes(MEANINGS["failure"])) == failures
    assert set(codes(MEANINGS["state"])) == {s.value for s in WorkerState}
    assert set(codes(MEANINGS["stop"])) == {s.value for s in ModelState} - {"RUNNING"}
    assert f"its format, number {FORMAT}," in DOCUMENT


def test_a_line_is_as_described():
    line = encode({"kind": "end", "text": "caf\xe9", "loss": float("nan")})
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    assert int(crc, 16) == zlib.crc32(text)
    assert len(crc) == 8
    assert text == rb'{"kind":"end","text":"caf\u00e9","loss":NaN}'


def check(record):
    """A record has the fields of its kind, and no others."""
    kind, fields = record["kind"], record.keys() - EVERYWHERE - TOGETHER
    assert REQUIRED[kind] <= fields <= REQUIRED[kind] | OPTIONAL[kind], record
    assert record.keys() >= EVERYWHERE - {"generation"}
    for name in ("phases", "predecessor", "driver", "versions"):
        if isinstance(record.get(name), dict):
            assert record[name].keys() <= set(codes(MEANINGS[name])), record
    if kind == "worker":
        assert record["state"] in codes(MEANINGS["state"])
    for new in record.get("add", []):
        assert ALWAYS_ADDED <= new.keys() <= set(codes(MEANINGS["add"])), record


@pytest.fixture(scope="module")
def journals(cluster, tmp_path_factory):
    """Records of a run that is interrupted and taken up again, of one whose end is known, and of a
    history full of faults.
    """
    folder = tmp_path_factory.mktemp("runs")
    input_fn, model_fn, train_fn, eval_fn = functions(2)

    def failing(model, data, train=True):
        if model["rate"] == 0.1:
            raise ValueError("no")
        return train_fn(model, data, train)

    def raising(state):
        raise RuntimeError("not yet")

    def search(train, evaluate, **options):
        return cerebro.schedule(
            cluster, partitions(folder / "data", 2), partitions(folder / "data", 1, "valid"), None,
            None, input_fn, model_fn, train, [{"rate": 0.5}, {"rate": 0.1}], evaluate,
            ckpt_root=str(folder), backend="python", run_name="run", **options,
        )  # fmt: skip

    with pytest.raises(errors.UserFunctionError):
        search(failing, raising)
    search(train_fn, eval_fn, resume=True, retry_failed=True, allow_changed=["train_fn"])
    records, _ = read_journal(RunPaths(folder / "run"))
    cerebro.schedule(
        cluster, partitions(folder / "data", 2), partitions(folder / "data", 1, "valid"), None,
        None, input_fn, model_fn, train_fn, search=GridSearch({"rate": [0.5, 0.1]}, epochs=1),
        ckpt_root=str(folder), backend="python", run_name="grid",
    )  # fmt: skip
    planned, _ = read_journal(RunPaths(folder / "grid"))
    faults = [
        *(Fault("written", count, "damage", 0, 0.5) for count in (8, 15, 20)),
        Fault("starts", 2, "kill executor", 0, 0.5),
        Fault("starts", 5, "drain daemon", 1, 0.5),
        Fault("written", 30, "kill driver", 0, 0.5),
    ]
    shape = Shape(models=2, train=3, child=True)
    world = simulate(pytest.MonkeyPatch.context, folder, shape, Noise(), faults, 1)
    return records, planned, world.oracle.records


def test_records_have_the_fields_of_their_kinds(journals):
    seen = {}
    keras = written(
        "committed", attempt=1, loss=1.0, error=0.5, examples=2.0, phases={"run": 1.0}, ran=1.0,
        states={"auc": {"kind": "AUC"}},
    )  # fmt: skip
    records = [record for journal in journals for record in journal]
    for record in (record.to_json() for record in (*records, keras)):
        check(record)
        seen.setdefault(record["kind"], set()).update(record.keys() - EVERYWHERE - TOGETHER)
    assert set(seen) == set(KINDS)
    for kind, fields in seen.items():
        assert fields == REQUIRED[kind] | OPTIONAL[kind], f"{kind}: never seen with all of them"


def test_numbers_rise_without_gaps(journals):
    for records in journals:
        assert [r.seq for r in records] == list(range(1, len(records) + 1))
