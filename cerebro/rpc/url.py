"""The URLs of workers: `http://host:port`."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse

from cerebro.errors import InputError

DEFAULT_PORT = 7777
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


def parse_url(url: str) -> tuple[str, int]:
    """(host, port) of a worker's URL; an IPv6 address comes without its brackets.

    The port may be left out (7777). Raises `InputError` for anything but `http://host:port`.
    """
    wanted = "a worker's URL has the form http://host:port, such as http://10.0.0.1:7777"
    if not isinstance(url, str):
        raise InputError(f"{url!r} is not text: {wanted}")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise InputError(f"{url!r} has white space in it: {wanted}")
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{url!r} cannot be read ({error}): {wanted}") from None
    if parts.scheme == "https":
        raise InputError(
            f"{url!r}: https is not spoken, calls are signed but not encrypted; use "
            f"http://{parts.netloc}"
        )
    if parts.scheme != "http":
        raise InputError(f"{url!r} does not begin with http://: {wanted}")
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None
    if extra:
        raise InputError(f"{url!r} has more than a host and a port: {wanted}")
    if port == 0:
        raise InputError(f"{url!r} has port 0, and ports go from 1 to 65535: {wanted}")
    is_ipv6 = "[" in parts.netloc
    return _check_host(host, is_ipv6, url, wanted), DEFAULT_PORT if port is None else port


def normalise_url(url: str) -> str:
    """`url` in the one form that names it: no slash at the end, port given, host in lower case.

    Raises `InputError` as `parse_url` does.
    """
    host, port = parse_url(url)
    return f"http://{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """`host` as it is written before a colon and a port."""
    return f"[{host}]" if ":" in host else host


def _check_host(host: str | None, is_ipv6: bool, url: str, wanted: str) -> str:
    if not host:
        raise InputError(f"{url!r} names no host: {wanted}")
    if is_ipv6:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise InputError(f"{url!r} has no IPv6 address in its brackets: {wanted}") from None
    if not _HOST_NAME.fullmatch(host):
        raise InputError(f"{url!r} has no host name before the port: {wanted}")
    return host
