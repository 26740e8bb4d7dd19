"""Real networks that are cut, lose packets and come back, and daemons that hang."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from patience import SOON
from test_faults import CONFIGS, check_exact
from toy import functions, partitions

import cerebro
from cerebro.journal.journal import read_journal
from cerebro.journal.paths import RunPaths
from cerebro.progress import Reporter
from testbed import namespaces
from testbed.workers import Worker

pytestmark = pytest.mark.processes

PORT = 7777


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text("a secret of this test, long enough")
    path.chmod(0o600)
    return path


@pytest.fixture
def here(tmp_path, secret):
    """Two workers on this host."""
    with ExitStack() as stack:
        yield [stack.enter_context(Worker(tmp_path / f"worker{n}", secret)) for n in range(2)]


@pytest.fixture
def hosts():
    """Two hosts with addresses of their own."""
    if namespaces.available():
        pytest.skip(namespaces.available())
    with namespaces.Network(2) as network:
        yield network.hosts


@pytest.fixture
def there(hosts, tmp_path, secret):
    """Two workers, one on each host."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Worker(
                    tmp_path / f"worker{n}",
                    secret,
                    address=host.address,
                    port=PORT,
                    prefix=host.prefix,
                )
            )
            for n, host in enumerate(hosts)
        ]


@pytest.fixture
def said(monkeypatch):
    """A function that waits until the run has said something of a worker."""
    news = threading.Condition()
    lines = []
    say = Reporter.say

    def heard(self, text):
        say(self, text)
        with news:
            lines.append(text)
            news.notify_all()

    def wait_for(text):
        with news:
            found = news.wait_for(lambda: any(text in line for line in lines), SOON)
        assert found, f"the run never said {text!r}"

    monkeypatch.setattr(Reporter, "say", heard)
    return wait_for


class Gate:
    """Has a worker's first unit of training wait until it is told to go on."""

    def __init__(self, folder, worker):
        self.arrived = str(folder / "arrived")
        self.go_on = str(folder / "go_on")
        self.flag = str(folder / "flag")
        os.mkfifo(self.arrived)
        os.mkfifo(self.go_on)
        self.daemon = worker.process.pid

    def guard(self, fns):
        input_fn, model_fn, train_fn, eval_fn = fns
        arrived, go_on, flag, daemon = self.arrived, self.go_on, self.flag, self.daemon

        def guarded(model, data, train=True):
            import os

            if train and os.getppid() == daemon and not os.path.exists(flag):
                with open(flag, "w"):
                    pass
                with open(arrived, "w"):
                    pass
                with open(go_on):
                    pass
            return train_fn(model, data, train)

        return input_fn, model_fn, guarded, eval_fn

    def wait_for_unit(self):
        with open(self.arrived):
            pass

    def open(self):
        with open(self.go_on, "w"):
            pass


def search(workers, tmp_path, fns, secret, **changed):
    input_fn, model_fn, train_fn, eval_fn = fns
    arguments = {
        "train_availability": [[1, 1, 1], [1, 1, 0]],
        "valid_availability": [[1, 1], [1, 1]],
        "heartbeat": 1.0,
        **changed,
    }
    return cerebro.schedule(
        [worker.url for worker in workers],
        partitions(tmp_path / "data", 3),
        partitions(tmp_path / "data", 2, "valid"),
        input_fn=input_fn,
        model_fn=model_fn,
        train_fn=train_fn,
        initial_msts=CONFIGS,
        mst_eval_fn=eval_fn,
        ckpt_root=str(tmp_path / "ckpt"),
        backend="python",
        secret_file=str(secret),
        **arguments,
    )


def doing(deeds):
    """Do deeds on a thread; the function that is returned waits for their end."""
    failures = []

    def run():
        try:
            deeds()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def finish():
        thread.join(SOON)
        assert not thread.is_alive()
        assert not failures, failures

    return finish


def worker_states(result, worker):
    """What the journal says of a worker, in order."""
    records, _ = read_journal(RunPaths(result.run_dir))
    return [r.state.value for r in records if r.kind == "worker" and r.worker == worker]


def check_rejoined(result):
    assert worker_states(result, 0) == ["joined", "ready", "lost", "joined", "ready"]
    assert worker_states(result, 1) == ["joined", "ready"]
    assert set(result.units["outcome"]) == {"committed", "lost"}
    last = result.units[(result.units["partition"] == 2) & (result.units["split"] == "train")]
    assert set(last["worker"]) == {0}, "only it may read the partition"


FAULTS = {
    "cut": lambda host: host.cut(),
    "black hole": lambda host: host.black_hole(PORT),
    "refused": lambda host: host.refuse(PORT),
}


@pytest.mark.privileged
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_worker_that_cannot_be_reached_is_lost_and_rejoins(
    hosts, there, tmp_path, secret, said, fault
):
    gate = Gate(tmp_path, there[0])

    def deeds():
        gate.wait_for_unit()
        fault(hosts[0])
        said(f"({there[0].url}) lost")
        hosts[0].heal()

    finish = doing(deeds)
    result = search(there, tmp_path, gate.guard(functions(2)), secret)
    finish()
    check_exact(result, 2)
    check_rejoined(result)


def test_a_daemon_that_hangs_is_lost_and_rejoins(here, tmp_path, secret, said):
    gate = Gate(tmp_path, here[0])

    def deeds():
        gate.wait_for_unit()
        here[0].signal(signal.SIGSTOP)
        said(f"({here[0].url}) lost")
        here[0].signal(signal.SIGCONT)

    finish = doing(deeds)
    result = search(here, tmp_path, gate.guard(functions(2)), secret)
    finish()
    check_exact(result, 2)
    check_rejoined(result)


@pytest.mark.privileged
@pytest.mark.slow
def test_a_third_of_the_packets_lost_changes_nothing(hosts, there, tmp_path, secret):
    for host in hosts:
        host.lose(0.3)
    # Neither worker can be done without.
    train = [[1, 1, 0], [0, 1, 1]]
    result = search(there, tmp_path, functions(1), secret, train_availability=train, heartbeat=5.0)
    check_exact(result, 1)


@pytest.mark.privileged
def test_what_a_worker_publishes_that_was_cut_off_is_void(hosts, there, tmp_path, secret, said):
    """It goes on with a unit that another worker has taken over, and saves a version of it."""
    gate = Gate(tmp_path, there[0])
    stray = []

    def deeds():
        gate.wait_for_unit()
        hosts[0].cut()
        said(f"({there[0].url}) lost")
        gate.open()
        stray.append(wait_for_version(tmp_path / "ckpt" / "r", worker=0))
        hosts[0].heal()

    finish = doing(deeds)
    result = search(there, tmp_path, gate.guard(functions(2)), secret, heartbeat=2.0, run_name="r")
    finish()
    check_exact(result, 2)
    check_rejoined(result)
    assert not stray[0].exists()
    kept = {Path(path).parent for path in result.models["checkpoint"]}
    kept |= {Path(path).parent for path in result.models["best_checkpoint"]}
    for folder in (tmp_path / "ckpt" / "r" / "models").iterdir():
        assert kept & set(folder.iterdir())
        assert len(list(folder.iterdir())) <= 3, "the newest, the one before, the best"


def wait_for_version(run_dir, worker):
    """The folder of the version that the first unit of a worker publishes, once it is there."""
    paths = RunPaths(run_dir)
    records, _ = read_journal(paths)
    first = next(r for r in records if r.kind == "started" and r.worker == worker)
    folder = paths.version(first.model, first.reads + 1, 1, first.attempt)
    deadline = time.monotonic() + SOON
    while not folder.exists():  # nobody hears of it
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return folder


@pytest.mark.privileged
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_shorter_than_the_heartbeat_costs_nothing(hosts, there, tmp_path, secret, fault):
    gate = Gate(tmp_path, there[0])

    def deeds():
        gate.wait_for_unit()
        fault(hosts[0])
        # The unit ends meanwhile: its result is there when the network is.
        gate.open()
        time.sleep(0.7)
        hosts[0].heal()

    finish = doing(deeds)
    result = search(there, tmp_path, gate.guard(functions(2)), secret, heartbeat=5.0)
    finish()
    check_exact(result, 2)
    assert set(result.units["outcome"]) == {"committed"}
    for worker in range(2):
        assert worker_states(result, worker) == ["joined", "ready"]


def test_a_unit_that_takes_several_heartbeats_is_not_taken_for_dead(here, tmp_path, secret):
    gate = Gate(tmp_path, here[0])

    def deeds():
        gate.wait_for_unit()
        time.sleep(4.0)
        gate.open()

    finish = doing(deeds)
    result = search(here, tmp_path, gate.guard(functions(1)), secret)
    finish()
    check_exact(result, 1)
    assert set(result.units["outcome"]) == {"committed"}
    assert result.units["run"].max() > 3.5
    for worker in range(2):
        assert worker_states(result, worker) == ["joined", "ready"]
