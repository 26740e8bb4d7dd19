"""The server against requests made by hand: what it refuses, and that it refuses them unread."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
import xmlrpc.client
from collections.abc import Callable
from typing import Any

import pytest

from cerebro.errors import InputError, RpcUnreachable
from cerebro.rpc import Server, encoding, signing

TIMEOUT = 20.0


def echo(**params: Any) -> Any:
    return params


@pytest.fixture
def nothing_is_parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies that reached a decoder, XML or JSON."""
    parsed: list[bytes] = []
    for module, name in ((xmlrpc.client, "loads"), (json, "loads")):
        monkeypatch.setattr(module, name, lambda body, *a, **k: parsed.append(body))
    return parsed


def signed_with(other: bytes) -> Callable[[Any], bytes]:
    def make(hand: Any) -> bytes:
        hand.key = other
        return hand.request("echo", {}).bytes

    return make


def alter(**headers: str | None) -> Callable[[Any], bytes]:
    """The head alone: the refusal must come without the body."""
    return lambda hand: hand.request("echo", {}).altered(**headers).head


def line(text: str) -> Callable[[Any], bytes]:
    def make(hand: Any) -> bytes:
        request = hand.request("echo", {})
        request.first_line = text
        return request.head

    return make


REFUSED = {
    "unsigned": (alter(Cerebro_Signature=None), 401),
    "unsigned, of another program": (
        lambda _: b"POST /RPC2 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        401,
    ),
    "wrong secret": (signed_with(b"x" * 32), 401),
    "signature altered": (alter(Cerebro_Signature="0" * 64), 401),
    "counter altered": (alter(Cerebro_Counter="2"), 401),
    "body's hash altered": (alter(Cerebro_Body_SHA256="0" * 64), 401),
    "boot id altered": (alter(Cerebro_Boot="0" * 32), 401),
    "length altered": (alter(Content_Length="9"), 401),
    "another version": (alter(Cerebro_Version="2"), 400),
    "oversized": (alter(Content_Length="1000001"), 413),
    "no length": (alter(Content_Length=None), 411),
    "negative length": (alter(Content_Length="-1"), 400),
    "chunked": (alter(Transfer_Encoding="chunked"), 501),
    "chunked, without length": (alter(Content_Length=None, Transfer_Encoding="chunked"), 501),
    "gzip": (alter(Content_Encoding="gzip"), 415),
    "GET": (line("GET /RPC2 HTTP/1.1"), 405),
    "PUT": (line("PUT /RPC2 HTTP/1.1"), 405),
    "another path": (line("POST / HTTP/1.1"), 404),
    "HTTP/1.0": (line("POST /RPC2 HTTP/1.0"), 505),
    "no HTTP": (line("hello"), 400),
    "head too large": (alter(X="x" * 9000), 431),
    "head without end": (lambda _: b"x" * 9000, 431),
    "hello too large": (lambda hand: hand.hello(pad="x" * 5000).head, 413),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_the_body(
    case: str, serve: Any, by_hand: Any, nothing_is_parsed: list[bytes]
) -> None:
    calls: list[Any] = []
    server = serve({"echo": lambda **p: calls.append(p)}, max_body=1_000_000)
    hand = by_hand(server)
    make, status = REFUSED[case]
    sock = hand.open()
    sock.sendall(make(hand))
    answered, headers, body = hand.read(sock)
    assert answered == status
    assert 0 < len(body) < 200
    assert headers["connection"] == "close"
    assert signing.SIGNATURE_HEADER.lower() not in headers
    assert sock.recv(1) == b""
    assert calls == nothing_is_parsed == []


def test_what_is_refused_above_is_accepted_unaltered(serve: Any, by_hand: Any) -> None:
    hand = by_hand(serve({"echo": echo}))
    assert hand.status(hand.request("echo", {}).bytes) == 200
    assert hand.status(hand.hello().bytes) == 200


def test_exact_bytes_again(serve: Any, by_hand: Any) -> None:
    calls: list[Any] = []
    hand = by_hand(serve({"count": lambda: calls.append(1)}))
    data = hand.request("count", {}).bytes
    assert hand.status(data) == 200
    assert hand.status(data) == 403
    assert len(calls) == 1


def test_replay_is_refused_before_its_body(
    serve: Any, by_hand: Any, nothing_is_parsed: list[bytes]
) -> None:
    hand = by_hand(serve({"echo": echo}))
    request = hand.request("echo", {})
    with hand.open() as sock:
        sock.sendall(request.head)  # its counter is used up, though no body follows
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    assert hand.status(request.head) == 403
    assert nothing_is_parsed == []


def test_out_of_order_within_the_window_once(serve: Any, by_hand: Any) -> None:
    calls: list[int] = []
    hand = by_hand(serve({"note": lambda n: calls.append(n)}))
    order = [2000, 1990, 2001, 1990, 2000, 977, 978, 978]
    answers = [hand.status(hand.request("note", {"n": n}, n).bytes) for n in order]
    assert answers == [200, 200, 200, 403, 403, 403, 200, 403]
    assert calls == [2000, 1990, 2001, 978]


def test_counters_are_each_clients_own(serve: Any, by_hand: Any) -> None:
    hand = by_hand(serve({"echo": echo}))
    assert hand.status(hand.request("echo", {}, 1, client_id="aa" * 16).bytes) == 200
    assert hand.status(hand.request("echo", {}, 1, client_id="bb" * 16).bytes) == 200


def test_forgotten_client_is_not_replayable(serve: Any, by_hand: Any) -> None:
    calls: list[Any] = []
    hand = by_hand(serve({"count": lambda: calls.append(1)}, max_clients=1))
    first = hand.request("count", {}, client_id="aa" * 16).bytes
    assert hand.status(first) == 200
    assert hand.status(hand.request("count", {}, client_id="bb" * 16).bytes) == 200
    hello = hand.hello().bytes
    for data in (first, hello, first):  # a replayed hello does not admit it either
        status = hand.status(data)
        assert status == (200 if data is hello else 409)
    assert len(calls) == 2


def test_replayed_hello_gives_the_boot_id_and_nothing_else(serve: Any, by_hand: Any) -> None:
    server = serve({"echo": echo}, max_clients=1)
    hand = by_hand(server)
    known = hand.request("echo", {}).bytes
    assert hand.status(known) == 200
    data = hand.hello("cd" * 16).bytes
    for _ in range(5):
        status, _, body = hand.answer(data)
        assert status == 200
        assert encoding.decode_answer(body) == {
            "client_nonce": "cd" * 16,
            "boot_id": server.boot_id,
            "admission": 0,
        }
    assert hand.status(known) == 403  # the client is still remembered


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("echo", {"client_nonce": "cd" * 16}),
        ("hello", {}),
        ("hello", {"client_nonce": "cd" * 15}),
        ("hello", {"client_nonce": 5}),
        ("hello", {"client_nonce": "cd" * 16, "more": 1}),
    ],
)
def test_without_boot_id_only_hello(serve: Any, by_hand: Any, method: str, params: Any) -> None:
    hand = by_hand(serve({"echo": echo}))
    request = hand.request(method, params, boot_id="", admission=None)
    assert hand.status(request.bytes) == 400


def test_another_boot_id_is_answered_signed_and_not_carried_out(
    serve: Any, by_hand: Any, nothing_is_parsed: list[bytes], key: bytes
) -> None:
    hand = by_hand(serve({"echo": echo}))
    request = hand.request("echo", {}, boot_id="00" * 16)
    status, headers, body = hand.answer(request.head)
    assert status == signing.HELLO_AGAIN
    digest = signing.verify_answer(key, request.sent, status, len(body), headers)
    assert digest == signing.body_digest(body)
    assert nothing_is_parsed == []


def test_answer_is_signed_for_its_transmission(serve: Any, by_hand: Any, key: bytes) -> None:
    hand = by_hand(serve({"echo": echo}))
    request = hand.request("echo", {"a": 1})
    status, headers, body = hand.answer(request.bytes)
    digest = signing.verify_answer(key, request.sent, status, len(body), headers)
    assert digest == signing.body_digest(body)


def test_body_altered_after_signing(
    serve: Any, by_hand: Any, nothing_is_parsed: list[bytes]
) -> None:
    hand = by_hand(serve({"echo": echo}))
    request = hand.request("echo", {"a": 1})
    altered = request.body.replace(b"echo", b"evil")
    assert len(altered) == len(request.body)
    assert hand.status(request.head + altered) == 400
    assert nothing_is_parsed == []


def test_signed_body_that_is_no_call(serve: Any, by_hand: Any, key: bytes) -> None:
    hand = by_hand(serve({"echo": echo}))
    sent = hand.request("echo", {}).sent
    headers = signing.request_headers(key, sent, "/RPC2", b"<nonsense", "h")
    lines = ["POST /RPC2 HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    assert hand.status("\r\n".join(lines).encode() + b"<nonsense") == 400


def trickle(sock: socket.socket, data: bytes) -> int:
    """Send a byte at a time until an answer comes; how many bytes went out."""
    sock.settimeout(0.02)
    for sent in range(len(data)):
        try:
            sock.sendall(data[sent : sent + 1])
            sock.recv(1, socket.MSG_PEEK)
            return sent + 1
        except TimeoutError:
            continue
    return len(data)


def test_slow_head(serve: Any, by_hand: Any) -> None:
    hand = by_hand(serve({"echo": echo}, header_seconds=0.3))
    data = hand.request("echo", {}).bytes
    sock = hand.open()
    assert trickle(sock, data) < 100
    sock.settimeout(TIMEOUT)
    assert hand.read(sock)[0] == 408


def test_slow_body(serve: Any, by_hand: Any, nothing_is_parsed: list[bytes]) -> None:
    hand = by_hand(serve({"echo": echo}, body_seconds=0.3))
    request = hand.request("echo", {"x": "x" * 1000})
    sock = hand.open()
    sock.sendall(request.head)
    assert trickle(sock, request.body) < 100
    sock.settimeout(TIMEOUT)
    assert hand.read(sock)[0] == 408
    assert nothing_is_parsed == []


def test_silent_and_idle_connections_are_ended(serve: Any, by_hand: Any) -> None:
    hand = by_hand(serve({"echo": echo}, header_seconds=0.2, idle_seconds=0.2))
    silent = hand.open()
    idle = hand.open()
    idle.sendall(hand.request("echo", {}).bytes)
    assert hand.read(idle)[0] == 200
    assert hand.read(silent)[0] == 408
    assert idle.recv(1) == b""


def test_two_requests_in_one_piece(serve: Any, by_hand: Any) -> None:
    hand = by_hand(serve({"echo": echo}))
    sock = hand.open()
    requests = [hand.request("echo", {"n": n}, n) for n in (1, 2)]
    sock.sendall(b"".join(r.bytes for r in requests))
    received = b""
    while received.count(b"</methodResponse>") < 2:
        data = sock.recv(65536)
        assert data
        received += data


def wait_until(condition: Callable[[], bool]) -> None:
    expires = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < expires
        threading.Event().wait(0.01)


def test_port_taken(serve: Any) -> None:
    server = serve({"echo": echo})
    with pytest.raises(OSError, match="Address already in use") as caught:
        serve({"echo": echo}, port=server.address[1])
    assert caught.value.errno == errno.EADDRINUSE


def test_close_frees_the_port_and_ends_idle_and_waiting_calls(
    serve: Any, connect: Any, by_hand: Any
) -> None:
    entered, release = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        release.wait(TIMEOUT)

    server = serve({"wait": wait})
    idle = by_hand(server).open()
    errors: list[Exception] = []

    def call() -> None:
        try:
            connect(server).call("wait", TIMEOUT)
        except RpcUnreachable as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert entered.wait(TIMEOUT)
    begin = time.monotonic()
    server.close()
    assert time.monotonic() - begin < TIMEOUT / 2  # the method would hold it for longer
    caller.join(TIMEOUT)
    assert "may have been carried out" in str(errors[0])
    assert idle.recv(1) == b""
    serve({"wait": wait}, port=server.address[1])
    release.set()
    wait_until(lambda: not server._connections)
    server.close()


def test_a_call_under_way_is_answered_when_the_server_closes(serve: Any, connect: Any) -> None:
    """So a driver that waits for events hears that its worker leaves."""
    entered = threading.Event()

    def leave() -> str:
        entered.set()
        server._closing.wait(TIMEOUT)
        with server._lock:  # the connections have been told
            return "leaving"

    server = serve({"leave": leave})
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(connect(server).call("leave", TIMEOUT)))
    caller.start()
    assert entered.wait(TIMEOUT)
    server.close()
    caller.join(TIMEOUT)
    assert answers == ["leaving"]


def test_close_from_a_method_and_before_serving(connect: Any, key: bytes) -> None:
    methods: dict[str, Any] = {}
    server = Server("127.0.0.1", 0, key, methods)
    methods["stop"] = server.close
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with pytest.raises(RpcUnreachable):
        connect(server).call("stop", TIMEOUT)
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    never = Server("127.0.0.1", 0, key, {})
    never.close()
    never.serve_forever()
    assert never._listener.fileno() == -1


def test_bad_arguments(key: bytes) -> None:
    with pytest.raises(InputError, match="hello"):
        Server("127.0.0.1", 0, key, {"hello": echo})
    with pytest.raises(InputError, match="16 are the least"):
        Server("127.0.0.1", 0, b"short", {})


def test_no_delay_on_accepted_sockets(serve: Any, by_hand: Any) -> None:
    options: list[int] = []

    def look() -> None:
        with server._lock:
            (connection,) = server._connections.values()
        sock = connection._stream._sock
        options.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    server = serve({"look": look})
    hand = by_hand(server)
    assert hand.status(hand.request("look", {}).bytes) == 200
    assert options == [1]
