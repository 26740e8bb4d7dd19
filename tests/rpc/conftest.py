"""Servers, clients and hand-made requests that end with the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cerebro.rpc import Client, Limits, Server, encoding, http1, signing

KEY = b"the key that both sides hold....."
TIMEOUT = 20.0


@pytest.fixture
def key() -> bytes:
    return KEY


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers on 127.0.0.1; keywords are limits."""
    servers = []

    def start(
        methods: Mapping[str, Callable[..., Any]], *, port: int = 0, key: bytes = KEY, **limits: Any
    ) -> Server:
        server = Server("127.0.0.1", port, key, methods, Limits(**limits))
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Makes clients of a server, or of a port of 127.0.0.1."""
    clients = []

    def make(server: Server | int, *, key: bytes = KEY, **options: Any) -> Client:
        port = server if isinstance(server, int) else server.address[1]
        client = Client(f"http://127.0.0.1:{port}", key, **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@dataclass
class Request:
    """A signed request, to be altered and sent by hand."""

    sent: signing.Transmission
    headers: dict[str, str]
    body: bytes
    first_line: str = "POST /RPC2 HTTP/1.1"

    @property
    def head(self) -> bytes:
        lines = [self.first_line, *(f"{k}: {v}" for k, v in self.headers.items()), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    @property
    def bytes(self) -> bytes:
        return self.head + self.body

    def altered(self, **headers: str | None) -> Request:
        """With headers set (or, None, left out); `_` in a name stands for `-`."""
        merged = {**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}}
        return replace(self, headers={k: v for k, v in merged.items() if v is not None})


class Hand:
    """Speaks to a server byte by byte."""

    def __init__(self, server: Server, key: bytes = KEY) -> None:
        self.server, self.key = server, key
        self.client_id = "ab" * 16
        self.admission = 0
        self._sockets: list[socket.socket] = []

    def request(self, method: str, params: dict[str, Any], counter: int = 1, **of: Any) -> Request:
        sent = signing.Transmission(
            of.get("boot_id", self.server.boot_id),
            of.get("client_id", self.client_id),
            of.get("admission", self.admission),
            counter,
        )
        body = encoding.encode_call(method, params)
        headers = signing.request_headers(self.key, sent, of.get("path", "/RPC2"), body, "h")
        return Request(sent, headers, body)

    def hello(self, nonce: str = "cd" * 16, **more: Any) -> Request:
        params = {"client_nonce": nonce, **more}
        return self.request("hello", params, boot_id="", admission=None)

    def open(self) -> socket.socket:
        sock = socket.create_connection(self.server.address, timeout=TIMEOUT)
        self._sockets.append(sock)
        return sock

    def answer(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send `data` on a new connection: status, headers and body of the answer."""
        sock = self.open()
        sock.sendall(data)
        return self.read(sock)

    def read(self, sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
        with sock.makefile("rb") as file:
            head = b"".join(iter(file.readline, b"\r\n"))
            parsed = http1.parse_answer(head.removesuffix(b"\r\n"))
            headers = dict(parsed.headers)
            return parsed.status, headers, file.read(int(headers["content-length"]))

    def status(self, data: bytes) -> int:
        return self.answer(data)[0]

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def by_hand() -> Iterator[Callable[..., Hand]]:
    hands = []

    def make(server: Server, key: bytes = KEY) -> Hand:
        hands.append(Hand(server, key))
        return hands[-1]

    yield make
    for hand in hands:
        hand.close()


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Runs a function on each connection to a port of its own; gives the port."""
    listeners: list[socket.socket] = []
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(handle: Callable[[socket.socket], None]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                opened.append(sock)
                thread = threading.Thread(target=run, args=(sock,))
                threads.append(thread)
                thread.start()

        def run(sock: socket.socket) -> None:
            with sock:
                try:
                    handle(sock)
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        threads.append(thread)
        thread.start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        # Closing does not wake a thread in accept; a last connection does.
        port = listener.getsockname()[1]
        listener.settimeout(0)
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT).close()
        listener.close()
    for sock in opened:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


@pytest.fixture
def relay(
    listen: Callable[[Callable[[socket.socket], None]], int],
) -> Callable[[Server, Callable[[bytes], bytes | None]], int]:
    """A man in the middle: gives a port that passes all on, each answer through `change`.

    `change` gives None to break the connection instead of answering.
    """

    def start(server: Server, change: Callable[[bytes], bytes | None]) -> int:
        def handle(near: socket.socket) -> None:
            with socket.create_connection(server.address, timeout=TIMEOUT) as far:
                while True:
                    request = near.recv(1 << 20)
                    if not request:
                        return
                    far.sendall(request)
                    answer = change(far.recv(1 << 20))
                    if answer is None:
                        return
                    near.sendall(answer)

        return listen(handle)

    return start
