"""Workers: clusters that tests share, and workers started by their command, as users start them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from guards import Guards
from patience import SOON
from worker_side import Side

import cerebro
from cerebro.errors import RpcError
from cerebro.progress import plain
from cerebro.rpc import Client, load_secret


def pytest_configure(config):
    config.pluginmanager.register(Guards(config), "guards")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with what takes long, so that processes that share the tests end together."""
    long = ("slow", "tf", "processes")
    items.sort(key=lambda item: [item.get_closest_marker(mark) is None for mark in long])


@dataclass
class HandStarted:
    """A worker started by its command, in a folder of its own."""

    process: subprocess.Popen
    url: str
    secret_file: str
    lines: list[str] = field(default_factory=list)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(SOON)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self.process.stderr.close()


def heed_hangups():
    """For a child process: a closed terminal is its business, though these tests run in nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def launch(place, secret, *arguments, port=0, wrapper=()):
    """Start a worker in the folder `place`, which is made; its secret too, if it is missing."""
    place.mkdir()
    if not secret.exists():
        secret.write_text("a secret of this test, long enough")
        secret.chmod(0o600)
    command = [sys.executable, "-m", "cerebro.cli.worker", "--hostname", "127.0.0.1"]
    command += ["--port", str(port), "--secret-file", str(secret), "--threads", "1"]
    process = subprocess.Popen(
        [*wrapper, *command, *arguments],
        preexec_fn=heed_hangups,
        cwd=place,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "CEREBRO_SECRET_FILE"},
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"worker on 127\.0\.0\.1:(\d+)", line):
            break
    else:
        raise AssertionError("the worker did not start: " + "".join(lines))
    return HandStarted(process, f"http://127.0.0.1:{found[1]}", str(secret), lines)


@pytest.fixture
def start_worker(tmp_path):
    """A function that starts a worker by its command, from an empty folder."""
    started = []

    def start(*arguments, secret=None, folder="worker", **options):
        place = tmp_path / f"{folder}{len(started)}"
        started.append(launch(place, secret or tmp_path / "secret", *arguments, **options))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


@pytest.fixture(scope="module")
def shared_worker(tmp_path_factory):
    """One worker for all tests of a module that leave it alive."""
    folder = tmp_path_factory.mktemp("shared")
    worker = launch(folder / "worker", folder / "secret")
    yield worker
    worker.stop()


@pytest.fixture
def secret_file(tmp_path):
    return str(tmp_path / "secret")


@pytest.fixture
def said_file(tmp_path, monkeypatch):
    """A path where a run's lines go: for functions of that run that look at what it says.

    A run takes the fingerprint of all that its functions reach. A fixture such as `capsys` leads to
    everything that was collected, which takes minutes where that is the whole suite.
    """
    path = tmp_path / "said"
    with path.open("w", buffering=1) as file:
        # Not sys.stderr itself, which pytest sets anew when the test begins.
        monkeypatch.setattr(plain, "sys", SimpleNamespace(stderr=file))
        yield str(path)


@pytest.fixture(scope="module")
def cluster():
    """Two workers that the tests of a module share; each run gets new executors."""
    with cerebro.LocalCluster(2, threads=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def one_worker():
    """One worker that the tests of a module share, where a second one would show nothing more."""
    with cerebro.LocalCluster(1, threads=1) as cluster:
        yield cluster


@pytest.fixture
def connect(request):
    """Makes a driver's side of a worker: `connect(worker, run=..., generation=...)`."""
    sides = []

    def make(worker, **of):
        client = Client(worker.url, load_secret(worker.secret_file).key)
        sides.append(Side(client, **{"run": request.node.name, **of}))
        return sides[-1]

    yield make
    for side in sides:
        with contextlib.suppress(RpcError):
            side.call("close_run")
        side.client.close()


@pytest.fixture
def side(shared_worker, connect):
    """A driver's side of the shared worker, for a run of the test's name; nothing is open yet."""
    return connect(shared_worker)


@pytest.fixture
def own_worker(start_worker):
    """A worker that the test may end."""
    return start_worker()


@pytest.fixture
def own_side(own_worker, connect):
    """A driver's side of the test's own worker."""
    return connect(own_worker)
