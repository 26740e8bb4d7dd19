"""The child process that trains: what it reports, and how its end is dealt with."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time

import pytest
from patience import SOON
from worker_side import appears, functions, gone, order, run_options

from cerebro.protocol.messages import ExecutorSetup, UnitOrder
from cerebro.worker import executor, executor_process


def items(*paths, split="train"):
    return [{"split": split, "partition": n, "path": str(p)} for n, p in enumerate(paths)]


def test_a_unit_that_starts_from_what_is_no_version_of_its_model_is_a_warm_start():
    def is_warm(reads, writes):
        return executor.is_warm_start(UnitOrder.from_json(order(1, reads=reads, writes=writes)))

    own = "/run/models/3/v4-g1-a9/model"
    assert not is_warm(own, "/run/models/3/v5-g1-a11")
    assert is_warm("/run/models/2/v4-g1-a9/model", "/run/models/3/v1-g1-a11")
    assert is_warm("/other/models/3/v4-g1-a9/model", "/run/models/3/v1-g1-a11")
    assert is_warm("/somewhere/first.weights.h5", "/run/models/3/v1-g1-a11")
    assert not is_warm(None, "/run/models/3/v1-g1-a11")
    assert not is_warm(own, None)


# --- loading -------------------------------------------------------------------------------------


def test_preload_reports_each_partition_and_then_that_it_is_ready(side):
    def input_fn(path):
        print(f"reading {path}")
        if path == "bad":
            raise ValueError("no such numbers")
        if path == "exit":
            raise SystemExit("enough")
        return path

    side.open(functions(input_fn))
    side.call("preload", items=items("a", "bad", "exit", "b"))
    side.until("ready")
    begun, first, bad, left, last, _ = side.seen
    assert [e["kind"] for e in side.seen] == [
        "begun", "loaded", "unreadable", "unreadable", "loaded", "ready"
    ]  # fmt: skip
    assert begun["devices"] == ["CPU"]
    assert (first["path"], last["path"]) == ("a", "b")
    assert 0 <= first["seconds"] < SOON
    assert (bad["split"], bad["partition"], bad["path"]) == ("train", 1, "bad")
    assert bad["function"] == "input_fn"
    assert bad["message"] == "input_fn raised ValueError: no such numbers"
    assert 'raise ValueError("no such numbers")' in bad["traceback"]
    assert bad["output"] == "reading bad"
    assert (left["partition"], left["message"]) == (2, "input_fn raised SystemExit: enough")


@pytest.mark.parametrize("keep_data", [True, False])
def test_data_stays_in_memory_or_does_not(side, tmp_path, keep_data):
    loads = tmp_path / "loads"

    def input_fn(path):
        with open(loads, "a") as file:
            file.write("x")
        return path

    side.open(functions(input_fn), keep_data=keep_data)
    for attempt in (1, 2, 3):
        side.start(attempt)
    side.until("ran", attempt=3)
    assert loads.read_text() == ("x" if keep_data else "xxx")


def test_an_executor_that_dies_while_it_loads_has_a_successor_that_goes_on(side, tmp_path):
    tries = tmp_path / "tries"

    def input_fn(path):
        import os
        import signal

        with open(tries, "a+") as file:
            file.write(path)
            file.seek(0)
            first = file.read().count(path) == 1
        if path == "x" or (path == "b" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    side.open(functions(input_fn))
    side.call("preload", items=items("a", "b", "x", "c"))
    side.until("ready")
    reported = [(e["kind"], e["path"]) for e in side.seen if "path" in e]
    assert reported == [("loaded", "a"), ("loaded", "b"), ("unreadable", "x"), ("loaded", "c")]
    lost = side.until("unreadable")
    assert (lost["split"], lost["partition"]) == ("train", 2)
    assert "3 times: signal 9 (SIGKILL)" in lost["message"]
    assert tries.read_text() == "abbxxxc"


# --- units ---------------------------------------------------------------------------------------


def test_a_partition_is_loaded_again_where_storage_is_not_reached_for_the_moment(side, tmp_path):
    tries = str(tmp_path / "tries")

    def input_fn(path):
        import errno
        import os

        with open(tries, "a") as file:
            file.write("x")
        if os.path.getsize(tries) < 3:
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return path

    side.open(functions(input_fn))
    side.call("preload", items=items("a"))
    side.until("ready")
    waits = [e for e in side.seen if e["kind"] == "load_waits"]
    assert [e["path"] for e in waits] == ["a", "a"]
    assert "Stale file handle" in waits[0]["cause"]
    assert "unreadable" not in [e["kind"] for e in side.seen]


def test_a_unit_whose_partition_is_not_reached_for_the_moment_is_tried_again(side):
    def input_fn(path):
        raise OSError(5, "Input/output error", path)

    side.open(functions(input_fn), keep_data=False)
    side.start(1)
    failed = side.until("failed", attempt=1)
    assert failed["failure"] == "storage"
    assert "Input/output error" in failed["message"]


def test_a_unit_reports_its_result_and_the_seconds_of_its_phases(side, tmp_path):
    side.open()
    side.start(1, writes=tmp_path / "v1", path="a")
    ran = side.until("ran", attempt=1)
    assert (ran["loss"], ran["error"], ran["examples"]) == (1.0, 0.5, None)
    assert set(ran["phases"]) == {"load", "build", "restore", "run", "fetch", "wait"}
    assert all(0 <= seconds < SOON for seconds in ran["phases"].values())
    committed = side.until("committed", attempt=1)
    assert committed["save"] >= 0
    assert os.path.dirname(committed["checkpoint"]) == str(tmp_path / "v1")
    side.start(2, reads=committed["checkpoint"], writes=tmp_path / "v2", path="b")
    second = side.until("committed", attempt=2)["checkpoint"]
    with open(second, "rb") as file:
        assert pickle.load(file) == ["a", "b"]
    side.start(3, reads=second)
    assert side.until("ran", attempt=3)["loss"] == 1.0
    assert side.settle().count("committed") == 2


def test_an_attempt_is_run_once_however_often_it_is_started(side, tmp_path):
    side.open()
    for _ in range(3):
        side.start(1, writes=tmp_path / "v1")
    side.until("committed", attempt=1)
    side.start(1, writes=tmp_path / "v1")
    assert side.settle() == ["begun", "ran", "committed"]


def test_a_staged_version_is_read_ahead(side, tmp_path):
    """What was staged is in memory: the unit no longer needs the file."""
    side.open()
    side.start(1, writes=tmp_path / "v1", path="a")
    first = side.until("committed", attempt=1)["checkpoint"]
    staged = order(92, reads=first, writes=tmp_path / "v2", path="b")
    side.call("stage", order=staged)
    side.call("stage", order=order(93, reads=first))
    side.call("unstage", attempt=93)
    hold(side, tmp_path)
    os.unlink(first)
    side.call("start", order=staged)
    second = side.until("committed", attempt=92)["checkpoint"]
    with open(second, "rb") as file:
        assert pickle.load(file) == ["a", "b"]
    side.start(93, reads=first)
    failed = side.until("failed", attempt=93)
    assert (failed["failure"], failed["error"]) == ("damaged", "VersionDamaged")


def hold(side, tmp_path):
    """Return once everything that was staged so far has been read."""
    side.start(90, writes=tmp_path / "v90")
    checkpoint = side.until("committed", attempt=90)["checkpoint"]
    behind = order(91, reads=checkpoint)
    side.call("stage", order=behind)
    side.call("start", order=behind)
    side.until("ran", attempt=91)


@pytest.mark.parametrize("kind", ["link", "pipe", "link above"])
def test_a_version_that_is_a_link_is_damaged(side, tmp_path, kind):
    """What it leads to is not read, whatever that is, and no pipe is waited for."""
    side.open()
    side.start(1, writes=tmp_path / "v1")
    checkpoint = side.until("committed", attempt=1)["checkpoint"]
    path = os.path.dirname(checkpoint) if kind == "link above" else checkpoint
    os.rename(path, tmp_path / "elsewhere")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        os.symlink(tmp_path / "elsewhere", path)
    side.start(2, reads=checkpoint)
    failed = side.until("failed", attempt=2)
    assert failed["failure"] == "damaged"
    assert f"{path} is a {kind.split()[0]}" in failed["message"]


def test_a_damaged_version_is_reported_as_such(side, tmp_path):
    side.open()
    side.start(1, writes=tmp_path / "v1")
    checkpoint = side.until("committed", attempt=1)["checkpoint"]
    with open(checkpoint, "r+b") as file:
        file.write(b"\0\0\0")
    side.start(2, reads=checkpoint)
    failed = side.until("failed", attempt=2)
    assert failed["failure"] == "damaged"
    assert checkpoint in failed["message"]


def test_prints_come_back_within_bounds(side):
    def train_fn(model, data, train=True):
        import sys

        for number in range(20_000):
            print("line", number)
        print("to standard error", file=sys.stderr)
        return 1.0, 0.5

    side.open(functions(train_fn=train_fn))
    side.start(1)
    output = side.until("ran", attempt=1)["output"]
    assert output.endswith("line 19999\nto standard error\n")
    assert len(output) == 8_000


def test_standard_output_is_a_proper_file_for_user_code(side):
    def train_fn(model, data, train=True):
        import subprocess
        import sys

        subprocess.run(["true"], stdout=sys.stdout, stderr=sys.stderr, check=True)
        assert sys.stdout.encoding.lower()
        try:
            sys.stdout.write(b"bytes")
        except TypeError:
            print("as everywhere")
        return 1.0, 0.5

    side.open(functions(train_fn=train_fn))
    side.start(1)
    assert side.until("ran", attempt=1)["output"] == "as everywhere\n"


def test_what_user_code_raises_comes_back_with_traceback_and_last_prints(side):
    def train_fn(model, data, train=True):
        for number in range(50):
            print("line", number)
        return undefined_name  # noqa: F821

    side.open(functions(train_fn=train_fn))
    executor = side.executor()
    side.start(1)
    failed = side.until("failed", attempt=1)
    assert (failed["failure"], failed["function"]) == ("user", "train_fn")
    assert "train_fn raised NameError" in failed["message"]
    assert "return undefined_name" in failed["traceback"]
    assert failed["output"] == "\n".join(f"line {n}" for n in range(30, 50))
    side.start(2)
    side.until("failed", attempt=2)
    assert side.executor() == executor


def test_causes_that_form_a_circle_fail_the_unit_and_not_the_executor(side):
    def train_fn(model, data, train=True):
        error, other = KeyError("one"), ValueError("other")
        error.__cause__, other.__cause__ = other, error
        raise error

    side.open(functions(train_fn=train_fn))
    executor = side.executor()
    side.start(1)
    failed = side.until("failed", attempt=1)
    assert (failed["failure"], failed["message"]) == ("user", "train_fn raised KeyError: 'one'")
    assert side.executor() == executor


def test_what_user_code_logs_is_output_of_its_unit(side):
    def train_fn(model, data, train=True):
        import logging

        own = logging.getLogger("own")
        logging.getLogger("mine").info("before %s", "basicConfig")
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        if not own.handlers:
            own.addHandler(logging.StreamHandler())
            own.propagate = False
        own.warning("by a handler of its own")
        logging.info("after it")
        return 1.0, 0.5

    side.open(functions(train_fn=train_fn))
    shown = []
    for attempt in (1, 2):
        side.start(attempt)
        shown.append(side.until("ran", attempt=attempt)["output"].splitlines())
    assert shown[0] == ["INFO mine: before basicConfig", "by a handler of its own", "after it"]
    assert shown[1] == ["before basicConfig", "by a handler of its own", "after it"]


def test_standard_output_cannot_be_closed_for_others(side):
    def train_fn(model, data, train=True):
        import sys

        sys.stdout.buffer.write("ü in bytes, ".encode())
        print("and text")
        sys.stdout.buffer.close()
        sys.__stdout__.close()
        sys.stdout.close()
        return 1.0, 0.5

    side.open(functions(train_fn=train_fn))
    for attempt in (1, 2):
        side.start(attempt)
        assert side.until("ran", attempt=attempt)["output"] == "ü in bytes, and text\n"


def test_a_timer_that_a_unit_leaves_does_not_end_the_next_one(side):
    """Nor does one that input_fn leaves."""

    def input_fn(path):
        import signal

        signal.setitimer(signal.ITIMER_VIRTUAL, 100)
        return path

    def train_fn(model, data, train=True):
        import signal

        armed = [signal.getitimer(timer)[0] for timer in range(3)]
        signal.alarm(1)
        return float(sum(armed)), 0.5

    side.open(functions(input_fn, train_fn=train_fn))
    executor = side.executor()
    side.call("preload", items=items("a partition"))
    side.until("ready")
    for attempt in (1, 2):
        side.start(attempt)
        assert side.until("ran", attempt=attempt)["loss"] == 0.0
    assert side.executor() == executor


def test_system_exit_fails_the_unit_and_not_the_executor(side):
    def train_fn(model, data, train=True):
        raise SystemExit(3)

    side.open(functions(train_fn=train_fn))
    side.start(1)
    assert side.until("failed", attempt=1)["message"] == "train_fn raised SystemExit: 3"
    assert [e["kind"] for e in side.seen] == ["begun", "failed"]


def test_an_error_with_an_endless_message_travels_all_the_same(side):
    def train_fn(model, data, train=True):
        raise ValueError("x" * 80_000_000)

    side.open(functions(train_fn=train_fn))
    side.start(1)
    failed = side.until("failed", attempt=1)
    assert failed["message"].startswith("train_fn raised ValueError: xxx")
    assert "characters left out" in failed["message"]
    assert len(failed["message"]) < 5_000
    assert len(failed["traceback"]) < 50_000


@pytest.mark.parametrize(
    ("raises", "failure"), [("input_fn", "input"), ("model_fn", "user"), ("memory", "resources")]
)
def test_failures_have_their_kind(side, raises, failure):
    def input_fn(path):
        assert raises != "input_fn"

    def model_fn(data, config):
        assert raises != "model_fn"

    def train_fn(model, data, train=True):
        raise MemoryError

    side.open(functions(input_fn, model_fn, train_fn))
    side.start(1)
    assert side.until("failed", attempt=1)["failure"] == failure


# --- events --------------------------------------------------------------------------------------


def test_events_are_delivered_again_until_they_are_acknowledged(side):
    def events(after, wait=0.0):
        found = side.call("events", after=after, wait=wait)["events"]
        return [(e["number"], e["kind"]) for e in found]

    side.open()
    side.executor()
    for attempt in (1, 2, 3):
        side.start(attempt)
    while len(events(after=1, wait=SOON)) < 3:
        pass
    assert events(after=1) == events(after=1) == [(2, "ran"), (3, "ran"), (4, "ran")]
    assert events(after=3) == [(4, "ran")]
    assert events(after=1) == [(4, "ran")]
    assert events(after=4) == []
    assert events(after=1) == []


def test_a_waiting_call_wakes_when_an_event_comes(side, shared_worker, connect):
    side.open()
    side.executor()
    got = []

    def wait():
        got.extend(side.fetch(55.0))

    waiting = threading.Thread(target=wait)
    waiting.start()
    connect(shared_worker).start(1)
    waiting.join(SOON)
    assert [e["kind"] for e in got] == ["ran"]


# --- deaths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_an_executor_that_dies_is_reported_and_replaced(side, tmp_path, name):
    def train_fn(model, data, train=True):
        import os
        import signal

        if data == "deadly":
            print("the last words", flush=True)
            os.kill(os.getpid(), getattr(signal, name))
        return 1.0, 0.5

    side.open(functions(train_fn=train_fn))
    first = side.executor()
    side.start(1, path="deadly", writes=tmp_path / "v1")
    died = side.until("executor_died")
    assert died["attempts"] == [1]
    assert died["cause"] == f"signal {getattr(signal, name).value} ({name})"
    assert "the last words" in died["output"]
    assert gone(first, 0)
    side.start(2)
    side.until("ran", attempt=2)
    assert side.executor() != first
    assert [e["kind"] for e in side.seen] == ["begun", "executor_died", "begun", "ran"]


def test_a_death_is_noticed_although_a_forked_child_lives_on(side, tmp_path):
    """The child holds what the executor held; it must not hold the executor's end back."""
    child = tmp_path / "child"

    def train_fn(model, data, train=True):
        import os
        import signal
        import time

        pid = os.fork()
        if pid == 0:
            os.setsid()
            time.sleep(5)
            os._exit(0)
        child.write_text(str(pid))
        os.kill(os.getpid(), signal.SIGKILL)

    side.open(functions(train_fn=train_fn))
    side.start(1)
    assert side.until("executor_died")["cause"] == "signal 9 (SIGKILL)"
    os.kill(int(child.read_text()), signal.SIGKILL)


def test_a_unit_that_runs_for_too_long_ends_with_its_executor(side, tmp_path):
    """What was given to the same executor and had not begun is run by the next one."""
    mark = str(tmp_path / "mark")

    def train_fn(model, data, train=True):
        import time

        if data == "endless":
            with open(mark, "w") as file:
                file.write("x")
            while True:
                try:
                    time.sleep(0.05)
                except BaseException:
                    pass
        return 1.0, 0.5

    side.open(functions(train_fn=train_fn), unit_timeout=1.0)
    first = side.executor()
    side.start(1, path="endless")
    assert appears(mark)
    side.start(2)
    failed = side.until("failed", attempt=1)
    assert (failed["failure"], failed["message"]) == (
        "timeout",
        "it ran for more than unit_timeout=1 s",
    )
    assert gone(first)
    side.until("ran", attempt=2)  # which had not begun, and nobody is to blame it
    assert "executor_died" not in [e["kind"] for e in side.seen if e.get("attempts")]


def test_loading_is_not_part_of_a_units_time(side):
    def input_fn(path):
        import time

        time.sleep(1.5)
        return path

    side.open(functions(input_fn), unit_timeout=0.7, keep_data=False)
    side.start(1)
    side.until("ran", attempt=1)


def test_a_unit_that_ended_while_its_daemon_was_stopped_has_not_run_for_too_long(
    own_worker, own_side, tmp_path
):
    begun, mark = tmp_path / "begun", tmp_path / "mark"
    os.mkfifo(begun)
    told, path = str(begun), str(mark)

    def train_fn(model, data, train=True):
        import time

        with open(told, "w"):
            pass
        time.sleep(0.5)
        with open(path, "w") as file:
            file.write("x")
        return 1.0, 0.5

    own_side.open(functions(train_fn=train_fn), unit_timeout=2.0)
    own_side.start(1)
    begun.read_text()
    own_worker.process.send_signal(signal.SIGSTOP)
    assert appears(mark)
    time.sleep(4.0)  # the clock of the unit goes off late
    own_worker.process.send_signal(signal.SIGCONT)
    own_side.until("ran", attempt=1)


def test_an_executor_for_which_memory_gave_out_is_started_again(side, tmp_path):
    """The unit's failure is told, and the version that was being saved is published before."""

    def train_fn(model, data, train=True):
        if data == "large":
            try:
                bytearray(2**62)
            except MemoryError as error:
                raise RuntimeError("no room") from error
        model.append(data)
        return 1.0, 0.5

    side.open(functions(train_fn=train_fn))
    first = side.executor()
    side.start(1, writes=tmp_path / "v1", path="a")
    side.start(2, path="large")
    side.start(3, path="a")
    failed = side.until("failed", attempt=2)
    assert (failed["failure"], failed["message"]) == (
        "resources",
        "train_fn raised RuntimeError: no room",
    )
    checkpoint = side.until("committed", attempt=1)["checkpoint"]
    assert os.path.exists(checkpoint)
    side.until("ran", attempt=3)
    assert gone(first)
    assert side.executor() != first
    assert "executor_died" not in [e["kind"] for e in side.seen], "that would count as a death"


def test_an_exit_status_of_the_users_is_a_death(side, tmp_path):
    """What an executor says that gives memory back, said by code of the user's."""

    def train_fn(model, data, train=True):
        import os

        os._exit(75)

    side.open(functions(train_fn=train_fn))
    side.start(1)
    died = side.until("executor_died")
    assert (died["attempts"], died["cause"]) == ([1], "exit status 75")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a stopped process like this")
@pytest.mark.parametrize("how", ["stopped", "holding the interpreter"])
def test_an_executor_that_cannot_run_ends_with_its_daemon(own_worker, own_side, tmp_path, how):
    """It cannot see the end of its pipe: the kernel does, and ends its children as well."""
    told = tmp_path / "told"
    os.mkfifo(told)
    path, stopped = str(told), how == "stopped"

    def train_fn(model, data, train=True):
        import ctypes
        import os
        import signal
        import subprocess

        child = subprocess.Popen(["sleep", "3600"])
        with open(path, "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        ctypes.PyDLL(None).sleep(3600)  # without letting other threads run
        return 1.0, 0.5

    own_side.open(functions(train_fn=train_fn))
    own_side.start(1)
    pids = [int(pid) for pid in told.read_text().split()]
    own_worker.kill()
    assert all(gone(pid) for pid in pids)


def test_an_executor_that_cannot_begin_says_what_is_missing(side, tmp_path):
    """The driver has a module installed that this worker has not."""
    place = tmp_path / "site"
    metadata = place / "phantom_tool-1.0.dist-info"
    metadata.mkdir(parents=True)
    (place / "phantom_tool.py").write_text("def loss():\n    return 1.0\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: phantom-tool\nVersion: 1.0\n")
    (metadata / "top_level.txt").write_text("phantom_tool\n")
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys\n"
        "import phantom_tool\n"
        "from cerebro import shipping\n"
        "def input_fn(path): return path\n"
        "def model_fn(data, config): return []\n"
        "def train_fn(model, data, train=True): return phantom_tool.loss(), 0.5\n"
        "functions = {f.__name__: f for f in (input_fn, model_fn, train_fn)}\n"
        "sys.stdout.buffer.write(shipping.pack(functions))\n"
    )
    blob = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *sys.path])},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    side.open(blob=blob)
    event = side.until("cannot_begin")
    assert event["error"] == "ShippingError"
    assert "'phantom_tool'" in event["message"]
    assert "install it there" in event["message"]
    side.call("close_run")


def test_an_executor_that_dies_before_it_can_begin_is_not_tried_for_ever(side):
    class Deadly:
        def __reduce__(self):
            return os._exit, (7,)

    blob = pickle.dumps(Deadly())
    side.open(blob=blob)
    event = side.until("cannot_begin")
    assert "exit status 7" in event["message"]
    assert [e["kind"] for e in side.seen] == ["executor_died"] * 2 + ["cannot_begin"]


@pytest.mark.processes
@pytest.mark.parametrize("said", ['{"kind": "ran"}', "not JSON", "7"])
def test_an_executor_that_says_what_is_not_an_event_is_ended(monkeypatch, caplog, said):
    monkeypatch.setattr(
        executor_process,
        "BOOTSTRAP",
        "import sys\n"
        "from multiprocessing.connection import Connection\n"
        "pipe = Connection(int(sys.argv[1]))\n"
        f"pipe.send_bytes({said.encode()!r})\n"
        "pipe.recv_bytes()\n"
        "while True: pipe.recv_bytes()\n",
    )
    setup = ExecutorSetup(run_options(), 1, None, None, 20)
    events, ended = queue.SimpleQueue(), queue.SimpleQueue()
    executor_process.ExecutorProcess(setup, b"", {}, events.put, lambda code, tail: ended.put(code))
    assert ended.get(timeout=SOON) == -signal.SIGKILL
    assert events.empty()
    assert "the executor sends what is not an event" in caplog.text
