"""A journal that anybody may have written: it is read right, or refused by a typed error.

Fields of journals that real drivers wrote are given other values, with the checksums made anew, and
everything that reads a run reads them.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hand_written_run import WrittenRun
from hypothesis import given, settings
from hypothesis import strategies as st
from written_records import written

import cerebro
from cerebro import errors
from cerebro.cli.main import main
from cerebro.driver.continuation import continuation
from cerebro.driver.loop import holdings
from cerebro.driver.replay import read_recording
from cerebro.driver.resume import check_room
from cerebro.errors import CerebroError, JournalDamaged
from cerebro.hopper.placement.oldest import OldestPlacement
from cerebro.hopper.scheduler import Scheduler
from cerebro.hopper.units import ModelState, Split
from cerebro.journal import journal
from cerebro.journal.journal import decode, encode, has_begun, naming_the_line, read_journal
from cerebro.journal.ledger import Ledger, ModelRecord
from cerebro.journal.paths import RunPaths, same_folder
from cerebro.protocol.bounds import LARGEST, LONGEST_SECONDS

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
    attempt(resume_reads, root)
    attempt(read_recording, str(root))
    return errors


@contextlib.contextmanager
def written_anew(root, contents):
    """The folder while its last file has other records; nothing beside it may be changed."""
    file, names = last_file(root), names_in(root.parent)
    before = file.read_bytes()
    file.write_bytes(b"".join(map(encode, contents)))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        file.write_bytes(before)
        (root.parent / "report.html").unlink(missing_ok=True)
    assert names_in(root.parent) == names


def resume_reads(root):
    """What a resume reads before it contacts anybody."""
    paths = RunPaths(root)
    records, _ = read_journal(paths)
    with naming_the_line(paths):
        ledger = Ledger.from_records(records)
    if ledger.plan is not None:
        plan, search = ledger.plan, ledger.plan.search
        Scheduler(
            train=holdings(plan, Split.TRAIN),
            valid=holdings(plan, Split.VALID),
            placement=OldestPlacement(0),
            positions=ledger.positions(),
            first_attempt=ledger.next_attempt(),
            asks_when_idle=True,
        ).start()
        if search is None:
            continuation(ledger, plan, None, ledger.configs, retry_failed=True)
        ledger.state()


def names_in(folder):
    return {str(path) for path in folder.rglob("*")}


@settings(
    max_examples=250,
    deadline=None,
)
@given(data=st.data())
def test_a_field_with_any_other_value_is_read_right_or_refused(journals, data):
    root, contents = data.draw(st.sampled_from(journals))
    line = data.draw(st.integers(0, len(contents) - 1))
    path = data.draw(st.sampled_from(list(places(contents[line]))))
    value = data.draw(st.sampled_from(HOSTILE))
    changed = [*contents[:line], put(contents[line], path, value), *contents[line + 1 :]]
    with written_anew(root, changed):
        read_all(root)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_records_in_another_order_are_read_right_or_refused(journals, data):
    """One is left out, given twice, or moved, and all are numbered anew."""
    root, contents = data.draw(st.sampled_from(journals))
    changed = list(contents)
    record = changed.pop(data.draw(st.integers(0, len(changed) - 1)))
    for _ in range(data.draw(st.sampled_from([0, 1, 1, 2]))):
        changed.insert(data.draw(st.integers(0, len(changed))), record)
    first = contents[0]["seq"]
    numbered = [{**content, "seq": n} for n, content in enumerate(changed, first)]
    with written_anew(root, numbered):
        read_all(root)


REFUSED = [
    ("started", {"model": 7}, "names model 7: the models' ids are 0 to 1"),
    (
        "started",
        {"model": "../../x"},
        "model of this 'started' record is '../../x': it must be int",
    ),
    ("started", {"partition": 2}, "has partition 2: the plan has 2 train partitions"),
    ("started", {"worker": 9}, "has worker 9: the plan has 2 workers"),
    ("started", {"epoch": 3}, "the model is RUNNING, in epoch 0"),
    ("started", {"reads": 5}, "reads version 5 of model 0: its newest is 0"),
    ("started", {"t": math.nan}, "t of this 'started' record is nan: it must be float between 0"),
    ("started", {"seq": 99}, "its seq is 99: it must be 7"),
    ("committed", {"attempt": 50}, "has attempt 50: none of this number is under way"),
    ("committed", {"attempt": True}, "attempt of this 'committed' record is True: it must be int"),
    ("committed", {"checkpoint": None}, "name its checkpoint"),
    ("committed", {"loss": 10**400}, "it must be float between -1.79769e+308"),
    ("committed", {"examples": -1.0}, "it must be float between 0"),
    ("committed", {"phases": {"run": -1.0}}, "it must be dict[str, float between 0 and 1e+09]"),
    ("void", {"version": 1}, "only its newest can be void, which is 2"),
    ("decision", {"asked": [0, 0]}, "asks about model 0"),
    ("decision", {"stop": {"x": "STOPPED"}}, "the key 'x' is no model's id"),
    ("decision", {"stop": {"0": "RUNNING"}}, "name a state that ends it"),
    (
        "generation",
        {"run": "../x"},
        "run of this 'generation' record is '../x': it must be 1 to 64",
    ),
    ("generation", {"kind": "later"}, "is not a 'generation' record"),
    ("plan", {"plan.mode": "best"}, "the plan's mode is 'best'"),
    ("plan", {"plan.configs": [{"k": 10**400}]}, "it must be int between -1.79769e+308"),
    ("plan", {"plan.train_availability": [[1, 1]]}, "it must have 2 rows (workers) of 2 values"),
    ("plan", {"plan.train_availability": [[1, 1], [1, 2]]}, "has the value 2: each must be 0 or 1"),
    ("plan", {"plan.configs": nested(200)}, "it is nested too deeply: 100 levels are allowed"),
]


@pytest.mark.parametrize(("kind", "fields", "said"), REFUSED)
def test_what_cannot_be_is_named(tmp_path, kind, fields, said):
    """With the file, the line, the value, and what it must be."""
    root = written_run(tmp_path)
    file = RunPaths(root).generation(1)
    contents = [decode(line) for line in file.read_bytes().splitlines(keepends=True)]
    line = next(n for n, content in enumerate(contents) if content["kind"] == kind)
    for name, value in fields.items():
        contents[line] = put(contents[line], tuple(name.split(".")), value)
    file.write_bytes(b"".join(map(encode, contents)))
    RunPaths(root).generation(2).unlink()
    with pytest.raises(JournalDamaged) as refusal:
        cerebro.load(root)
    assert str(refusal.value).startswith(f"{file}, line {line + 1}: ")
    assert said in str(refusal.value)
    assert "restore the file from a copy" in str(refusal.value)


def test_what_nobody_has_changed_is_read(journals):
    for root, _ in journals:
        assert not [e for e in read_all(root) if isinstance(e, JournalDamaged)]


def test_a_line_of_any_length_is_not_taken_into_memory(tmp_path, monkeypatch):
    root = written_run(tmp_path)
    file = RunPaths(root).generation(2)
    monkeypatch.setattr(journal, "LONGEST_LINE", 2000)
    cerebro.load(root)
    with open(file, "ab") as opened:
        opened.truncate(2**30)  # takes no room on disk
    with pytest.raises(JournalDamaged, match="is longer than 2000 bytes, which no record is"):
        cerebro.load(root)


@pytest.mark.parametrize("name", ["1", "0000002", "000000", "1" * 20, "\u0663" * 6, "-00001", ""])
def test_files_that_no_driver_names_so_are_no_generations(tmp_path, name):
    paths = RunPaths(tmp_path)
    paths.create()
    for file in ("000001", "1000000", name):
        (paths.journal / f"{file}.jsonl").touch()
    assert paths.generations() == [1, 1000000]


def test_a_generation_that_cannot_be_read_is_a_typed_error(tmp_path):
    paths = RunPaths(tmp_path)
    paths.create()
    (paths.journal / "000001.jsonl").mkdir()
    with pytest.raises(errors.UnsafePath, match=r"000001\.jsonl is a folder"):
        has_begun(paths)


def test_a_run_whose_numbers_are_used_up_is_not_resumed(tmp_path):
    ledger = Ledger()
    check_room(ledger, 12, tmp_path)
    for generation in (LARGEST - 1, LARGEST):
        with pytest.raises(errors.ResumeRefused, match=rf"has come to generation {generation}, of"):
            check_room(ledger, generation, tmp_path)
    ledger.add(written("failed", LONGEST_SECONDS, attempt=3, failure="lost", message=""))
    with pytest.raises(errors.ResumeRefused, match="has come to t 1000000000, of 1000000000"):
        check_room(ledger, 12, tmp_path)


def test_a_path_that_no_file_system_has_is_refused():
    for text in ("/runs/\ud800", "/runs/\0"):
        with pytest.raises(ValueError, match="the folder of this 'generation' record"):
            written("generation", folder=text)
    assert written("generation", folder="/runs/\udcff\u00e9").folder == "/runs/\udcff\u00e9"
    assert not same_folder("/\ud800", "/")


def test_a_decision_about_many_models_is_read_in_a_moment():
    """None is compared with each other."""
    models = 300
    ledger = Ledger()
    ledger.plan = SimpleNamespace(configs=[], valid_partitions=[], train_partitions=["/d/0"])
    for number in range(models):
        ledger.models[number] = ModelRecord(number, {}, 0, state=ModelState.STOPPED)
    compared = []
    asked = [Counted(number, compared) for number in range(models)]
    record = replace(written("decision", asked=[], stop={}, add=[]), asked=tuple(asked))
    ledger.add(record)
    assert len(compared) <= 4 * models


class Counted(int):
    """A number that notes each time that it is compared with another."""

    def __new__(cls, number, compared):
        made = super().__new__(cls, number)
        made.compared = compared
        return made

    def __eq__(self, other):
        self.compared.append(other)
        return int(self) == int(other)

    __hash__ = int.__hash__
