"""Calls, answers and faults as XML-RPC around JSON. Pure: no sockets, no clock.

A call is an XML-RPC methodCall with one Binary, the parameters as a JSON object; its answer is one
Binary, the result as JSON, or a fault whose string is JSON with `kind` and `message`. (XML-RPC has
no integers beyond 32 bits and no control characters; Python's JSON also has NaN.)
"""

from __future__ import annotations

import base64
import json
import re
import xmlrpc.client
from collections.abc import Mapping
from typing import Any

from cerebro.errors import InputError, RpcFault
from cerebro.rpc.signing import BOOT_ID

HELLO = "hello"
_NONCE = re.compile(r"[0-9a-f]{32}")
_METHOD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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
    if not isinstance(boot_id, str) or not boot_id or not BOOT_ID.fullmatch(boot_id):
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
