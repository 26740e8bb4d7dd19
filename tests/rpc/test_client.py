"""The client against our server, a restarted one, a man in the middle, and strangers."""

from __future__ import annotations

import http.server
import logging
import math
import re
import socket
import threading
import time
import xmlrpc.server
from collections.abc import Iterator
from typing import Any

import pytest

from cerebro.errors import (
    CerebroError,
    ConfigurationError,
    InputError,
    NotAWorker,
    RpcFault,
    RpcRejected,
    RpcTimeout,
    RpcUnreachable,
    SecretError,
)
from cerebro.rpc import Client, encoding, http1, signing

TIMEOUT = 20.0


def echo(**params: Any) -> Any:
    return params


@pytest.fixture
def serve_http() -> Iterator[Any]:
    """Runs a server of the standard library; gives its port."""
    running = []

    def start(server: Any) -> int:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return int(server.server_address[1])

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def test_call(serve: Any, connect: Any) -> None:
    server = serve({"echo": echo})
    client = connect(server)
    assert client.boot_id == ""
    assert client.call("echo", TIMEOUT, a=1, method="m", deadline=2) == {
        "a": 1,
        "method": "m",
        "deadline": 2,
    }
    assert client.boot_id == server.boot_id


def test_values_that_plain_xmlrpc_breaks_on(serve: Any, connect: Any) -> None:
    client = connect(serve({"echo": echo}))
    values = {
        "large": [2**31, -(2**63), 2**200],
        "control": "\x00\x01\r\n\x1b]]>&<",
        "unicode": "ü漢😀\ud800",
        "nothing": None,
        "ünïcode key": {"nested": [[], {}]},
    }
    assert client.call("echo", TIMEOUT, **values) == values
    assert math.isnan(client.call("echo", TIMEOUT, x=math.nan)["x"])
    data = bytes(range(256)) * 5000
    sent = encoding.encode_bytes(data)
    assert encoding.decode_bytes(client.call("echo", TIMEOUT, x=sent)["x"]) == data


def test_twenty_clients_at_once(serve: Any, connect: Any) -> None:
    barrier = threading.Barrier(20)

    def meet(n: int) -> int:
        barrier.wait(TIMEOUT)  # passes only if all twenty calls are under way together
        return n

    server = serve({"meet": meet})
    results: list[list[int]] = [[] for _ in range(20)]

    def run(n: int) -> None:
        client = connect(server)
        for turn in range(5):
            results[n].append(client.call("meet", TIMEOUT, n=100 * turn + n))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert results == [[100 * r + n for r in range(5)] for n in range(20)]


def raising(error: Exception) -> Any:
    def method() -> None:
        raise error

    return method


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("no such thing"), "ValueError", "no such thing"),
        (CerebroError("as it is\x00"), "CerebroError", "as it is\\x00"),
        (ConfigurationError("bad"), "ConfigurationError", "bad"),
        (KeyError("k"), "KeyError", "internal error: KeyError: 'k'"),
        (TimeoutError("t"), "TimeoutError", "internal error: TimeoutError: t"),
    ],
)
def test_method_that_raises(
    serve: Any,
    connect: Any,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    kind: str,
    message: str,
) -> None:
    client = connect(serve({"fail": raising(error), "echo": echo}))
    with caplog.at_level(logging.ERROR, "cerebro.rpc"), pytest.raises(RpcFault) as caught:
        client.call("fail", TIMEOUT)
    assert (caught.value.kind, str(caught.value)) == (kind, message)
    unexpected = message.startswith("internal")
    assert ("Traceback" in caplog.text) == unexpected
    stream = client._stream
    assert client.call("echo", TIMEOUT) == {}
    assert client._stream is stream  # a fault does not cost the connection


def test_faults_of_the_call_itself(serve: Any, connect: Any) -> None:
    client = connect(serve({"echo": echo, "none": lambda: None, "set": lambda: {1}}))
    with pytest.raises(RpcFault, match="no method 'other' here; there are: echo, none, set"):
        client.call("other", TIMEOUT)
    with pytest.raises(RpcFault, match=r"internal error: TypeError.*unexpected keyword"):
        client.call("none", TIMEOUT, a=1)
    with pytest.raises(RpcFault, match=r"internal error: TypeError.*set"):
        client.call("set", TIMEOUT)


def test_answer_that_is_too_large(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(serve({"much": lambda: "x" * 5000, "echo": echo}))
    monkeypatch.setattr(signing, "MAX_BODY", 4000)
    with pytest.raises(RpcFault, match="answer of much is larger than the limit of 4000"):
        client.call("much", TIMEOUT)
    with pytest.raises(RpcRejected, match=r"the call of echo has .* the limit is 4000"):
        client.call("echo", TIMEOUT, x="x" * 5000)
    assert client.call("echo", TIMEOUT, x=1) == {"x": 1}


def test_request_that_the_server_finds_too_large(serve: Any, connect: Any) -> None:
    client = connect(serve({"echo": echo}, max_body=5000))
    with pytest.raises(RpcRejected, match=r"413.*limit of 5000 bytes"):
        client.call("echo", TIMEOUT, x="x" * 12_000_000)
    assert client.call("echo", TIMEOUT, x=1) == {"x": 1}


def test_wrong_secret(serve: Any, connect: Any) -> None:
    server = serve({"echo": echo})
    client = connect(server, key=b"x" * 32, secret_path="/home/me/secret")
    with pytest.raises(SecretError) as caught:
        client.call("echo", TIMEOUT)
    message = str(caught.value)
    assert client.url in message
    assert "has not shown that it knows the secret" in message
    assert "/home/me/secret" in message
    assert "copy" not in message.lower(), "it may be anybody"
    assert "scp" not in message
    with pytest.raises(SecretError, match=r"not the one in ~/\.cerebro/secret"):
        connect(server, key=b"x" * 32).call("echo", TIMEOUT)


def test_restarted_server(serve: Any, connect: Any) -> None:
    first = serve({"echo": echo})
    client = connect(first)
    client.call("echo", TIMEOUT)
    first.close()
    second = serve({"echo": echo}, port=first.address[1])
    assert client.call("echo", TIMEOUT, a=1) == {"a": 1}
    assert client.boot_id == second.boot_id != first.boot_id


def test_forgotten_client_goes_on(serve: Any, connect: Any) -> None:
    calls: list[int] = []
    server = serve({"note": lambda n: calls.append(n)}, max_clients=1)
    one, other = connect(server), connect(server)
    for n in range(6):
        (one if n % 2 else other).call("note", TIMEOUT, n=n)
    assert calls == list(range(6))


def test_client_that_is_never_admitted(serve: Any, connect: Any, relay: Any) -> None:
    calls: list[int] = []
    server = serve({"count": lambda: calls.append(1)}, max_clients=1)
    admit = connect(server)
    admit.call("count", TIMEOUT)

    def crowd_out(answer: bytes) -> bytes:
        other = connect(server)
        other.call("count", TIMEOUT)
        other.close()
        return answer

    # Somebody else is admitted between each of the client's hellos and its call.
    with pytest.raises(RpcRejected, match="forgets this client"):
        connect(relay(server, crowd_out)).call("never", TIMEOUT)


CHANGES = {
    "body": (lambda a: a[:-1] + b" ", "altered on the way"),  # still good XML
    "status": (lambda a: a.replace(b"1.1 200 OK", b"1.1 409 OK"), "not signed"),
    "length": (lambda a: a.replace(b"Length: ", b"Length: 1"), "not signed"),
    "hash": (lambda a: re.sub(rb"SHA256: \w", b"SHA256: x", a), "not signed"),
    "signature": (lambda a: re.sub(rb"Signature: \w{8}", b"Signature: 00000000", a), "not signed"),
    "encoding": (lambda a: a.replace(b"Type: text/xml", b"Encoding: gzip"), "not acceptable"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("of_hello", [True, False])
def test_answer_altered(serve: Any, connect: Any, relay: Any, change: str, of_hello: bool) -> None:
    calls: list[int] = []
    server = serve({"count": lambda: calls.append(1)})
    answers: list[bytes] = []
    make, message = CHANGES[change]

    def alter(answer: bytes) -> bytes:
        answers.append(answer)
        altered = make(answer)
        assert altered != answer
        return altered if of_hello or len(answers) == 2 else answer

    client = connect(relay(server, alter))
    with pytest.raises(RpcRejected, match=message):
        client.call("count", TIMEOUT)
    assert len(calls) == (0 if of_hello else 1)
    assert client._stream is None


def test_an_impostor_gets_nothing_but_a_hello(connect: Any, listen: Any, key: bytes) -> None:
    """Somebody has a worker's address now, and answers as it would, but for the secret."""
    received: list[bytes] = []

    def answer(near: socket.socket) -> None:
        request = b""
        while b"</methodCall>" not in request:
            if not (data := near.recv(1 << 20)):
                return
            request += data
        received.append(request)
        head, _, body = request.partition(b"\r\n\r\n")
        stamp = signing.read_stamp(http1.parse_request(head).headers)
        nonce = encoding.read_hello(body)
        result = encoding.encode_result(encoding.hello_result(nonce, "0a" * 16, 0))
        headers = signing.answer_headers(b"x" * 32, stamp.transmission, 200, result)
        near.sendall(http1.format_answer(200, headers) + result)
        while more := near.recv(1 << 20):
            received.append(more)

    with pytest.raises(RpcRejected, match="has not shown that it knows the secret"):
        connect(listen(answer)).call("open_run", TIMEOUT, functions="what only workers may see")
    (hello,) = received
    assert encoding.decode_call(hello.partition(b"\r\n\r\n")[2])[0] == "hello"
    assert key not in hello


def test_answer_of_another_call(serve: Any, connect: Any, relay: Any) -> None:
    kept: list[bytes] = []

    def keep_first(answer: bytes) -> bytes:
        kept.append(answer)
        return kept[1] if len(kept) == 3 else answer  # the first call's answer to the second

    client = connect(relay(serve({"echo": echo}), keep_first))
    assert client.call("echo", TIMEOUT, a=1) == {"a": 1}
    with pytest.raises(RpcRejected, match="not signed"):
        client.call("echo", TIMEOUT, a=2)


def test_no_second_sending_when_no_answer_comes(serve: Any, connect: Any, relay: Any) -> None:
    calls: list[int] = []
    server = serve({"count": lambda: calls.append(1)})
    answers: list[bytes] = []

    def break_off(answer: bytes) -> bytes | None:
        answers.append(answer)
        return answer if len(answers) == 1 else None  # hello is answered

    client = connect(relay(server, break_off))
    with pytest.raises(RpcUnreachable, match="may have been carried out"):
        client.call("count", TIMEOUT)
    assert len(calls) == 1
    assert len(answers) == 2


def turned_away(near: socket.socket) -> None:
    near.recv(1 << 20)
    near.sendall(b"HTTP/1.1 503 x\r\nCerebro-Version: 1\r\nContent-Length: 3\r\n\r\ntoo")


ENDS = {
    "closed": lambda near: near.recv(1 << 20),
    "reset": lambda near: near.recv(1),  # closing with more to read resets the connection
    "refused": turned_away,
}


@pytest.mark.parametrize("end", ENDS)
def test_connections_that_end_before_hello_are_made_again(
    serve: Any, connect: Any, listen: Any, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is flooded may turn some away; then nothing was carried out."""
    monkeypatch.setattr("cerebro.rpc.client._PAUSE_SECONDS", 0.001)
    server = serve({"echo": echo})
    opened: list[int] = []

    def handle(near: socket.socket) -> None:
        opened.append(1)
        if len(opened) < 5:
            ENDS[end](near)
            return
        with socket.create_connection(server.address, timeout=TIMEOUT) as far:
            while request := near.recv(1 << 20):
                far.sendall(request)
                near.sendall(far.recv(1 << 20))

    assert connect(listen(handle)).call("echo", TIMEOUT, a=1) == {"a": 1}
    assert len(opened) == 5


def test_a_worker_that_always_turns_away_is_tried_a_few_times(
    connect: Any, listen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cerebro.rpc.client._PAUSE_SECONDS", 0.001)
    opened: list[int] = []

    def handle(near: socket.socket) -> None:
        opened.append(1)
        turned_away(near)

    with pytest.raises(RpcUnreachable, match="takes no more connections"):
        connect(listen(handle)).call("echo", TIMEOUT)
    assert len(opened) == 5


def test_stale_connection_is_replaced(serve: Any, connect: Any) -> None:
    calls: list[int] = []
    server = serve({"count": lambda: calls.append(1)}, idle_seconds=0.1)
    client = connect(server)
    client.call("count", TIMEOUT)
    stale = client._stream
    assert stale._sock.recv(1, socket.MSG_PEEK) == b""  # waits until the server has closed it
    client.call("count", TIMEOUT)
    assert client._stream is not stale
    assert len(calls) == 2


def test_connection_is_kept(serve: Any, connect: Any) -> None:
    client = connect(serve({"echo": echo}))
    client.call("echo", TIMEOUT)
    stream = client._stream
    client.call("echo", TIMEOUT)
    assert client._stream is stream
    assert stream._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_rested_connection_is_replaced(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(serve({"echo": echo}))
    client.call("echo", TIMEOUT)
    stream = client._stream
    monkeypatch.setattr("cerebro.rpc.client._REST_SECONDS", 0.0)
    client.call("echo", TIMEOUT)
    assert client._stream is not stream


def test_deadline_when_nobody_answers(connect: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(RpcTimeout, match="before echo was sent"):
            connect(silent.getsockname()[1]).call("echo", 0.2)
        begin = time.monotonic()
        with pytest.raises(RpcTimeout, match="before echo was sent"):
            connect(silent.getsockname()[1], connect_seconds=0.2).call("echo", TIMEOUT)
        assert time.monotonic() - begin < TIMEOUT / 2


def test_deadline_when_a_method_takes_longer(serve: Any, connect: Any) -> None:
    release = threading.Event()
    server = serve({"wait": lambda: release.wait(TIMEOUT), "echo": echo})
    client = connect(server)
    with pytest.raises(RpcTimeout, match="wait was under way: it may have been carried out"):
        client.call("wait", 0.3)
    assert client.call("echo", TIMEOUT, a=1) == {"a": 1}  # not the late answer to `wait`
    release.set()


def test_deadline_is_for_the_whole_answer(connect: Any, listen: Any) -> None:
    stop = threading.Event()

    def trickle(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not stop.wait(0.02):
            sock.sendall(b"x")

    client = connect(listen(trickle))
    with pytest.raises(RpcTimeout):
        client.call("echo", 0.3)
    stop.set()


@pytest.mark.parametrize("deadline", [0, -1.0])
def test_no_time_left(serve: Any, connect: Any, deadline: float) -> None:
    calls: list[int] = []
    client = connect(serve({"count": lambda: calls.append(1)}))
    client.call("count", TIMEOUT)
    with pytest.raises(RpcTimeout):
        client.call("count", deadline)
    assert calls == [1]


@pytest.mark.parametrize("deadline", [math.inf, math.nan])
def test_endless_deadline(serve: Any, connect: Any, deadline: float) -> None:
    with pytest.raises(InputError, match="finite"):
        connect(serve({})).call("echo", deadline)


def test_nobody_there(connect: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RpcUnreachable, match=rf"127.0.0.1:{port} \(Connection refused\)"):
        connect(port).call("echo", TIMEOUT)


def test_host_that_does_not_exist(key: bytes) -> None:
    with pytest.raises(RpcUnreachable, match=r"no-such-host.invalid:7777"):
        Client("http://no-such-host.invalid", key).call("echo", TIMEOUT)


def test_name_service_that_does_not_answer(key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def getaddrinfo(*arguments: Any, flags: int = 0, **more: Any) -> Any:
        if flags:
            raise socket.gaierror("not a number")
        release.wait(TIMEOUT)
        raise socket.gaierror("too late")

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    with pytest.raises(RpcUnreachable, match="name service"):
        Client("http://node", key).call("echo", 0.2)
    release.set()


def test_host_by_name(serve: Any, key: bytes) -> None:
    server = serve({"echo": echo})
    client = Client(f"http://localhost:{server.address[1]}/", key)  # ::1 may be refused first
    assert client.call("echo", TIMEOUT, a=1) == {"a": 1}
    client.close()


def test_worker_of_the_original(connect: Any, serve_http: Any) -> None:
    original = xmlrpc.server.SimpleXMLRPCServer(
        ("127.0.0.1", 0), allow_none=True, logRequests=False
    )
    original.register_function(lambda: True, "is_live")
    with pytest.raises(NotAWorker, match=r"cerebro-dl 1\.x worker: upgrade it with `pip install"):
        connect(serve_http(original)).call("echo", TIMEOUT)


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


def test_web_server(connect: Any, serve_http: Any) -> None:
    port = serve_http(http.server.HTTPServer(("127.0.0.1", 0), Quiet))
    with pytest.raises(NotAWorker, match=r"not a worker of this library.*501.*BaseHTTP"):
        connect(port).call("echo", TIMEOUT)


@pytest.mark.parametrize("ours", [b"Cerebro-Version: 1\r\n", b""])
@pytest.mark.parametrize("status", [b"200", b"302", b"400", b"401", b"403", b"503"])
def test_nothing_that_a_stranger_says_is_shown(
    connect: Any, listen: Any, ours: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user might do it."""
    monkeypatch.setattr("cerebro.rpc.client._PAUSE_SECONDS", 0.001)
    bait = b"your secret is too old: scp ~/.cerebro/secret node7:"

    def answer(near: socket.socket) -> None:
        near.recv(1 << 20)
        near.sendall(
            b"HTTP/1.1 %s %s\r\n%sServer: %s\r\nContent-Length: %d\r\n\r\n%s"
            % (status, bait, ours, bait, len(bait), bait)
        )

    with pytest.raises((NotAWorker, RpcRejected, RpcUnreachable, SecretError)) as raised:
        connect(listen(answer)).call("echo", TIMEOUT)
    assert "node7" not in str(raised.value)
    assert "scp" not in str(raised.value)


@pytest.mark.parametrize("stays", [True, False])
def test_what_takes_connections_and_says_nothing(
    connect: Any, listen: Any, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cerebro.rpc.client._PAUSE_SECONDS", 0.001)
    over = threading.Event()

    def wait(near: socket.socket) -> None:
        near.recv(1 << 20)
        if stays:
            over.wait(TIMEOUT)

    said = "has not shown that it knows the secret"
    with pytest.raises((RpcTimeout, RpcUnreachable), match=said):
        connect(listen(wait)).call("echo", 0.2 if stays else TIMEOUT)
    over.set()


def test_what_speaks_no_http(connect: Any, listen: Any) -> None:
    def greet(sock: socket.socket) -> None:
        sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        sock.recv(65536)

    with pytest.raises(NotAWorker, match="does not speak HTTP"):
        connect(listen(greet)).call("echo", TIMEOUT)


@pytest.mark.parametrize(
    "banner", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"HTTQ", b"\0" * 20_000]
)
@pytest.mark.parametrize("stays", [True, False])
def test_what_speaks_something_else_and_waits_or_goes(
    connect: Any, listen: Any, banner: bytes, stays: bool
) -> None:
    over = threading.Event()

    def greet(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(banner)
        if stays:
            over.wait()

    with pytest.raises(NotAWorker, match=r"has not shown that it knows the secret.*speak HTTP"):
        connect(listen(greet)).call("echo", TIMEOUT)
    over.set()


def test_an_answer_that_is_cut_short_is_no_other_service(connect: Any, listen: Any) -> None:
    def greet(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 2")

    with pytest.raises(RpcUnreachable, match="broke"):
        connect(listen(greet)).call("echo", TIMEOUT)


def test_one_thread_at_a_time_and_close_by_another(serve: Any, connect: Any) -> None:
    entered, release = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        release.wait(TIMEOUT)

    client = connect(serve({"wait": wait}))
    errors: list[Exception] = []

    def call() -> None:
        try:
            client.call("wait", TIMEOUT)
        except RpcUnreachable as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert entered.wait(TIMEOUT)
    with pytest.raises(RuntimeError, match="one thread at a time"):
        client.call("wait", TIMEOUT)
    client.close()
    thread.join(TIMEOUT / 2)  # well before the method ends
    assert len(errors) == 1
    release.set()
    with pytest.raises(RpcUnreachable, match="closed"):
        client.call("wait", TIMEOUT)


def test_short_secret() -> None:
    with pytest.raises(InputError, match="16 are the least"):
        Client("http://node", b"short")
