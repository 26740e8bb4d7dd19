"""The files in deploy/: the systemd unit's command exists, and the Slurm script runs a search.

Slurm's own commands are stand-ins that run everything on this host; the rest is real.
"""

from __future__ import annotations

import configparser
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest
from documents import ROOT
from patience import PATIENCE

from cerebro.cli.worker import check_arguments, parser

DEPLOY = ROOT / "deploy"

COMMANDS = {
    "scontrol": "echo 127.0.0.1",
    "srun": 'shift; exec "$@"',
    "cerebro": "exec {python} -c 'import sys; from cerebro.cli.main import main; "
    'sys.exit(main())\' "$@"',
    "cerebro-standalone-worker": 'exec {python} -c "import sys; from cerebro.cli.worker import '
    'main; sys.exit(main())" --hostname 127.0.0.1 "$@"',
}

DRIVER = """
import argparse, os, time
import cerebro

parser = argparse.ArgumentParser()
parser.add_argument("--workers", nargs="+")
parser.add_argument("--resume", action="store_true")
options = parser.parse_args()
assert options.resume

def train_fn(model, data, train=True):
    open("begun", "w").close()
    time.sleep(float(open("seconds").read()))
    return 0.25, 0.25

result = cerebro.schedule(
    options.workers, ["a", "b"], ["c"], None, None, str, lambda data, config: {}, train_fn, [{}],
    lambda state: (list(state), []), "runs", backend="python", run_name="grid", resume="auto",
)
print(result.models["state"].tolist())
"""


def test_the_systemd_unit_starts_a_worker_that_exists():
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str
    unit.read(DEPLOY / "cerebro-worker.service")
    command, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert os.path.basename(command) == "cerebro-standalone-worker"
    check_arguments(parser().parse_args(arguments))
    assert float(unit["Service"]["TimeoutStopSec"]) > 5


@pytest.fixture
def port():
    """A port of this host that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def job(tmp_path, port):
    """Starts the batch script with a driver whose units take so many seconds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in COMMANDS.items():
        (folder / name).write_text("#!/bin/bash\n" + body.format(python=sys.executable) + "\n")
        (folder / name).chmod(0o755)
    (tmp_path / "search.py").write_text(DRIVER)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "HOME": str(tmp_path),
        "CEREBRO_PORT": str(port),
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_CPUS_PER_TASK": "1",
    }
    started = []

    def start(seconds):
        (tmp_path / "seconds").write_text(str(seconds))
        process = subprocess.Popen(
            ["bash", str(DEPLOY / "slurm.sh"), sys.executable, "search.py"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        pytest.fail("the script left a process behind")


@pytest.mark.processes
def test_the_slurm_script_runs_a_search(job):
    output, _ = (process := job(0.0)).communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "['COMPLETED']" in output


@pytest.mark.processes
def test_where_no_worker_can_start_the_job_ends_and_says_so(job, port, tmp_path):
    with socket.socket() as another_job:
        another_job.bind(("127.0.0.1", port))
        another_job.listen()
        output, _ = (process := job(0.0)).communicate(timeout=PATIENCE)
    assert process.returncode == 1, output
    assert f"port {port} on 127.0.0.1 is taken" in output
    assert "set CEREBRO_PORT to a free one" in output
    assert not (tmp_path / "runs").exists()


@pytest.mark.processes
def test_a_warning_of_slurm_ends_the_search_which_then_goes_on(job, tmp_path):
    process = job(60.0)
    for _ in range(600):
        if (tmp_path / "begun").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0, output
    output, _ = (process := job(0.0)).communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "['COMPLETED']" in output
