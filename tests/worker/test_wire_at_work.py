"""What is not signed, fresh and small is refused by a daemon at work, whose unit goes on."""

from __future__ import annotations

import secrets
import socket

import pytest
from patience import SOON
from worker_side import functions, order

from cerebro.errors import SecretError
from cerebro.rpc import Client, encoding, http1, load_secret, signing


class Hand:
    """Speaks to a worker byte by byte, with a key of its own choice."""

    def __init__(self, url, key):
        host, _, port = url.removeprefix("http://").rpartition(":")
        self.address, self.key = (host, int(port)), key
        self.client_id, self.counter = secrets.token_hex(16), 0
        self.boot_id, self.admission = "", None

    def request(self, method, **params):
        """A signed request: its head and its body."""
        self.counter += 1
        body = encoding.encode_call(method, params)
        sent = signing.Transmission(self.boot_id, self.client_id, self.admission, self.counter)
        headers = signing.request_headers(self.key, sent, signing.PATH, body, "h")
        return headers, body

    def hello(self):
        nonce = "cd" * 16
        _, body = self.send(*self.request("hello", client_nonce=nonce))
        self.boot_id, self.admission = encoding.read_hello_result(
            encoding.decode_answer(body), nonce
        )

    def open(self, data):
        sock = socket.create_connection(self.address, timeout=SOON)
        sock.sendall(data)
        return sock

    def send(self, headers, body):
        """(status, body) of the answer, on a connection of its own."""
        head = http1.format_request(signing.METHOD, signing.PATH, headers)
        return self.raw(head + body)

    def raw(self, data):
        with self.open(data) as sock:
            return self.answer(sock)

    def answer(self, sock):
        with sock.makefile("rb") as file:
            head = b"".join(iter(file.readline, b"\r\n"))
            parsed = http1.parse_answer(head.removesuffix(b"\r\n"))
            return parsed.status, file.read(int(parsed.headers["content-length"]))


@pytest.fixture
def at_work(side, tmp_path):
    """A side whose unit 1 trains until `end()` lets it; the unit must then have come through."""
    gate, mark = tmp_path / "gate", tmp_path / "mark"

    def train_fn(model, data, train=True):
        import os
        import time

        with open(mark, "a") as file:
            file.write("x")
        while not os.path.exists(gate):
            time.sleep(0.02)
        return 1.0, 0.5

    side.open(functions(train_fn=train_fn))
    executor = side.executor()
    side.start(1, writes=tmp_path / "v1")

    def end():
        describe = side.client.call("describe", SOON)
        assert describe["held"]["run"] == side.ticket["run"]
        gate.touch()
        side.until("committed", attempt=1)
        assert [e["kind"] for e in side.seen] == ["begun", "ran", "committed"]
        assert side.executor() == executor
        assert mark.read_text() == "x"

    side.end = end
    return side


@pytest.fixture
def key(shared_worker):
    return load_secret(shared_worker.secret_file).key


@pytest.fixture
def hand(shared_worker, key):
    """One that knows the secret, and has said hello."""
    hand = Hand(shared_worker.url, key)
    hand.hello()
    return hand


def test_unsigned_calls(at_work, hand):
    ticket = at_work.ticket
    headers, body = hand.request("close_run", ticket=ticket)
    plain = {"Host": "h", "Content-Type": "text/xml", "Content-Length": str(len(body))}
    for unsigned in (
        plain,
        {k: v for k, v in headers.items() if k != signing.SIGNATURE_HEADER},
        {**headers, signing.SIGNATURE_HEADER: "0" * 64},
        {**headers, signing.COUNTER_HEADER: "77"},
    ):
        assert hand.send(unsigned, body)[0] == 401
    assert hand.raw(b"GET /RPC2 HTTP/1.1\r\nHost: h\r\n\r\n")[0] == 405
    assert hand.raw(b"\x16\x03\x01 something else\r\n\r\n")[0] == 400
    at_work.end()


def test_a_body_that_is_not_the_signed_one(at_work, hand):
    another = {**at_work.ticket, "incarnation": at_work.ticket["incarnation"] + 1}
    headers, body = hand.request("close_run", ticket=another)
    altered = encoding.encode_call("close_run", {"ticket": at_work.ticket})
    assert len(altered) == len(body)
    assert hand.send(headers, altered)[0] == 400
    at_work.end()


def test_replayed_calls(at_work, hand, tmp_path):
    """What was right to do once is not done again for whoever recorded it."""
    start = hand.request("start", ticket=at_work.ticket, order=order(2))
    forget = hand.request("forget", ticket=at_work.ticket, models=[3])
    for request in (start, forget):
        assert hand.send(*request)[0] == 200
        for _ in range(3):
            assert hand.send(*request)[0] == 403
    assert hand.send(*hand.request("describe"))[0] == 200
    at_work.call("unstage", attempt=2)
    (tmp_path / "gate").touch()
    at_work.until("ran", attempt=2)
    assert [e.get("attempt") for e in at_work.seen if e["kind"] == "ran"] == [1, 2]


def test_calls_for_another_life_of_the_worker(at_work, hand):
    hand.boot_id = "0" * 32
    status, _ = hand.send(*hand.request("close_run", ticket=at_work.ticket))
    assert status == signing.HELLO_AGAIN
    at_work.end()


def test_another_secret(at_work, hand, shared_worker):
    boot_id, admission = hand.boot_id, hand.admission
    stranger = Hand(shared_worker.url, b"another secret, also long enough")
    assert stranger.send(*stranger.request("hello", client_nonce="cd" * 16))[0] == 401
    stranger.boot_id, stranger.admission = boot_id, admission
    assert stranger.send(*stranger.request("close_run", ticket=at_work.ticket))[0] == 401
    client = Client(shared_worker.url, b"another secret, also long enough")
    with pytest.raises(SecretError, match="does not accept our signature"):
        client.call("describe", SOON)
    client.close()
    at_work.end()


def test_oversized_heads_and_bodies_are_refused_before_they_are_sent(at_work, hand):
    headers, _ = hand.request("close_run", ticket=at_work.ticket)
    large = {**headers, "Content-Length": str(signing.MAX_BODY + 1)}
    assert hand.send(large, b"")[0] == 413
    assert hand.send({**headers, "X-Filler": "x" * 10_000}, b"")[0] == 431
    hand.boot_id, hand.admission = "", None
    assert hand.send(*hand.request("hello", client_nonce="cd" * 16, filler="x" * 8_000))[0] == 413
    at_work.end()


def test_slow_senders_are_cut_off_and_hold_nobody_up(at_work, hand):
    head = http1.format_request(signing.METHOD, signing.PATH, hand.request("describe")[0])
    slow = [hand.open(head[: 10 * n]) for n in range(1, 6)]
    assert at_work.client.call("describe", SOON)["held"]["run"] == at_work.ticket["run"]
    assert [hand.answer(sock)[0] for sock in slow] == [408] * 5
    for sock in slow:
        sock.close()
    at_work.end()
