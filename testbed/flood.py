"""Connections without a signature, as many as one process can open: `python -m testbed.flood SPEC`.

`idle` connections send nothing, `greeting` ones a hello that was recorded, `trickling` ones a byte
of a head at a time; all are opened again once they were ended. The others (`rapid`) are opened as
fast as it goes, and given up once `KEPT` newer ones are open. It runs until its standard input
ends, and prints how many it opened.
"""

from __future__ import annotations

import contextlib
import errno
import json
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cerebro.errors import CerebroError
from cerebro.rpc import Client

KEPT = 300
AT_ONCE = 50
BYTE_SECONDS = 0.05
REOPEN_SECONDS = 0.25
STOP_SECONDS = 20.0
VISIT_PACE_SECONDS = 0.1
HEAD = b"POST /RPC2 HTTP/1.1\r\nHost: " + b"x" * 4096
# Nothing lingers in TIME_WAIT, or the attacker would run out of ports.
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Spec:
    """Where to, where from (each address in turn), and how many of which kind.

    `hello` is what the greeting ones send.
    """

    port: int
    sources: Sequence[str]
    idle: int = 0
    greeting: int = 0
    trickling: int = 0
    rapid: bool = False
    hello: str = ""


class Flood:
    """The attack of one process."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self.opened = 0
        self._held: list[socket.socket | None] = [None] * (
            spec.greeting + spec.idle + spec.trickling
        )
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
                    sock = self._held[position] = self._open()
                    if sock is not None and position < self._spec.greeting:
                        with contextlib.suppress(OSError):  # not connected yet: it stays silent
                            sock.send(self._spec.hello.encode())
        if now >= self._next_byte:
            self._next_byte = now + BYTE_SECONDS
            self._sent += 1
            for sock in self._held[self._spec.greeting + self._spec.idle :]:
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


@contextlib.contextmanager
def flooding(spec: Spec) -> Iterator[list[int]]:
    """A flood in a process of its own, which has begun; after the block the list has its size."""
    opened: list[int] = []
    with subprocess.Popen(
        [sys.executable, "-m", "testbed.flood", json.dumps(asdict(spec))],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield opened
            opened.append(int(process.communicate("", timeout=STOP_SECONDS)[0]))
        finally:
            if process.poll() is None:
                process.kill()


@dataclass
class Visits:
    """What became of clients that came anew while others flooded the worker."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, others: Visits) -> None:
        """Count what became of others, too."""
        self.seconds += others.seconds
        self.failures += others.failures


@contextlib.contextmanager
def visiting(make_client: Callable[[], Client], deadline: float) -> Iterator[Visits]:
    """An honest client, a new one each time, that asks the worker what it is, over and over.

    As `cerebro workers` does: one call, which may take `deadline` seconds.
    """
    visits, done = Visits(), threading.Event()

    def visit() -> None:
        while not done.wait(VISIT_PACE_SECONDS):
            client, began = make_client(), time.monotonic()
            try:
                client.call("describe", deadline)
                visits.seconds.append(time.monotonic() - began)
            except CerebroError as error:
                visits.failures.append(str(error))
            finally:
                client.close()

    thread = threading.Thread(target=visit, name="visitor")
    thread.start()
    try:
        yield visits
    finally:
        done.set()
        thread.join()


def main() -> None:
    """Attack as the first argument says, until standard input ends."""
    spec = json.loads(sys.argv[1])
    flood = Flood(Spec(**spec))
    flood.step()
    print("begun", flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while not selector.select(0.0 if spec["rapid"] else BYTE_SECONDS):
            flood.step()
    print(flood.opened)


if __name__ == "__main__":
    main()
