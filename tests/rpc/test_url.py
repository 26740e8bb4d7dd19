from __future__ import annotations

import pytest

from cerebro.errors import InputError
from cerebro.rpc import normalise_url, parse_url


@pytest.mark.parametrize(
    ("url", "host", "port", "normal"),
    [
        ("http://node1:8000", "node1", 8000, "http://node1:8000"),
        ("http://node1:8000/", "node1", 8000, "http://node1:8000"),
        ("http://node1", "node1", 7777, "http://node1:7777"),
        ("http://node1/", "node1", 7777, "http://node1:7777"),
        ("HTTP://Node_1.Example.org:1", "node_1.example.org", 1, "http://node_1.example.org:1"),
        ("http://10.0.0.1:65535", "10.0.0.1", 65535, "http://10.0.0.1:65535"),
        ("http://[::1]:80", "::1", 80, "http://[::1]:80"),
        ("http://[0:0::1]", "::1", 7777, "http://[::1]:7777"),
    ],
)
def test_forms(url: str, host: str, port: int, normal: str) -> None:
    assert parse_url(url) == (host, port)
    assert normalise_url(url) == normal
    assert normalise_url(normal) == normal


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://node1:7777", "https is not spoken.*use http://node1:7777"),
        ("node1:7777", "does not begin with http://"),
        ("node1", "does not begin with http://"),
        ("", "does not begin with http://"),
        ("http://", "names no host"),
        ("http://:7777", "names no host"),
        ("http://node1:0", "port 0"),
        ("http://node1:65536", "cannot be read"),
        ("http://node1:x", "cannot be read"),
        ("http://node1:1/RPC2", "more than a host and a port"),
        ("http://node1:1?a=1", "more than a host and a port"),
        ("http://me:pw@node1:1", "more than a host and a port"),
        (" http://node1:1", "white space"),
        ("http://no de:1", "white space"),
        ("http://no$de:1", "no host name"),
        ("http://no\r\nde:1", "white space"),
        ("http://[zz]:1", "(IPv6|cannot be read)"),
        (7777, "is not text"),
    ],
)
def test_errors(url: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_url(url)
