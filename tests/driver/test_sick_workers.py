"""Workers that answer and cannot work, and memory that gives out: no model pays for it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from exact import check_exact
from patience import SOON
from test_faults import search, signalling, when
from toy import functions

import cerebro
from cerebro import errors, machine
from cerebro.driver.admission import Admission, StorageProbe
from cerebro.journal.journal import read_journal
from cerebro.journal.paths import RunPaths
from cerebro.shipping import module_origin

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
FACTS = {**machine.versions(), **machine.host()}


def once(flag):
    """Whether nobody has asked before, in any process."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def states(result):
    records, _ = read_journal(RunPaths(result.run_dir))
    return [(r.worker, r.state.value) for r in records if r.kind == "worker"]


def test_memory_that_gives_out_in_user_code_costs_a_try_and_no_model(cluster, tmp_path, capsys):
    flag = str(tmp_path / "flag")
    pids = str(tmp_path / "pids")
    input_fn, model_fn, train_fn, eval_fn = functions(2)

    def greedy(model, data, train=True):
        import os

        with open(pids, "a") as file:
            file.write(f"{os.getpid()}\n")
        if once(flag):
            bytearray(2**62)
        return train_fn(model, data, train)

    fns = (input_fn, model_fn, greedy, eval_fn)
    result = search(cluster.urls, tmp_path, fns, cluster.secret_file)
    check_exact(result, 2)
    assert list(result.units["outcome"]).count("resources") == 1
    assert "executor" not in set(result.units["outcome"])
    assert len(set(Path(pids).read_text().split())) == 3, "the executor gave its memory back"
    assert "MemoryError" in capsys.readouterr().err


def test_a_model_that_never_fits_into_memory_fails_alone(cluster, tmp_path):
    input_fn, model_fn, train_fn, eval_fn = functions(1)

    def greedy(model, data, train=True):
        if model["rate"] == 0.1:
            bytearray(2**62)
        return train_fn(model, data, train)

    fns = (input_fn, model_fn, greedy, eval_fn)
    result = search(cluster.urls, tmp_path, fns, cluster.secret_file)
    assert list(result.models["state"]) == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "MemoryError" in result.models["failure"][1]


@pytest.mark.privileged
@pytest.mark.skipif(
    not os.access(MEMORY_GROUPS / "cgroup.procs", os.W_OK),
    reason="a limit of memory needs a writable cgroup v1 hierarchy",
)
def test_an_executor_that_the_kernel_kills_for_memory_is_named(cluster, tmp_path, capsys):
    group = MEMORY_GROUPS / f"cerebro-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text("96M")
        procs, flag = str(group / "cgroup.procs"), str(tmp_path / "flag")
        input_fn, model_fn, train_fn, eval_fn = functions(1)

        def greedy(model, data, train=True):
            import os

            if once(flag):
                with open(procs, "w") as file:
                    file.write(str(os.getpid()))
                held = [bytearray(os.urandom(2**20)) for _ in range(400)]
                del held
            return train_fn(model, data, train)

        fns = (input_fn, model_fn, greedy, eval_fn)
        result = search(cluster.urls, tmp_path, fns, cluster.secret_file)
        check_exact(result, 1)
        assert list(result.units["outcome"]).count("executor") == 1
        said = capsys.readouterr().err
        assert "SIGKILL" in said
        assert "for want of memory" in said
    finally:
        group.rmdir()


def test_a_worker_on_which_everything_dies_is_set_aside_and_fails_no_model(
    start_worker, secret_file, tmp_path, capsys
):
    sick, sound = start_worker(), start_worker()
    daemon = sick.process.pid
    input_fn, model_fn, train_fn, eval_fn = functions(2)
    deaths = str(tmp_path / "deaths")
    Path(deaths).write_text("")

    def dying(model, data, train=True):
        """The sound worker does no unit before three have died on the other one."""
        import os
        import signal
        import time

        if os.getppid() == daemon:
            with open(deaths, "a") as file:
                file.write("died\n")
            os.kill(os.getpid(), signal.SIGKILL)
        while os.path.getsize(deaths) < 3 * len("died\n"):
            time.sleep(0.02)
        return train_fn(model, data, train)

    fns = (input_fn, model_fn, dying, eval_fn)
    matrices = {
        "train_availability": [[1, 1, 1], [1, 1, 1]],
        "valid_availability": [[1, 1], [1, 1]],
    }
    result = search([sick.url, sound.url], tmp_path, fns, secret_file, **matrices)
    check_exact(result, 2)
    committed = result.units[result.units["outcome"] == "committed"]
    assert set(committed["worker"]) == {1}
    assert (0, "aside") in states(result)
    assert f"{sick.url}) aside" in capsys.readouterr().err


def test_a_worker_that_comes_back_without_what_it_needs_is_left_out(
    start_worker, secret_file, tmp_path, monkeypatch, said_file
):
    """The functions use an installed module; the host comes back without it."""
    site = tmp_path / "site"
    metadata = site / "phantom_tool-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "phantom_tool.py").write_text("def loss():\n    return 1.0\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: phantom-tool\nVersion: 1.0\n")
    (metadata / "top_level.txt").write_text("phantom_tool\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    module_origin._distributed_packages.cache_clear()
    first, second = start_worker(), start_worker()
    import phantom_tool

    input_fn, model_fn, train_fn, eval_fn = functions(2)
    daemon, flag, fifo = second.process.pid, str(tmp_path / "flag"), str(tmp_path / "fifo")
    told = signalling((input_fn, model_fn, train_fn, eval_fn), fifo, flag)[2]

    def using(model, data, train=True):
        import os

        phantom_tool.loss()
        return told(model, data, train) if os.getppid() == daemon else train_fn(model, data, train)

    def come_back():
        second.kill()
        second.process.wait()
        monkeypatch.delenv("PYTHONPATH")
        start_worker(port=int(second.url.rpartition(":")[2]))

    deadline = time.monotonic() + SOON

    def waiting(state):
        said = Path(said_file).read_text()
        back = "cannot begin" in said
        assert back or time.monotonic() < deadline, said
        time.sleep(0.05)
        return (eval_fn(state)[0] if back else []), []

    thread = when(fifo, come_back)
    fns = (input_fn, model_fn, using, waiting)
    result = search([first.url, second.url], tmp_path, fns, secret_file)
    thread.join(SOON)
    said = Path(said_file).read_text()
    assert "cannot begin" in said
    assert "phantom_tool" in said
    check_exact(result, int(result.models["epochs"].max()))
    sys.modules.pop("phantom_tool", None)
    module_origin._distributed_packages.cache_clear()


def test_a_worker_that_comes_back_as_another_version_is_refused(tmp_path):
    contacts = []
    admit = Admission(contacts, StorageProbe(tmp_path, str(tmp_path)), "python")

    class Client:
        boot_id = "new"

    facts = {**FACTS, "python": "2.7"}
    with pytest.raises(errors.WorkerMismatch, match=r"http://w runs Python 2\.7"):
        admit(Client(), "http://w", facts)


def test_one_worker_does_not_join_twice_at_the_same_time(tmp_path):
    """Two links ask at once: the one that comes later is refused while the first is looked at."""

    class Client:
        boot_id = "one"

        def call(self, method, seconds, *, write, read):
            with pytest.raises(errors.InputError, match="the same worker"):
                admit(Client(), "http://v", FACTS)
            Path(write).write_text("")
            return {"error": "", "missing": []}

    admit = Admission([], StorageProbe(tmp_path, str(tmp_path)), "python")
    admit(Client(), "http://w", FACTS)


def test_one_worker_does_not_join_twice(tmp_path):
    class Client:
        boot_id = "one"

        def call(self, method, seconds, *, write, read):
            Path(write).write_text("")
            return {"error": "", "missing": []}

    admit = Admission([], StorageProbe(tmp_path, str(tmp_path)), "python")
    admit(Client(), "http://w", FACTS)
    admit(Client(), "http://w", FACTS)
    with pytest.raises(errors.InputError, match="the same worker"):
        admit(Client(), "http://v", FACTS)


def test_a_worker_that_is_stopped_in_order_hands_its_units_on(start_worker, secret_file, tmp_path):
    first, second = start_worker(), start_worker()
    fifo = tmp_path / "fifo"
    ended = []

    def stop():
        first.process.send_signal(signal.SIGTERM)
        ended.append(first.process.wait(SOON))

    thread = when(fifo, stop)
    fns = functions(2)
    told = signalling(fns, str(fifo), str(tmp_path / "flag"))[2]
    daemon = first.process.pid

    def chosen(model, data, train=True):
        import os

        return told(model, data, train) if os.getppid() == daemon else fns[2](model, data, train)

    result = search(
        [first.url, second.url], tmp_path, (fns[0], fns[1], chosen, fns[3]), secret_file
    )
    thread.join(SOON)
    assert ended == [0]
    check_exact(result, 2)
    assert "lost" in set(result.units["outcome"])
    reasons = [
        r.reason
        for r in read_journal(RunPaths(result.run_dir))[0]
        if r.kind == "worker" and r.state.value == "lost"
    ]
    assert reasons == ["it was stopped"]


def test_the_units_of_a_killed_executor_do_not_pay_for_loading_again(cluster, tmp_path):
    """Loading takes longer than a unit may run; the units behind one that hangs run anyway."""
    input_fn, model_fn, train_fn, eval_fn = functions(1)
    flag = str(tmp_path / "flag")

    def slow(path):
        import time

        time.sleep(1.0)
        return input_fn(path)

    def hanging(model, data, train=True):
        import time

        if model["rate"] == 0.1 and once(flag):
            time.sleep(3600)
        return train_fn(model, data, train)

    fns = (slow, model_fn, hanging, eval_fn)
    result = search(cluster.urls, tmp_path, fns, cluster.secret_file, unit_timeout=0.7)
    assert list(result.models["state"]) == ["COMPLETED", "FAILED", "COMPLETED"]


def test_memory_that_gives_out_while_a_partition_is_loaded_costs_a_try(cluster, tmp_path):
    input_fn, model_fn, train_fn, eval_fn = functions(1)
    flag = str(tmp_path / "flag")

    def greedy(path):
        if once(flag):
            bytearray(2**62)
        return input_fn(path)

    fns = (greedy, model_fn, train_fn, eval_fn)
    result = search(cluster.urls, tmp_path, fns, cluster.secret_file)
    check_exact(result, 1)
    assert "unreadable" not in [state for _, state in states(result)]


def test_a_partition_that_one_worker_never_reaches_goes_to_another(
    start_worker, secret_file, tmp_path, monkeypatch
):
    sick, sound = start_worker(), start_worker()
    daemon = sick.process.pid
    input_fn, model_fn, train_fn, eval_fn = functions(1)

    def unreached(path):
        import os

        if os.getppid() == daemon:
            raise OSError(5, "Input/output error", path)
        return input_fn(path)

    fns = (unreached, model_fn, train_fn, eval_fn)
    result = search([sick.url, sound.url], tmp_path, fns, secret_file, preload_data_to_mem=False)
    check_exact(result, 1)
    committed = result.units[result.units["outcome"] == "committed"]
    assert set(committed["worker"]) == {1}


def test_an_error_whose_message_is_no_unicode_fails_its_model_only(cluster, tmp_path):
    input_fn, model_fn, train_fn, eval_fn = functions(1)

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    def failing(model, data, train=True):
        import os

        if model["rate"] == 0.1:
            raise ValueError("bad file " + os.fsdecode(b"caf\xe9.txt"))
        if model["rate"] == 0.01:
            raise Mute
        return train_fn(model, data, train)

    fns = (input_fn, model_fn, failing, eval_fn)
    result = search(cluster.urls, tmp_path, fns, cluster.secret_file)
    assert list(result.models["state"]) == ["COMPLETED", "FAILED", "FAILED"]
    assert "caf\\udce9.txt" in result.models["failure"][1]
    assert "Mute: (its message cannot be had" in result.models["failure"][2]
    assert "executor" not in set(result.units["outcome"])


def test_user_code_that_uses_up_descriptors_costs_a_try(cluster, tmp_path):
    input_fn, model_fn, train_fn, eval_fn = functions(1)
    flag = str(tmp_path / "flag")

    def leaking(model, data, train=True):
        import os

        result = train_fn(model, data, train)
        # To look needs no descriptor, which the next unit here may not get.
        if train and not os.path.exists(flag) and once(flag):
            model_files = []
            try:
                while True:
                    model_files.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
        return result

    fns = (input_fn, model_fn, leaking, eval_fn)
    result = search(cluster.urls, tmp_path, fns, cluster.secret_file)
    check_exact(result, 1)
    assert "resources" in set(result.units["outcome"])


@pytest.mark.tf
@pytest.mark.slow
def test_a_device_out_of_memory_costs_a_try_and_no_model(one_worker, tmp_path):
    """The error that TensorFlow raises where a GPU's memory gives out, raised by hand."""
    import numpy as np

    flag = str(tmp_path / "flag")

    def input_fn(path):
        return np.ones((4, 2), np.float32)

    def model_fn(data, config):
        import tensorflow.compat.v1 as tf

        weights = tf.get_variable("w", [2], initializer=tf.ones_initializer())
        loss = tf.reduce_mean(tf.square(tf.linalg.matvec(tf.constant(data), weights)))
        return tf.train.GradientDescentOptimizer(config["rate"]), loss, loss

    def train_fn(session, train_step, loss, error, train=True):
        import tensorflow as tf

        if train and once(flag):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        fetches = [loss, error, train_step] if train else [loss, error]
        return tuple(float(v) for v in session.run(fetches)[:2])

    result = cerebro.schedule(
        one_worker, ["a", "b"], ["c"], None, None, input_fn, model_fn, train_fn, [{"rate": 0.1}],
        lambda state: (list(state), []), ckpt_root=str(tmp_path / "ckpt"),
    )  # fmt: skip
    assert list(result.models["state"]) == ["COMPLETED"]
    assert sorted(result.units["outcome"]) == ["committed"] * 3 + ["resources"]
