"""Log lines are written behind the run: storage that is slow for them holds nobody up."""

from __future__ import annotations

import threading

from patience import SOON
from toy import functions, partitions

import cerebro
from cerebro.driver import run_session
from cerebro.journal import log_files
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
