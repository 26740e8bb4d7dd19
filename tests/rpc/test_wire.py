from __future__ import annotations

import math
import xmlrpc.client

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebro.errors import InputError, RpcFault
from cerebro.rpc import decode_bytes, encode_bytes, encoding, http1, signing

KEY = b"k" * 32
SENT = signing.Transmission("01" * 16, "ab" * 16, 3, 7)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_params_arrive_as_they_were(params: dict) -> None:
    assert encoding.decode_call(encoding.encode_call("m", params)) == ("m", params)


@given(JSON)
def test_results_arrive_as_they_were(result: object) -> None:
    assert encoding.decode_answer(encoding.encode_result(result)) == result


def test_nan_and_infinity_travel() -> None:
    values = encoding.decode_answer(encoding.encode_result([math.nan, math.inf]))
    assert math.isnan(values[0])
    assert values[1] == math.inf


@given(st.binary())
def test_bytes_as_text(data: bytes) -> None:
    assert decode_bytes(encode_bytes(data)) == data


def test_text_that_is_no_base64() -> None:
    with pytest.raises(ValueError, match=r"(?i)base64"):
        decode_bytes("a-b$")


@pytest.mark.parametrize("name", ["", "a b", "<x>", "1a", "a\n"])
def test_method_names(name: str) -> None:
    with pytest.raises(InputError, match="is not a valid method name"):
        encoding.encode_call(name, {})


@pytest.mark.parametrize("value", [{1}, b"bytes", object()])
def test_params_that_json_cannot_hold(value: object) -> None:
    with pytest.raises(InputError, match="parameters of m cannot be written as JSON"):
        encoding.encode_call("m", {"x": value})


def test_fault_with_characters_that_xml_cannot_hold() -> None:
    with pytest.raises(RpcFault, match="ü") as caught:
        encoding.decode_answer(encoding.encode_fault("KeyError", "\x00 ü \ud800 <&>"))
    assert caught.value.kind == "KeyError"
    assert caught.value.args == ("\x00 ü \ud800 <&>",)


CALL = xmlrpc.client.dumps


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<x",
        b"\xff\xfe",
        CALL((), "m").encode(),
        CALL(("text",), "m").encode(),
        CALL((xmlrpc.client.Binary(b"{}"), xmlrpc.client.Binary(b"{}")), "m").encode(),
        CALL((xmlrpc.client.Binary(b"[1]"),), "m").encode(),
        CALL((xmlrpc.client.Binary(b"{"),), "m").encode(),
        CALL((xmlrpc.client.Binary(b"{}"),), methodresponse=True).encode(),
        CALL(xmlrpc.client.Fault(1, "x")).encode(),
    ],
)
def test_malformed_calls(body: bytes) -> None:
    with pytest.raises(ValueError, match="not an XML-RPC call"):
        encoding.decode_call(body)


@pytest.mark.parametrize("body", [b"", b"<x", CALL(xmlrpc.client.Fault(1, "no JSON")).encode()])
def test_malformed_answers(body: bytes) -> None:
    with pytest.raises(ValueError, match="the answer"):
        encoding.decode_answer(body)


@pytest.mark.parametrize("charset", ["ascii", "utf-16"])
def test_declarations_are_not_read(charset: str) -> None:
    """Entities defined by entities are small to send and large to read."""
    call = encoding.encode_call("describe", {}).decode().partition("?>")[2]
    assert encoding.decode_call(call.encode()) == ("describe", {})
    doctype = '<!DOCTYPE methodCall [<!ENTITY e "x">]>'
    with pytest.raises(ValueError, match="declarations"):
        encoding.decode_call((doctype + call).encode(charset))


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_different_fields_give_different_bytes(one: list[str], other: list[str]) -> None:
    assert (signing.join_fields(*one) == signing.join_fields(*other)) == (one == other)


def stamp_of(headers: dict[str, str]) -> signing.Stamp:
    return signing.read_stamp({name.lower(): value for name, value in headers.items()})


def test_request_signature_covers_every_field() -> None:
    headers = signing.request_headers(KEY, SENT, "/RPC2", b"body", "h")
    stamp = stamp_of(headers)
    assert stamp.transmission == SENT
    assert signing.verify_request(KEY, stamp, "POST", "/RPC2", 4)
    assert not signing.verify_request(KEY[:-1] + b"x", stamp, "POST", "/RPC2", 4)
    assert not signing.verify_request(KEY, stamp, "PUT", "/RPC2", 4)
    assert not signing.verify_request(KEY, stamp, "POST", "/", 4)
    assert not signing.verify_request(KEY, stamp, "POST", "/RPC2", 5)
    for name, other in {
        signing.BOOT_HEADER: "02" * 16,
        signing.CLIENT_HEADER: "ab" * 16 + "-4",
        signing.COUNTER_HEADER: "8",
        signing.DIGEST_HEADER: signing.body_digest(b"other"),
        signing.SIGNATURE_HEADER: "0" * 64,
    }.items():
        altered = stamp_of({**headers, name: other})
        assert not signing.verify_request(KEY, altered, "POST", "/RPC2", 4), name


def test_answer_signature_covers_every_field() -> None:
    headers = {k.lower(): v for k, v in signing.answer_headers(KEY, SENT, 200, b"body").items()}
    assert signing.verify_answer(KEY, SENT, 200, 4, headers) == signing.body_digest(b"body")
    assert signing.verify_answer(KEY[:-1] + b"x", SENT, 200, 4, headers) is None
    assert signing.verify_answer(KEY, SENT, 409, 4, headers) is None
    assert signing.verify_answer(KEY, SENT, 200, 5, headers) is None
    for other in (
        signing.Transmission("02" * 16, SENT.client_id, 3, 7),
        signing.Transmission(SENT.boot_id, "ac" * 16, 3, 7),
        signing.Transmission(SENT.boot_id, SENT.client_id, 4, 7),
        signing.Transmission(SENT.boot_id, SENT.client_id, 3, 8),
    ):
        assert signing.verify_answer(KEY, other, 200, 4, headers) is None
    altered = {**headers, signing.DIGEST_HEADER.lower(): signing.body_digest(b"other")}
    assert signing.verify_answer(KEY, SENT, 200, 4, altered) is None


def test_request_is_no_answer() -> None:
    headers = signing.request_headers(KEY, SENT, "/RPC2", b"body", "h")
    lower = {k.lower(): v for k, v in headers.items()}
    assert signing.verify_answer(KEY, SENT, 200, 4, lower) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (signing.COUNTER_HEADER, "0"),
        (signing.COUNTER_HEADER, "01"),
        (signing.COUNTER_HEADER, "-1"),
        (signing.COUNTER_HEADER, str(2**64)),
        (signing.COUNTER_HEADER, "١"),
        (signing.CLIENT_HEADER, "AB" * 16 + "-3"),
        (signing.CLIENT_HEADER, "ab" * 16),
        (signing.BOOT_HEADER, ""),
        (signing.BOOT_HEADER, "01" * 15),
        (signing.DIGEST_HEADER, "0" * 63),
        (signing.SIGNATURE_HEADER, ""),
    ],
)
def test_malformed_stamps(name: str, value: str) -> None:
    headers = signing.request_headers(KEY, SENT, "/RPC2", b"body", "h")
    with pytest.raises(signing.BadStamp):
        stamp_of({**headers, name: value})


@pytest.mark.parametrize(
    "name", [n for n in vars(signing).values() if str(n).startswith("Cerebro-")]
)
def test_missing_stamp_headers(name: str) -> None:
    headers = signing.request_headers(KEY, SENT, "/RPC2", b"body", "h")
    del headers[name]
    with pytest.raises(signing.BadStamp, match=f"{name} is missing"):
        stamp_of(headers)


def test_heads_are_read_as_written() -> None:
    head = http1.format_request("POST", "/RPC2", {"A": "1", "B-c": ""})
    assert http1.parse_request(head.removesuffix(b"\r\n\r\n")) == http1.RequestHead(
        "POST", "/RPC2", {"a": "1", "b-c": ""}
    )
    head = http1.format_answer(409, {"A": "x y"})
    assert http1.parse_answer(head.removesuffix(b"\r\n\r\n")) == http1.AnswerHead(409, {"a": "x y"})


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"POST /", 400),
        (b"POST  / HTTP/1.1", 400),
        (b"POST / HTTP/1.0", 505),
        (b"POST / HTTP/2.0", 505),
        (b"POST / HTTP/1.1\r\nno colon", 400),
        (b"POST / HTTP/1.1\r\nA : b", 400),
        (b"POST / HTTP/1.1\r\nA: b\r\n folded", 400),
        (b"POST / HTTP/1.1\r\nA: b\r\na: c", 400),
        (b"POST / HTTP/1.1\r\nA: b\nC: d", 400),
        (b"POST / HTTP/1.1\r\nA: \x00", 400),
        (b"\xff\xff", 400),
    ],
)
def test_malformed_heads(head: bytes, status: int) -> None:
    with pytest.raises(http1.BadHead) as caught:
        http1.parse_request(head)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 411),
        ({"content-length": "-1"}, 400),
        ({"content-length": "+1"}, 400),
        ({"content-length": "1_0"}, 400),
        ({"content-length": ""}, 400),
        ({"content-length": "11"}, 413),
        ({"content-length": "9" * 30}, 400),
        ({"content-length": "1", "transfer-encoding": "chunked"}, 501),
        ({"content-length": "1", "content-encoding": "gzip"}, 415),
    ],
)
def test_lengths_that_are_refused(headers: dict[str, str], status: int) -> None:
    with pytest.raises(http1.BadHead) as caught:
        http1.body_length(headers, 10)
    assert caught.value.status == status


def test_lengths_that_are_taken() -> None:
    assert http1.body_length({"content-length": "0"}, 10) == 0
    assert http1.body_length({"content-length": "10"}, 10) == 10
