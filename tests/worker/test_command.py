"""`cerebro-standalone-worker`: what it refuses, what it says, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from patience import SOON
from worker_side import appears, functions, gone

import cerebro
from cerebro import machine
from cerebro.cli import worker as worker_cli
from cerebro.errors import RpcFault

COMMAND = [sys.executable, "-m", "cerebro.cli.worker"]


@pytest.fixture
def run_command(tmp_path):
    """Runs the command to its end, with a good secret unless another one is named."""
    good = tmp_path / "good-secret"
    good.write_text("a secret of this test, long enough")
    good.chmod(0o600)

    def run(*arguments, command=COMMAND):
        environment = {**os.environ, "CEREBRO_SECRET_FILE": str(good)}
        return subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            timeout=SOON,
        )

    return run


def refusal(done):
    """The one line that a refusal consists of."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("cerebro-standalone-worker: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "70000"], "--port 70000: must be between 0"),
        (["--port", "-1"], "--port -1: must be between 0"),
        (["--threads", "0"], "--threads 0: must be at least 1"),
        (["--threads", "many"], "--threads: .*'many'.*see --help"),
        (["--gpu", "-1"], "--gpu -1: GPUs are numbered from 0"),
        (["--gpu", "A100"], "--gpu: .*'A100'.*see --help"),
        (["--gpu-memory-gb", "0"], "--gpu-memory-gb 0.0: must be a number above 0"),
        (["--gpu-memory-gb", "nan"], "--gpu-memory-gb nan: must be a number above 0"),
        (["--gpu-memory-gb", "inf"], "--gpu-memory-gb inf: must be a number above 0"),
        (["--log-level", "LOUD"], "--log-level: .*'LOUD'.*see --help"),
    ],
)
def test_bad_arguments(capsys, arguments, says):
    try:
        status = worker_cli.main(arguments)
    except SystemExit as end:
        status = end.code
    shown = capsys.readouterr()
    done = subprocess.CompletedProcess([], status, shown.out, shown.err)
    assert re.search(says, refusal(done))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "seven"], "--port: .*'seven'.*see --help"),
        (["--hostnam", "x", "--verbose"], "unrecognized arguments.*see --help"),
        (["--threads", "-3"], "--threads -3: must be at least 1"),
        (["--hostname", "", "--port", "0"], "--hostname : .*use 0.0.0.0"),
        (["--hostname", "a..b", "--port", "0"], "--hostname a..b: .*use 0.0.0.0"),
        (["--hostname", "192.0.2.1", "--port", "0"], "192.0.2.1:0.*check --hostname"),
        (["--hostname", "no-such-host.invalid"], "no such host .*use 0.0.0.0"),
    ],
)
def test_the_command_refuses_in_one_line_with_status_2(run_command, arguments, says):
    assert re.search(says, refusal(run_command(*arguments)))


@pytest.mark.processes
def test_a_port_that_is_taken(run_command):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = refusal(run_command("--hostname", "127.0.0.1", "--port", port))
    assert f"port {port} on 127.0.0.1 is taken" in line
    assert "choose another --port" in line


@pytest.mark.processes
@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, None, "does not exist: make one with"),
        ("a secret that others see, long enough", 0o644, "chmod 600"),
        ("a secret of the group, long enough", 0o640, "chmod 600"),
        ("short", 0o600, "16 are the least"),
    ],
)
def test_a_secret_that_cannot_be_used(run_command, tmp_path, content, mode, says):
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    line = refusal(run_command("--port", "0", "--secret-file", str(path)))
    assert says in line
    assert str(path) in line


@pytest.mark.processes
def test_version_and_help(run_command):
    done = run_command("--version")
    assert (done.returncode, done.stdout) == (0, f"cerebro-dl {cerebro.__version__}\n")
    done = run_command("--help")
    assert done.returncode == 0
    for option in (
        "--hostname", "--port", "--secret-file", "--threads", "--gpu ", "--gpu-memory-gb",
        "--log-level", "--version",
    ):  # fmt: skip
        assert option in done.stdout


@pytest.mark.processes
def test_the_installed_command_is_this_one(run_command):
    script = Path(sys.executable).parent / "cerebro-standalone-worker"
    if not script.exists():
        pytest.skip("the package is not installed here")
    assert run_command("--version", command=[str(script)]).stdout.startswith("cerebro-dl ")


def test_it_listens_on_all_addresses_and_port_7777_unless_told_otherwise():
    arguments = worker_cli.parser().parse_args([])
    assert (arguments.hostname, arguments.port) == ("0.0.0.0", 7777)


def answer(*addresses):
    def getaddrinfo(host, port, *more, **options):
        if not addresses:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 0)) for a in addresses]

    return getaddrinfo


@pytest.mark.parametrize(
    ("hostname", "addresses", "warns"),
    [
        ("node1", ["127.0.1.1"], True),
        ("node1", ["127.0.0.1", "::1"], True),
        ("node1", ["10.0.0.1"], False),
        ("node1", ["127.0.1.1", "10.0.0.1"], False),
        ("node1", ["fe80::1%eth0"], False),
        ("localhost", ["127.0.0.1"], False),
        ("127.0.0.1", ["127.0.0.1"], False),
        ("0.0.0.0", ["0.0.0.0"], False),
        ("nowhere", [], False),
    ],
)
def test_a_name_that_only_this_host_can_reach(monkeypatch, hostname, addresses, warns):
    monkeypatch.setattr(socket, "getaddrinfo", answer(*addresses))
    warning = worker_cli.loopback_warning(hostname)
    assert (warning is not None) == warns
    if warns:
        assert addresses[0] in warning
        assert "--hostname 0.0.0.0" in warning


def test_a_loopback_name_is_a_warning_not_an_end(start_worker, connect):
    name = socket.gethostname()
    if worker_cli.loopback_warning(name) is None or socket.gethostbyname(name) != "127.0.0.1":
        pytest.skip(f"{name} does not resolve to 127.0.0.1 alone")
    worker = start_worker("--hostname", name)
    assert any("WARNING" in x and "no other host can reach" in x for x in worker.lines)
    assert connect(worker).client.call("describe", SOON)["held"] is None


def test_it_says_what_the_machine_has(monkeypatch, caplog):
    monkeypatch.setattr(machine, "tensorflow_version", lambda: "2.21.0")
    monkeypatch.setattr(machine, "has_nvidia_gpu", lambda: False)
    assert worker_cli.describe_machine(worker_cli.Resources(2)) == (
        "TF 2.21.0, 2 threads, no GPU",
        [],
    )
    monkeypatch.setattr(machine, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(machine, "tensorflow_devices", lambda environment: ["A100", "H200"])
    both = "TF 2.21.0, 1 thread, GPU A100, GPU H200", ["A100", "H200"]
    assert worker_cli.describe_machine(worker_cli.Resources(1)) == both
    one = "TF 2.21.0, 1 thread, GPU H200", ["H200"]
    assert worker_cli.describe_machine(worker_cli.Resources(1, gpu=1)) == one
    with pytest.raises(ValueError, match=r"--gpu 2: TensorFlow 2\.21\.0 sees 2 GPUs here"):
        worker_cli.describe_machine(worker_cli.Resources(1, gpu=2))
    assert not caplog.records
    monkeypatch.setattr(machine, "tensorflow_devices", lambda environment: [])
    assert (
        "no GPU that TensorFlow can use" in worker_cli.describe_machine(worker_cli.Resources(1))[0]
    )
    assert "install tensorflow[and-cuda]" in caplog.text
    monkeypatch.setattr(machine, "tensorflow_version", lambda: None)
    with pytest.raises(ValueError, match="--gpu 0: no TensorFlow sees 0 GPUs"):
        worker_cli.describe_machine(worker_cli.Resources(1, gpu=0))


@pytest.mark.timing
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_an_idle_worker_with_status_0(own_worker, number):
    own_worker.process.send_signal(number)
    assert own_worker.process.wait(5) == 0


@pytest.mark.timing
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_worker_whose_user_code_ignores_everything(
    own_worker, own_side, tmp_path, number
):
    helper = str(tmp_path / "helper")

    def train_fn(model, data, train=True):
        import signal
        import subprocess
        import time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"])
        with open(helper, "w") as file:
            file.write(str(child.pid))
        while True:
            try:
                time.sleep(0.05)
            except BaseException:
                pass

    own_side.open(functions(train_fn=train_fn))
    executor = own_side.executor()
    own_side.start(1)
    child = int(appears(helper))
    own_worker.process.send_signal(number)
    assert own_worker.process.wait(5) == 0
    assert gone(executor, 5)
    assert gone(child, 5)


def test_a_driver_that_waits_is_told_of_the_end(own_worker, own_side):
    own_side.open()
    own_side.executor()
    told = []

    def wait():
        try:
            told.extend(event["kind"] for event in own_side.fetch(50.0))
        except RpcFault as error:
            told.append(error.kind)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(1.0)  # that its call is under way cannot be seen from here
    own_worker.process.send_signal(signal.SIGTERM)
    waiting.join(SOON)
    assert told in (["leaving"], ["WorkerLeaving"])
