"""One connection of the server: each request is checked, carried out and answered, in turn.

The order of the checks is the point. The head's form, the size, the signature over the headers
(the body's hash among them), the boot id and the counter are judged before any byte of the body
is looked at; then the body's hash; then its content. Whatever fails ends the connection.
"""

from __future__ import annotations

import hmac
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cerebro.errors import CerebroError
from cerebro.rpc import encoding, http1, signing
from cerebro.rpc.limits import Limits
from cerebro.rpc.replay_guard import ReplayGuard, Verdict
from cerebro.rpc.stream import Stream

logger = logging.getLogger(__name__)

# A refused sender gets this long, for this many bytes, to see the answer and hang up.
_PARTING_SECONDS = 0.5
_PARTING_BYTES = 256 * 1024


@dataclass(frozen=True)
class Service:
    """What all connections of one server share."""

    key: bytes
    boot_id: str
    methods: Mapping[str, Callable[..., Any]]
    limits: Limits
    guard: ReplayGuard


class _Refused(Exception):
    """A request that is not carried out. The answer is signed if `sent` is known to be genuine."""

    def __init__(self, status: int, reason: str, sent: signing.Transmission | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.sent = sent


class Connection:
    """Serves one client's socket, in the thread that calls `serve`."""

    def __init__(self, sock: socket.socket, peer: str, service: Service) -> None:
        self._stream = Stream(sock)
        self._peer = peer
        self._service = service

    def serve(self) -> None:
        """Answer requests until either side ends the connection."""
        limits = self._service.limits
        head_expires = time.monotonic() + limits.header_seconds
        try:
            while True:
                self._answer_one(head_expires)
                self._stream.wait(time.monotonic() + limits.idle_seconds)
                head_expires = time.monotonic() + limits.header_seconds
        except _Refused as refused:
            self._refuse(refused)
        except (OSError, EOFError):  # gone, idle for too long, or slow to take its answer
            return

    def finish(self) -> None:
        """Make `serve` end once the call under way, if there is one, is answered."""
        self._stream.stop_reading()

    def shutdown(self) -> None:
        """Make `serve` end soon, from another thread."""
        self._stream.shutdown()

    def _answer_one(self, head_expires: float) -> None:
        sent, digest, length = self._read_signed_head(head_expires)
        body = self._read_body(length, digest)
        answer = self._hello(body) if sent.admission is None else self._carry_out(body)
        head = http1.format_answer(
            200, signing.answer_headers(self._service.key, sent, 200, answer)
        )
        self._stream.send(head + answer, time.monotonic() + self._service.limits.body_seconds)

    def _read_signed_head(self, expires: float) -> tuple[signing.Transmission, str, int]:
        """(transmission, the body's hash, the body's length) of a request that may be read on."""
        limits = self._service.limits
        try:
            head = http1.parse_request(self._stream.read_head(limits.max_header_bytes, expires))
            if head.path != signing.PATH:
                raise _Refused(404, f"there is nothing but {signing.PATH} here")
            if head.method != signing.METHOD:
                raise _Refused(405, f"only {signing.METHOD} is answered")
            length = http1.body_length(head.headers, limits.max_body)
            if signing.is_ours(head.headers) and not signing.speaks_our_version(head.headers):
                raise _Refused(
                    400, f"this server speaks version {signing.PROTOCOL} of the protocol"
                )
            stamp = signing.read_stamp(head.headers)
        except TimeoutError:
            raise _Refused(408, f"the head took more than {limits.header_seconds} s") from None
        except http1.BadHead as error:
            raise _Refused(error.status, str(error)) from None
        except signing.BadStamp as error:
            raise _Refused(401, str(error)) from None
        if stamp.transmission.admission is None and length > signing.MAX_HELLO_BODY:
            raise _Refused(
                413, f"a hello is larger than the limit of {signing.MAX_HELLO_BODY} bytes"
            )
        if not signing.verify_request(self._service.key, stamp, head.method, head.path, length):
            raise _Refused(401, "the signature is wrong: the shared secrets differ")
        self._admit(stamp.transmission)
        return stamp.transmission, stamp.digest, length

    def _admit(self, sent: signing.Transmission) -> None:
        """Refuse a transmission that is for another boot id, from an unknown client, or old."""
        if sent.admission is None:  # a hello changes nothing, so it may be repeated
            return
        if sent.boot_id != self._service.boot_id:
            raise _Refused(signing.HELLO_AGAIN, "this server has another boot id: say hello", sent)
        verdict = self._service.guard.check(sent.client_id, sent.admission, sent.counter)
        if verdict is Verdict.UNKNOWN_CLIENT:
            raise _Refused(
                signing.HELLO_AGAIN, "this client is not known any more: say hello", sent
            )
        if verdict is Verdict.REPLAYED:
            raise _Refused(403, "this transmission has been here before")

    def _read_body(self, length: int, digest: str) -> bytes:
        seconds = self._service.limits.body_seconds
        try:
            body = self._stream.read_exactly(length, time.monotonic() + seconds)
        except TimeoutError:
            raise _Refused(408, f"the body took more than {seconds} s") from None
        if not hmac.compare_digest(signing.body_digest(body), digest):
            raise _Refused(400, "the body is not the one that was signed")
        return body

    def _hello(self, body: bytes) -> bytes:
        try:
            nonce = encoding.read_hello(body)
        except ValueError as error:
            raise _Refused(400, str(error)) from None
        service = self._service
        return encoding.encode_result(
            encoding.hello_result(nonce, service.boot_id, service.guard.admission)
        )

    def _carry_out(self, body: bytes) -> bytes:
        try:
            name, params = encoding.decode_call(body)
        except ValueError as error:
            raise _Refused(400, str(error)) from None
        try:
            if name not in self._service.methods:
                known = ", ".join(sorted(self._service.methods))
                raise CerebroError(f"there is no method {name!r} here; there are: {known}")
            answer = encoding.encode_result(self._service.methods[name](**params))
            if len(answer) > signing.MAX_BODY:
                raise CerebroError(
                    f"the answer of {name} is larger than the limit of {signing.MAX_BODY} bytes"
                )
            return answer
        except (CerebroError, ValueError) as error:
            return encoding.encode_fault(type(error).__name__, str(error))
        except Exception as error:
            logger.exception("%s failed", name)
            kind = type(error).__name__
            return encoding.encode_fault(kind, f"internal error: {kind}: {error}")

    def _refuse(self, refused: _Refused) -> None:
        logger.info("refused a request of %s: %d %s", self._peer, refused.status, refused)
        body = f"{refused}\n".encode("ascii", "replace")
        if refused.sent is not None:
            headers = signing.answer_headers(self._service.key, refused.sent, refused.status, body)
        else:
            headers = refusal_headers(body)
        expires = time.monotonic() + _PARTING_SECONDS
        head = http1.format_answer(refused.status, {**headers, "Connection": "close"})
        try:
            self._stream.send(head + body, expires)
        except OSError:
            return
        self._stream.discard(_PARTING_BYTES, expires)


def refusal_headers(body: bytes) -> dict[str, str]:
    """The headers of an answer to somebody who has not shown to hold the secret."""
    return {
        "Content-Type": "text/plain",
        "Content-Length": str(len(body)),
        signing.VERSION_HEADER: signing.PROTOCOL,
    }
