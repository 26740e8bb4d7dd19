"""Host names to addresses, with a deadline (`getaddrinfo` has none)."""

from __future__ import annotations

import queue
import socket
import threading
import time
from typing import Any

Addresses = list[tuple[socket.AddressFamily, Any]]


def addresses(host: str, port: int, expires: float) -> Addresses:
    """(family, address) pairs of `host`, in the system's order of preference; never empty.

    Raises `OSError` if the name is not known, `TimeoutError` (one of them) if the name service
    has not answered at `expires`, a reading of `time.monotonic()`.
    """
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        pass  # a name, not an address
    answers: queue.SimpleQueue[Addresses | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_look_up(host, port, 0))
        except OSError as error:
            answers.put(error)
        except UnicodeError:
            answers.put(OSError(f"{host!r} cannot be a host's name"))

    # The thread outlives a name service that does not answer, but not the process.
    threading.Thread(target=ask, name="rpc-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.0, expires - time.monotonic()))
    except queue.Empty:
        raise TimeoutError("the name service did not answer in time") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _look_up(host: str, port: int, flags: int) -> Addresses:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]
