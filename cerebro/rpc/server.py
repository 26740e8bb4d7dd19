"""The server: a thread that accepts and keeps the door, one for each authenticated connection.

The connections' threads may be held by a method for long (long polls); there are at most
`Limits.max_connections` of them. Whoever has not authenticated gets none (`cerebro.rpc.door`).

Why not `xmlrpc.server`, and `http.server` below it: whoever reaches the port may speak to them
before a signature is looked at.
- They read a body of any length whole, and unpack gzip, before a handler sees the call.
- A time-out starts again at every byte, so a sender that trickles holds a thread for ever.
- `ThreadingMixIn` starts a thread for every connection, without a limit.
- Heads are read leniently (folded lines, repeated headers), so what is signed and what is carried
  out could be two things.
- `shutdown` stops accepting and leaves open connections alone; here they last as long as a run.
A handler that replaced `do_POST` would mend the first of these and leave little of the two modules.
`xmlrpc.client` does encode the calls (`cerebro.rpc.signing`).
"""

from __future__ import annotations

import logging
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cerebro.errors import InputError
from cerebro.rpc import encoding, signing
from cerebro.rpc.checks import Service, SignedHead
from cerebro.rpc.connection import Connection
from cerebro.rpc.door import Door, Newcomer
from cerebro.rpc.limits import DEFAULT_LIMITS, Limits
from cerebro.rpc.refusals import RefusalLog
from cerebro.rpc.replay_guard import ReplayGuard

logger = logging.getLogger(__name__)

# Linux takes its own bound (net.core.somaxconn) if that is less.
_BACKLOG = 1024
# So many are accepted before those at the door are looked at again.
_ACCEPTED_AT_ONCE = 32
_CLOSE_SECONDS = 0.5
_RETRY_ACCEPT_SECONDS = 0.5


class Server:
    """Answers signed calls of `methods` at (`host`, `port`); port 0 takes any free one.

    A method gets the call's parameters as keyword arguments and returns what JSON can hold; it
    runs in the thread of its connection. What it raises reaches the caller as `RpcFault`: the
    message of a `CerebroError` or `ValueError` as it is, anything else as an internal error, which
    is logged here. Raises `OSError` if the address cannot be had, `InputError` for a secret that
    is too short or a method named `hello`, which the server answers itself.
    """

    def __init__(
        self,
        host: str,
        port: int,
        secret: bytes,
        methods: Mapping[str, Callable[..., Any]],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if encoding.HELLO in methods:
            raise InputError(f"a method cannot be named {encoding.HELLO!r}: the server has its own")
        self._service = Service(
            key=signing.check_key(secret),
            boot_id=secrets.token_hex(16),
            methods=methods,
            limits=limits,
            guard=ReplayGuard(limits.max_clients),
        )
        self._listener = _listen(host, port)
        self._address: tuple[str, int] = self._listener.getsockname()[:2]
        self._wake, self._woken = socket.socketpair()
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, Connection] = {}
        self._closing = threading.Event()
        self._acceptor: threading.Thread | None = None
        self._released = False

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) that the server listens on."""
        return self._address

    @property
    def boot_id(self) -> str:
        """32 hex digits, drawn for this server object."""
        return self._service.boot_id

    def start(self) -> None:
        """Serve in a thread of its own."""
        threading.Thread(target=self.serve_forever, name="rpc-accept", daemon=True).start()

    def serve_forever(self) -> None:
        """Serve in this thread until `close` is called."""
        with self._lock:
            if self._acceptor is not None:
                raise RuntimeError("this server is already serving")
            if self._closing.is_set():
                return
            self._acceptor = threading.current_thread()
        try:
            self._accept_connections()
        finally:
            self._release()

    def close(self) -> None:
        """Stop listening and end all connections, within a second.

        May be called by any thread, also by a method. A call under way is answered if that takes
        no longer. A method that still runs then is not interrupted: its caller's connection has
        ended, and its thread ends with it.
        """
        expires = time.monotonic() + _CLOSE_SECONDS
        with self._lock:
            self._closing.set()
            acceptor = self._acceptor
            if not self._released:
                self._wake.send(b"\0")
            connections = dict(self._connections)
            for connection in connections.values():
                connection.finish()
        if acceptor is None:
            self._release()
            return
        _join([acceptor, *connections], expires)
        for connection in connections.values():
            connection.shutdown()
        _join(connections, time.monotonic() + _CLOSE_SECONDS)

    def _release(self) -> None:
        with self._lock:
            if not self._released:
                self._released = True
                for sock in (self._listener, self._wake, self._woken):
                    sock.close()

    def _accept_connections(self) -> None:
        refusals = RefusalLog()
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            door = Door(selector, self._service, refusals, self._has_room, self._enter)
            try:
                while not self._closing.is_set():
                    now = time.monotonic()
                    due = min((d for d in (door.due, refusals.due) if d is not None), default=None)
                    ready = selector.select(None if due is None else max(0.0, due - now))
                    # Those at the door come first: they may be the ones that a flood displaces.
                    for key, _ in ready:
                        if key.data is not None:
                            door.read(key.data)
                    if any(key.fileobj is self._listener for key, _ in ready):
                        self._accept_some(door, refusals)
                    now = time.monotonic()
                    door.expire(now)
                    if refusals.due is not None and refusals.due <= now:
                        refusals.flush(now)
            finally:
                door.close()
                refusals.flush(time.monotonic())

    def _accept_some(self, door: Door, refusals: RefusalLog) -> None:
        for number in range(_ACCEPTED_AT_ONCE):
            try:
                sock, peer = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:  # gone before it was accepted
                continue
            except OSError as error:  # out of file descriptors, most likely
                # Linux says so even if nobody waits; at first somebody does.
                if number == 0 and not door.turn_one_away():
                    refusals.note("an unknown address", str(error), time.monotonic())
                    self._closing.wait(_RETRY_ACCEPT_SECONDS)
                return
            door.take(sock, *peer[:2])

    def _has_room(self) -> bool:
        return len(self._connections) < self._service.limits.max_connections

    def _enter(self, newcomer: Newcomer, request: SignedHead) -> None:
        """Serve a connection that has authenticated, in a thread of its own."""
        sock, peer = newcomer.sock, f"{newcomer.address}:{newcomer.port}"
        with self._lock:
            if self._closing.is_set():
                sock.close()
                return
            try:
                connection = Connection(
                    sock, peer, self._service, request, bytes(newcomer.received)
                )
                thread = threading.Thread(
                    target=self._serve, args=(connection, sock), name=f"rpc-{peer}", daemon=True
                )
                thread.start()
            except (OSError, RuntimeError) as error:  # reset already, or no more threads
                logger.warning("a connection of %s cannot be served: %s", peer, error)
                sock.close()
            else:
                self._connections[thread] = connection  # it needs the lock to take itself out

    def _serve(self, connection: Connection, sock: socket.socket) -> None:
        try:
            connection.serve()
        finally:
            with self._lock:
                del self._connections[threading.current_thread()]
                sock.close()


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # A restarted worker gets its port back while old connections linger in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _join(threads: Iterable[threading.Thread], expires: float) -> None:
    """Wait for threads, this one left out, until a moment of the monotonic clock."""
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(max(0.0, expires - time.monotonic()))
