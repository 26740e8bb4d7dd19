"""Kinds of requests that must not be carried out, and what a daemon may answer to them."""

from __future__ import annotations

import enum
import gzip
import json
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cerebro.rpc import encoding, signing
from cerebro.rpc.replay_guard import WINDOW
from testbed.forging import FIRST_COUNTER, Forger, Request

MIB = 2**20


class Ending(enum.Enum):
    """How the sender ends: it stops sending, hangs up, or has the kernel reset the connection."""

    STOP = "stop"
    HANG_UP = "hang up"
    RESET = "reset"


@dataclass(frozen=True)
class Attack:
    """What is sent on one connection, and the number of bodies in it that may be parsed."""

    data: bytes
    ending: Ending = Ending.STOP
    parsed: int = 0


@dataclass(frozen=True)
class Kind:
    """A kind of attacks; `answers` may come, or none if `drops`. `weight` is its share.

    Where `faults` is set a status of 200 must come with a fault. What is signed in a `proper` one
    is parsed: it is well-formed, up to what it says.
    """

    name: str
    make: Callable[[Forger], Attack]
    answers: frozenset[int]
    drops: bool = False
    weight: int = 10
    faults: bool = False
    proper: bool = False


# --- without a right signature -------------------------------------------------------------------


def random_bytes(forger: Forger) -> Attack:
    rng = forger.rng
    data = rng.randbytes(rng.randrange(1, 3_000)).replace(b"\r\n\r\n", b"")
    return Attack(data + rng.choice([b"", b"\r\n\r\n"]))


def bad_http(forger: Forger) -> Attack:
    rng = forger.rng
    good = forger.plain(forger.call())
    head = rng.choice(
        [
            b"POST /RPC2\r\n\r\n",
            b"POST  /RPC2 HTTP/1.1\r\n\r\n",
            b"POST /RPC2 HTTP/1.0\r\n\r\n",
            b"POST /RPC2 HTTP/2.0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"POST /RPC2 HTTP/1.1\nContent-Length: 5\n\n\r\n\r\n",
            b"POST /RPC2 HTTP/1.1\r\nContent-Length : 5\r\n\r\n",
            b"POST /RPC2 HTTP/1.1\r\nContent-Length: 5\r\n 0\r\n\r\n",
            b"POST /RPC2 HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"POST /RPC2 HTTP/1.1\r\nX: \x00\r\nContent-Length: 5\r\n\r\n",
            b"POST /RPC2 HTTP/1.1\r\nContent-Length: five\r\n\r\n",
            b"POST /RPC2 HTTP/1.1\r\nHost: h\r\n\r\n",
            b"POST /RPC2 HTTP/1.1\r\n: nothing\r\n\r\n",
        ]
    )
    return Attack(head + good.body)


def unsigned(forger: Forger) -> Attack:
    rng = forger.rng
    body = forger.call()
    signed = forger.signed(body)
    part = rng.choice([*list(signed.headers)[3:], "all"])
    if part == "all":
        return Attack(forger.plain(body).bytes())
    return Attack(signed.bytes(**{part: None}))


def unsigned_content(forger: Forger) -> Attack:
    body = forger.rng.choice([_bomb, _deep_xml, _bad_xml, _outer_entity])(forger)
    return Attack(forger.plain(body).bytes())


def huge_numbers(forger: Forger) -> Attack:
    rng = forger.rng
    number = rng.choice(["9" * 16, "9" * 400, "-1", "+5", "1e3", "0x10", str(2**63), str(2**64)])
    request = forger.signed(forger.call())
    header = rng.choice(["Content-Length", signing.COUNTER_HEADER])
    return Attack(request.bytes(**{header: number}))


def cut_head(forger: Forger) -> Attack:
    head = forger.signed(forger.call()).head()
    ending = forger.rng.choice([Ending.HANG_UP, Ending.RESET])
    return Attack(head[: forger.rng.randrange(1, len(head) - 3)], ending)


def cut_body(forger: Forger) -> Attack:
    request = forger.signed(forger.call())
    part = request.body[: forger.rng.randrange(len(request.body))]
    return Attack(request.head() + part, forger.rng.choice([Ending.HANG_UP, Ending.RESET]))


def oversized_declared(forger: Forger) -> Attack:
    if forger.rng.random() < 0.5:
        request = forger.hello(forger.call() + b" " * signing.MAX_HELLO_BODY)
        return Attack(request.head())
    size = signing.MAX_BODY + forger.rng.randrange(1, 10**9)
    return Attack(forger.signed(forger.call()).head(Content_Length=str(size)))


def oversized_real(forger: Forger) -> Attack:
    rng = forger.rng
    request = forger.signed(forger.call())
    shape = rng.randrange(3)
    if shape == 0:
        return Attack(request.bytes(X_Long="x" * rng.randrange(8_192, 200_000)))
    filler = b"<" * rng.randrange(300_000, MIB)
    if shape == 1:
        return Attack(forger.plain(filler).bytes())
    return Attack(request.head(Content_Length=str(signing.MAX_BODY + 1)) + filler)


def wrong_secret(forger: Forger) -> Attack:
    key = forger.rng.randbytes(32)
    if forger.rng.random() < 0.5:
        return Attack(forger.hello(key=key).bytes())
    return Attack(forger.signed(forger.call(), key=key).bytes())


def wrong_boot_id(forger: Forger) -> Attack:
    return Attack(forger.signed(forger.call(), boot_id=forger.rng.randbytes(16).hex()).bytes())


def unknown_client(forger: Forger) -> Attack:
    admission = forger.target.admission + forger.rng.randrange(1, 10**6)
    return Attack(forger.signed(forger.call(), admission=admission).bytes())


def changed_body(forger: Forger) -> Attack:
    request = forger.signed(forger.call())
    other = bytearray(request.body)
    position = forger.rng.randrange(len(other))
    other[position] ^= 1 << forger.rng.randrange(8)
    return Attack(request.head() + bytes(other))


def changed_path(forger: Forger) -> Attack:
    path = forger.rng.choice(["/", "/rpc2", "/RPC2/", "/RPC2?x=1", "//RPC2", "*", "/../etc/passwd"])
    request = forger.signed(forger.call(), path=path)
    if forger.rng.random() < 0.5:
        return Attack(request.bytes())
    return Attack(Request(request.headers, request.body, f"POST {path} HTTP/1.1").bytes())


def changed_length(forger: Forger) -> Attack:
    request = forger.signed(forger.call())
    size = len(request.body) + forger.rng.choice([-3, -1, 1, 3])
    return Attack(request.bytes(Content_Length=str(size)))


def changed_header(forger: Forger) -> Attack:
    rng = forger.rng
    header, value = rng.choice(
        [
            (signing.BOOT_HEADER, rng.randbytes(16).hex()),
            (signing.CLIENT_HEADER, f"{rng.randbytes(16).hex()}-{forger.target.admission}"),
            (signing.COUNTER_HEADER, str(rng.randrange(1, 2**64))),
            (signing.DIGEST_HEADER, rng.randbytes(32).hex()),
            (signing.SIGNATURE_HEADER, rng.randbytes(32).hex()),
            (signing.SIGNATURE_HEADER, "0" * 63),
        ]
    )
    return Attack(forger.signed(forger.call()).bytes(**{header: value}))


def replayed(forger: Forger) -> Attack:
    if not forger.accepted:
        return counter_behind(forger)
    return Attack(forger.rng.choice(forger.accepted))


def counter_behind(forger: Forger) -> Attack:
    counter = forger.rng.randrange(1, FIRST_COUNTER - WINDOW)
    return Attack(forger.signed(forger.call(), counter=counter).bytes())


def wrong_method(forger: Forger) -> Attack:
    request = forger.signed(forger.call())
    method = forger.rng.choice(
        ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "post"]
    )
    return Attack(Request(request.headers, request.body, f"{method} /RPC2 HTTP/1.1").bytes())


def encoded(forger: Forger) -> Attack:
    body = forger.call()
    if forger.rng.random() < 0.5:
        request = forger.signed(gzip.compress(body))
        return Attack(request.bytes(Content_Encoding="gzip"))
    head = forger.signed(body).head(
        Transfer_Encoding="chunked", Content_Length=forger.rng.choice([None, "5"])
    )
    return Attack(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def pipelined(forger: Forger) -> Attack:
    """What follows a right request on its connection is judged by itself."""
    forged = [forger.plain(forger.call()).bytes() for _ in range(forger.rng.randrange(1, 6))]
    if forger.rng.random() < 0.5:
        return Attack(forger.hello().bytes() + b"".join(forged), parsed=1)
    return Attack(b"".join(forged) + forger.hello().bytes())


# --- rightly signed, with a content that is none -------------------------------------------------


def signed_xml(forger: Forger) -> Attack:
    body = forger.rng.choice([_bad_xml, _deep_xml, _outer_entity, lambda f: b""])(forger)
    return _accepted(forger, body)


def signed_bomb(forger: Forger) -> Attack:
    return _accepted(forger, _bomb(forger))


def signed_json(forger: Forger) -> Attack:
    text = forger.rng.choice(
        [
            '{"write": "x", ',
            "[" * 5_000,
            '{"a":' * 5_000,
            '{"after": ' + "9" * 5_000 + "}",
            "[1, 2]",
            "5",
            '"text"',
            "null",
            "",
            "\x00",
            '{"write": "\ud800"',
            "{'write': 1}",
        ]
    )
    content = xmlrpc.client.Binary(text.encode("utf-8", "surrogatepass"))
    method = forger.rng.choice(["probe_storage", "close_run", "start"])
    return _accepted(forger, xmlrpc.client.dumps((content,), method).encode())


def signed_parameters(forger: Forger) -> Attack:
    """Methods that are not there, and parameters too few, too many or of another type."""
    rng = forger.rng
    method, params = rng.choice(_calls(forger))
    change = rng.randrange(4)
    if change == 0:
        method = rng.choice(["", "_", "x"]) + method + "x"
    elif change == 1:
        params[rng.choice(["self", "extra", "ticket2"])] = 1
    elif change == 2 and params:
        del params[rng.choice(list(params))]
    else:
        params = _with_another_type(forger, params) if params else {"extra": 1}
    return _accepted(forger, encoding.encode_call(method, params))


def _calls(forger: Forger) -> list[tuple[str, dict[str, Any]]]:
    mark = str(forger.target.marks / "never")
    ticket = dict(forger.target.ticket)
    order = {
        "attempt": 10**6,
        "model": 0,
        "epoch": 0,
        "split": "train",
        "partition": 0,
        "path": mark,
        "config": {},
        "seed": 0,
        "reads": mark,
        "writes": mark,
    }
    return [
        ("describe", {}),
        ("probe_storage", {"write": mark, "read": [mark]}),
        ("close_run", {"ticket": ticket}),
        ("preload", {"ticket": ticket, "items": [{"split": "x", "partition": 0, "path": mark}]}),
        ("stage", {"ticket": ticket, "order": order}),
        ("start", {"ticket": ticket, "order": order}),
        ("unstage", {"ticket": ticket, "attempt": 10**6}),
        ("unstage", {"ticket": ticket, "attempt": 10**6}),
        ("forget", {"ticket": ticket, "models": [10**6]}),
        (
            "orders",
            {
                "ticket": ticket,
                "orders": [{"method": "start", "params": {"order": order}}],
            },
        ),
        ("events", {"ticket": ticket, "after": 0, "wait": 0.0}),
    ]


def _with_another_type(forger: Forger, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters, with one value, at the top or one level below, of a type it cannot have."""
    rng = forger.rng
    name = rng.choice(list(params))
    value = params[name]
    if isinstance(value, dict) and value and rng.random() < 0.7:
        return {**params, name: _with_another_type(forger, value)}
    if isinstance(value, list) and rng.random() < 0.5:
        others = [o for o in (7, None, ["x"]) if type(o) not in map(type, value)]
        return {**params, name: [rng.choice(others)]}
    odd: list[Any] = [["x"], None, "x", 7, True, {"x": 1}]
    numbers = (int, float)
    fitting = [
        o
        for o in odd
        if type(o) is not type(value)
        and not (type(o) in numbers and type(value) in numbers)
        and not (o is None and name in ("reads", "writes"))
    ]
    return {**params, name: rng.choice(fitting)}


def _accepted(forger: Forger, body: bytes) -> Attack:
    data = forger.signed(body).bytes()
    forger.accepted.append(data)
    return Attack(data, parsed=1)


# --- contents ------------------------------------------------------------------------------------


def _bad_xml(forger: Forger) -> bytes:
    body = bytearray(forger.call())
    shape = forger.rng.randrange(4)
    if shape == 0:
        return bytes(body[: forger.rng.randrange(1, len(body) - 1)])
    if shape == 1:
        return forger.rng.randbytes(500)
    if shape == 2:
        return xmlrpc.client.dumps((forger.rng.randbytes(9).hex(), 5), "close_run").encode()
    return b"<methodCall><methodName>close_run</methodName><params>" + json.dumps({}).encode()


def _deep_xml(forger: Forger) -> bytes:
    depth = 2_000
    value = b"<value><array><data>" * depth
    return b"<methodCall><methodName>x</methodName><params><param>" + value


def _bomb(forger: Forger) -> bytes:
    entities = ['<!ENTITY e0 "ha">']
    entities += [f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10)]
    doctype = f"<!DOCTYPE methodCall [{''.join(entities)}]>"
    call = "<methodCall><methodName>&e9;</methodName></methodCall>"
    return f"{doctype}{call}".encode(forger.rng.choice(["ascii", "utf-16"]))


def _outer_entity(forger: Forger) -> bytes:
    mark = forger.target.marks / "read"
    doctype = f'<!DOCTYPE methodCall [<!ENTITY x SYSTEM "file://{mark}">]>'
    return f"{doctype}<methodCall><methodName>&x;</methodName></methodCall>".encode()


COUNTED = Kind("signed, bad XML", signed_xml, frozenset({400}))
"""The daemon counts its transmissions, and does nothing more with them."""

KINDS = (
    Kind("random bytes", random_bytes, frozenset({400, 431}), drops=True),
    Kind("bad HTTP", bad_http, frozenset({400, 401, 411, 505})),
    Kind("unsigned", unsigned, frozenset({401})),
    Kind("unsigned, odd XML", unsigned_content, frozenset({401})),
    Kind("huge numbers", huge_numbers, frozenset({400, 401, 413})),
    Kind("cut in the head", cut_head, frozenset(), drops=True),
    Kind("cut in the body", cut_body, frozenset(), drops=True),
    Kind("oversized, declared", oversized_declared, frozenset({413})),
    Kind("oversized, real", oversized_real, frozenset({401, 413, 431}), drops=True, weight=2),
    Kind("wrong secret", wrong_secret, frozenset({401})),
    Kind("wrong boot id", wrong_boot_id, frozenset({409})),
    Kind("unknown client", unknown_client, frozenset({409})),
    Kind("changed body", changed_body, frozenset({400})),
    Kind("changed path", changed_path, frozenset({401, 404})),
    Kind("changed length", changed_length, frozenset({401})),
    Kind("changed header", changed_header, frozenset({401})),
    Kind("replayed", replayed, frozenset({403})),
    Kind("counter far behind", counter_behind, frozenset({403})),
    Kind("wrong method", wrong_method, frozenset({405})),
    Kind("chunks and gzip", encoded, frozenset({415, 501})),
    Kind("pipelined", pipelined, frozenset({200, 401}), proper=True),
    COUNTED,
    Kind("signed, entity bomb", signed_bomb, frozenset({400}), weight=2),
    Kind("signed, bad JSON", signed_json, frozenset({400}), proper=True),
    Kind("signed, bad parameters", signed_parameters, frozenset({200}), faults=True, proper=True),
)
