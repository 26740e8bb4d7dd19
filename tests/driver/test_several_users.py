"""Driver and workers as several users of one group: what their umasks let each other do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import pytest
from patience import PATIENCE
from toy import partitions

from cerebro import errors
from cerebro.driver import admission, permissions
from cerebro.driver.permissions import Party
from cerebro.worker.storage_probe import probe_storage

GROUP = 4100
SECRET = "the secret of a group, long enough"

DRIVER = """
import json, os, sys
from pathlib import Path
import cerebro
from cerebro.driver import admission
from cerebro.rpc import load_secret
from toy import functions

secret, root, data, workers = sys.argv[1], Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
key = load_secret(secret)

def probe(umask, *names):
    os.umask(umask)
    folder = root / f"probe-{umask:03o}-{'-'.join(names)}"
    folder.mkdir()
    probe = admission.StorageProbe(folder, str(root))
    clients = {workers[name]: admission.client_maker(key.key, key.path)(workers[name])
               for name in names}
    try:
        probe.check(clients)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    else:
        said = "good"
    for client in clients.values():
        client.close()
    print(json.dumps(said), flush=True)
    assert not os.listdir(folder), os.listdir(folder)

probe(0o002, "ben", "eve")
probe(0o077, "ben")
probe(0o002, "closed")
probe(0o002, "own", "eve")
os.umask(0o002)
paths = [f"{data}/train_{n}.txt" for n in range(2)]
result = cerebro.schedule(
    [workers["ben"], workers["eve"]], paths, [], None, None, *functions(8)[:3],
    [{"rate": 0.5}], functions(8)[3], ckpt_root=str(root), run_name="r", backend="python",
    secret_file=secret,
)
assert result.complete
print(json.dumps(sorted({p.name.split("-")[0] for p in root.glob("r/models/0/*")})))
"""


@pytest.fixture
def place():
    """A folder that all users can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="cerebro-users-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


PATH = ":".join(
    str(folder)
    for folder in (
        Path(admission.__file__).parents[2],
        Path(__file__).parents[1] / "helpers",
        Path(numpy.__file__).parents[1],
    )
)
"""Where Python finds this package, the toy, and numpy with the others."""


def as_user(uid, umask, python=sys.executable):
    """A command before that of a Python process, which runs it as a user of the group."""
    script = f'umask {umask} && export PYTHONPATH={PATH} && shift && exec {python} "$@"'
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={GROUP}", "sh", "-c",
            script, "sh"]  # fmt: skip


@pytest.fixture
def python():
    """An interpreter that other users may run, too: that of a virtual environment may be closed."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root, and setpriv, to be several users")
    minor = ".".join(map(str, sys.version_info[:2]))
    for python in (sys.executable, f"/usr/bin/python{minor}"):
        command = [*as_user(4001, "002", python), "", "-c", "import cerebro, numpy, pandas, toy"]
        if subprocess.run(command, cwd="/", capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip(f"needs a Python {minor} that other users may run")


@pytest.mark.processes
@pytest.mark.privileged
def test_umasks_of_driver_and_workers_are_found_out_and_named(place, python, start_worker):
    root = place / "runs"
    root.mkdir()
    os.chown(root, 0, GROUP)
    root.chmod(0o2770)
    data = place / "data"
    partitions(data, 2)

    def secret(uid):
        path = place / f"secret-{uid}"
        path.write_text(SECRET)
        path.chmod(0o600)
        os.chown(path, uid, uid)
        return path

    workers = {}
    for name, uid, umask in (
        ("ben", 4002, "002"), ("eve", 4003, "007"), ("closed", 4002, "077"), ("own", 4001, "027")
    ):  # fmt: skip
        worker = start_worker(secret=secret(uid), wrapper=as_user(uid, umask, python))
        workers[name] = worker.url
    done = subprocess.run(
        [*as_user(4001, "002", python), "", "-c", DRIVER, str(secret(4001)), str(root),
         str(data), json.dumps(workers)],
        cwd=place, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    good, driver, worker, own, versions = map(json.loads, done.stdout.splitlines())
    assert good == "good"
    for said in (driver, worker, own):
        assert said.startswith("StorageForbidden: ")
        assert "`umask 002`" in said
        assert f"chgrp -R GROUP {root}" in said
        assert "g+s" in said
    assert f"the worker {workers['ben']} (user 4002, umask 0002) may not enter {root}" in driver
    assert "With the umask 0077 the driver closes what it makes to its group" in driver
    assert "mode 2700, owner user 4001" in driver
    assert "the driver (user 4001, umask 0002) may not read" in worker
    assert f"With the umask 0077 the worker {workers['closed']} closes" in worker
    assert f"the worker {workers['eve']} (user 4003, umask 0007) may not read and replace" in own
    assert f"With the umask 0027 the worker {workers['own']} closes" in own
    assert len(versions) <= 4, "the driver deletes what the workers' users have made"


class Played:
    """A worker of another user, which is this process: `answers` are its own, or in part."""

    def __init__(self, **answer):
        self._answer = answer

    def call(self, method, seconds, *, write, read):
        return {**probe_storage(write, read), **self._answer}


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ({"error": "Permission denied", "code": "EACCES", "uid": 7, "umask": 0o22},
         errors.StorageForbidden, r"http://w \(user 7.*umask 0022\) may not write in .*the driver"),
        ({"error": "Permission denied", "code": "EACCES", "barred": "/x"},
         errors.StorageForbidden, "may not enter /x"),
        ({"error": "No such file or directory", "code": "ENOENT"},
         errors.StorageNotShared, "is not visible to the worker http://w .*No such file"),
        ({"error": "Read-only file system", "code": "EROFS"},
         errors.StorageNotShared, "Read-only file system"),
    ],
)  # fmt: skip
def test_why_a_worker_cannot_write_is_told_apart(tmp_path, answer, kind, said):
    probe = admission.StorageProbe(tmp_path, str(tmp_path))
    with pytest.raises(kind, match=said) as caught:
        probe.check({"http://w": Played(**answer)})
    assert caught.type is kind
    assert os.listdir(tmp_path) == []


def test_an_older_worker_says_no_more_than_whether_it_works(tmp_path):
    class Older:
        def __init__(self, seen):
            self._seen = seen

        def call(self, method, seconds, *, write, read):
            Path(write).write_text("")
            return {"error": "", "missing": [] if self._seen else read}

    probe = admission.StorageProbe(tmp_path, str(tmp_path))
    assert probe.check({"http://w": Older(True), "http://v": Played(uid=7)}) == {}
    with pytest.raises(errors.StorageNotShared, match="not visible"):
        probe.check({"http://w": Older(False)})


def test_workers_of_several_users_look_at_each_others_files(tmp_path):
    """Each reads those of the others' users and umasks, and who is gone by then is left out."""
    asked = []

    class Looks(Played):
        def call(self, method, seconds, *, write, read):
            asked.append([Path(path).name.partition("-")[0] for path in read])
            return super().call(method, seconds, write=write, read=read)

    class Leaves(Looks):
        def call(self, method, seconds, *, write, read):
            if write.endswith("again"):
                raise errors.RpcTimeout("gone")
            return super().call(method, seconds, write=write, read=read)

    probe = admission.StorageProbe(tmp_path, str(tmp_path))
    clients = {
        "http://a": Looks(uid=1, umask=2), "http://b": Looks(uid=1, umask=0o77),
        "http://c": Leaves(uid=2, umask=2), "http://d": Looks(uid=1, umask=2),
    }  # fmt: skip
    silent = probe.check(clients)
    assert list(silent) == ["http://c"]
    assert sorted(asked) == [["driver"]] * 4 + [["worker2"]] * 3
    assert os.listdir(tmp_path) == []


def test_a_party_that_says_nothing_of_itself_is_named_without_it(tmp_path):
    error = permissions.forbidden(
        Party("the worker w", None, None),
        "enter",
        tmp_path / "gone",
        Party("x", 1, None),
        Path("/r"),
    )
    assert str(error).startswith(f"the worker w may not enter {tmp_path}/gone, which is of x (user")


def test_nothing_but_the_run_is_opened_to_the_group(tmp_path):
    """A `ckpt_root` may be a home folder, with keys in it, or hold other people's runs."""
    root = tmp_path / "home of; eve"
    folder = root / "r/probe"
    folder.mkdir(parents=True)
    probe = admission.StorageProbe(folder, str(root))
    closed = Played(error="Permission denied", code="EACCES", uid=7, umask=0o22)
    with pytest.raises(errors.StorageForbidden) as caught:
        probe.check({"http://w": closed})
    opened = re.findall(r"(?:GROUP|g\+rwX|find) ('[^']*'|\S+)", str(caught.value))
    assert opened == ["FOLDER", *[f"'{root}/r'"] * 3]
