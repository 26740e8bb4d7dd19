"""Who drives a run: refused while the holder lives, taken over when it is gone."""

from __future__ import annotations

import errno
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from patience import PATIENCE, SOON

from cerebro.errors import RunHeld, StorageError, Superseded
from cerebro.journal import ownership as holder_module
from cerebro.journal import processes
from cerebro.journal.ownership import Ownership, check_free, read_holder, sign_of_life
from cerebro.journal.paths import RunPaths
from cerebro.journal.processes import here, process_start


@pytest.fixture
def paths(tmp_path):
    paths = RunPaths(tmp_path)
    paths.create()
    return paths


def one():
    """The generation that the drivers of these tests have claimed."""
    return 1


def hold(paths):
    """A process of its own that holds the run until its input ends."""
    code = (
        "import sys\nfrom cerebro.journal.ownership import Ownership\n"
        "from cerebro.journal.paths import RunPaths\n"
        "holder = Ownership(RunPaths(sys.argv[1]), lambda: 1)\n"
        "print('holds', flush=True)\nsys.stdin.read()\nholder.release()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(paths.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    return process


def test_a_living_process_on_this_host_holds_the_run(paths):
    holder = Ownership(paths, one)
    with pytest.raises(RunHeld, match=f"process {os.getpid()}"):
        check_free(paths, say=print)
    holder.release()
    check_free(paths, say=print)


@pytest.mark.processes
def test_a_process_that_is_gone_is_taken_over_at_once(paths):
    code = (
        "import os, sys\nfrom cerebro.journal.ownership import Ownership\n"
        "from cerebro.journal.paths import RunPaths\n"
        "Ownership(RunPaths(sys.argv[1]), lambda: 1)\nos._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(paths.root)], timeout=PATIENCE, check=False)
    assert read_holder(paths)["released"] is False
    check_free(paths, say=print, wait=lambda seconds: pytest.fail("waited"))


@pytest.mark.processes
def test_a_stopped_process_is_taken_over_from_when_it_stays_so(paths):
    process = hold(paths)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    now = [0.0]

    def wait(seconds):
        now[0] += seconds

    check_free(paths, say=print, clock=lambda: now[0], wait=wait)
    assert now[0] == 60.0
    process.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, process.pid, os.WCONTINUED)
    with pytest.raises(RunHeld, match=str(process.pid)):
        check_free(paths, say=print, wait=lambda seconds: pytest.fail("waited"))
    process.communicate(timeout=PATIENCE)


@pytest.mark.processes
def test_a_process_that_was_killed_and_not_waited_for_holds_nothing(paths):
    process = hold(paths)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    check_free(paths, say=print, wait=lambda seconds: pytest.fail("waited"))
    process.communicate(timeout=PATIENCE)


def test_another_container_on_this_host_is_not_this_host(paths):
    Ownership(paths, one).release()
    entry = {**read_holder(paths), "released": False, "here": "another", "pid": 2**22 + 1}
    paths.driver.write_text(json.dumps(entry))
    with pytest.raises(RunHeld):
        check_free(
            paths, say=print, wait=lambda _: paths.driver.write_text(
                json.dumps({**entry, "counter": 9})
            ),
        )  # fmt: skip


def test_a_process_id_that_was_given_out_again_does_not_hold_it(paths):
    Ownership(paths, one).release()
    entry = {**read_holder(paths), "released": False}
    entry["process_start"] = "0"
    paths.driver.write_text(json.dumps(entry))
    check_free(paths, say=print, wait=lambda seconds: pytest.fail("waited"))


def on_another_host(paths, counter):
    entry = {"host": "elsewhere", "pid": 1, "process_start": "1", "counter": counter}
    paths.driver.write_text(json.dumps(entry))


def test_another_host_is_watched_and_refused_while_its_counter_moves(paths):
    on_another_host(paths, 1)
    with pytest.raises(RunHeld, match="elsewhere"):
        check_free(paths, say=print, wait=lambda seconds: on_another_host(paths, 2))


def test_another_host_is_taken_over_when_its_counter_stands_still(paths):
    on_another_host(paths, 1)
    now, said = [0.0], []

    def wait(seconds):
        now[0] += seconds

    check_free(paths, say=said.append, clock=lambda: now[0], wait=wait)
    assert now[0] == 60.0
    assert "elsewhere" in said[0]


def test_a_process_start_identifies_a_process():
    assert process_start(os.getpid()) == process_start(os.getpid()) is not None
    assert process_start(2**22 + 1) is None


def test_a_driver_that_was_replaced_is_told_and_writes_no_more(paths, monkeypatch):
    monkeypatch.setattr(holder_module, "RENEW_SECONDS", 0.01)
    told = queue.SimpleQueue()
    holder = Ownership(paths, one)
    holder.tell(told.put)
    paths.generation(2).touch()
    assert "another driver" in told.get(timeout=PATIENCE)
    entry = {**read_holder(paths), "generation": 2, "pid": 7}
    paths.driver.write_text(json.dumps(entry))
    holder.release()
    assert read_holder(paths) == entry


def test_a_driver_that_was_replaced_can_say_by_whom(paths):
    holder = Ownership(paths, one)
    try:
        holder.check()
        paths.generation(2).touch()
        with pytest.raises(Superseded, match="the driver of generation 2"):
            holder.check()
        entry = {**read_holder(paths), "generation": 2, "pid": 7, "host": "far"}
        paths.driver.write_text(json.dumps(entry))
        with pytest.raises(Superseded, match="process 7 on far"):
            holder.check()
    finally:
        holder.release()


def test_a_driver_that_was_replaced_before_it_listened_is_told(paths, monkeypatch):
    monkeypatch.setattr(holder_module, "RENEW_SECONDS", 0.01)
    looked = threading.Semaphore(0)
    replaced = holder_module.replaced

    def watched(*args):
        looked.release()
        return replaced(*args)

    monkeypatch.setattr(holder_module, "replaced", watched)
    told = queue.SimpleQueue()
    holder = Ownership(paths, one)
    try:
        paths.generation(2).touch()
        for _ in range(5):
            assert looked.acquire(timeout=PATIENCE)
        holder.tell(told.put)
        assert "another driver" in told.get(timeout=PATIENCE)
    finally:
        holder.release()


def test_a_claim_that_was_overtaken_before_it_was_held_is_refused(paths):
    paths.generation(2).touch()
    with pytest.raises(RunHeld, match="another driver"):
        Ownership(paths, one)
    assert read_holder(paths) is None


def test_a_generation_that_this_driver_is_about_to_claim_replaces_nobody(paths):
    paths.generation(2).touch()
    assert not holder_module.replaced(paths, lambda: 2)
    assert holder_module.replaced(paths, lambda: 1)


# --- what cannot be looked at ------------------------------------------------------------------


def held_here(paths, **changed):
    """Have `driver.json` name this process, with what a test wants to be different."""
    entry = {
        "host": "h", "here": here(), "pid": os.getpid(), "counter": 1, "released": False,
        "process_start": process_start(os.getpid()), "generation": 1, **changed,
    }  # fmt: skip
    paths.driver.write_text(json.dumps(entry))


def is_watched(paths):
    """Whether the holder is refused only when its counter moves, and not taken over before."""
    before = read_holder(paths)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        paths.driver.write_text(json.dumps({**before, "counter": len(waits)}))

    with pytest.raises(RunHeld):
        check_free(paths, say=print, wait=wait)
    return bool(waits)


def no_such_file(*args, **kwargs):
    raise FileNotFoundError(errno.ENOENT, "No such file")


@pytest.mark.parametrize("error", [PermissionError, OSError])
def test_a_process_that_may_not_be_looked_at_is_watched(paths, monkeypatch, error):
    def refuse(pid, number):
        assert number == 0
        raise error(errno.EPERM, "not permitted")

    monkeypatch.setattr(processes, "_stat", lambda pid: [])
    monkeypatch.setattr(os, "kill", refuse)
    held_here(paths)
    assert process_start(os.getpid()) == ""
    assert is_watched(paths)
    assert sign_of_life(paths).alive is True, "its counter has just been renewed"
    os.utime(paths.driver, (0, 0))
    sign = sign_of_life(paths)
    assert sign.alive is None
    assert "cannot be looked at" in sign.how


def test_a_process_that_is_there_and_says_nothing_of_itself_is_watched(paths, monkeypatch):
    held_here(paths)
    monkeypatch.setattr("builtins.open", no_such_file)
    assert process_start(os.getpid()) == ""
    monkeypatch.undo()
    monkeypatch.setattr(processes, "_stat", lambda pid: [])
    assert is_watched(paths)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_proc_of_another_container_says_nothing(monkeypatch):
    real = os.readlink
    other = {"/proc/self": "1234567"}
    monkeypatch.setattr(os, "readlink", lambda path: other.get(path) or real(path))
    assert process_start(os.getpid()) == ""


def test_where_this_container_is_not_known_nobody_is_gone(monkeypatch):
    assert process_start(2**22 + 1) is None
    monkeypatch.setattr(processes.platform, "system", lambda: "Linux")
    monkeypatch.setattr(processes, "_kernel", list)
    assert process_start(2**22 + 1) == ""


def plays_ps(monkeypatch, answer):
    """Another system than Linux, where `ps` answers by what is asked for."""

    def run(command, **options):
        if isinstance(answer, Exception):
            raise answer
        text = answer[command[2].rstrip("=")]
        return subprocess.CompletedProcess(command, 0 if text else 1, text, "")

    monkeypatch.setattr(processes.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(processes.subprocess, "run", run)


@pytest.mark.parametrize(
    "answer",
    [
        FileNotFoundError(errno.ENOENT, "ps"),
        subprocess.TimeoutExpired("ps", 10),
        {"state": "", "lstart": ""},
    ],
)
def test_a_ps_that_does_not_work_does_not_mean_that_a_driver_is_gone(paths, monkeypatch, answer):
    held_here(paths)
    plays_ps(monkeypatch, answer)
    assert process_start(os.getpid()) == ""
    assert process_start(2**22 + 1) is None
    assert is_watched(paths)
    Ownership(paths, one).release()


def test_a_start_that_ps_writes_otherwise_does_not_mean_another_process(paths, monkeypatch):
    plays_ps(monkeypatch, {"state": "S", "lstart": "Sat Nov 28 22:00:00 2026"})
    held_here(paths, process_start="Sat 28 Nov 21:00:00 2026", here=here())
    assert is_watched(paths)
    held_here(paths, here=here())
    with pytest.raises(RunHeld):
        check_free(paths, say=print, wait=lambda seconds: pytest.fail("waited"))
    plays_ps(monkeypatch, {"state": "Z", "lstart": "Sat Nov 28 22:00:00 2026"})
    check_free(paths, say=print, wait=lambda seconds: pytest.fail("waited"))


@pytest.mark.parametrize(
    "changed",
    [
        {"pid": "1"}, {"pid": 0}, {"pid": -1}, {"pid": 2**70}, {"pid": True}, {"pid": None},
        {"pid": 1.5}, {"pid": [1]}, {"process_start": None}, {"process_start": 5},
        {"process_start": ""}, {"released": "no"}, {"released": 1}, {"counter": {}},
        {"host": ["x"]}, {"here": 7}, {"generation": "2"},
    ],
)  # fmt: skip
def test_a_holder_with_fields_of_other_types_is_watched(paths, monkeypatch, changed):
    monkeypatch.setattr(
        os, "kill", lambda pid, number: pytest.fail(f"signalled {pid}") if pid < 1 else None
    )
    held_here(paths, **changed)
    if set(changed) <= {"counter", "host", "generation", "released"}:
        with pytest.raises(RunHeld):
            check_free(paths, say=print, wait=lambda seconds: pytest.fail("waited"))
    else:
        assert is_watched(paths)
    held_here(paths, **changed)
    assert sign_of_life(paths).alive is True
    assert holder_module.successor(paths, one) is None


def test_a_holder_is_named_without_what_a_terminal_would_obey(paths):
    held_here(paths, host="\x1b[2J" + "x" * 1000, pid=10**3000)
    who = sign_of_life(paths).who
    assert who.isprintable()
    assert len(who) < 300


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "\x00"])
def test_a_driver_json_that_cannot_be_understood_is_watched(paths, text):
    paths.driver.write_text(text)
    assert is_watched(paths)
    paths.driver.write_text(text)
    now = [0.0]
    check_free(paths, say=print, clock=lambda: now[0], wait=lambda s: now.append(now.pop() + s))
    assert now[0] == 60.0
    assert sign_of_life(paths).alive is None


def test_a_clock_that_is_behind_does_not_make_a_driver_alive(paths):
    on_another_host(paths, 1)
    future = time.time() + 7200
    os.utime(paths.driver, (future, future))
    sign = sign_of_life(paths)
    assert sign.alive is None
    assert "2 h" in sign.how


# --- waiting for a driver that lives -------------------------------------------------------------


class Elapsing:
    """A clock that goes on when it is waited for; `at` has what happens when."""

    def __init__(self, at=()):
        self.now = 0.0
        self.naps = []
        self._at = dict(at)

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.naps.append(seconds)
        self.now += seconds
        for when in sorted(self._at):
            if when <= self.now:
                self._at.pop(when)()


def check_with(paths, clock, said=None, **options):
    say = print if said is None else said.append
    check_free(paths, say=say, clock=clock, wait=clock.wait, **options)


def test_a_living_driver_is_waited_for_until_it_lets_the_run_go(paths):
    held_here(paths)
    clock, said = Elapsing({100.0: lambda: held_here(paths, released=True)}), []
    check_with(paths, clock, said, takeover_wait=600)
    assert clock.now == 100.0
    assert set(clock.naps) == {holder_module.RENEW_SECONDS}
    assert [line.rpartition("driven by ")[2] for line in said] == [
        f"process {os.getpid()} on h: waiting for it to end, for 10 min at most",
        f"process {os.getpid()} on h: waiting for it to end, for 9 min at most",
    ]


def test_a_driver_that_outlives_the_wait_is_refused(paths):
    held_here(paths)
    clock = Elapsing()
    said = rf"still driven by process {os.getpid()} .* after takeover_wait=12 seconds: wait longer"
    with pytest.raises(RunHeld, match=said):
        check_with(paths, clock, takeover_wait=12)
    assert clock.naps == [5.0, 5.0, 2.0]


def test_a_driver_that_dies_meanwhile_is_taken_over_at_once(paths):
    held_here(paths)
    clock = Elapsing({10.0: lambda: held_here(paths, pid=2**22 + 1)})
    check_with(paths, clock, takeover_wait=600)
    assert clock.now == 10.0


def test_another_host_is_waited_for_while_its_counter_moves(paths):
    moves = {5.0 * n: lambda n=n: on_another_host(paths, n) for n in range(1, 11)}
    on_another_host(paths, 0)
    clock = Elapsing(moves)
    check_with(paths, clock, takeover_wait=600)
    assert clock.now == 50 + holder_module.STALE_SECONDS
    on_another_host(paths, 0)
    clock = Elapsing({5.0 * n: lambda n=n: on_another_host(paths, n) for n in range(1, 99)})
    with pytest.raises(RunHeld):
        check_with(paths, clock, takeover_wait=30)
    assert clock.now == 30.0


def test_a_driver_of_which_storage_says_nothing_for_a_while_is_not_taken_over(paths, monkeypatch):
    on_another_host(paths, 0)
    real, refuses = read_holder, [False]

    def read(paths):
        if refuses[0]:
            raise StorageError("stale")
        return real(paths)

    monkeypatch.setattr(holder_module, "read_holder", read)

    def toggle(to):
        return lambda: refuses.__setitem__(0, to)

    clock = Elapsing(
        {30.0: toggle(True), 60.0: toggle(False), 70.0: lambda: on_another_host(paths, 1)}
    )
    with pytest.raises(RunHeld):
        check_with(paths, clock)
    assert clock.now == 70.0
    clock = Elapsing({30.0: toggle(True)})
    with pytest.raises(StorageError):
        check_with(paths, clock)
    assert clock.now == 60.0


def test_ctrl_c_ends_the_wait(paths):
    held_here(paths)

    def interrupt(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_free(paths, say=print, takeover_wait=600, wait=interrupt)


# --- another user --------------------------------------------------------------------------------


@pytest.fixture
def open_paths():
    """A run in which all users may write; they could not enter the folders of pytest."""
    with tempfile.TemporaryDirectory(prefix="cerebro-users-") as folder:
        paths = RunPaths(folder)
        paths.create()
        for each in (paths.root, paths.journal):
            each.chmod(0o777)
        yield paths


HOLD = """
import sys
from cerebro.journal import ownership
from cerebro.journal.paths import RunPaths
ownership.RENEW_SECONDS = 0.05
holder = ownership.Ownership(RunPaths(sys.argv[1]), lambda: 1)
print("holds", flush=True)
sys.stdin.read()
"""

CONTEND = """
import os, sys, time
from cerebro.errors import RunHeld
from cerebro.journal.ownership import check_free, read_holder
from cerebro.journal.paths import RunPaths
paths = RunPaths(sys.argv[1])
holder = read_holder(paths)
assert not os.path.exists(f"/proc/{holder['pid']}"), "it is not hidden"
def wait(seconds):
    while read_holder(paths)["counter"] == holder["counter"]:
        time.sleep(0.01)
try:
    check_free(paths, say=print, clock=lambda: 0.0, wait=wait)
except RunHeld:
    print("REFUSED")
"""


@pytest.mark.processes
@pytest.mark.privileged
def test_a_driver_of_another_user_is_not_taken_over_where_processes_are_hidden(open_paths):
    hidden = ["unshare", "-m", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"']
    works = shutil.which("unshare") and os.geteuid() == 0
    if not works or subprocess.run([*hidden, "sh", "true"], check=False).returncode:
        pytest.skip("needs root and mount namespaces to hide processes")

    def start(uid, code):
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable]
        return subprocess.Popen(
            [*hidden, "sh", *command, "-c", code, str(open_paths.root)], cwd="/",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    holder = start(4001, HOLD)
    try:
        assert holder.stdout.readline() == "holds\n"
        said, _ = start(4002, CONTEND).communicate(timeout=SOON)
        assert "REFUSED" in said
    finally:
        holder.communicate(timeout=SOON)
