"""What docs/design.md and docs/functions/ list is what the code has."""

from __future__ import annotations

import ast
import re
import typing
from collections import defaultdict

from documents import ROOT, codes, table

from cerebro.backends import TENSORFLOW
from cerebro.hopper import events
from cerebro.hopper.attempt_states import TRANSITIONS, Slot, SlotEvent
from cerebro.hopper.units import Failure
from cerebro.journal import ledger
from cerebro.journal.records import KINDS
from cerebro.journal.run_plan import WARM_START_KEYS
from cerebro.protocol.messages import Method
from cerebro.rpc import limits, refusals, signing

DESIGN = ROOT / "docs" / "design.md"
FUNCTIONS = ROOT / "docs" / "functions"


def first_column(document, heading):
    return [name for row in table(document, heading) for name in codes(row[0])]


def imports_of_rooms():
    """The rooms (folders and modules of the package), with the rooms that each imports."""
    found = defaultdict(set)
    for path in (ROOT / "cerebro").rglob("*.py"):
        room = path.relative_to(ROOT / "cerebro").with_suffix("").parts[0]
        if room == "__init__":
            continue
        imported = found[room]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "cerebro":
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cerebro."):
                imported.add(node.module.split(".")[1])
            elif isinstance(node, ast.Import):
                parts = [alias.name.split(".") for alias in node.names]
                imported.update(p[1] for p in parts if p[0] == "cerebro" and len(p) > 1)
        imported.discard(room)
    return dict(found)


def test_rooms_and_their_imports():
    said = {codes(row[0])[0]: set(codes(row[2])) for row in table(DESIGN, "The rooms")}
    assert said == imports_of_rooms()


def test_only_the_backends_of_tensorflow_import_it_at_the_top():
    for path in (ROOT / "cerebro").rglob("*.py"):
        top = ast.parse(path.read_text()).body
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
        heavy = {name.split(".")[0] for name in names} & {"tensorflow", "keras", "pandas"}
        own = any(path.match(f"cerebro/backends/{backend}/*.py") for backend in TENSORFLOW)
        assert not heavy or own, path


def test_events_and_actions():
    for heading, union in (("Events", events.Event), ("Actions", events.Action)):
        names = [kind.__name__ for kind in typing.get_args(union)]
        assert first_column(DESIGN, heading) == names


def test_states_and_failures():
    states = {row[0] for row in table(DESIGN, "States of a unit")}
    assert states == {"pending", "committed", *(slot.value for slot in Slot)}
    assert first_column(DESIGN, "Failures of a unit") == [failure.value for failure in Failure]


def test_transitions_of_an_attempt():
    rows = table(DESIGN, "Transitions of an attempt")
    assert [codes(row[0]) for row in rows] == [[event.value] for event in SlotEvent]
    said = {
        (slot, event): after
        for event, row in zip(SlotEvent, rows, strict=True)
        for slot, after in zip(Slot, row[1:4], strict=True)
        if after
    }
    assert said == {key: after.value if after else "free" for key, after in TRANSITIONS.items()}


def test_kinds_of_records():
    said = first_column(DESIGN, "The journal")
    assert said == list(KINDS)


def test_methods_and_headers():
    methods = {method.value for method in Method}
    assert set(first_column(DESIGN, "Driver and worker")) == methods
    headers = {value for name, value in vars(signing).items() if name.endswith("_HEADER")}
    assert set(first_column(DESIGN, "The wire")) == headers
    text = DESIGN.read_text()
    assert f"at most {limits.DEFAULT_LIMITS.max_body // 2**20} MiB" in text
    assert f"at most {limits.DEFAULT_LIMITS.max_connections} connections" in text
    newcomers = limits.DEFAULT_LIMITS.max_silent + limits.DEFAULT_LIMITS.max_greeted
    assert f"at most {newcomers} of its kind" in text
    assert f"after {limits.DEFAULT_LIMITS.header_seconds:.0f} s" in text
    assert f"counts every {refusals.SUMMARY_SECONDS:.0f} s" in text


def test_keys_of_a_configuration_and_of_the_state():
    assert set(first_column(FUNCTIONS / "configurations.md", "Reserved keys")) == {
        "seed",
        *WARM_START_KEYS,
    }
    one = ledger.Ledger()
    one.models[0] = ledger.ModelRecord(0, {}, 0)
    assert set(first_column(FUNCTIONS / "eval_fn.md", "The state")) >= set(one.state()[0])


def test_seeds_are_derived_from_the_names_that_are_listed():
    rows = table(FUNCTIONS / "seeds.md", "What is seeded")
    said = " ".join(codes(" ".join(row[1] for row in rows)))
    files = (ROOT / "cerebro" / "backends").rglob("*.py")
    used = {
        name for path in files for name in re.findall(r'derive\([\w.]+, "(\w+)"', path.read_text())
    }
    assert used == set(re.findall(r'derive\(seed, "(\w+)"', said))
