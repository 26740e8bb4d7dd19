"""Workers on this machine, which never outlive the process that started them."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys

import pytest
from patience import SOON
from worker_side import Side, functions, gone

import cerebro
from cerebro import machine
from cerebro.errors import InputError, SecretError
from cerebro.rpc import Client, load_secret


def pids(cluster):
    key = load_secret(cluster.secret_file).key
    found = []
    for url in cluster.urls:
        client = Client(url, key)
        found.append(client.call("describe", SOON)["pid"])
        client.close()
    return found


@pytest.mark.processes
def test_urls_secret_and_threads():
    with cerebro.LocalCluster(2, threads=1) as cluster:
        assert len(set(cluster.urls)) == 2
        assert all(url.startswith("http://127.0.0.1:") for url in cluster.urls)
        assert stat.S_IMODE(os.stat(cluster.secret_file).st_mode) == 0o600
        assert cluster.urls[0] in repr(cluster)
        client = Client(cluster.urls[0], load_secret(cluster.secret_file).key)
        assert client.call("describe", SOON)["threads"] == 1
        client.close()
        stranger = Client(cluster.urls[0], b"another secret, also long enough")
        with pytest.raises(SecretError):
            stranger.call("describe", SOON)
        stranger.close()
        secret = cluster.secret_file
    assert not os.path.exists(os.path.dirname(secret))
    assert cluster.urls == []


@pytest.mark.processes
def test_the_workers_end_with_the_block_also_when_it_raises():
    with cerebro.LocalCluster(1, threads=1) as cluster:
        (pid,) = pids(cluster)
    assert gone(pid, 0)
    cluster.close()
    seen = []

    def fails():
        with cerebro.LocalCluster(1, threads=1) as cluster:
            seen.extend(pids(cluster))
            raise RuntimeError("the body")

    with pytest.raises(RuntimeError, match="the body"):
        fails()
    assert gone(seen[0], 0)


@pytest.mark.processes
def test_the_executor_of_a_run_ends_with_the_block():
    with cerebro.LocalCluster(1, threads=1) as cluster:
        client = Client(cluster.urls[0], load_secret(cluster.secret_file).key)
        side = Side(client, run="run")
        side.open(functions())
        executor = side.executor()
        client.close()
    assert gone(executor)


@pytest.mark.parametrize("number", [0, -1, 1.5, "2", None])
def test_a_number_of_workers_that_cannot_be(number):
    with pytest.raises(InputError, match=r"workers=.* must be an integer of 1 or more"):
        cerebro.LocalCluster(number)


@pytest.mark.parametrize("threads", [0, -2, 0.5, "1"])
def test_a_number_of_threads_that_cannot_be(threads):
    with pytest.raises(InputError, match=r"threads=.* must be an integer of 1 or more"):
        cerebro.LocalCluster(1, threads=threads)


DRIVER = """
import os, sys, time
sys.path[:0] = {path!r}
import cerebro
from cerebro.rpc import Client, load_secret
from worker_side import Side, functions

def train_fn(model, data, train=True):
    import time
    while True:
        time.sleep(0.05)

with cerebro.LocalCluster(2, threads=1) as cluster:
    if {fork}:
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        print(child)
    for url in cluster.urls:
        client = Client(url, load_secret(cluster.secret_file).key)
        print(client.call("describe", 10)["pid"])
        side = Side(client, run="run")
        side.open(functions(train_fn=train_fn))
        print(side.executor())
        side.start(1)
    print(os.path.dirname(cluster.secret_file))
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.mark.processes
@pytest.mark.parametrize("fork", [False, True])
def test_the_workers_end_when_the_driver_is_killed(tmp_path, fork):
    """Also when a process that the driver forked lives on."""
    script = tmp_path / "driver.py"
    path = [os.path.dirname(__file__), *sys.path]
    script.write_text(DRIVER.format(path=path, fork=fork))
    driver = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    lines = []
    for line in driver.stdout:
        lines.append(line.strip())
        if lines[-1] == "there":
            break
    driver.kill()
    driver.wait()
    driver.stdout.close()
    child = int(lines.pop(0)) if fork else None
    *numbers, folder, _ = lines
    try:
        assert len(numbers) == 4
        assert all(gone(int(pid)) for pid in numbers)
        assert not os.path.exists(folder), "the secret of the cluster is left behind"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if child is not None:
            assert not gone(child, 0)
            os.kill(child, signal.SIGKILL)


@pytest.mark.processes
@pytest.mark.parametrize(("mode", "looks_here"), [(0o755, True), (0o1777, False)])
@pytest.mark.parametrize("ours", [True, False])
def test_nobody_can_lie_in_wait_in_the_working_folder(
    tmp_path, monkeypatch, mode, looks_here, ours
):
    """A module that others have put into `/tmp` is not imported by workers that start there."""
    (tmp_path / "argparse.py").write_text("planted = True")
    tmp_path.chmod(mode)
    monkeypatch.chdir(tmp_path)
    path = [path for path in sys.path if os.path.realpath(path) != str(tmp_path) and path]
    monkeypatch.setattr(sys, "path", [*path, *([""] if ours else [])])
    code = "import argparse; print(hasattr(argparse, 'planted'))"
    said = subprocess.run(machine.python_command(code), capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(looks_here or ours)
