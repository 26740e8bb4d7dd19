"""Log lines are written behind the run: storage that is slow for them holds nobody up."""

from __future__ import annotations

import os
import threading

from hand_written_run import WrittenRun
from patience import SOON
from toy import functions, partitions

import cerebro
from cerebro.driver import run_session
from cerebro.journal import log_files
from cerebro.journal.journal import read_journal
from cerebro.journal.log_files import Background


class Files:
    """Takes text like files do, once it is let to."""

    def __init__(self):
        self.opened = threading.Event()
        self.ended = threading.Event()
        self.calls = []

    def write(self, path, text):
        if not self.opened.wait(SOON):
            self.ended.set()
            return
        self.calls.append((path, text))

    def content(self, path):
        return "".join(text for written, text in self.calls if written == path)


def test_text_is_taken_at_once_and_written_in_order():
    files = Files()
    background = Background(files.write)
    for number in range(100):
        background(f"file {number % 2}", f"{number}\n")
    files.opened.set()
    background.close()
    for parity in (0, 1):
        expected = "".join(f"{number}\n" for number in range(parity, 100, 2))
        assert files.content(f"file {parity}") == expected


def test_storage_that_does_not_answer_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(log_files, "CLOSE_SECONDS", 0.05)
    files = Files()
    background = Background(files.write)
    background("file", "text")
    background.close()
    assert not files.ended.is_set()
    files.opened.set()


def test_a_run_does_not_wait_for_its_logs(cluster, tmp_path, monkeypatch):
    """Its decisions fall while not one line has been written; in the end all are there."""
    files = Files()
    monkeypatch.setattr(run_session, "Background", lambda: Background(files.write))
    input_fn, model_fn, train_fn, eval_fn = functions(epochs=2)
    asked = []

    def ask(state):
        asked.append(list(files.calls))
        decision = eval_fn(state)
        if decision[0]:
            files.opened.set()
        return decision

    result = cerebro.schedule(
        cluster,
        partitions(tmp_path, 2),
        [],
        None,
        None,
        input_fn,
        model_fn,
        train_fn,
        [{"rate": 0.1}],
        ask,
        ckpt_root=str(tmp_path / "ckpt"),
        backend="python",
    )
    assert asked == [[], []]
    texts = "".join(text for _, text in files.calls)
    assert texts.count("TRAIN_COMPLETED") == len(result.units) == 4


def test_a_log_that_is_a_link_costs_its_lines_and_nothing_else(tmp_path, caplog):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/0.log").symlink_to(tmp_path / "mine")
    os.mkfifo(tmp_path / "logs/1.log")
    for number in range(3):
        log_files.append(tmp_path / f"logs/{number}.log", "a line ü\udcff\n")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "logs/2.log").read_text(encoding="utf-8") == "a line ü\\udcff\n"
    said = [record.getMessage() for record in caplog.records]
    assert [f"{number}.log is a" in text for number, text in enumerate(said)] == [True, True]
    assert all(text.endswith("lines are missing there") for text in said)


def test_logs_are_made_again_beside_their_other_names(tmp_path):
    run = WrittenRun(tmp_path)
    run.ready()
    log, copy = run.paths.workers_log(), tmp_path / "copy of a log"
    log.write_text("as it was")
    os.link(log, copy)
    log_files.rebuild(run.paths, read_journal(run.paths)[0])
    assert "joined" in log.read_text()
    assert copy.read_text() == "as it was"
