"""Ctrl-C and SIGTERM at the driver: in a terminal, and in a notebook whose kernel lives on."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from exact import check_exact
from patience import PATIENCE

import cerebro

HELPERS = Path(__file__).parents[1] / "helpers"
PROMPT_SECONDS = 2.0
"""What users are promised."""

HANGING = """
import sys
sys.path.insert(0, {here!r})
from toy import functions, partitions
from pathlib import Path
import cerebro

place = Path({place!r})
input_fn, model_fn, plain, eval_fn = functions(2)

def train_fn(model, data, train=True):
    import os, time
    while os.path.exists({mark!r}):
        try:
            time.sleep(0.05)
        except BaseException:
            pass
    return plain(model, data, train)

def search(resume):
    return cerebro.schedule(
        {urls!r}, partitions(place / "data", 3), partitions(place / "data", 2, "valid"),
        None, None, input_fn, model_fn, train_fn, [{{"rate": 0.5}}], eval_fn,
        ckpt_root=str(place / "ckpt"), backend="python", secret_file={secret!r},
        run_name="r", resume=resume,
    )
"""


def heed_hangups():
    """For a child process: a closed terminal is its business, though these tests run in nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def script(cluster, tmp_path):
    """Source of a search whose units ignore everything as long as a file is there."""
    mark = tmp_path / "mark"
    mark.touch()
    return HANGING.format(
        here=str(HELPERS),
        place=str(tmp_path),
        mark=str(mark),
        urls=cluster.urls,
        secret=cluster.secret_file,
    )


def read_until(descriptor, text):
    """What a terminal shows, up to some text."""
    shown = ""
    while text not in shown:
        try:
            shown += os.read(descriptor, 4096).decode(errors="replace")
        except OSError:
            raise AssertionError(f"the end, and no {text!r}: {shown}") from None
    return shown


@pytest.mark.timing
def test_ctrl_c_in_a_terminal_gives_the_prompt_back(cluster, script, tmp_path):
    """The key is pressed in a real terminal, so that every process there gets the signal."""
    path = tmp_path / "search.py"
    path.write_text(script + "\nsearch('auto')\n")
    ours, theirs = pty.openpty()

    def own_the_terminal():
        os.setsid()
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, str(path)],
        stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_the_terminal,
    )  # fmt: skip
    os.close(theirs)
    try:
        read_until(ours, "training")
        pressed = time.monotonic()
        os.write(ours, b"\x03")
        shown = read_until(ours, "resume=True")
        assert process.wait(PATIENCE) != 0
        assert time.monotonic() - pressed < PROMPT_SECONDS
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "RunInterrupted" in shown
    assert "run_name='r', resume=True" in shown
    view, traceback = shown.split("Traceback", 1)
    assert "interrupted" in view, "the last state of the view says how it ended"
    assert "\x1b[1A" not in traceback, "nothing is drawn any more"
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l"), "the cursor is there"
    (tmp_path / "mark").unlink()
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    result = cerebro.load(tmp_path / "ckpt" / "r")
    check_exact(result, 2)
    assert "running" not in set(result.units["outcome"])


@pytest.mark.timing
@pytest.mark.slow
def test_an_interrupted_notebook_keeps_its_kernel_and_goes_on(script, tmp_path):
    manager = pytest.importorskip("jupyter_client.manager")
    kernel, client = manager.start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    shown, views, kinds = [], {}, []

    def run(code, *, interrupt_at=None):
        """Execute a cell; returns (reply, seconds from the interrupt to it)."""
        request = client.execute(code)
        pressed = time.monotonic()
        while True:
            message = client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            shown.append(str(content.get("text") or content.get("data") or ""))
            if message["msg_type"] in ("display_data", "update_display_data"):
                display = content["transient"]["display_id"]
                views.setdefault(display, []).append(content["data"])
                kinds.append(message["msg_type"])
            if interrupt_at and "".join(shown).count(interrupt_at[0]) >= interrupt_at[1]:
                interrupt_at = None
                pressed = time.monotonic()
                kernel.interrupt_kernel()
            if content.get("execution_state") == "idle":
                break
        # A kernel that is slow to start has been asked for its information more than once.
        replies = iter(lambda: client.get_shell_msg(timeout=PATIENCE), None)
        reply = next(r["content"] for r in replies if r["parent_header"].get("msg_id") == request)
        return reply, time.monotonic() - pressed

    try:
        run("import os; pid = os.getpid()\n" + script)
        reply, seconds = run("search(False)", interrupt_at=("training", 1))
        assert (reply["status"], reply["ename"]) == ("error", "RunInterrupted")
        assert "resume=True" in reply["evalue"]
        assert seconds < PROMPT_SECONDS
        (view,) = views.values()
        assert "interrupted" in view[-1]["text/plain"], "the last state stays in the cell"
        assert "interrupted" in view[-1]["text/html"]
        assert kinds.count("display_data") == 1, "one output, which is updated in place"
        (tmp_path / "mark").unlink()
        reply, _ = run(
            "assert os.getpid() == pid\nimport threading\nresult = search(True)\n"
            "names = [t.name.split()[0] for t in threading.enumerate()]\n"
            "print('left', [n for n in names if n in ('link', 'progress', 'disk')])"
        )
        assert reply["status"] == "ok", reply
        assert "left []" in "".join(shown)
        assert "ended" in list(views.values())[-1][-1]["text/plain"]
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    check_exact(cerebro.load(tmp_path / "ckpt" / "r"), 2)


@pytest.mark.timing
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_unit_ignores_everything(script, tmp_path, request, number):
    path = tmp_path / "search.py"
    path.write_text(script + "\nsearch('auto')\n")
    process = subprocess.Popen(
        [sys.executable, str(path)], stderr=subprocess.PIPE, text=True, preexec_fn=heed_hangups
    )
    request.addfinalizer(process.kill)
    ready = 0
    for line in process.stderr:
        ready += ") ready" in line
        if ready == 2:
            break
    pressed = time.monotonic()
    process.send_signal(number)
    _, messages = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - pressed < PROMPT_SECONDS
    assert process.returncode != 0
    assert "resume=True" in messages


def test_a_terminal_that_is_closed_does_not_end_a_driver_under_nohup(script, tmp_path, request):
    path = tmp_path / "search.py"
    path.write_text(script + "\nsearch('auto')\n")
    process = subprocess.Popen(
        ["nohup", sys.executable, str(path)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=heed_hangups,
    )  # fmt: skip
    request.addfinalizer(process.kill)
    for line in process.stderr:
        if ") ready" in line:
            break
    process.send_signal(signal.SIGHUP)
    (tmp_path / "mark").unlink()
    _, messages = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, messages
