"""One authenticated connection of the server: each request is checked, carried out and answered.

Its first request has shown at the door (`cerebro.rpc.door`) that the client holds the secret.
"""

from __future__ import annotations

import logging
import socket
import time

from cerebro.errors import CerebroError
from cerebro.rpc import checks, encoding, http1, signing
from cerebro.rpc.checks import Refused, Service, SignedHead
from cerebro.rpc.limits import PARTING_BYTES, PARTING_SECONDS
from cerebro.rpc.stream import Stream

logger = logging.getLogger(__name__)


class Connection:
    """Serves one client's socket, in the thread that calls `serve`.

    `first` is the head of its first request, which was admitted; `received` is what came behind.
    """

    def __init__(
        self, sock: socket.socket, peer: str, service: Service, first: SignedHead, received: bytes
    ) -> None:
        self._stream = Stream(sock, received)
        self._peer = peer
        self._service = service
        self._first = first

    def serve(self) -> None:
        """Answer requests until either side ends the connection."""
        limits = self._service.limits
        request = self._first
        try:
            while True:
                self._answer_one(request)
                self._stream.wait(time.monotonic() + limits.idle_seconds)
                request = self._read_signed_head(time.monotonic() + limits.header_seconds)
        except Refused as refused:
            self._refuse(refused)
        except (OSError, EOFError):  # gone, idle for too long, or slow to take its answer
            return

    def finish(self) -> None:
        """Make `serve` end once the call under way, if there is one, is answered."""
        self._stream.stop_reading()

    def shutdown(self) -> None:
        """Make `serve` end soon, from another thread."""
        self._stream.shutdown()

    def _answer_one(self, request: SignedHead) -> None:
        body = self._read_body(request)
        if request.is_hello:
            answer = checks.answer_hello(body, self._service)
        else:
            answer = self._carry_out(body)
        self._stream.send(
            checks.format_answer(request.sent, answer, self._service.key),
            time.monotonic() + self._service.limits.body_seconds,
        )

    def _read_signed_head(self, expires: float) -> SignedHead:
        limits = self._service.limits
        try:
            head = self._stream.read_head(limits.max_header_bytes, expires)
        except TimeoutError:
            raise Refused(408, f"the head took more than {limits.header_seconds} s") from None
        except http1.BadHead as error:
            raise Refused(error.status, str(error)) from None
        request = checks.judge_head(head, self._service)
        checks.admit(request.sent, self._service)
        return request

    def _read_body(self, request: SignedHead) -> bytes:
        seconds = self._service.limits.body_seconds
        try:
            body = self._stream.read_exactly(request.length, time.monotonic() + seconds)
        except TimeoutError:
            raise Refused(408, f"the body took more than {seconds} s") from None
        checks.check_body(body, request.digest)
        return body

    def _carry_out(self, body: bytes) -> bytes:
        try:
            name, params = encoding.decode_call(body)
        except ValueError as error:
            raise Refused(400, str(error)) from None
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

    def _refuse(self, refused: Refused) -> None:
        logger.info("refused a request of %s: %d %s", self._peer, refused.status, refused)
        expires = time.monotonic() + PARTING_SECONDS
        try:
            self._stream.send(checks.format_refusal(refused, self._service.key), expires)
        except OSError:
            return
        self._stream.discard(PARTING_BYTES, expires)
