"""Workers that come while a run goes on: new ones by `workers.json`, old ones as new processes."""

from __future__ import annotations

import json
import os
import re
import threading
import time

import pytest
from exact import check_exact
from patience import SOON
from test_faults import search
from toy import functions

from cerebro import errors
from cerebro.driver.workers_file import Listed, read_workers, write_workers
from cerebro.journal.paths import RunPaths
from cerebro.journal.run_plan import RunPlan
from cerebro.storage import write_file


def plan(availability=None):
    return RunPlan(
        id="id", name="r", workers=["http://w0:7777"], train_partitions=["/t0", "/t1"],
        valid_partitions=["/v0"], train_availability=availability,
        valid_availability=availability and [[1]], configs=[{}], backend="python", seed=0,
        deterministic=True, keep_data=True, functions={},
    )  # fmt: skip


def test_entries_are_urls_or_objects_with_rows(tmp_path):
    path = tmp_path / "workers.json"
    path.write_text('["http://w0:7777", "http://w1:7777", {"url": "http://w2:8888"}]')
    good, wrong = read_workers(path, plan())
    assert not wrong
    assert good == [
        Listed("http://w0:7777"), Listed("http://w1:7777"), Listed("http://w2:8888")
    ]  # fmt: skip
    path.write_text('[{"url": "http://w2:8888", "train": [0, 1], "valid": [1]}]')
    assert read_workers(path, plan([[1, 1]])) == ([Listed("http://w2:8888", (0, 1), (1,))], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not valid JSON"),
        ("[" * 200_000, "is not valid JSON"),
        ('{"url": "w1"}', "a list of URLs"),
    ],
)
def test_a_file_of_which_nothing_can_be_read_is_named(tmp_path, text, message):
    path = tmp_path / "workers.json"
    path.write_text(text)
    with pytest.raises(errors.InputError, match=message):
        read_workers(path, plan([[1, 1]]))
    with pytest.raises(errors.InputError, match=message):
        write_workers(path, ["http://w0:7777"], plan())
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "neither a URL nor"),
        ('["http://w9:x"]', "w9"),
        ('["http://w2:1"]', r"say which of the 2 train partitions.*\[1, 0, \.\.\.\]"),
        ('[{"url": "http://w2:1", "train": [1]}]', r"train=\[1\]"),
        ('[{"url": "http://w2:1", "train": [1, 2]}]', "which of the 2 train"),
    ],
)
def test_entries_that_make_no_sense_are_named(tmp_path, text, message):
    path = tmp_path / "workers.json"
    rows = {"url": "http://w3:1", "train": [1, 0], "valid": [1]}
    path.write_text(json.dumps([*json.loads(text), rows]))
    good, wrong = read_workers(path, plan([[1, 1]]))
    assert good == [Listed("http://w3:1", (1, 0), (1,))]
    assert len(wrong) == 1
    assert str(path) in wrong[0]
    assert re.search(message, wrong[0])


def test_what_was_added_to_the_file_stays_when_the_run_goes_on(tmp_path):
    path = tmp_path / "workers.json"
    write_workers(path, ["http://w0:7777"], None)
    assert json.loads(path.read_text()) == ["http://w0:7777"]
    added = {"url": "http://w5:7777", "train": [1, 1], "valid": [1]}
    path.write_text(json.dumps(["http://w0:7777", added]))
    write_workers(path, ["http://w8:7777"], plan())
    assert json.loads(path.read_text()) == ["http://w8:7777", added]


class Elastic:
    """A search whose first units wait until a file is there; `then` is done once it runs."""

    def __init__(self, tmp_path, secret_file):
        self.tmp_path = tmp_path
        self.secret_file = secret_file
        self.paths = RunPaths(tmp_path / "ckpt" / "r")
        self.gate = tmp_path / "gate"
        os.mkfifo(self.gate)

    def functions(self, epochs, needed=1, until=lambda: True):
        """Functions that go on until `needed` daemons have run units and `until` holds."""
        input_fn, model_fn, train_fn, eval_fn = functions(epochs)
        seen = self.tmp_path / "seen"
        seen.mkdir()
        place = str(seen)

        def told(model, data, train=True):
            import os

            open(os.path.join(place, str(os.getppid())), "a").close()
            return train_fn(model, data, train)

        def waiting(state):
            stop, new = eval_fn(state)
            enough = len(os.listdir(place)) >= needed and until()
            return (stop if enough else []), new

        return input_fn, model_fn, told, waiting

    def run(self, urls, fns, then, **options):
        def wait():
            with self.gate.open():
                then()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        gate = str(self.gate)
        opened = []
        eval_fn = fns[3]

        def opening(state):
            if not opened:
                opened.append(1)
                with open(gate, "w"):
                    pass
                thread.join(SOON)
            time.sleep(0.1)  # epochs of this toy are over in less than a heartbeat
            return eval_fn(state)

        options.setdefault("heartbeat", 1.0)
        return search(
            urls, self.tmp_path, (*fns[:3], opening), self.secret_file, run_name="r", **options
        )


def append(path, entry):
    write_file(path, json.dumps([*json.loads(path.read_text()), entry]).encode())


def test_a_worker_that_is_added_to_the_file_takes_part(start_worker, secret_file, tmp_path):
    first = start_worker()
    elastic = Elastic(tmp_path, secret_file)
    fns = elastic.functions(2, needed=2)

    def add():
        append(elastic.paths.workers, start_worker().url)

    result = elastic.run([first.url], fns, add)
    epochs = int(result.models["epochs"].max())
    check_exact(result, epochs)
    assert set(result.units["worker"]) == {0, 1}


def test_a_worker_with_rows_is_added_to_a_run_with_matrices(
    start_worker, secret_file, tmp_path, capsys
):
    """One entry lacks the rows, and is named; the other may read what nobody else can any more."""
    first, second = start_worker(), start_worker()
    elastic = Elastic(tmp_path, secret_file)
    fns = elastic.functions(3, needed=3)

    def replace():
        second.kill()
        second.process.wait()
        append(elastic.paths.workers, "http://127.0.0.1:1")
        deadline = time.monotonic() + SOON
        while "say which of the 3" not in capsys.readouterr().err:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        rows = {"url": start_worker().url, "train": [0, 0, 1], "valid": [0, 1]}
        write_file(elastic.paths.workers, json.dumps([first.url, second.url, rows]).encode())

    result = elastic.run(
        [first.url, second.url], fns, replace,
        train_availability=[[1, 1, 0], [0, 0, 1]], valid_availability=[[1, 0], [0, 1]],
    )  # fmt: skip
    check_exact(result, int(result.models["epochs"].max()))
    units = result.units[result.units["worker"] == 2]
    assert set(units["partition"][units["split"] == "train"]) == {2}
    assert set(units["partition"][units["split"] == "valid"]) == {1}


def test_a_worker_that_does_not_share_the_storage_does_not_join(
    start_worker, secret_file, tmp_path, said_file
):
    if os.getuid() != 0:
        pytest.skip("a worker with another view of the file system needs root")
    first = start_worker()
    elastic = Elastic(tmp_path, secret_file)
    ckpt = tmp_path / "ckpt"

    def refused():
        with open(said_file) as file:
            return "is not visible to" in file.read()

    def add():
        hidden = f'mount -t tmpfs tmpfs {ckpt} && exec "$@"'
        other = start_worker(wrapper=["unshare", "-m", "sh", "-c", hidden, "sh"])
        append(elastic.paths.workers, other.url)

    result = elastic.run([first.url], elastic.functions(1, until=refused), add)
    check_exact(result, int(result.models["epochs"].max()))
    assert set(result.units["worker"]) == {0}
