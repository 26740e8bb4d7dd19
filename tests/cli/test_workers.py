"""`cerebro workers`: a row for each, also for those that do not answer as they should."""

from __future__ import annotations

import re
import socket

import pytest
from worker_side import run_options

import cerebro
from cerebro.cli.main import main
from cerebro.rpc import Client, Server, load_secret
from cerebro.worker.daemon import Daemon, Resources

SECRET = "a secret of these tests, long enough"


@pytest.fixture(scope="module")
def cluster():
    with cerebro.LocalCluster(1, threads=1) as cluster:
        yield cluster


@pytest.fixture
def nobody():
    """A URL at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def older(cluster):
    """A worker that knows neither `inspect` nor `drain`."""
    methods = Daemon(Resources(threads=3)).methods()
    key = load_secret(cluster.secret_file).key
    server = Server("127.0.0.1", 0, key, {"describe": methods["describe"]})
    server.start()
    yield f"http://127.0.0.1:{server.address[1]}"
    server.close()


@pytest.fixture
def strange(cluster):
    """Workers of others: what they say is not what a worker says, or holds control sequences."""
    text = "\x1b]0;T\x07\n\x1b[2J\u202e"
    held = {"run_dir": text, "pid": text, "host": text}
    facts = {"cerebro": text, "python": text, "tensorflow": text, "devices": [text], "threads": 1}
    work = {"units": [], "cached": [], "loading": 0, "executor_memory": None}
    answers = [
        {**facts, "held": held, "work": work, "memory": 1.0},
        {**facts, "held": held, "work": [text], "memory": 1.0},
        {**facts, "held": {"run_dir": [text]}, "work": work, "memory": 1.0},
        {**facts, "threads": text, "devices": 3, "memory": text},
        [text],
        text,
    ]
    key = load_secret(cluster.secret_file).key
    servers = []
    for answer in answers:
        inspect = {"inspect": lambda answer=answer: answer}
        servers.append(Server("127.0.0.1", 0, key, inspect))
        servers[-1].start()
    yield [f"http://127.0.0.1:{server.address[1]}" for server in servers]
    for server in servers:
        server.close()


def rows(text):
    """The lines that begin with a URL, those that go on below them added."""
    found = []
    for line in text.splitlines():
        if line.startswith("http://"):
            found.append(line)
        elif line.startswith("   ") and found:
            found[-1] += " " + line.strip()
    return found


@pytest.fixture
def ask(cluster, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments):
        status = main(["workers", *arguments, "--secret-file", cluster.secret_file])
        return status, capsys.readouterr()

    return call


def test_a_free_worker(cluster, ask):
    status, shown = ask(cluster.urls[0])
    assert status == 0
    activity, equipment = rows(shown.out)
    assert activity.split()[2] == "MB"
    assert activity.endswith("free")
    assert cerebro.__version__ in equipment
    assert "1 thread, no GPU" in equipment
    assert all(len(line) <= 80 for line in shown.out.splitlines())
    assert "\x1b" not in shown.out


def test_a_worker_that_is_held(cluster, ask):
    client = Client(cluster.urls[0], load_secret(cluster.secret_file).key)
    ticket = {"run": "r", "generation": 1, "incarnation": 1}
    client.call(
        "open_run", 20, ticket=ticket, driver={"host": "head", "pid": 4321, "run_dir": "/runs/one"},
        options=run_options().to_json(), functions="",
    )  # fmt: skip
    try:
        status, shown = ask(cluster.urls[0])
    finally:
        client.call("close_run", 20, ticket=ticket)
        client.close()
    assert status == 0
    assert "waiting for a unit" in shown.out
    assert "/runs/one: driven by process 4321 on head, held by 1 worker" in shown.out


def test_one_that_is_not_up_is_a_row_with_the_reason(cluster, ask, nobody):
    status, shown = ask(nobody, cluster.urls[0])
    assert status == 1
    down, free, _ = rows(shown.out)
    assert down.startswith(nobody)
    assert "NOT UP: no connection to" in down
    assert "Connection refused" in down
    assert "free" in free


def test_one_with_another_secret_is_a_row_with_the_reason(cluster, tmp_path, capsys):
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    assert main(["workers", cluster.urls[0], "--secret-file", str(secret)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "NOT UP:" in said
    assert "does not accept our signature" in said


def test_an_older_worker_says_its_versions(older, ask):
    status, shown = ask(older)
    assert status == 0
    activity, equipment = rows(shown.out)
    assert "too old to report what it is doing: upgrade it" in activity
    assert "3 threads" in equipment


def test_an_older_worker_cannot_be_drained(older, ask):
    status, shown = ask("--drain", older)
    assert status == 1
    (activity, _) = rows(shown.out)
    assert "cannot be drained" in activity
    assert "end it with SIGTERM" in activity


def test_one_that_is_not_up_is_not_drained(nobody, ask):
    status, shown = ask("--drain", nobody)
    assert status == 1
    assert "NOT UP" in shown.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no worker is named: name one, as in cerebro workers http://node1:7777"),
        (["node1:7777"], "'node1:7777' does not begin with http://"),
        (["--drain", "https://node1"], "https is not spoken"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(ask, arguments, says):
    status, shown = ask(*arguments)
    assert status == 2
    assert shown.err.startswith("cerebro: ")
    assert says in shown.err
    assert shown.out == ""


def test_no_secret_is_made_for_asking(tmp_path, monkeypatch, capsys, nobody):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CEREBRO_SECRET_FILE", raising=False)
    assert main(["workers", nobody]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_strange_workers_say_is_shown_as_text(ask, strange):
    status, said = ask(*strange)
    assert status == 1
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", said.out + said.err)
    assert "\\x1b]0;T\\x07" in said.out
    assert " ".join(said.out.split()).count("does not describe a worker") >= 4
    assert len(said.out.split("\n\n")) == 3
