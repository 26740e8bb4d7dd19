"""The part of HTTP/1.1 that is spoken here: strict heads, and a body of known length.

Pure functions over bytes. What is not needed (folded lines, repeated headers, chunks, encodings)
is refused rather than understood, so that there is one reading of every head. `http.client` and
`http.server` understand all of it, own their sockets, and have no deadline for a whole head
(`cerebro.rpc.server` has the reasons in full).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([\x21-\x7e]+) (HTTP/[0-9]\.[0-9])")
_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([0-9]{3})(?: [\t\x20-\x7e\x80-\xff]*)?")
_HEADER = re.compile(rf"({_TOKEN}):[\t ]*([\t\x20-\x7e\x80-\xff]*)")
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = re.compile(r"[0-9]{1,15}")

START = b"HTTP/"
"""How every answer starts."""

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class BadHead(Exception):
    """A head that is not acceptable: the HTTP `status` that says so, and a sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class RequestHead:
    """A request's first line and headers; the names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class AnswerHead:
    """An answer's status and headers; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]


def format_request(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """The bytes of a request's head, the empty line included."""
    return _format(f"{method} {path} HTTP/1.1", headers)


def format_answer(status: int, headers: Mapping[str, str]) -> bytes:
    """The bytes of an answer's head, the empty line included."""
    return _format(f"HTTP/1.1 {status} {REASONS[status]}", headers)


def _format(first: str, headers: Mapping[str, str]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("ascii")


def parse_request(head: bytes) -> RequestHead:
    """Read a request's head, given without the empty line that ends it. Raises `BadHead`."""
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if not match:
        raise BadHead(400, "the first line is not an HTTP request")
    method, path, version = match.groups()
    if version != "HTTP/1.1":
        raise BadHead(505, "only HTTP/1.1 is spoken here")
    return RequestHead(method, path, _parse_headers(lines))


def parse_answer(head: bytes) -> AnswerHead:
    """Read an answer's head, given without the empty line that ends it. Raises `BadHead`."""
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if not match:
        raise BadHead(400, "the first line is not an HTTP answer")
    return AnswerHead(int(match.group(1)), _parse_headers(lines))


def _parse_headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if not match:
            raise BadHead(400, "a header line is malformed")
        name = match.group(1).lower()
        if name in headers:
            raise BadHead(400, "a header is given twice")
        headers[name] = match.group(2).rstrip("\t ")
    return headers


def take_head(received: bytearray, limit: int) -> bytes | None:
    """Take the first head off what was received, without the empty line that ends it.

    None if it is not all there yet. Raises `BadHead` if it is larger than `limit` bytes.
    """
    end = received.find(_END_OF_HEAD)
    size = end + len(_END_OF_HEAD) if end >= 0 else len(received)
    if size > limit:
        raise BadHead(431, f"the head is larger than the limit of {limit} bytes")
    if end < 0:
        return None
    head = bytes(received[:end])
    del received[:size]
    return head


def body_length(headers: Mapping[str, str], limit: int) -> int:
    """The body's length in bytes, from 0 to `limit`. Raises `BadHead`, also for any encoding."""
    if "transfer-encoding" in headers:
        raise BadHead(501, "bodies in chunks are not accepted: send Content-Length")
    if "content-encoding" in headers:
        raise BadHead(415, "encoded bodies are not accepted: send the body as it is")
    text = headers.get("content-length")
    if text is None:
        raise BadHead(411, "Content-Length is missing")
    if not _LENGTH.fullmatch(text):
        raise BadHead(400, "Content-Length is not a number of bytes")
    if int(text) > limit:
        raise BadHead(413, f"the body is larger than the limit of {limit} bytes")
    return int(text)
