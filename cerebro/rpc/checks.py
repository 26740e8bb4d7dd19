"""What a request must pass, in this order, before anything is done for it.

The order is the point. The head's form, the size, the signature over the headers (the body's hash
among them), the boot id and the counter are judged before any byte of the body is looked at; then
the body's hash; then its content. Whatever fails ends the connection. No sockets, no clock.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cerebro.rpc import encoding, http1, signing
from cerebro.rpc.limits import Limits
from cerebro.rpc.replay_guard import ReplayGuard, Verdict


@dataclass(frozen=True)
class Service:
    """What all connections of one server share."""

    key: bytes
    boot_id: str
    methods: Mapping[str, Callable[..., Any]]
    limits: Limits
    guard: ReplayGuard


class Refused(Exception):
    """A request that is not carried out. The answer is signed if `sent` is known to be genuine."""

    def __init__(self, status: int, reason: str, sent: signing.Transmission | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.sent = sent


@dataclass(frozen=True)
class SignedHead:
    """A head whose signature holds: its transmission, the body's hash and length."""

    sent: signing.Transmission
    digest: str
    length: int

    @property
    def is_hello(self) -> bool:
        """Whether this is a hello, which may be a recorded one."""
        return self.sent.admission is None


def judge_head(data: bytes, service: Service) -> SignedHead:
    """Read a head, given without its empty line. Raises `Refused` unless its signature holds."""
    try:
        head = http1.parse_request(data)
        if head.path != signing.PATH:
            raise Refused(404, f"there is nothing but {signing.PATH} here")
        if head.method != signing.METHOD:
            raise Refused(405, f"only {signing.METHOD} is answered")
        length = http1.body_length(head.headers, service.limits.max_body)
        if signing.is_ours(head.headers) and not signing.speaks_our_version(head.headers):
            raise Refused(400, f"this server speaks version {signing.PROTOCOL} of the protocol")
        stamp = signing.read_stamp(head.headers)
    except http1.BadHead as error:
        raise Refused(error.status, str(error)) from None
    except signing.BadStamp as error:
        raise Refused(401, str(error)) from None
    if stamp.transmission.admission is None and length > signing.MAX_HELLO_BODY:
        raise Refused(413, f"a hello is larger than the limit of {signing.MAX_HELLO_BODY} bytes")
    if not signing.verify_request(service.key, stamp, head.method, head.path, length):
        raise Refused(401, "the signature is wrong: the shared secrets differ")
    return SignedHead(stamp.transmission, stamp.digest, length)


def admit(sent: signing.Transmission, service: Service) -> None:
    """Refuse a transmission that is for another boot id, from an unknown client, or old."""
    if sent.admission is None:  # a hello changes nothing, so it may be repeated
        return
    if sent.boot_id != service.boot_id:
        raise Refused(signing.HELLO_AGAIN, "this server has another boot id: say hello", sent)
    verdict = service.guard.check(sent.client_id, sent.admission, sent.counter)
    if verdict is Verdict.UNKNOWN_CLIENT:
        raise Refused(signing.HELLO_AGAIN, "this client is not known any more: say hello", sent)
    if verdict is Verdict.REPLAYED:
        raise Refused(403, "this transmission has been here before")


def check_body(body: bytes, digest: str) -> None:
    """Raise `Refused` for a body of another hash."""
    if not hmac.compare_digest(signing.body_digest(body), digest):
        raise Refused(400, "the body is not the one that was signed")


def answer_hello(body: bytes, service: Service) -> bytes:
    """The body of the answer to a hello. Raises `Refused` for any other body."""
    try:
        nonce = encoding.read_hello(body)
    except ValueError as error:
        raise Refused(400, str(error)) from None
    return encoding.encode_result(
        encoding.hello_result(nonce, service.boot_id, service.guard.admission)
    )


def format_answer(sent: signing.Transmission, answer: bytes, key: bytes) -> bytes:
    """The signed answer to a transmission that was carried out, head and body."""
    return http1.format_answer(200, signing.answer_headers(key, sent, 200, answer)) + answer


def format_refusal(refused: Refused, key: bytes) -> bytes:
    """The answer to a request that is refused, after which the connection ends."""
    body = f"{refused}\n".encode("ascii", "replace")
    if refused.sent is not None:
        headers = signing.answer_headers(key, refused.sent, refused.status, body)
    else:
        headers = {
            "Content-Type": "text/plain",
            "Content-Length": str(len(body)),
            signing.VERSION_HEADER: signing.PROTOCOL,
        }
    return http1.format_answer(refused.status, {**headers, "Connection": "close"}) + body
