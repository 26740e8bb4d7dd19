"""Signatures and headers of requests and answers. Pure: no sockets, no clock.

A *transmission* is one sending of one request, named by (boot id, client, counter) and never
repeated. The request's signature is HMAC-SHA256 under the shared secret over

    "req", boot id, client, counter, HTTP method, path, length, SHA-256 of the body

and the answer's over

    "ans", boot id, client, counter, status, length, SHA-256 of the body

each field as text, preceded by its length in 8 bytes (big endian), so that no two lists of fields
give the same bytes. Both can be checked on the headers alone, before the body is read.

The first transmission of a connection is `hello`, sent under an empty boot id; it takes a nonce
and gives it back with the server's boot id and the admission number (see
`cerebro.rpc.replay_guard`), which then follows the client's id: `<32 hex digits>-<number>`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cerebro.errors import InputError
from cerebro.rpc.secret_file import MIN_BYTES

PROTOCOL = "1"
PATH = "/RPC2"
METHOD = "POST"
HELLO_AGAIN = 409  # the status of a transmission that was not carried out: say hello, send anew
MAX_BODY = 64 * 1024 * 1024
MAX_HELLO_BODY = 4 * 1024
MAX_COUNTER = 2**64 - 1
VERSION_HEADER = "Cerebro-Version"
BOOT_HEADER = "Cerebro-Boot"
CLIENT_HEADER = "Cerebro-Client"
COUNTER_HEADER = "Cerebro-Counter"
DIGEST_HEADER = "Cerebro-Body-SHA256"
SIGNATURE_HEADER = "Cerebro-Signature"
BOOT_ID = re.compile(r"([0-9a-f]{32})?")
_CLIENT = re.compile(r"([0-9a-f]{32})(?:-(0|[1-9][0-9]{0,18}))?")
_COUNTER = re.compile(r"[1-9][0-9]{0,19}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BadStamp(Exception):
    """Headers without a well-formed signature."""


@dataclass(frozen=True)
class Transmission:
    """One sending of a request. `admission` is None in a hello, where `boot_id` is empty."""

    boot_id: str
    client_id: str
    admission: int | None
    counter: int

    @property
    def client(self) -> str:
        """The client as written in headers and signatures."""
        if self.admission is None:
            return self.client_id
        return f"{self.client_id}-{self.admission}"


@dataclass(frozen=True)
class Stamp:
    """What a request's headers claim: its transmission, its body's hash, and the signature."""

    transmission: Transmission
    digest: str
    signature: str


def check_key(key: bytes) -> bytes:
    """`key`, if it is long enough to sign with. Raises `InputError`."""
    if len(key) < MIN_BYTES:
        raise InputError(f"a secret of {len(key)} bytes is too short: {MIN_BYTES} are the least")
    return key


def body_digest(body: bytes) -> str:
    """SHA-256 of `body`, in hex."""
    return hashlib.sha256(body).hexdigest()


def request_headers(
    key: bytes, sent: Transmission, path: str, body: bytes, host: str
) -> dict[str, str]:
    """All headers of a request with `body`."""
    digest = body_digest(body)
    return {
        "Host": host,
        "Content-Type": "text/xml",
        "Content-Length": str(len(body)),
        VERSION_HEADER: PROTOCOL,
        BOOT_HEADER: sent.boot_id,
        CLIENT_HEADER: sent.client,
        COUNTER_HEADER: str(sent.counter),
        DIGEST_HEADER: digest,
        SIGNATURE_HEADER: _sign_request(key, sent, METHOD, path, len(body), digest),
    }


def answer_headers(key: bytes, sent: Transmission, status: int, body: bytes) -> dict[str, str]:
    """All headers of the signed answer with `status` and `body` to the transmission `sent`."""
    digest = body_digest(body)
    return {
        "Content-Type": "text/xml",
        "Content-Length": str(len(body)),
        VERSION_HEADER: PROTOCOL,
        DIGEST_HEADER: digest,
        SIGNATURE_HEADER: _sign_answer(key, sent, status, len(body), digest),
    }


def read_stamp(headers: Mapping[str, str]) -> Stamp:
    """What a request's headers (names in lower case) claim. Raises `BadStamp` if malformed."""
    _header(headers, VERSION_HEADER)
    client = _CLIENT.fullmatch(_header(headers, CLIENT_HEADER))
    boot = BOOT_ID.fullmatch(_header(headers, BOOT_HEADER))
    counter = _COUNTER.fullmatch(_header(headers, COUNTER_HEADER))
    digest = _DIGEST.fullmatch(_header(headers, DIGEST_HEADER))
    signature = _DIGEST.fullmatch(_header(headers, SIGNATURE_HEADER))
    if not (client and boot and counter and digest and signature):
        raise BadStamp("the headers that sign a request are malformed")
    if int(counter.group()) > MAX_COUNTER:
        raise BadStamp("the counter has more than 64 bits")
    admission = client.group(2)
    if (admission is None) != (boot.group() == ""):
        raise BadStamp("only a hello has no boot id and no admission number")
    transmission = Transmission(
        boot_id=boot.group(),
        client_id=client.group(1),
        admission=None if admission is None else int(admission),
        counter=int(counter.group()),
    )
    return Stamp(transmission, digest.group(), signature.group())


def is_signed(headers: Mapping[str, str]) -> bool:
    """Whether the headers carry a signature of any kind."""
    return SIGNATURE_HEADER.lower() in headers


def is_ours(headers: Mapping[str, str]) -> bool:
    """Whether the headers are of this protocol, of any version."""
    return VERSION_HEADER.lower() in headers


def speaks_our_version(headers: Mapping[str, str]) -> bool:
    """Whether the headers are of this version of the protocol."""
    return headers.get(VERSION_HEADER.lower()) == PROTOCOL


def verify_request(key: bytes, stamp: Stamp, method: str, path: str, length: int) -> bool:
    """Whether the signature holds for these headers. Takes the same time wherever it differs."""
    expected = _sign_request(key, stamp.transmission, method, path, length, stamp.digest)
    return hmac.compare_digest(expected, stamp.signature)


def verify_answer(
    key: bytes, sent: Transmission, status: int, length: int, headers: Mapping[str, str]
) -> str | None:
    """The hash that the answer's body must have, or None if the signature does not hold."""
    digest = headers.get(DIGEST_HEADER.lower(), "")
    signature = headers.get(SIGNATURE_HEADER.lower(), "")
    if not (_DIGEST.fullmatch(digest) and _DIGEST.fullmatch(signature)):
        return None
    expected = _sign_answer(key, sent, status, length, digest)
    return digest if hmac.compare_digest(expected, signature) else None


def _header(headers: Mapping[str, str], name: str) -> str:
    text = headers.get(name.lower())
    if text is None:
        raise BadStamp(f"the request is not signed: {name} is missing")
    return text


def _sign_request(
    key: bytes, sent: Transmission, method: str, path: str, length: int, digest: str
) -> str:
    return _sign(key, "req", sent.boot_id, sent.client, sent.counter, method, path, length, digest)


def _sign_answer(key: bytes, sent: Transmission, status: int, length: int, digest: str) -> str:
    return _sign(key, "ans", sent.boot_id, sent.client, sent.counter, status, length, digest)


def _sign(key: bytes, *fields: str | int) -> str:
    return hmac.digest(key, join_fields(*fields), "sha256").hex()


def join_fields(*fields: str | int) -> bytes:
    """The fields as bytes, each with its length before it: different lists, different bytes."""
    parts = []
    for field in fields:
        text = str(field).encode()
        parts += [len(text).to_bytes(8, "big"), text]
    return b"".join(parts)
