"""What dies in between: workers, executors, the driver. Nothing is lost, nothing done twice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from exact import check_exact
from patience import PATIENCE, SOON
from toy import functions, partitions

import cerebro
from cerebro import errors

CONFIGS = [{"rate": 0.5}, {"rate": 0.1}, {"rate": 0.01}]


def search(urls, tmp_path, fns, secret_file, **changed):
    arguments = {
        "train_availability": None,
        "valid_availability": None,
        "heartbeat": 2.0,
        **changed,
    }
    input_fn, model_fn, train_fn, eval_fn = fns
    return cerebro.schedule(
        urls,
        partitions(tmp_path / "data", 3),
        partitions(tmp_path / "data", 2, "valid"),
        input_fn=input_fn,
        model_fn=model_fn,
        train_fn=train_fn,
        initial_msts=CONFIGS,
        mst_eval_fn=eval_fn,
        ckpt_root=str(tmp_path / "ckpt"),
        backend="python",
        secret_file=secret_file,
        **arguments,
    )


def when(path, deed):
    """Do a deed, on a thread, once somebody has opened the fifo for writing."""
    os.mkfifo(path)

    def wait():
        with open(path):
            pass
        deed()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def signalling(fns, fifo, flag):
    """The functions, with a first unit that tells its process id through a fifo, and waits."""
    input_fn, model_fn, train_fn, eval_fn = fns

    def told(model, data, train=True):
        import os
        import time

        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
            first = True
        except FileExistsError:
            first = False
        if first:
            with open(fifo, "w"):
                pass
            time.sleep(3600)
        return train_fn(model, data, train)

    return input_fn, model_fn, told, eval_fn


def test_the_units_of_a_killed_worker_go_to_another(start_worker, secret_file, tmp_path):
    workers = [start_worker(), start_worker()]
    where = tmp_path / "where"
    fns = signalling(functions(2), str(where), str(tmp_path / "flag"))

    def kill():
        # Whichever worker runs the unit: both are asked, the one with a blocked unit is killed.
        workers[0].kill()

    thread = when(where, kill)
    availability = [[1, 1, 1], [1, 1, 1]]
    result = search(
        [w.url for w in workers], tmp_path, _on_first_worker(fns, workers[0]), secret_file,
        train_availability=availability,
    )  # fmt: skip
    thread.join(SOON)
    check_exact(result, 2)
    assert "lost" in set(result.units["outcome"])
    log = (Path(result.run_dir) / "logs" / "workers.log").read_text()
    lost = rf"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\d worker 0 \({workers[0].url}\) lost: no sign of life"
    assert re.search(lost, log, re.MULTILINE), log


def _on_first_worker(fns, worker):
    """The functions, where only the executor of one daemon signals and waits."""
    input_fn, model_fn, told, eval_fn = fns
    plain = functions(2)[2]
    daemon = worker.process.pid

    def chosen(model, data, train=True):
        import os

        if os.getppid() == daemon:
            return told(model, data, train)
        return plain(model, data, train)

    return input_fn, model_fn, chosen, eval_fn


def test_a_worker_that_returns_takes_part_again(start_worker, secret_file, tmp_path):
    """The only worker that holds a partition dies: its units wait, and go on when it is back."""
    first, second = start_worker(), start_worker()
    port = int(first.url.rpartition(":")[2])
    fifo = tmp_path / "fifo"

    def restart():
        first.kill()
        first.process.wait()
        start_worker(port=port)

    thread = when(fifo, restart)
    fns = signalling(functions(2), str(fifo), str(tmp_path / "flag"))
    train = [[1, 1, 0], [0, 0, 1]]
    result = search(
        [first.url, second.url], tmp_path, _on_first_worker(fns, first), secret_file,
        train_availability=train,
    )  # fmt: skip
    thread.join(SOON)
    check_exact(result, 2)
    assert set(result.units["worker"][result.units["partition"] == 0]) >= {0}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_executor_is_replaced_and_its_unit_run_again(cluster, tmp_path, number):
    flag = str(tmp_path / "flag")
    input_fn, model_fn, train_fn, eval_fn = functions(2)
    number = int(number)

    def dying(model, data, train=True):
        import os

        result = train_fn(model, data, train)
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return result
        os.kill(os.getpid(), number)
        raise AssertionError("alive")

    fns = (input_fn, model_fn, dying, eval_fn)
    result = search(cluster.urls, tmp_path, fns, cluster.secret_file)
    check_exact(result, 2)
    assert list(result.units["outcome"]).count("executor") == 1


def test_a_unit_that_kills_every_executor_fails_its_model_only(cluster, tmp_path, capsys):
    input_fn, model_fn, train_fn, eval_fn = functions(1)

    def dying(model, data, train=True):
        import os
        import signal

        if model["rate"] == 0.1:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_fn(model, data, train)

    fns = (input_fn, model_fn, dying, eval_fn)
    result = search(cluster.urls, tmp_path, fns, cluster.secret_file)
    assert list(result.models["state"]) == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "SIGKILL" in result.models["failure"][1]


def test_a_unit_that_takes_too_long_fails_its_model_only(cluster, tmp_path):
    input_fn, model_fn, train_fn, eval_fn = functions(1)

    def slow(model, data, train=True):
        import time

        if model["rate"] == 0.1:
            time.sleep(3600)
        return train_fn(model, data, train)

    fns = (input_fn, model_fn, slow, eval_fn)
    result = search(cluster.urls, tmp_path, fns, cluster.secret_file, unit_timeout=2.0)
    assert list(result.models["state"]) == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "unit_timeout" in result.models["failure"][1]


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from toy import functions, partitions
from pathlib import Path
import cerebro

tmp_path = Path({tmp_path!r})
input_fn, model_fn, train_fn, eval_fn = functions({epochs}, seconds=0.05)
result = cerebro.schedule(
    {urls!r},
    partitions(tmp_path / "data", 3),
    partitions(tmp_path / "data", 2, "valid"),
    None, None, input_fn, model_fn, train_fn, {configs!r}, eval_fn,
    ckpt_root=str(tmp_path / "ckpt"), backend="python", secret_file={secret!r},
    run_name="r", resume="auto", heartbeat=2.0,
)
print("complete")
"""


def driver(tmp_path, urls, secret, epochs=4):
    script = tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent(DRIVER).format(
            tests=str(Path(__file__).parents[1] / "helpers"),
            tmp_path=str(tmp_path),
            urls=urls,
            epochs=epochs,
            configs=CONFIGS,
            secret=secret,
        )
    )
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process, text):
    """Read the driver's messages until one says `text`."""
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the driver ended without saying {text!r}")


def test_a_killed_driver_is_resumed(cluster, tmp_path):
    for text in ("ready", "epoch 0 ended", "epoch 2 ended"):
        process = driver(tmp_path, cluster.urls, cluster.secret_file)
        wait_for(process, text)
        process.kill()
        process.communicate()
    process = driver(tmp_path, cluster.urls, cluster.secret_file)
    output, messages = process.communicate(timeout=PATIENCE)
    assert "complete" in output, messages
    result = cerebro.load(tmp_path / "ckpt" / "r")
    check_exact(result, 4)
    assert list(result.models["epochs"]) == [4] * 3
    assert "running" not in set(result.units["outcome"])
    kept = {str(Path(c).parent) for c in result.models["checkpoint"]}
    for folder in (tmp_path / "ckpt" / "r" / "models").iterdir():
        versions = {str(path) for path in folder.iterdir()}
        assert versions & kept
        assert len(versions) <= 3, "newest, the one before, best: nothing else is left"
    log = (tmp_path / "ckpt" / "r" / "logs" / "0.log").read_text()
    assert log.count("MST:") == 1
    assert log.count("TRAIN LOSS") == 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_driver_says_how_to_go_on(cluster, tmp_path, number):
    process = driver(tmp_path, cluster.urls, cluster.secret_file)
    wait_for(process, "epoch 0 ended")
    process.send_signal(number)
    _, messages = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "run_name='r', resume=True" in messages
    process = driver(tmp_path, cluster.urls, cluster.secret_file)
    output, messages = process.communicate(timeout=PATIENCE)
    assert "complete" in output, messages
    check_exact(cerebro.load(tmp_path / "ckpt" / "r"), 4)


def test_a_second_driver_of_a_run_is_refused(cluster, tmp_path):
    process = driver(tmp_path, cluster.urls, cluster.secret_file)
    wait_for(process, "epoch 0 ended")
    fns = functions(4, seconds=0.05)
    with pytest.raises(errors.RunHeld, match=f"process {process.pid}"):
        search(cluster.urls, tmp_path, fns, cluster.secret_file, run_name="r", resume=True)
    output, messages = process.communicate(timeout=PATIENCE)
    assert "complete" in output, messages
    check_exact(cerebro.load(tmp_path / "ckpt" / "r"), 4)


def test_a_damaged_version_is_made_again(cluster, tmp_path):
    """The newest version of a model is damaged while nobody looks, then the run goes on."""
    input_fn, model_fn, train_fn, eval_fn = functions(3)
    calls = []

    def damaging(state):
        calls.append(1)
        if len(calls) == 1:
            path = state[1]["ckpt_path"]
            content = bytearray(Path(path).read_bytes())
            content[10] ^= 0xFF
            Path(path).write_bytes(content)
        return eval_fn(state)

    fns = (input_fn, model_fn, train_fn, damaging)
    result = search(cluster.urls, tmp_path, fns, cluster.secret_file)
    check_exact(result, 3)
    assert list(result.units["outcome"]).count("void") == 1
    assert "damaged" in set(result.units["outcome"])
