"""What one server may be made to spend on its clients."""

from __future__ import annotations

from dataclasses import dataclass

from cerebro.rpc.signing import MAX_BODY

PARTING_SECONDS = 0.5
PARTING_BYTES = 256 * 1024
"""A refused sender gets this long, for this many bytes, to see the answer and hang up."""


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    `max_connections` are authenticated; of the others there are at most `max_silent` that have
    sent nothing genuine yet, and `max_greeted` that have sent a signed hello, which may be a
    recorded one. Together they take half of the 256 descriptors that a process has on some systems.

    `header_seconds` and `body_seconds` are for a whole head or body, however its bytes trickle
    in; within `header_seconds` a new connection must have authenticated, too. `body_seconds` bounds
    the sending of an answer. `idle_seconds` is how long a connection may rest between two calls.
    Of the clients remembered against replays, the older half is forgotten when there are more than
    `max_clients`; they are admitted anew.
    """

    max_body: int = MAX_BODY
    max_header_bytes: int = 8 * 1024
    max_connections: int = 256
    max_silent: int = 96
    max_greeted: int = 32
    max_clients: int = 4096
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 120.0


DEFAULT_LIMITS = Limits()
