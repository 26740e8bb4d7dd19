"""Bad input and bad workers: a typed error before anything is trained, and nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socketserver
import subprocess
import threading
from xmlrpc.server import SimpleXMLRPCServer

import pytest
from patience import SOON
from toy import functions, partitions

import cerebro
from cerebro import errors, machine
from cerebro.driver import admission, launch
from cerebro.journal.journal import Journal
from cerebro.rpc import Server

CONFIGS = [{"rate": 0.5}, {"rate": 0.1}]


@pytest.fixture
def search(tmp_path):
    """A function that runs a small search with what a test wants to be different."""

    def run(workers, **changed):
        input_fn, model_fn, train_fn, eval_fn = functions(1)
        arguments = {
            "train_partitions": partitions(tmp_path / "data", 2),
            "valid_partitions": partitions(tmp_path / "data", 2, "valid"),
            "train_availability": None,
            "valid_availability": None,
            "input_fn": input_fn,
            "model_fn": model_fn,
            "train_fn": train_fn,
            "initial_msts": CONFIGS,
            "mst_eval_fn": eval_fn,
            "ckpt_root": str(tmp_path / "ckpt"),
            "backend": "python",
            **changed,
        }
        return cerebro.schedule(workers, **arguments)

    return run


def no_run_was_left(tmp_path):
    root = tmp_path / "ckpt"
    return not root.exists() or not list(root.iterdir())


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"initial_msts": []}, errors.ConfigurationError, "at least one"),
        ({"initial_msts": [3]}, errors.ConfigurationError, "dictionary"),
        ({"train_partitions": []}, errors.PartitionError, "empty"),
        ({"train_availability": [[1, 1]]}, errors.AvailabilityError, "1 rows"),
        ({"valid_availability": [[1, 0], [1, 0]]}, errors.AvailabilityError, "no worker may read"),
        ({"backend": "pytorch"}, errors.InputError, "'keras', 'python', 'tf'"),
        ({"input_fn": 3}, errors.InputError, "pass a function"),
        ({"seed": "x"}, errors.InputError, "integer"),
        ({"heartbeat": 0}, errors.InputError, "heartbeat=0 must be a number of seconds, 1 or more"),
        ({"heartbeat": 1e10}, errors.InputError, "heartbeat=1.*, 1 or more, and at most 31622400"),
        ({"resume": "maybe"}, errors.InputError, "'auto'"),
        ({"run_name": "../out"}, errors.InputError, "one folder"),
        ({"run_name": 5}, errors.InputError, "one folder"),
        ({"initial_msts": [{"init_mst_id": 0}]}, errors.ConfigurationError, "init_ckpt_path"),
        ({"initial_msts": [{"init_ckpt_path": 3}]}, errors.ConfigurationError, "a path is needed"),
        ({"allow_changed": [3]}, errors.InputError, "list of strings"),
        ({"allow_changed": 3}, errors.InputError, "list of strings"),
        ({"progress": "rich"}, errors.InputError, "choose one of 'auto', 'live'"),
    ],
)
def test_bad_arguments(cluster, search, tmp_path, changed, error, message):
    with pytest.raises(error, match=message):
        search(cluster, **changed)
    assert no_run_was_left(tmp_path)


def test_one_worker_under_two_names_is_refused(cluster, search, tmp_path):
    url = cluster.urls[0]
    urls = [url, url.replace("127.0.0.1", "localhost")]
    with pytest.raises(errors.InputError, match="are the same worker"):
        search(urls, secret_file=cluster.secret_file)
    assert no_run_was_left(tmp_path)


def test_a_checkpoint_folder_that_is_a_file_is_refused(cluster, search, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(errors.InputError, match="is a file"):
        search(cluster, ckpt_root=tmp_path / "file")


def test_a_cluster_that_was_not_started_is_refused(search):
    with pytest.raises(errors.InputError, match="with block"):
        search(cerebro.LocalCluster(2))


def test_a_search_does_not_begin_inside_another(cluster, search):
    def model_fn(data, config):
        import cerebro

        cerebro.LocalCluster(1).__enter__()

    with pytest.raises(errors.RunFailed, match="__main__"):
        search(cluster, model_fn=model_fn)


def test_a_function_that_holds_a_lock_is_refused(cluster, search, tmp_path):
    lock = threading.Lock()

    def train_fn(model, data, train=True):
        with lock:
            return 1.0, 1.0

    with pytest.raises(errors.ShippingError, match="train_fn -> closure 'lock'"):
        search(cluster, train_fn=train_fn)
    assert no_run_was_left(tmp_path)


def test_a_partition_that_cannot_be_read_ends_the_run_before_training(cluster, search, tmp_path):
    def input_fn(path):
        from cerebro.data import partition_dirs

        return partition_dirs(path)

    trained = tmp_path / "trained"

    def train_fn(model, data, train=True):
        trained.touch()
        return 1.0, 1.0

    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text(f"{tmp_path}\n")
    bad.write_text(f"{tmp_path}\n# a comment\nnowhere\n")
    with pytest.raises(errors.PartitionError, match=r"bad\.txt.*3.*nowhere"):
        search(
            cluster,
            input_fn=input_fn,
            train_fn=train_fn,
            train_partitions=[good, bad],
            valid_partitions=[good],
        )
    assert not trained.exists()
    with pytest.raises(errors.PartitionError, match=r"missing\.txt"):
        search(
            cluster,
            input_fn=input_fn,
            train_fn=train_fn,
            train_partitions=[good],
            valid_partitions=[tmp_path / "missing.txt"],
        )
    assert not trained.exists()


def test_a_worker_that_does_not_answer_is_named(cluster, search, capsys):
    nobody = "http://127.0.0.1:9"
    urls, secret = cluster.urls, cluster.secret_file
    with pytest.raises(errors.WorkerUnreachable, match=r"127\.0\.0\.1:9"):
        search([nobody], secret_file=secret)
    holds_all = [[1, 1], [0, 1], [1, 1]]
    result = search([urls[0], nobody, urls[1]], secret_file=secret, train_availability=holds_all,
                    valid_availability=holds_all)  # fmt: skip
    assert set(result.units["worker"]) <= {0, 2}
    assert "127.0.0.1:9 does not answer and is left out" in capsys.readouterr().err
    result = search([urls[0], nobody], secret_file=secret)
    assert set(result.units["worker"]) == {0}
    with pytest.raises(errors.AvailabilityError, match=r"train_1.*127\.0\.0\.1:9 only"):
        search([urls[0], nobody], secret_file=secret, train_availability=[[1, 0], [0, 1]])


def test_a_worker_that_dies_while_the_run_begins_is_left_out(
    start_worker, secret_file, tmp_path, monkeypatch, capsys
):
    first, second = start_worker(), start_worker()
    contact = admission.contact

    def dying(*arguments, **options):
        found = contact(*arguments, **options)
        second.kill()
        second.process.wait()
        return found

    monkeypatch.setattr(admission, "contact", dying)
    input_fn, model_fn, train_fn, eval_fn = functions(1)
    result = cerebro.schedule(
        [first.url, second.url], partitions(tmp_path / "data", 2), [], None, None,
        input_fn, model_fn, train_fn, [{"rate": 0.5}], eval_fn,
        ckpt_root=str(tmp_path / "ckpt"), backend="python", secret_file=secret_file,
    )  # fmt: skip
    assert result.complete
    assert f"worker {second.url} does not answer and is left out" in capsys.readouterr().err
    first.kill()
    first.process.wait()
    monkeypatch.setattr(admission, "contact", lambda *_, **__: [
        admission.Contact(0, first.url, {"boot_id": "b"})
    ])  # fmt: skip
    with pytest.raises(errors.WorkerUnreachable, match="no worker answers"):
        cerebro.schedule(
            [first.url], partitions(tmp_path / "data", 2), [], None, None,
            input_fn, model_fn, train_fn, [{"rate": 0.5}], eval_fn, run_name="other",
            ckpt_root=str(tmp_path / "ckpt"), backend="python", secret_file=secret_file,
        )  # fmt: skip
    assert not (tmp_path / "ckpt" / "other").exists()


def test_a_run_that_began_while_its_driver_was_waited_for_is_resumed(
    cluster, search, monkeypatch, capsys
):
    """Of two jobs that begin one run, the second was about to begin it when it had to wait."""
    real, waits, ended = launch.check_free, [], []

    def check_free(paths, *, say, takeover_wait):
        waits.append(takeover_wait)
        if len(waits) == 1:
            ended.append(search(cluster, run_name="r", resume="auto"))
        real(paths, say=say, takeover_wait=takeover_wait)

    monkeypatch.setattr(launch, "check_free", check_free)
    result = search(cluster, run_name="r", resume="auto", takeover_wait=60)
    assert waits[0] == waits[-1] == 60.0
    assert "has ended already" in capsys.readouterr().err
    assert list(result.models["state"]) == list(ended[0].models["state"])


def test_another_secret_is_refused_and_says_which(cluster, search, tmp_path):
    other = tmp_path / "other-secret"
    other.write_text("another secret, long enough as well")
    other.chmod(0o600)
    with pytest.raises(errors.SecretError, match="other-secret") as caught:
        search(cluster.urls, secret_file=str(other))
    assert all(url in str(caught.value) for url in cluster.urls)
    other.chmod(0o644)
    with pytest.raises(errors.SecretError, match="chmod 600"):
        search(cluster.urls, secret_file=str(other))


@pytest.mark.parametrize(
    "name", ["python", "protocol", pytest.param("tensorflow", marks=pytest.mark.tf)]
)
def test_another_version_is_refused(cluster, search, monkeypatch, name):
    ours = machine.versions()
    monkeypatch.setattr(admission.machine, "versions", lambda: {**ours, name: "0.1"})
    if name == "tensorflow":
        assert len(search(cluster).models) == 2, "the plain backend does not mind"
    with pytest.raises(errors.WorkerMismatch, match=r"0\.1.*same version"):
        search(cluster, backend="tf" if name == "tensorflow" else "python")


def test_the_originals_worker_is_recognised(search, cluster):
    server = SimpleXMLRPCServer(("127.0.0.1", 0), allow_none=True, logRequests=False)
    server.register_function(lambda: True, "is_live")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(errors.NotAWorker, match=r"1\.x"):
            search([url], secret_file=cluster.secret_file)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def strangers():
    """URLs of what is no worker of ours: another secret, a web server, ssh, TLS, garbage."""

    def greeting(banner):
        class Greet(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.recv(65536)
                self.request.sendall(banner)

        return socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greet)

    other = Server("127.0.0.1", 0, b"a secret of somebody else's", {})
    other.start()
    servers = [
        SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False),
        greeting(b"SSH-2.0-OpenSSH_9.2\r\n"),
        greeting(b"\x15\x03\x01\x00\x02\x02\x46"),
        greeting(b"HTTP/1.1 200 OK\r\nServer: \x1b[2Jmine\r\nContent-Length: 0\r\n\r\n"),
        greeting(b"garbage\r\n\r\n"),
    ]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    yield [
        f"http://127.0.0.1:{s[1]}" for s in [other.address, *(s.server_address for s in servers)]
    ]
    other.close()
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join()


def test_who_has_not_shown_that_it_knows_the_secret_is_left_out(
    cluster, search, strangers, tmp_path, capsys
):
    """Addresses may have been given to other machines; the workers that are left suffice."""
    urls, secret = [*strangers, *cluster.urls], cluster.secret_file
    result = search(urls, secret_file=secret)
    assert result.complete
    assert set(result.units["worker"]) == {6, 7}
    said = capsys.readouterr().err
    for url in strangers:
        assert f"worker {url} has not shown that it knows the secret: " in said
    assert "\x1b" not in said
    assert "copy" not in said.lower()
    assert "scp" not in said
    only = [[0, 1]] + [[0, 0]] * 5 + [[1, 0]] * 2
    with pytest.raises(errors.AvailabilityError, match=rf"{strangers[0]} only.*has not shown"):
        search(urls, secret_file=secret, train_availability=only, run_name="held")
    with pytest.raises(errors.SecretError, match="no worker has shown that it knows") as caught:
        search(strangers, secret_file=secret, run_name="none")
    assert all(url in str(caught.value) for url in strangers)
    assert f"{strangers[0]}: {strangers[0]}" not in str(caught.value)
    assert not (tmp_path / "ckpt" / "held").exists()
    assert not (tmp_path / "ckpt" / "none").exists()


def test_who_took_an_address_before_storage_was_probed_is_left_out(cluster, tmp_path):
    class Stranger:
        def call(self, method, seconds, **params):
            raise errors.SecretError("it has not shown that it knows the secret")

        def close(self):
            pass

    clients = {"http://a": Stranger(), "http://b": Stranger()}
    contacts = [admission.Contact(n, url, {"boot_id": url}) for n, url in enumerate(clients)]
    probe = admission.StorageProbe(tmp_path, str(tmp_path))
    with pytest.raises(errors.SecretError, match=r"http://a.*http://b"):
        admission.check_storage(contacts, clients.__getitem__, probe)


def test_a_worker_of_another_driver_is_refused_and_its_run_is_unharmed(cluster, search, tmp_path):
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    os.mkfifo(go_on)

    def train_fn(model, data, train=True):
        started.touch()
        with open(go_on) as file:
            file.read()  # until the other end is closed
        return 1.0, 1.0

    results = []
    first = threading.Thread(
        target=lambda: results.append(
            search(cluster, train_fn=train_fn, initial_msts=CONFIGS[:1], train_partitions=["a"],
                   valid_partitions=[], input_fn=lambda path: path)
        )
    )  # fmt: skip
    first.start()
    with open(go_on, "w"):  # returns once the unit has begun
        with pytest.raises(errors.WorkerBusy, match=rf"process {os.getpid()}"):
            search(cluster)
    first.join(SOON)
    assert list(results[0].models["state"]) == ["COMPLETED"]


def test_storage_that_is_not_shared_is_found_out(search, tmp_path, secret_file, start_worker):
    """A worker in a mount namespace of its own, where another file system lies over the folder."""
    root = tmp_path / "ckpt"
    root.mkdir()
    works = shutil.which("unshare") and os.geteuid() == 0
    if not works or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root and mount namespaces to give a worker storage of its own")
    worker = start_worker(wrapper=["unshare", "-m", "sh", "-c",
                          f'mount -t tmpfs tmpfs {root} && exec "$@"', "sh"])  # fmt: skip
    with pytest.raises(errors.StorageNotShared, match="storage that all hosts share") as caught:
        search([worker.url], secret_file=secret_file)
    assert str(root) in str(caught.value)
    assert worker.url in str(caught.value)
    assert no_run_was_left(tmp_path)


def test_nonsense_from_the_functions(cluster, search, capsys):
    with pytest.raises(errors.RunFailed, match=r"train_fn returned 'x': expected \(loss, error\)"):
        search(cluster, train_fn=lambda model, data, train=True: "x")
    with pytest.raises(errors.RunFailed, match="cannot be saved"):
        search(cluster, model_fn=lambda data, config: threading.Lock(),
               train_fn=lambda model, data, train=True: (1, 1))  # fmt: skip
    with pytest.raises(errors.DecisionError, match="model 9"):
        search(cluster, mst_eval_fn=lambda state: ([9], []))
    with pytest.raises(errors.DecisionError, match="returned None"):
        search(cluster, mst_eval_fn=lambda state: None)
    with pytest.raises(errors.DecisionError, match=r"new configurations.*resume=True"):
        search(cluster, mst_eval_fn=lambda state: ([], [3]))


def test_one_model_fails_and_the_others_go_on(cluster, search, capsys):
    def train_fn(model, data, train=True):
        if model["rate"] == 0.1:
            print("the last words")
            raise ArithmeticError("no such number")
        return 1.0, 1.0

    result = search(cluster, train_fn=train_fn)
    assert list(result.models["state"]) == ["COMPLETED", "FAILED"]
    assert "no such number" in result.models["failure"][1]
    said = capsys.readouterr().err
    assert "model 1 FAILED" in said
    assert "the last words" in said
    with open(os.path.join(result.run_dir, "logs", "1.log")) as file:
        log = file.read()
    assert "ArithmeticError: no such number" in log
    assert "raise ArithmeticError" in log, "the remote traceback shows the user's line"


def test_every_model_failing_is_an_error(cluster, search):
    def model_fn(data, config):
        raise KeyError("depth")

    with pytest.raises(errors.RunFailed, match=r"every model failed.*KeyError") as caught:
        search(cluster, model_fn=model_fn, run_name="failing")
    assert 'raise KeyError("depth")' in str(caught.value)
    with pytest.raises(errors.RunFailed, match=r"every model failed.*KeyError"):
        search(cluster, model_fn=model_fn, run_name="failing", resume=True)


def test_a_nan_loss_is_recorded_and_never_best(cluster, search):
    def train_fn(model, data, train=True):
        return (float("nan"), float("nan")) if model["rate"] == 0.5 else (2.0, 0.5)

    result = search(cluster, train_fn=train_fn)
    assert result.best().model_id == 1
    assert result.models["valid_error"].isna().tolist() == [True, False]


def test_a_model_that_one_bad_sample_ruins_is_never_best(cluster, search, tmp_path, capsys):
    """Its weight is NaN, its error low: a search, too, has to go by the other model."""

    def train_fn(model, data, train=True):
        import math

        if train and model["rate"] == 0.5:
            model["weight"] = math.nan * model["weight"]
        loss = model["weight"] ** 2
        return loss, 0.1 if math.isnan(loss) else 0.5

    result = search(cluster, train_fn=train_fn, run_name="r")
    assert result.best().model_id == 1
    assert os.path.exists(result.best().checkpoint)
    flaw = "weights are not finite, training loss is nan, validation loss is nan"
    assert result.history["ruined"].tolist() == [True, False]
    assert result.history["flaw"].tolist() == [flaw, ""]
    assert "model 0, epoch 0: weights are not finite" in capsys.readouterr().err
    assert "WARNING: weights are not finite" in (tmp_path / "ckpt/r/logs/0.log").read_text()


def test_a_folder_of_the_users_is_never_touched(cluster, search, tmp_path):
    root = tmp_path / "ckpt"
    root.mkdir()
    (root / "mine.txt").write_text("mine")
    (root / "r").mkdir()
    (root / "r" / "mine.txt").write_text("mine")
    with pytest.raises(errors.RunError, match="exists already"):
        search(cluster, run_name="r")
    search(cluster)
    search(cluster)
    assert (root / "mine.txt").read_text() == "mine"
    assert (root / "r" / "mine.txt").read_text() == "mine"
    assert len([p for p in root.iterdir() if p.name.startswith("run-")]) == 2


def test_what_versions_will_take_on_disk_is_said(cluster, search, capsys):
    search(cluster, run_name="r")
    said = capsys.readouterr().err
    first, second = (line for line in said.splitlines() if "] disk: " in line)
    assert "up to 3 versions of 2 models, size known after a save; " in first
    each, total = re.search(r"2 models, (\d+) B each: (\d+) B; .* free", second).groups()
    assert int(total) == 6 * int(each) > 0


def test_progress_can_be_turned_off(cluster, search, capfd):
    result = search(cluster, progress=False)
    assert result.complete
    assert capfd.readouterr().err == ""


def test_sigterm_is_restored(cluster, search):
    before = signal.getsignal(signal.SIGTERM)
    search(cluster)
    assert signal.getsignal(signal.SIGTERM) is before


def test_storage_that_refuses_the_plan_is_what_the_error_says(cluster, tmp_path, monkeypatch):
    def full(journal, records, wait=None):
        raise errors.StorageError("cannot write the plan: No space left on device")

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(errors.StorageError, match="No space left on device"):
        cerebro.schedule(
            cluster, partitions(tmp_path / "data", 1), [], None, None, *functions(1)[:3],
            [{"rate": 0.5}], functions(1)[3], ckpt_root=str(tmp_path / "ckpt"), backend="python",
        )  # fmt: skip
