"""Signed XML-RPC between driver and workers.

Every request and answer carries an HMAC under a shared secret, checked before anything else is
read; requests cannot be replayed; sizes, connections and times are bounded. Nothing is encrypted.
The formats are described in `cerebro.rpc.signing`.
"""

from cerebro.rpc.client import Client
from cerebro.rpc.encoding import decode_bytes, encode_bytes
from cerebro.rpc.limits import Limits
from cerebro.rpc.secret_file import Secret, create_secret, load_secret
from cerebro.rpc.server import Server
from cerebro.rpc.url import DEFAULT_PORT, normalise_url, parse_url

__all__ = [
    "DEFAULT_PORT",
    "Client",
    "Limits",
    "Secret",
    "Server",
    "create_secret",
    "decode_bytes",
    "encode_bytes",
    "load_secret",
    "normalise_url",
    "parse_url",
]
