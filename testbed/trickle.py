"""Connections that send byte by byte, held open for as long as the other side bears them."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable

from testbed.forging import Forger, statuses

PACE_SECONDS = 0.25


class Trickle:
    """A thread that keeps `heads` connections slow in the head and `bodies` slow in the body.

    One that is ended by the server is opened again. `answered` counts the statuses that came,
    `sent` the connections, `dropped` those that ended without an answer.
    """

    def __init__(
        self, connect: Callable[[], socket.socket], forger: Forger, heads: int, bodies: int
    ) -> None:
        self._connect = connect
        self._forger = forger
        self._slots = [False] * heads + [True] * bodies
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trickle", daemon=True)
        self.answered: Counter[int] = Counter()
        self.sent = 0
        self.dropped = 0

    def start(self) -> None:
        """Open the connections."""
        self._thread.start()

    def stop(self) -> None:
        """Hang up."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        # A daemon that has ended is found out, and said, by those who attack it faster.
        with contextlib.suppress(ConnectionRefusedError):
            self._hold()

    def _hold(self) -> None:
        open_now = [self._open(in_body) for in_body in self._slots]
        while not self._done.wait(PACE_SECONDS):
            for position, (sock, rest) in enumerate(open_now):
                if select.select([sock], [], [], 0)[0] or not rest:
                    self._end(sock)
                    open_now[position] = self._open(self._slots[position])
                    continue
                # It may have been closed since: the next round sees it.
                with contextlib.suppress(ConnectionError):
                    sock.sendall(rest[:1])
                open_now[position] = (sock, rest[1:])
        for sock, _ in open_now:
            sock.close()
            self.dropped += 1

    def _open(self, in_body: bool) -> tuple[socket.socket, bytes]:
        request = self._forger.signed(self._forger.call())
        head, body = request.head(), request.body
        sock = self._connect()
        self.sent += 1
        sock.sendall(head if in_body else head[:1])
        return sock, body if in_body else head[1:] + body

    def _end(self, sock: socket.socket) -> None:
        with sock:
            received = b""
            with contextlib.suppress(ConnectionError):
                while data := sock.recv(65536):
                    received += data
        found, _ = statuses(received)
        self.answered.update(found)
        if not found:
            self.dropped += 1
