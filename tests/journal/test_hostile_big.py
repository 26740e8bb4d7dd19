"""A journal that anybody may have written: it is read right, or refused by a typed error.

Fields of journals that real drivers wrote are given other values, with the checksums made anew, and
everything that reads a run reads them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hand_written_run import WrittenRun
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cerebro
from cerebro.cli.main import main
from cerebro.driver.replay import read_recording
from cerebro.errors import CerebroError, JournalDamaged
from cerebro.journal.journal import decode, encode, has_begun
from cerebro.journal.paths import RunPaths

RUNS = Path(__file__).resolve().parents[1] / "old_runs" / "runs"


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


HOSTILE = [
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**53, 2**63, -(2**70), 10**300, 10**400, -(10**400),
    0.5, -0.5, 1e300, -1e300, float("nan"), float("inf"), float("-inf"),
    "", "x", "0", "-1", "../../x", "/etc/passwd", "a\0b", "\ud800", "\x1b[2J", "1" * 5000,
    "x" * 99999,
    "RUNNING", "train", "committed", "min",
    [], [0], [-1], [[]], [None], ["x"], [10**400], nested(60), nested(150),
    {}, {"0": "RUNNING"}, {"x": "STOPPED"}, {"0": [1, 2]}, {"0": [1]}, {"run": -1.0}, {"run": "x"},
    {"a": {"kind": 5}}, {"a": {"kind": "AUC", "variables": {"x": [[2**70], "<f4", ""]}}},
    {"a": {"kind": "AUC", "settings": 3, "variables": {"true_positives": [[1], "<f8", "AA=="]}}},
]  # fmt: skip


def written_run(folder):
    run = WrittenRun(folder)
    run.ready()
    run.epoch(0, [0.5, 0.4])
    run.say("void", model=0, version=2)
    run.commit(run.start(0, 1, reads=1), checkpoint="/c/0/2b")
    new = {"mst": {"rate": 0.3}, "epoch": 1, "parent": 0, "checkpoint": "/c/0/2b"}
    run.say("decision", asked=[0, 1], stop={"1": "STOPPED"}, add=[{"model": 2, **new}])
    run.say("dropped", model=0, version=1)
    run.drive()
    run.ready()
    run.worker(1, "lost", reason="gone")
    problem = {"message": "no", "traceback": "", "output": ""}
    attempt = run.start(0, 0, epoch=1, reads=2)
    run.say("failed", attempt=attempt, failure="storage", **problem)
    attempt = run.start(0, 0, epoch=1, reads=2)
    run.say("model_failed", model=0, attempt=attempt, failure="user", **problem)
    run.say("reopened", models=[0, 1], why="they are to continue")
    run.commit(run.start(2, 0, epoch=1), checkpoint="/c/2/1")
    run.say("interrupted", reason="Ctrl-C")
    run.say("end")
    run.journal.close()
    return run.paths.root


@pytest.fixture(scope="module")
def journals(tmp_path_factory):
    """The lines of the last file of some journals, and the folders that they stand in."""
    folder = tmp_path_factory.mktemp("journals")
    roots = [written_run(folder)]
    for name in ("python", "search", "keras", "interrupted"):
        root = folder / name
        shutil.copytree(RUNS / name / "journal", root / "journal")
        shutil.copy(RUNS / name / "driver.json", root / "driver.json")
        roots.append(root)
    return [(root, contents_of(root)) for root in roots]


def contents_of(root):
    return [decode(line) for line in last_file(root).read_bytes().splitlines(keepends=True)]


def last_file(root):
    paths = RunPaths(root)
    return paths.generation(paths.generations()[-1])


def places(content, path=()):
    """Every key and index in a record, however deep."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def put(content, path, value):
    copied = json.loads(json.dumps(content))
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copied


def read_all(root):
    """Have everything that reads a run read it; returns the errors, which are typed ones."""
    errors = []

    def attempt(reads, *arguments):
        try:
            return reads(*arguments)
        except CerebroError as error:
            errors.append(error)
            return None

    attempt(has_begun, RunPaths(root))
    result = attempt(cerebro.load, root)
    if result is not None:
        for name in ("history", "units", "models", "notes", "means"):
            attempt(getattr, result, name)
        attempt(repr, result)
        attempt(result._repr_html_)
        attempt(result.best)
        attempt(result.report, root.parent / "report.html")
    main(["status", str(root)])
    attempt(read_recording, str(root))
    return errors


def names_in(folder):
    return {str(path) for path in folder.rglob("*")}


@settings(
    max_examples=4000,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_field_with_any_other_value_is_read_right_or_refused(
    journals, tmp_path_factory, data, capsys
):
    root, contents = data.draw(st.sampled_from(journals))
    line = data.draw(st.integers(0, len(contents) - 1))
    path = data.draw(st.sampled_from(list(places(contents[line]))))
    value = data.draw(st.sampled_from(HOSTILE))
    changed = [*contents[:line], put(contents[line], path, value), *contents[line + 1 :]]
    before, names = last_file(root).read_bytes(), names_in(root.parent)
    last_file(root).write_bytes(b"".join(map(encode, changed)))
    try:
        read_all(root)
    finally:
        last_file(root).write_bytes(before)
        (root.parent / "report.html").unlink(missing_ok=True)
    assert names_in(root.parent) == names
    capsys.readouterr()


def test_what_nobody_has_changed_is_read(journals, capsys):
    for root, _ in journals:
        assert not [e for e in read_all(root) if isinstance(e, JournalDamaged)]
