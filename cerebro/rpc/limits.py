"""What one server may be made to spend on its clients."""

from __future__ import annotations

from dataclasses import dataclass

from cerebro.rpc.signing import MAX_BODY


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    `header_seconds` and `body_seconds` are for a whole head or body, however its bytes trickle
    in; `body_seconds` bounds the sending of an answer too. `idle_seconds` is how long a connection
    may rest between two calls. Of the clients remembered against replays, the older half is
    forgotten when there are more than `max_clients`; they are admitted anew.
    """

    max_body: int = MAX_BODY
    max_header_bytes: int = 8 * 1024
    max_connections: int = 256
    max_clients: int = 4096
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 120.0


DEFAULT_LIMITS = Limits()
