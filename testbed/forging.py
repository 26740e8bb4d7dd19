"""Requests made by hand, rightly signed or not, and forged calls that would leave a mark."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebro.rpc import encoding, http1, signing

HOST = "127.0.0.1"
FIRST_COUNTER = 1_000_000
"""High enough that there is room for counters far behind."""


@dataclass(frozen=True)
class Target:
    """What an attacker might know of a daemon at work: all but, in most cases, the key."""

    key: bytes
    boot_id: str
    admission: int
    ticket: Mapping[str, Any]
    marks: Path


@dataclass(frozen=True)
class Request:
    """A request in parts, to be put together as it should not be."""

    headers: dict[str, str]
    body: bytes
    line: str = f"{signing.METHOD} {signing.PATH} HTTP/1.1"

    def head(self, **changed: str | None) -> bytes:
        """The head, with headers set or (None) left out; `_` in a name stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in changed.items()}
        merged = {**self.headers, **named}
        lines = [f"{name}: {value}" for name, value in merged.items() if value is not None]
        return "\r\n".join([self.line, *lines, "", ""]).encode("latin-1")

    def bytes(self, **changed: str | None) -> bytes:
        """Head and body."""
        return self.head(**changed) + self.body


class Forger:
    """Makes requests for one target, under a client id of its own."""

    def __init__(self, target: Target, seed: str) -> None:
        self.target = target
        self.rng = random.Random(seed)
        self.accepted: deque[bytes] = deque(maxlen=50)
        self._client_id = self.rng.randbytes(16).hex()
        self._counter = FIRST_COUNTER
        self._marks = 0
        self._prefix = self._client_id[:8]

    def call(self) -> bytes:
        """A well-formed call that would be seen if it were carried out: a file, a run's end."""
        self._marks += 1
        mark = str(self.target.marks / f"{self._prefix}-{self._marks}")
        ticket = dict(self.target.ticket)
        return encoding.encode_call(
            *self.rng.choice(
                [
                    ("probe_storage", {"write": mark, "read": []}),
                    ("close_run", {"ticket": ticket}),
                    ("unstage", {"ticket": ticket, "attempt": self.rng.randrange(100)}),
                    ("unstage", {"ticket": {**ticket, "generation": 9}, "attempt": 1}),
                ]
            )
        )

    def signed(
        self,
        body: bytes,
        *,
        key: bytes | None = None,
        boot_id: str | None = None,
        admission: int | None = None,
        counter: int | None = None,
        path: str = signing.PATH,
    ) -> Request:
        """A request with `body`; rightly signed as long as nothing else is given."""
        self._counter += 1
        sent = signing.Transmission(
            self.target.boot_id if boot_id is None else boot_id,
            self._client_id,
            self.target.admission if admission is None else admission,
            self._counter if counter is None else counter,
        )
        headers = signing.request_headers(key or self.target.key, sent, path, body, HOST)
        return Request(headers, body)

    def hello(self, body: bytes | None = None, key: bytes | None = None) -> Request:
        """A rightly signed hello."""
        self._counter += 1
        if body is None:
            nonce = self.rng.randbytes(16).hex()
            body = encoding.encode_call(encoding.HELLO, encoding.hello_params(nonce))
        sent = signing.Transmission("", self._client_id, None, self._counter)
        return Request(
            signing.request_headers(key or self.target.key, sent, signing.PATH, body, HOST), body
        )

    def plain(self, body: bytes) -> Request:
        """A request without any signature."""
        headers = {"Host": HOST, "Content-Type": "text/xml", "Content-Length": str(len(body))}
        return Request(headers, body)


def statuses(received: bytes) -> tuple[list[int], list[bytes]]:
    """(statuses, bodies) of the answers in what a connection gave."""
    found, bodies = [], []
    while received:
        head, separator, rest = received.partition(b"\r\n\r\n")
        if not separator:
            break
        answer = http1.parse_answer(head)
        length = http1.body_length(answer.headers, signing.MAX_BODY)
        found.append(answer.status)
        bodies.append(rest[:length])
        received = rest[length:]
    return found, bodies
