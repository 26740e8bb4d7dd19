"""A connected socket that is read and written under deadlines for a whole head or body.

A socket's own time-out starts again at every byte, which lets a sender that trickles hold a thread
for ever. Here `expires`, a reading of `time.monotonic()`, bounds the operation as a whole.
Every method raises `TimeoutError` at the deadline, `OSError` if the connection breaks and
`EOFError` if it ends in the middle.
"""

from __future__ import annotations

import socket
import time

from cerebro.rpc.http1 import BadHead, take_head

_CHUNK = 64 * 1024


class Stream:
    """Reads and writes one socket, which it owns; `received` has been read from it already."""

    def __init__(self, sock: socket.socket, received: bytes = b"") -> None:
        self._sock = sock
        self._buffer = bytearray(received)
        # Requests and answers are small and waited for: nothing may be held back for company.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def wait(self, expires: float) -> None:
        """Return once there is something to read."""
        if not self._buffer:
            self._fill(_CHUNK, expires)

    def read_head(self, limit: int, expires: float, start: bytes = b"") -> bytes:
        """The next head, without the empty line that ends it.

        `BadHead` if it is over `limit` bytes, or does not start with `start`: what speaks something
        else may then wait for ever.
        """
        while True:
            if not start.startswith(self._buffer[: len(start)]):
                raise BadHead(400, "the first line is another protocol's")
            head = take_head(self._buffer, limit)
            if head is not None:
                return head
            self._fill(limit + 1 - len(self._buffer), expires)

    def read_exactly(self, length: int, expires: float) -> bytes:
        """The next `length` bytes."""
        body = bytearray(length)
        view = memoryview(body)
        done = min(length, len(self._buffer))
        view[:done] = self._buffer[:done]
        del self._buffer[:done]
        while done < length:
            self._sock.settimeout(_remaining(expires))
            received = self._sock.recv_into(view[done:])
            if not received:
                raise EOFError("the connection was closed in the middle of a body")
            done += received
        return bytes(body)

    def read_some(self, limit: int, expires: float) -> bytes:
        """What comes until `limit` bytes, the connection's end or the deadline; never raises."""
        try:
            while len(self._buffer) < limit:
                self._fill(limit, expires)
        except (OSError, EOFError):
            pass
        data = bytes(self._buffer[:limit])
        del self._buffer[:limit]
        return data

    def send(self, data: bytes, expires: float) -> None:
        """Send all of `data` (a socket's time-out bounds `sendall` as a whole)."""
        self._sock.settimeout(_remaining(expires))
        self._sock.sendall(data)

    def is_quiet(self) -> bool:
        """Whether the connection is open and nothing has arrived on it."""
        if self._buffer:
            return False
        self._sock.setblocking(False)
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def discard(self, limit: int, expires: float) -> None:
        """End the sending side, and throw away what still comes until the other side closes.

        Closing with unread data makes the kernel reset the connection, and the other side may
        then lose the answer that was sent last.
        """
        try:
            self._sock.shutdown(socket.SHUT_WR)
            while limit > 0:
                self._sock.settimeout(_remaining(expires))
                received = len(self._sock.recv(_CHUNK))
                if not received:
                    return
                limit -= received
        except OSError:
            return

    def stop_reading(self) -> None:
        """Wake whoever reads in another thread, to see the end; what is written still goes out."""
        self._shutdown(socket.SHUT_RD)

    def shutdown(self) -> None:
        """Wake whoever reads or writes in another thread; they see the connection's end."""
        self._shutdown(socket.SHUT_RDWR)

    def _shutdown(self, how: int) -> None:
        try:
            self._sock.shutdown(how)
        except OSError:
            return

    def close(self) -> None:
        """Close the socket. Only the thread that reads and writes may do this."""
        self._sock.close()

    def _fill(self, size: int, expires: float) -> None:
        self._sock.settimeout(_remaining(expires))
        data = self._sock.recv(min(size, _CHUNK))
        if not data:
            raise EOFError("the connection was closed")
        self._buffer += data


def _remaining(expires: float) -> float:
    seconds = expires - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the deadline has passed")
    return seconds
