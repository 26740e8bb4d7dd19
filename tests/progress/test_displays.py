"""What stands in a terminal, a notebook, or a file."""

from __future__ import annotations

import contextlib
import io
import logging
import logging.handlers
import os
import pty
import re
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from patience import SOON
from played_run import PlayedRun

from cerebro.errors import InputError, RunInterrupted
from cerebro.progress import Reporter, notebook, reporter, terminal
from cerebro.progress.disk_usage import DiskUse
from cerebro.progress.displays import check_progress, display_for
from cerebro.progress.layout import Span
from cerebro.progress.notebook import Notebook
from cerebro.progress.plain import Plain, Silent
from cerebro.progress.terminal import Terminal
from cerebro.progress.view import View

WIDTH = 100


class Screen:
    """What a terminal would show of what was written to it; it never scrolls."""

    def __init__(self):
        self.rows, self.row, self.column = [""], 0, 0
        self.cursor = True

    def feed(self, text):
        for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
            if part == "\r":
                self.column = 0
            elif part == "\n":
                self.go_down()
            elif not part.startswith("\x1b"):
                for character in part:
                    self.put(character)
            elif part[-1] == "A":
                self.row -= int(part[2:-1] or 1)
            elif part == "\x1b[2K":
                self.rows[self.row] = ""
            elif part in ("\x1b[?25h", "\x1b[?25l"):
                self.cursor = part[-1] == "h"
            else:
                assert part[-1] == "m", part

    def go_down(self):
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

    def put(self, character):
        if self.column == WIDTH:
            self.go_down()
            self.column = 0
        line = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1


@pytest.fixture
def tty(monkeypatch):
    """A terminal: `take()` makes it standard output and error, `screen()` gives what it shows."""
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("LINES", "24")
    ours, theirs = pty.openpty()
    parts = []

    def read():
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65536):
                parts.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    files = [os.fdopen(os.dup(theirs), "w", encoding="utf-8") for _ in range(2)]
    os.close(theirs)

    def take():
        # In the test, because pytest sets these anew when one begins.
        monkeypatch.setattr(sys, "stdout", files[0])
        monkeypatch.setattr(sys, "stderr", files[1])

    def screen():
        for file in files:
            file.close()
        reader.join(SOON)
        screen = Screen()
        screen.feed(b"".join(parts).decode())
        return screen

    yield SimpleNamespace(take=take, screen=screen, text=lambda: b"".join(parts).decode())
    for file in files:
        with contextlib.suppress(OSError):
            file.close()
    reader.join(SOON)
    os.close(ours)


def until(condition):
    expires = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < expires
        threading.Event().wait(0.01)


@pytest.mark.parametrize("inner", [False, True])
def test_log_handlers_write_to_what_standard_error_is(monkeypatch, tmp_path, inner):
    """Also one that another handler passes records on to, and on whichever logger it is."""
    before, now = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", now)
    handler = logging.StreamHandler(before)
    outer = logging.handlers.MemoryHandler(1, target=handler) if inner else handler
    file = logging.FileHandler(tmp_path / "log")
    other = logging.StreamHandler(io.StringIO())
    logger = logging.getLogger("of a user.below a placeholder")
    handlers = (outer, file, other, logging.lastResort)
    for each in handlers:
        logger.addHandler(each)
    streams = file.stream, other.stream
    try:
        with terminal.handlers_follow({id(before): "stderr"}):
            logger.warning("shown above the view")
            assert (file.stream, other.stream) == streams
        logger.warning("after it")
    finally:
        for each in handlers:
            logger.removeHandler(each)
        file.close()
    assert now.getvalue().startswith("shown above the view\n")
    assert before.getvalue() == "after it\n"


def test_the_handler_of_absl_is_found():
    """Keras logs through it: it holds the handler that writes, and is on no logger itself."""
    absl = pytest.importorskip("absl.logging")
    logger = absl.get_absl_logger()
    logger.addHandler(absl.get_absl_handler())
    try:
        assert absl.get_absl_handler().python_handler in list(terminal._stream_handlers())
    finally:
        logger.removeHandler(absl.get_absl_handler())


def test_nothing_that_is_printed_tears_the_view(tty, monkeypatch):
    tty.take()
    monkeypatch.setattr(reporter, "INTERVAL", 0.0)
    before = sys.stdout, sys.stderr
    logger = logging.getLogger("of a user")
    handler = logging.StreamHandler()  # it holds on to what standard error is now
    logger.addHandler(handler)
    run = PlayedRun(models=3)
    said = []
    try:
        with Reporter(Terminal()) as shown:
            shown.follow(run.ledger, Path("/nowhere/grid"), lambda: 1.0)
            for number in range(30):
                for how, say in (
                    ("logged", logger.warning),
                    ("printed", print),
                    ("written", lambda text: sys.stderr.write(text + "\n")),
                    ("news", shown.say),
                ):
                    said.append(f"{how} number {number} <[bold]>")
                    say(said[-1])
                run.worker(0, "joined", 1.0, facts={})
            until(lambda: "w1" in tty.text())
        assert (sys.stdout, sys.stderr) == before
        assert handler.stream is before[1]
        print("the prompt")
    finally:
        logger.removeHandler(handler)
    screen = tty.screen()
    for text in said:
        assert len([row for row in screen.rows if text in row and "number" in row]) >= 1, text
    rows = [row.rstrip() for row in screen.rows]
    for label in ("run     grid", "models  3", "w0 ", "w1 "):
        assert len([row for row in rows if row.startswith(label)]) == 1, "\n".join(rows)
    last = rows.index(next(row for row in rows if row.startswith("w1 ")))
    assert rows[last + 1] == "the prompt", "the view is the last thing there"
    assert "ended" in next(row for row in rows if row.startswith("run     grid"))
    assert screen.cursor


def test_keys_that_show_in_the_terminal_break_no_row(tty, monkeypatch):
    tty.take()
    monkeypatch.setattr(reporter, "INTERVAL", 0.0)
    run = PlayedRun(workers=3)
    with Reporter(Terminal()) as shown:
        shown.follow(run.ledger, Path("/nowhere/grid"), lambda: 1.0)
        until(lambda: "w2" in tty.text())
        os.write(sys.stderr.fileno(), b"^C" * 45)  # as the terminal itself writes it
        run.worker(0, "lost", 1.0, reason="to be drawn")
        until(lambda: "to be drawn" in tty.text())
    rows = [row.rstrip() for row in tty.screen().rows]
    assert len([row for row in rows if row.startswith("run ")]) == 1, "\n".join(rows)
    assert "^C" not in "".join(row for row in rows if row.startswith(("run", "w")))


def test_a_run_that_never_began_leaves_no_view(tty):
    tty.take()
    with Reporter(Terminal()) as shown, shown.doing("contacting 2 workers"):
        until(lambda: "contacting" in tty.text())
    print("the prompt")
    assert [row for row in tty.screen().rows if row.strip()] == ["the prompt"]


def test_an_error_and_an_interruption_leave_the_last_state(tty):
    tty.take()
    run = PlayedRun()
    for error in (RunInterrupted, InputError):
        with contextlib.suppress(error), Reporter(Terminal()) as shown:
            shown.follow(run.ledger, Path("/nowhere/grid"), lambda: 1.0)
            raise error
    rows = [row.rstrip() for row in tty.screen().rows if row.startswith("run ")]
    assert rows[0].endswith("interrupted")
    assert rows[1].endswith("stopped by InputError")


def test_what_is_printed_to_a_file_stays_there_though_there_is_a_view(tty, monkeypatch, tmp_path):
    tty.take()
    with open(tmp_path / "out", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with Reporter(Terminal()):
            print("a result")
    assert (tmp_path / "out").read_text() == "a result\n"


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_terminal_that_is_gone_ends_no_run(monkeypatch):
    class Gone(Silent):
        has_view = True

        def __init__(self):
            self.drawn = threading.Event()

        def draw(self, view):
            self.drawn.set()
            raise OSError

        def end(self, view):
            raise OSError

    display = Gone()
    run = PlayedRun()
    monkeypatch.setattr(reporter, "Silent", io.StringIO)  # so that this one is drawn
    with Reporter(display) as shown:
        shown.follow(run.ledger, Path("/nowhere/grid"), lambda: 1.0)
        assert display.drawn.wait(SOON)
        shown.say("and it goes on")


def test_lines_that_nobody_can_read_end_no_run():
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "w") as file:
        Plain(file).line("broken pipe")
        os.dup2(os.open(os.devnull, os.O_WRONLY), theirs)


# --- lines ---------------------------------------------------------------------------------------


def test_what_takes_long_is_said_in_a_line(monkeypatch):
    monkeypatch.setattr(reporter, "LONG_SECONDS", 0.01)
    out = io.StringIO()
    with Reporter(Plain(out)) as shown, shown.doing("contacting 2 workers"):
        until(lambda: "contacting" in out.getvalue())
    assert re.search(r"\] still contacting 2 workers, for \d+ s so far\n", out.getvalue())


def test_a_wait_is_said_once_and_again_once_it_is_news():
    out = io.StringIO()
    shown = Reporter(Plain(out))
    for _ in range(3):
        shown.wait_for({"a": "waiting for node1", "b": "waiting for node2"})
    assert out.getvalue().count("node1") == out.getvalue().count("node2") == 1
    shown.reset_waits()
    shown.wait_for({"a": "waiting for node1"})
    assert out.getvalue().count("node1") == 2


def test_what_the_view_shows_needs_no_line_but_news_do():
    lines = []
    display = SimpleNamespace(has_view=True, line=lines.append)
    shown = Reporter(display)
    run = PlayedRun()
    run.ledger.listeners.append(shown)
    shown.wait_for({"a": "waiting for node1"})
    run.all_ready()
    assert lines == []
    run.worker(0, "lost", 1.0, reason="cut off")
    attempt = run.start(1.0, 1, 0, 0)
    failed = {"failure": "user", "message": "ValueError: no", "output": ""}
    run.add("model_failed", 2.0, model=0, attempt=attempt, **failed)
    assert "worker 0 (http://node0:7777) lost: cut off" in lines[0]
    assert "model 0 FAILED: ValueError: no" in lines[1]


def test_turned_off_it_says_nothing(capfd):
    with Reporter(display_for(check_progress(False))) as shown:
        shown.say("a line")
        shown.follow(PlayedRun().ledger, Path("/nowhere"), lambda: 1.0)
    assert capfd.readouterr() == ("", "")


# --- which one -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, None, 0, "rich", ["live"]])
def test_another_choice_is_refused(value):
    with pytest.raises(InputError, match="'auto', 'live', 'plain', 'notebook', 'off', or False"):
        check_progress(value)


def test_a_terminal_gets_the_live_view(tty, monkeypatch):
    tty.take()
    assert isinstance(display_for("auto"), Terminal)
    assert type(display_for("plain")) is Plain
    monkeypatch.setenv("TERM", "dumb")
    assert type(display_for("auto")) is Plain
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setitem(sys.modules, "rich.live", None)  # as where it is not installed
    assert type(display_for("auto")) is Plain


def test_a_file_gets_lines_and_a_choice_that_cannot_be_had_says_why(capsys):
    assert type(display_for("auto")) is Plain
    assert capsys.readouterr().err == ""
    assert type(display_for("live")) is Plain
    assert "progress='live' shows plain lines here" in capsys.readouterr().err
    assert type(display_for("notebook")) is Plain
    assert "this is no notebook" in capsys.readouterr().err


def test_a_notebook_gets_its_view(monkeypatch):
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert isinstance(display_for("auto"), Notebook)
    shell.kernel = None
    assert "IPython" in notebook.can_display()
    assert type(display_for("auto")) is Plain


def test_a_page_shows_text_as_it_is():
    page = notebook._page([(Span("<b>", "good"),)], ["</pre><script>"])
    assert "<b>" not in page
    assert "<script>" not in page
    assert "&lt;b&gt;" in page


def test_where_utf8_is_not_understood_there_are_no_strange_characters():
    display = Terminal()
    display._utf8 = False
    assert display._spell("━━──…").isascii()
    assert set("━─…") == set(map(chr, terminal.ASCII))


# --- disk ----------------------------------------------------------------------------------------


def test_disk_use_is_known_after_the_first_save():
    use = DiskUse()
    use.measured(None, 0, 10_000_000)
    assert use.text(4) == "up to 3 versions of 4 models, size known after a save; 10 MB free"
    use.measured(0, 500_000, 9_500_000)
    assert use.text(4) == "up to 3 versions of 4 models, 500 kB each: 6.0 MB; 9.5 MB free"
    use.measured(1, 1_500_000, 8_000_000)
    assert "1.0 MB each: 12 MB" in use.text(4)
    assert use.text(4).endswith("8.0 MB free, which is too little")


def test_versions_that_were_there_already_need_no_more_room():
    use = DiskUse(present=12)
    use.measured(0, 500_000, 1_000)
    assert not use.is_short(4)
    assert use.is_short(5)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_obeys_nothing_that_stands_in_a_text(tty, encoding):
    tty.take()
    sys.stderr.reconfigure(encoding=encoding)
    text = "ü日\x1b[2J\x1b]0;T\x07\x9b\u202e\ud800"
    display = Terminal()
    display.start()
    display.line(text)
    display.draw(View(name=text))
    display.end(View(name=text, waits=(text,)))
    tty.screen()
    shown = tty.text()
    assert not re.search("\x1b\\[2J|\x1b]|[\x07\x80-\x9f\u202e]", shown)
    escaped = r"\x1b[2J\x1b]0;T\x07\x9b\u202e\ud800"
    assert shown.count(escaped) >= 3
    assert shown.isascii() is (encoding == "ascii")


def test_a_line_for_a_stream_that_was_closed_ends_nothing():
    stream = io.StringIO()
    stream.close()
    Plain(stream).line("nobody reads this")
