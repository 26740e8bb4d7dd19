"""Connections without a signature, as many as one process can open: `python -m testbed.flood SPEC`.

`idle` connections send nothing, `trickling` ones a byte of a head at a time; all are opened again
as soon as they were ended. The others (`rapid`) are opened as fast as it goes, and given up once
`KEPT` newer ones are open. It runs until its standard input ends, and prints how many it opened.
"""

from __future__ import annotations

import contextlib
import errno
import json
import selectors
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 300
AT_ONCE = 50
BYTE_SECONDS = 0.05
REOPEN_SECONDS = 0.25
HEAD = b"POST /RPC2 HTTP/1.1\r\nHost: " + b"x" * 4096
# Nothing lingers in TIME_WAIT, or the attacker would run out of ports.
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Spec:
    """Where to, where from (each address in turn), and how many of which kind."""

    port: int
    sources: Sequence[str]
    idle: int = 0
    trickling: int = 0
    rapid: bool = False


class Flood:
    """The attack of one process."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self.opened = 0
        self._held: list[socket.socket | None] = [None] * (spec.idle + spec.trickling)
        self._rapid: deque[socket.socket] = deque()
        self._next_byte = self._next_open = 0.0
        self._sent = 0

    def step(self) -> None:
        """Open, trickle and give up for a moment."""
        now = time.monotonic()
        if now >= self._next_open:
            self._next_open = now + REOPEN_SECONDS
            for position, sock in enumerate(self._held):
                if sock is None or _has_ended(sock):
                    if sock is not None:
                        sock.close()
                    self._held[position] = self._open()
        if now >= self._next_byte:
            self._next_byte = now + BYTE_SECONDS
            self._sent += 1
            for sock in self._held[self._spec.idle :]:
                if sock is not None:
                    with contextlib.suppress(OSError):
                        sock.send(HEAD[self._sent % len(HEAD) :][:1])
        if self._spec.rapid:
            for _ in range(AT_ONCE):
                if (opened := self._open()) is not None:
                    self._rapid.append(opened)
                if len(self._rapid) > KEPT:
                    self._rapid.popleft().close()

    def _open(self) -> socket.socket | None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        try:
            sock.bind((self._spec.sources[self.opened % len(self._spec.sources)], 0))
        except OSError:  # no port is free
            sock.close()
            return None
        if sock.connect_ex(("127.0.0.1", self._spec.port)) not in (0, errno.EINPROGRESS):
            sock.close()
            return None
        self.opened += 1
        return sock


def _has_ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1024) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def main() -> None:
    """Attack as the first argument says, until standard input ends."""
    spec = json.loads(sys.argv[1])
    flood = Flood(Spec(**spec))
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while not selector.select(0.0 if spec["rapid"] else BYTE_SECONDS):
            flood.step()
    print(flood.opened)


if __name__ == "__main__":
    main()
