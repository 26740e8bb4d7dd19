"""Whatever a run's texts hold, what is shown of them is plain text; ordinary ones are unchanged."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import traceback
from html.parser import HTMLParser

import pytest
from browser import dom
from hand_written_run import ME, WrittenRun

import cerebro
from cerebro import errors
from cerebro.cli import text_table
from cerebro.cli.main import main
from cerebro.formatting import for_stream, one_line, printable, printable_log
from cerebro.journal import log_files
from cerebro.journal.journal import read_journal
from cerebro.journal.ledger import Ledger
from cerebro.progress.layout import lay_out, text_of
from cerebro.progress.notebook import Notebook
from cerebro.progress.plain import Plain
from cerebro.progress.reporter import Reporter
from cerebro.progress.view import BestView, View, WorkerActivity, WorkerView
from cerebro.report.contents import (
    PARTS,
    Bar,
    Contents,
    Epoch,
    ReportedModel,
    ReportedWorker,
    Trouble,
)
from cerebro.report.page import page
from cerebro.worker.daemon_log import PrintableFormatter

HTML = "</title></script><script>alert(1)</script><!-- '\" ]]><img src=x onerror='alert(2)'> &amp;"
HOSTILE = (
    "=1+1 \x1b]0;TITLE\x07 \x1b[2J\x1b[31mred \x9b1A \r \x00 \x08 \x7f \x85 \u202e \u2066 \u200f "
    f"\u061c \u2028 \ufeff \ud800 {HTML}\nnext    rm -rf ~\n[Sat 00:00:00] epoch 9 ended\tend"
)
ORDINARY = "Zürich 日本語 👩‍👩‍👧 naïve مرحبا ½ a-b"
RAW = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
TEXTS = {"hostile": HOSTILE, "ordinary": ORDINARY}
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "nav", "a", "main"),
    *("noscript", "p", "b", "i", "div", "small", "section", "label", "select", "option", "span"),
    *("figure", "figcaption", "table", "thead", "tbody", "tr", "th", "td", "button", "canvas"),
    *("details", "summary", "pre", "dl", "dt", "dd", "ul", "li", "blockquote", "script"),
}


def write(folder, text):
    """A run whose every free text is this one; a model has failed, and its driver was stopped."""
    run = WrittenRun(
        folder,
        configs=[{"rate": 0.5, "note": text, text: 1}, {"rate": 0.1, "note": 7, text: 2}],
        train_partitions=["/d/" + text.translate({0: None, 0xD800: 0xDCFF}), "/d/1"],
    )
    facts = {"host": text, "threads": 2, "devices": [text]}
    for number in (0, 1):
        run.worker(number, "joined", facts=facts)
        run.worker(number, "ready", devices=[text])
    run.epoch(0, [0.25, 0.75])
    run.decide()
    attempt = run.start(0, 0, epoch=1, reads=2)
    run.say("failed", attempt=attempt, failure="executor", message=text, output=text)
    attempt = run.start(1, 0, epoch=1, reads=2)
    run.say(
        "model_failed", model=1, attempt=attempt, failure="user", message=text, function="train_fn",
        traceback=text, output=text,
    )  # fmt: skip
    run.worker(1, "lost", reason=text)
    run.worker(0, "aside", reason=text)
    run.say("interrupted", reason=text)
    run.holder(**{**ME, "host": text, "released": True})
    run.journal.close()
    return run


@pytest.fixture(params=TEXTS)
def text(request):
    return TEXTS[request.param]


@pytest.fixture
def run(text, tmp_path):
    folder = tmp_path / (ORDINARY if text is ORDINARY else "a\x1b[2J\udcff\n<b>\u202e")
    folder.mkdir()
    return write(folder, text)


class Page(HTMLParser):
    """The elements of a page, with their attributes, its scripts, and its text without these."""

    def __init__(self, content):
        super().__init__()
        self.found, self.said, self.scripts, self._inside = [], "", [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag):
        self._inside.pop() if tag in self._inside else None

    def handle_data(self, data):
        if self._inside and self._inside[-1] == "script":
            self.scripts.append(data)
        elif not self._inside or self._inside[-1] != "style":
            self.said += data


def is_plain(shown):
    """Whether a terminal shows this, and obeys nothing in it."""
    return RAW.search(shown) is None


def texts_in(content):
    """Every text in what JSON gives."""
    if isinstance(content, str):
        return [content]
    inner = content.values() if isinstance(content, dict) else content
    return [s for c in inner for s in texts_in(c)] if isinstance(content, (dict, list)) else []


def check_page(content):
    parsed = Page(content)
    tags = [tag for tag, _ in parsed.found]
    assert set(tags) <= ELEMENTS
    assert tags.count("script") == 2
    data, code = parsed.scripts
    assert code.startswith("(() => {")
    assert code.endswith("})();")
    assert all(map(is_plain, texts_in(json.loads(data))))
    for _, attributes in parsed.found:
        assert not any(name.startswith("on") or name == "src" for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert is_plain(content)
    return parsed.said


def test_the_status_of_a_run(run, text, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["status", str(run.paths.root)]) == 0
    shown = capsys.readouterr().out
    assert is_plain(shown)
    assert not re.search(r"^next +rm|^\[Sat", shown, re.MULTILINE)
    assert text is HOSTILE or shown.count(ORDINARY) >= 4


def test_a_stream_that_knows_ascii_only_ends_no_command(run, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    assert main(["status", str(run.paths.root)]) == 0
    sys.stdout.flush()
    assert is_plain(raw.getvalue().decode("ascii"))


def test_the_report_of_a_run(run, text, capsys):
    assert main(["report", str(run.paths.root), "--methods"]) == 0
    captured = capsys.readouterr()
    assert is_plain(captured.out + captured.err)
    assert "\nnext" not in captured.err
    content = run.paths.report.read_text()
    said = check_page(content)
    shown = printable(text)
    # configuration, failure, host, devices, reason, and what went wrong
    assert said.count(HTML if text is HOSTILE else ORDINARY) > 8
    assert text is HOSTILE or shown in said


def test_what_a_notebook_and_a_prompt_show_of_a_result(run):
    result = cerebro.load(run.paths.root)
    assert is_plain(repr(result))
    content = result._repr_html_()
    assert is_plain(content)
    found = Page(content).found
    assert {tag for tag, _ in found} <= ELEMENTS
    assert found[0] == ("div", {"class": "tex2jax_ignore mathjax_ignore"})
    assert content.endswith("</div>")


def test_the_tables_of_a_run(run, text):
    result = cerebro.load(run.paths.root)
    result.save_tables()
    for path in (run.paths.history, run.paths.models_table, run.paths.units):
        content = path.read_text()
        assert is_plain(content)
        assert path == run.paths.units or printable(text).replace('"', '""') in content
    assert result.models["failure"][1] == text


def test_the_logs_of_a_run(run, text):
    records, _ = read_journal(run.paths)
    log_files.rebuild(run.paths, records)
    logs = [path.read_text() for path in run.paths.model_log(0).parent.iterdir()]
    assert len(logs) == 4
    for content in logs:
        assert is_plain(content.replace("\x1b[31m", ""))
    assert text is HOSTILE or sum(content.count(ORDINARY) for content in logs) >= 5


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_plain_lines(run, text, encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding, newline="\n")
    records, _ = read_journal(run.paths)
    ledger = Ledger()
    ledger.listeners.append(Reporter(Plain(stream)))
    for record in records:
        ledger.add(record)
    shown = raw.getvalue().decode(encoding)
    assert is_plain(shown)
    assert all(line.startswith(("[", "    ")) for line in shown.splitlines())
    assert len(re.findall(r"^\[", shown, re.MULTILINE)) == shown.count(" epoch 0 ended") + 9
    assert text is HOSTILE or encoding == "ascii" or shown.count(ORDINARY) >= 3


def view_of(text):
    worker = WorkerView(0, f"http://{text}", WorkerActivity.LOST, 1.0, detail=text)
    return View(
        name=text,
        models=(("RUNNING", 1),),
        best=BestView(0, 0, "valid_error", 0.5, {text: text}),
        disk=text,
        doing=((text, 1.0),),
        waits=(text,),
        workers=(worker, WorkerView(1, "http://b", WorkerActivity.IDLE, 1.0)),
    )


def test_a_live_view(text):
    for width in (40, 100, 2000):
        lines = [text_of(line) for line in lay_out(view_of(text), width, 40)]
        assert all(is_plain(line) and "\n" not in line for line in lines)
        assert max(map(len, lines)) <= width
    assert text is HOSTILE or "\n".join(lines).count(ORDINARY) >= 7


def test_a_view_in_a_notebook(text):
    notebook = Notebook()
    notebook._view = view_of(text)
    notebook.line(text)
    bundle = notebook._bundle()
    assert is_plain(bundle["text/plain"])
    assert is_plain(bundle["text/html"])
    parsed = Page(bundle["text/html"])
    assert {tag for tag, _ in parsed.found} == {"pre", "span"}
    assert {*parsed.found[0][1]} == {"style"}
    assert parsed.said.count(HTML if text is HOSTILE else ORDINARY) >= 2


@pytest.mark.parametrize("kind", [errors.InputError, errors.RunFailed, errors.RunInterrupted])
def test_what_python_shows_of_an_error(kind, text):
    shown = "".join(traceback.format_exception(kind(text)))
    assert is_plain(shown)
    assert text is HOSTILE or ORDINARY in shown
    assert kind(text).args == (text,)


def test_what_a_worker_logs(text):
    record = logging.LogRecord("x", logging.INFO, "", 0, "holding run %s", (text,), None)
    shown = PrintableFormatter("%(levelname)s %(message)s").format(record)
    assert is_plain(shown)
    assert all(line.startswith("    ") for line in shown.splitlines()[1:])
    assert text is HOSTILE or shown == f"INFO holding run {ORDINARY}"


LOG_AS_AN_EXECUTOR = """
import json, logging, sys
from cerebro.worker import executor_main
executor_main._log_to_stderr(logging.INFO)
logging.getLogger("cerebro.backends").info("reading a copy of %s", json.load(sys.stdin))
"""


@pytest.mark.processes
def test_what_an_executor_logs_to_the_daemons_terminal(text):
    command = [sys.executable, "-c", LOG_AS_AN_EXECUTOR]
    ended = subprocess.run(
        command, input=json.dumps(text), capture_output=True, text=True, check=True, timeout=60
    )
    assert is_plain(ended.stderr)
    assert ended.stderr.startswith("INFO cerebro.backends: reading a copy of ")
    assert all(line.startswith("    ") for line in ended.stderr.splitlines()[1:])
    assert text is HOSTILE or ended.stderr.endswith(f"{ORDINARY}\n")


def test_cells_of_tables_have_the_width_of_what_is_shown():
    shown = text_table.table([["a\x1b[2Jb\nc", "x\ny\x07"], ["d", "e"]], 80)
    assert shown.splitlines() == [r"a\x1b[2Jb\nc  x", r"              y\x07", "d             e"]


def page_of(text):
    """A page whose every value is this text, also where it would be a number."""
    epoch = Epoch(0, 1.0, 1.0, 1.0, 1.0, flaw=text)
    model = ReportedModel(text, {text: text}, text, [epoch], epoch, 0.5, 0.5, text)
    other = ReportedModel(1, {text: 2}, "RUNNING")
    bar = Bar(text, 0, False, 0, 0.0, 1.0, text)
    spent = dict.fromkeys(PARTS, 0.1)
    worker = ReportedWorker(text, text, text, [bar], spent=spent)
    trouble = Trouble(1.0, text, text, text, text)
    return page(
        Contents(
            text, text, text, 1.0, [text], [model, other], [worker], [trouble], [], 0.0,
            [(text, [text]), (text, [text] * 20)], text, text,
        )
    )  # fmt: skip


def test_a_page_is_safe_whatever_the_type_of_its_values(text):
    said = check_page(page_of(text))
    assert said.count(HTML if text is HOSTILE else ORDINARY) > 30


@pytest.mark.processes
def test_a_browser_executes_nothing_of_it(tmp_path):
    """Not even what would stand on the page as HTML."""
    run = "document.documentElement.dataset.ran = 1"
    added = f"<script>{run}</script><p onclick='{run}' id='p'>"
    path = tmp_path / "page.html"
    path.write_text(page_of(HOSTILE).replace("</body>", f"{added}</body>"))
    made = dom(path, tmp_path)
    assert "data-drawn-ms" in made, "a script failed"
    assert "data-ran" not in made
    assert "<img" not in made
    assert made.count("<script") == 3


def test_what_is_escaped_and_what_is_not():
    assert printable("a\x1b\x07\r\x9b\u202e\ud800\ufeff\x7f") == (
        r"a\x1b\x07\r\x9b\u202e\ud800\ufeff\x7f"
    )
    assert printable("a\n\tb") == "a\n\tb"
    assert one_line("a\n\tb") == r"a\n\tb"
    for text in (ORDINARY, HOSTILE):
        assert printable(printable(text)) == printable(text)
    assert printable(ORDINARY) == one_line(ORDINARY) == printable_log(ORDINARY) == ORDINARY


def test_a_log_keeps_the_colours_that_functions_print():
    assert printable_log("\x1b[32m━━\x1b[0m \x1b[2J\x1b]0;T\x07") == (
        "\x1b[32m━━\x1b[0m \\x1b[2J\\x1b]0;T\\x07"
    )


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "ü日"), ("latin-1", r"ü\u65e5"), ("ascii", r"\xfc\u65e5")]
)
def test_what_a_stream_cannot_encode_is_escaped(encoding, shown):
    assert for_stream("ü日", io.TextIOWrapper(io.BytesIO(), encoding)) == shown
    assert for_stream("ü日\x1b", io.StringIO()) == r"ü日\x1b"
