"""What goes over the wire: signatures, headers, and calls as XML-RPC. Pure: no sockets, no clock.

A *transmission* is one sending of one request, named by (boot id, client, counter) and never
repeated. The request's signature is HMAC-SHA256 under the shared secret over

    "req", boot id, client, counter, HTTP method, path, length, SHA-256 of the body

and the answer's over

    "ans", boot id, client, counter, status, length, SHA-256 of the body

each field as text, preceded by its length in 8 bytes (big endian), so that no two lists of fields
give the same bytes. Both can be checked on the headers alone, before the body is read.

The first transmission of a connection is `hello`, sent under an empty boot id; it takes a nonce
and gives it back with the server's boot id and the admission number (see
`cerebro.rpc.replay_guard`), which then stands behind the client's id: `<32 hex digits>-<number>`.

A call is an XML-RPC methodCall with one Binary, the parameters as a JSON object; its answer is one
Binary, the result as JSON, or a fault whose string is JSON with `kind` and `message`. (XML-RPC has
no integers beyond 32 bits and no control characters; Python's JSON also has NaN.)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cerebro.errors import InputError, RpcFault
from cerebro.rpc.secret import MIN_BYTES

PROTOCOL = "1"
PATH = "/RPC2"
METHOD = "POST"
HELLO = "hello"
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

_BOOT = re.compile(r"([0-9a-f]{32})?")
_CLIENT = re.compile(r"([0-9a-f]{32})(?:-(0|[1-9][0-9]{0,18}))?")
_COUNTER = re.compile(r"[1-9][0-9]{0,19}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NONCE = re.compile(r"[0-9a-f]{32}")
_METHOD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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
        """The client as it stands in headers and signatures."""
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
    boot = _BOOT.fullmatch(_header(headers, BOOT_HEADER))
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


def encode_call(method: str, params: Mapping[str, Any]) -> bytes:
    """A call's body. Raises `InputError` for what is not a name, or cannot be written as JSON.

    As always in JSON, tuples arrive as lists, and keys of dictionaries as strings.
    """
    if not _METHOD_NAME.fullmatch(method):
        raise InputError(
            f"{method!r} is not a valid method name: letters, digits and _ are allowed"
        )
    try:
        content = _to_json(params)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the parameters of {method} cannot be written as JSON: {error}"
        ) from error
    return xmlrpc.client.dumps((xmlrpc.client.Binary(content),), method).encode("ascii")


def decode_call(body: bytes) -> tuple[str, dict[str, Any]]:
    """Method and parameters of a call's body. Raises `ValueError` if it is not of that form."""
    try:
        values, method = _load_xml(body)
        params = json.loads(_only_binary(values))
    except Exception as error:  # the XML decoder has no error of its own for what is malformed
        raise ValueError(
            f"the body is not an XML-RPC call with one Binary of JSON: {error}"
        ) from error
    if method is None or not isinstance(params, dict):
        raise ValueError("the body is not an XML-RPC call with a JSON object")
    return method, params


def encode_result(value: Any) -> bytes:
    """An answer's body. Raises `TypeError` or `ValueError` for what JSON cannot write."""
    content = xmlrpc.client.Binary(_to_json(value))
    return xmlrpc.client.dumps((content,), methodresponse=True).encode("ascii")


def encode_fault(kind: str, message: str) -> bytes:
    """The body of an answer that says that the method raised."""
    text = json.dumps({"kind": kind, "message": message})
    return xmlrpc.client.dumps(xmlrpc.client.Fault(1, text), methodresponse=True).encode("ascii")


def decode_answer(body: bytes) -> Any:
    """The result in an answer's body.

    Raises `RpcFault` if the method raised, `ValueError` if the body is not of that form.
    """
    try:
        values, _ = _load_xml(body)
        return json.loads(_only_binary(values))
    except xmlrpc.client.Fault as fault:
        raise _read_fault(fault) from None
    except Exception as error:  # see decode_call
        raise ValueError(f"the answer is not XML-RPC with one Binary of JSON: {error}") from error


def _read_fault(fault: xmlrpc.client.Fault) -> Exception:
    try:
        content = json.loads(fault.faultString)
        return RpcFault(str(content["kind"]), str(content["message"]))
    except (ValueError, TypeError, KeyError):
        return ValueError("the answer's fault has another form")


def _load_xml(body: bytes) -> tuple[tuple[Any, ...], str | None]:
    """Values and method of XML-RPC without declarations, which alone can define entities.

    A few hundred bytes of entities that hold entities take hundreds of megabytes before the XML
    decoder gives up, and what is written here has none (nor NUL, which UTF-16 would need).
    """
    if b"<!" in body or b"\0" in body:
        raise ValueError("declarations are not accepted")
    return xmlrpc.client.loads(body, use_builtin_types=True)


def _to_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _only_binary(values: tuple[Any, ...]) -> bytes:
    if len(values) != 1 or not isinstance(values[0], bytes):
        raise ValueError("not one Binary")
    return values[0]


def hello_params(nonce: str) -> dict[str, Any]:
    """The parameters of `hello`: 32 hex digits, drawn for this one call."""
    return {"client_nonce": nonce}


def read_hello(body: bytes) -> str:
    """The nonce in the body of a hello. Raises `ValueError` for any other body."""
    method, params = decode_call(body)
    nonce = params.get("client_nonce")
    if method != HELLO or len(params) != 1 or not isinstance(nonce, str):
        raise ValueError("without a boot id only hello(client_nonce) is answered")
    if not _NONCE.fullmatch(nonce):
        raise ValueError("client_nonce must be 32 hex digits")
    return nonce


def hello_result(nonce: str, boot_id: str, admission: int) -> dict[str, Any]:
    """What `hello` gives."""
    return {"client_nonce": nonce, "boot_id": boot_id, "admission": admission}


def read_hello_result(result: Any, nonce: str) -> tuple[str, int]:
    """(boot id, admission number) that `hello` gave. Raises `ValueError` for another nonce."""
    if not isinstance(result, dict) or result.get("client_nonce") != nonce:
        raise ValueError("the answer to hello is not for this nonce")
    boot_id, admission = result.get("boot_id"), result.get("admission")
    if not isinstance(boot_id, str) or not boot_id or not _BOOT.fullmatch(boot_id):
        raise ValueError("the answer to hello has no boot id")
    if not isinstance(admission, int) or admission < 0:
        raise ValueError("the answer to hello has no admission number")
    return boot_id, admission


def encode_bytes(data: bytes) -> str:
    """`data` as text that travels in parameters and results (base64)."""
    return base64.b64encode(data).decode("ascii")


def decode_bytes(text: str) -> bytes:
    """The bytes that `encode_bytes` was given. Raises `ValueError` if `text` is not base64."""
    return base64.b64decode(text, validate=True)
