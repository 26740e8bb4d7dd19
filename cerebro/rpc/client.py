"""The client: calls with a deadline over one signed, persistent connection.

Each connection starts with `hello`, so that a boot id always belongs to the server that is spoken
to; where it ends before that is answered, another one is made. A request is sent once: if its
answer does not come, the caller is told, and decides. The only exceptions are answers that say,
signed, that the request was not carried out.
"""

from __future__ import annotations

import contextlib
import math
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from cerebro.errors import (
    CerebroError,
    InputError,
    NotAWorker,
    RpcFault,
    RpcRejected,
    RpcTimeout,
    RpcUnreachable,
    SecretError,
)
from cerebro.rpc import encoding, http1, signing
from cerebro.rpc.resolve import addresses
from cerebro.rpc.secret_file import DEFAULT_PATH
from cerebro.rpc.stream import Stream
from cerebro.rpc.url import bracketed, normalise_url, parse_url

_MAX_HEAD = 16 * 1024
_MAX_REFUSAL = 4 * 1024
_REFUSAL_SECONDS = 1.0
_HELLOS = 3
# Under a flood of connections a worker turns some away that have not authenticated yet.
_CONNECTIONS = 5
_PAUSE_SECONDS = 0.1  # doubling
_UNPROVEN = "has not shown that it knows the secret"
# Unsigned answers may be anybody's, so that nothing else of their texts is shown: a user might do
# what they say.
_KNOWN = re.compile(
    "all [0-9]{1,6} connections are taken|too many connections have not authenticated|"
    "(?:the body|a hello) is larger than the limit of [0-9]{1,12} bytes"
)
_PRODUCT = re.compile(r"[A-Za-z0-9._+-]{1,30}(?:/[0-9A-Za-z._+-]{1,20})?(?= |$)")
# Well below the server's `idle_seconds`: a call must not meet a connection that is just closing.
_REST_SECONDS = 60.0


class Client:
    """Calls the methods of one server. Used by one thread at a time; `close` by any.

    `connect_seconds` bounds connecting, hello included (within the call's own deadline).
    `secret_path` is only named in messages. Raises `InputError` for a URL of another form than
    http://host:port, and for a secret that is too short.
    """

    def __init__(
        self, url: str, secret: bytes, *, connect_seconds: float = 5.0, secret_path: str = ""
    ) -> None:
        self.url = normalise_url(url)
        self._host, self._port = parse_url(url)
        self._key = signing.check_key(secret)
        self._connect_seconds = connect_seconds
        self._secret_path = secret_path
        self._id = secrets.token_hex(16)
        self._counter = 0
        self._boot_id = ""
        self._admission = 0
        self._stream: Stream | None = None
        self._is_met = False  # whether something took the last connection
        self._rested_since = 0.0
        self._busy = threading.Lock()
        self._closed = threading.Event()

    @property
    def boot_id(self) -> str:
        """The boot id of the server that answered last; empty before the first call."""
        return self._boot_id

    def call(self, method: str, deadline: float, /, **params: Any) -> Any:
        """Call `method` with `params`; the whole call takes at most `deadline` seconds.

        Parameters and result are what JSON can hold; for bytes see `encoding.encode_bytes`. Raises
        `RpcFault` if the method raised, `RpcUnreachable` if there is no connection or it breaks,
        `RpcTimeout` at the deadline (in both cases the call may have been carried out),
        `RpcRejected` if either side does not accept what the other sent, `SecretError` if the
        secrets differ, `NotAWorker` if something else answers, and `InputError` for parameters
        that JSON cannot hold.
        """
        if not math.isfinite(deadline):
            raise InputError(f"deadline must be a finite number of seconds, not {deadline}")
        expires = time.monotonic() + deadline
        body = encoding.encode_call(method, params)
        if len(body) > signing.MAX_BODY:
            raise RpcRejected(
                f"the call of {method} has {len(body)} bytes, the limit is {signing.MAX_BODY}: "
                "put large data on shared storage and send its path"
            )
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("a Client is used by one thread at a time: make one for each")
        try:
            return self._call(method, body, expires)
        except RpcFault:
            raise  # a proper answer: the connection stays good
        except BaseException:
            self._drop()
            raise
        finally:
            self._busy.release()

    def close(self) -> None:
        """End the connection; a call under way in another thread raises `RpcUnreachable`."""
        self._closed.set()
        stream = self._stream
        if stream is not None:
            stream.shutdown()
        if self._busy.acquire(blocking=False):
            self._drop()
            self._busy.release()

    def _call(self, method: str, body: bytes, expires: float) -> Any:
        for _ in range(_HELLOS):
            self._is_met = False
            with self._foreign_errors(f"before {method} was sent"):
                stream = self._connected(expires)
            self._is_met = False
            sent = self._transmission(self._boot_id, self._admission)
            with self._foreign_errors(
                f"while {method} was under way: it may have been carried out"
            ):
                status, answer = self._exchange(stream, sent, body, expires)
            if status != signing.HELLO_AGAIN:
                self._rested_since = time.monotonic()
                return self._decode(status, answer)
            self._drop()
        raise RpcRejected(f"{self.url} forgets this client as soon as it says hello")

    def _connected(self, expires: float) -> Stream:
        """A connection on which hello has been said."""
        if self._stream is not None:
            rested = time.monotonic() - self._rested_since
            if rested < _REST_SECONDS and self._stream.is_quiet():
                return self._stream
            self._drop()
        expires = min(expires, time.monotonic() + self._connect_seconds)
        tries = 0
        while True:
            tries += 1
            self._is_met = False
            self._stream = stream = self._connect(expires)
            self._is_met = True
            if self._closed.is_set():
                raise RpcUnreachable(f"the client of {self.url} is closed: make another one")
            try:
                self._hello(stream, expires)
                return stream
            except (ConnectionError, EOFError, RpcUnreachable):  # nothing was carried out
                self._drop()
                pause = _PAUSE_SECONDS * 2 ** (tries - 1)
                late = time.monotonic() + pause >= expires
                if tries == _CONNECTIONS or late or self._closed.wait(pause):
                    raise

    def _connect(self, expires: float) -> Stream:
        try:
            found = addresses(self._host, self._port, expires)
        except OSError as error:
            raise RpcUnreachable(
                f"the host of {self.url} is not known here ({_cause(error)}): check its name"
            ) from error
        cause = ""
        for position, (family, address) in enumerate(found):
            left = (expires - time.monotonic()) / (len(found) - position)
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(max(left, 1e-3))
                sock.connect(address)
                return Stream(sock)
            except OSError as error:
                sock.close()
                cause = _cause(error)
        raise RpcUnreachable(
            f"no connection to {self.url} ({cause}): check that a worker runs there "
            "(`cerebro-standalone-worker`) and that no firewall lies between"
        )

    def _hello(self, stream: Stream, expires: float) -> None:
        nonce = secrets.token_hex(16)
        body = encoding.encode_call(encoding.HELLO, encoding.hello_params(nonce))
        answer = self._exchange(stream, self._transmission("", None), body, expires)
        try:
            self._boot_id, self._admission = encoding.read_hello_result(
                self._decode(*answer), nonce
            )
        except ValueError as error:
            raise RpcRejected(f"{self.url}: {error}") from None

    def _transmission(self, boot_id: str, admission: int | None) -> signing.Transmission:
        self._counter += 1
        return signing.Transmission(boot_id, self._id, admission, self._counter)

    def _exchange(
        self, stream: Stream, sent: signing.Transmission, body: bytes, expires: float
    ) -> tuple[int, bytes]:
        """Send once; status and body of the answer, whose signature holds."""
        host = f"{bracketed(self._host)}:{self._port}"
        headers = signing.request_headers(self._key, sent, signing.PATH, body, host)
        request = http1.format_request(signing.METHOD, signing.PATH, headers) + body
        # A server that refuses may answer and close before it has read everything.
        with contextlib.suppress(ConnectionError):
            stream.send(request, expires)
        head = self._read_head(stream, expires)
        if not signing.is_signed(head.headers):
            self._refused(head, _read_text(stream, head, expires))
        try:
            length = http1.body_length(head.headers, signing.MAX_BODY)
        except http1.BadHead as error:
            raise self._unproven(RpcRejected, f"its answer is not acceptable: {error}") from None
        digest = signing.verify_answer(self._key, sent, head.status, length, head.headers)
        if digest is None:
            raise self._unproven(
                RpcRejected,
                "its answer is not signed with ours: it was altered on the way, or does not come "
                "from a worker of ours",
            )
        answer = stream.read_exactly(length, expires)
        if signing.body_digest(answer) != digest:
            raise RpcRejected(f"the answer of {self.url} was altered on the way")
        return head.status, answer

    def _read_head(self, stream: Stream, expires: float) -> http1.AnswerHead:
        try:
            return http1.parse_answer(stream.read_head(_MAX_HEAD, expires, http1.START))
        except http1.BadHead:
            raise self._unproven(
                NotAWorker, "what answers there does not speak HTTP: check host and port"
            ) from None

    def _unproven(self, kind: type[CerebroError], why: str) -> CerebroError:
        """What is said of a peer that may be anybody.

        It never asks to take the secret there: an address may have been given to another machine.
        """
        return kind(f"{self.url} {_UNPROVEN}: {why}")

    def _refused(self, head: http1.AnswerHead, text: str) -> NoReturn:
        """Raise what an unsigned answer means."""
        status, server = head.status, head.headers.get("server", "")
        product = _PRODUCT.match(server)
        known = f": {text}" if _KNOWN.fullmatch(text) else ""
        if not signing.is_ours(head.headers):
            if server.startswith("BaseHTTP/") and "<methodResponse>" in text:
                raise self._unproven(
                    NotAWorker,
                    "an unsigned XML-RPC server answers there; this looks like a cerebro-dl 1.x "
                    "worker: upgrade it with `pip install --upgrade 'cerebro-dl>=2'` and start it "
                    "again",
                )
            raise self._unproven(
                NotAWorker,
                f"what answers there is not a worker of this library (HTTP status {status}"
                f"{f', server {product[0]!r}' if product else ''}): check host and port",
            )
        if not signing.speaks_our_version(head.headers):
            raise self._unproven(
                RpcRejected,
                "it speaks another version of the protocol: install the same version of cerebro-dl "
                "on all hosts",
            )
        if status == 401:
            ours = self._secret_path or DEFAULT_PATH
            raise self._unproven(
                SecretError,
                f"it does not accept our signature, so its secret is not the one in {ours}. If a "
                "worker of yours should be there, see in its log which secret file it was started "
                "with: the contents must be the same. If not, take this URL out",
            )
        if status == 503:
            raise RpcUnreachable(f"{self.url} takes no more connections{known}")
        raise self._unproven(RpcRejected, f"it refused the request (HTTP status {status}){known}")

    def _decode(self, status: int, answer: bytes) -> Any:
        if status != 200:
            raise RpcRejected(f"{self.url} answered with the unexpected status {status}")
        try:
            return encoding.decode_answer(answer)
        except ValueError as error:
            raise RpcRejected(f"{self.url}: {error}") from None

    @contextlib.contextmanager
    def _foreign_errors(self, moment: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise RpcTimeout(f"{self.url} did not answer in time, {moment}{self._met()}") from None
        except (OSError, EOFError) as error:
            raise RpcUnreachable(
                f"the connection to {self.url} broke ({_cause(error)}) {moment}{self._met()}"
            ) from error

    def _met(self) -> str:
        """What is said of something that takes connections and says no hello."""
        return f": what takes connections there {_UNPROVEN}" if self._is_met else ""

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _read_text(stream: Stream, head: http1.AnswerHead, expires: float) -> str:
    """The start of an unsigned body, for people; as much of it as comes."""
    try:
        length = http1.body_length(head.headers, _MAX_REFUSAL)
    except http1.BadHead:
        length = _MAX_REFUSAL
    text = stream.read_some(length, min(expires, time.monotonic() + _REFUSAL_SECONDS))
    return "".join(c if c.isprintable() else " " for c in text.decode("utf-8", "replace")).strip()


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
