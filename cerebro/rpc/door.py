"""Connections that have not authenticated: they wait at the door, without a thread each.

Anybody who reaches the port can open connections, idle or slow ones too. All of them are read by
the thread that accepts, through one selector, and cost a descriptor and a few kilobytes for a few
seconds. A connection gets a thread, and a place that cannot be taken from it, with its first
signed request that the replay guard has not seen: only its sender can have made that. A hello
proves less. It may be repeated, so whoever has listened on the network can send it again; it is
answered here.

There is always room for one more, because somebody else has to go, by these rules:

- Those who have said a signed hello and those who have not are counted apart, and take nothing
  from each other. So strangers who know no hello cannot disturb a client once its hello was read.
- Of each it is the address with the most of them that loses its oldest. So a flood from one
  address takes nothing from another, and a client at the flooding address still has the time in
  which so many connections are opened; it says hello in the packet after the handshake. One hello
  that is said again and again is treated like one address: a client draws an id of its own. In
  IPv6, where a host may take any of 2^64 addresses, those of one network (`/64`) count as one; of
  equally large networks, or within one, it is the address with the most.
- Whoever has been refused, and has yet to see the answer, counts among those without a hello.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable

from cerebro.rpc import checks
from cerebro.rpc.checks import Refused, Service, SignedHead
from cerebro.rpc.http1 import BadHead, take_head
from cerebro.rpc.limits import PARTING_BYTES, PARTING_SECONDS
from cerebro.rpc.refusals import RefusalLog

logger = logging.getLogger(__name__)

_CHUNK = 16 * 1024


class Newcomer:
    """A connection at the door, and what has been read from it. `expires` is when it must go.

    `client_id` is that of its last hello, `hello` one whose body has yet to come.
    """

    def __init__(self, sock: socket.socket, address: str, port: int, expires: float) -> None:
        self.sock = sock
        self.address = address
        self.port = port
        self.network = _network(address)
        self.expires = expires
        self.received = bytearray()
        self.hello: SignedHead | None = None
        self.client_id = ""
        self.parting_bytes: int | None = None


class Door:
    """All newcomers of one server, in the thread that accepts them.

    `enter` takes over one that has authenticated, with the head of its request; it is asked for
    only where `has_room` says so.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        service: Service,
        refusals: RefusalLog,
        has_room: Callable[[], bool],
        enter: Callable[[Newcomer, SignedHead], None],
    ) -> None:
        self._selector = selector
        self._service = service
        self._refusals = refusals
        self._has_room = has_room
        self._enter = enter
        # Insertion order is age.
        self._silent: dict[Newcomer, None] = {}
        self._greeted: dict[Newcomer, None] = {}

    def take(self, sock: socket.socket, address: str, port: int) -> None:
        """Take a connection that was just accepted, and read what is there already."""
        limits = self._service.limits
        self._make_room(self._silent, limits.max_silent)
        newcomer = Newcomer(sock, address, port, time.monotonic() + limits.header_seconds)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(sock, selectors.EVENT_READ, newcomer)
        except OSError:  # reset already
            sock.close()
            return
        self._silent[newcomer] = None
        self.read(newcomer)

    def read(self, newcomer: Newcomer) -> None:
        """Do what can be done with what has arrived; nothing for one that has gone meanwhile."""
        if not self._is_here(newcomer):
            return
        try:
            data = newcomer.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(newcomer)
        elif newcomer.parting_bytes is not None:
            newcomer.parting_bytes -= len(data)
            if newcomer.parting_bytes <= 0:
                self._drop(newcomer)
        else:
            newcomer.received += data
            try:
                self._proceed(newcomer)
            except Refused as refused:
                self._refuse(newcomer, refused)
            except Exception as error:  # our own bug: one connection must not end the server
                logger.debug("a connection of %s", newcomer.address, exc_info=True)
                reason = f"internal error: {type(error).__name__}"
                self._refusals.note(newcomer.address, reason, time.monotonic())
                self._drop(newcomer)

    def expire(self, now: float) -> None:
        """End those whose time is over."""
        late = [n for n in (*self._silent, *self._greeted) if n.expires <= now]
        seconds = self._service.limits.header_seconds
        for newcomer in late:
            if newcomer.parting_bytes is not None:
                self._drop(newcomer)
            elif self._is_here(newcomer):  # one before it may have needed its place
                self._refuse(newcomer, Refused(408, f"the head took more than {seconds} s"))

    @property
    def due(self) -> float | None:
        """When the next one must go."""
        return min((n.expires for n in (*self._silent, *self._greeted)), default=None)

    def turn_one_away(self) -> bool:
        """Make room where descriptors have run out; whether there was somebody to turn away."""
        if not self._silent:
            return False
        self._turn_away(_of_the_most(self._silent))
        return True

    def close(self) -> None:
        """End all of them."""
        for newcomer in (*self._silent, *self._greeted):
            self._drop(newcomer)

    def _proceed(self, newcomer: Newcomer) -> None:
        """Judge every head that is complete, and answer every hello."""
        limits, received = self._service.limits, newcomer.received
        while True:
            if newcomer.hello is None:
                try:
                    head = take_head(received, limits.max_header_bytes)
                except BadHead as error:
                    raise Refused(error.status, str(error)) from None
                if head is None:
                    return
                request = checks.judge_head(head, self._service)
                if not request.is_hello:
                    self._let_in(newcomer, request)
                    return
                newcomer.hello = request
                newcomer.client_id = request.sent.client_id
            hello = newcomer.hello
            if len(received) < hello.length:
                return
            body = bytes(received[: hello.length])
            del received[: hello.length]
            newcomer.hello = None
            checks.check_body(body, hello.digest)
            answer = checks.answer_hello(body, self._service)
            if not self._send(
                newcomer, checks.format_answer(hello.sent, answer, self._service.key)
            ):
                self._drop(newcomer)
                return
            if newcomer in self._silent:
                self._make_room(self._greeted, limits.max_greeted)
                del self._silent[newcomer]
                self._greeted[newcomer] = None

    def _let_in(self, newcomer: Newcomer, request: SignedHead) -> None:
        if not self._has_room():
            limit = self._service.limits.max_connections
            raise Refused(503, f"all {limit} connections are taken")
        checks.admit(request.sent, self._service)
        self._forget(newcomer)
        self._enter(newcomer, request)

    def _refuse(self, newcomer: Newcomer, refused: Refused) -> None:
        """Say why, and give the sender a moment to see it."""
        now = time.monotonic()
        self._refusals.note(newcomer.address, str(refused), now)
        if not self._send(newcomer, checks.format_refusal(refused, self._service.key)):
            self._drop(newcomer)
            return
        # Closing with unread data resets the connection, and the answer may be lost.
        with contextlib.suppress(OSError):
            newcomer.sock.shutdown(socket.SHUT_WR)
        newcomer.expires = now + PARTING_SECONDS
        newcomer.parting_bytes = PARTING_BYTES
        newcomer.received.clear()
        if newcomer in self._greeted:
            del self._greeted[newcomer]
            self._make_room(self._silent, self._service.limits.max_silent)
            self._silent[newcomer] = None

    def _make_room(self, crowd: dict[Newcomer, None], limit: int) -> None:
        if len(crowd) >= limit:
            self._turn_away(_of_the_most(crowd))

    def _turn_away(self, newcomer: Newcomer) -> None:
        if newcomer.parting_bytes is None:
            refused = Refused(503, "too many connections have not authenticated")
            self._refusals.note(newcomer.address, str(refused), time.monotonic())
            self._send(newcomer, checks.format_refusal(refused, self._service.key))
        self._drop(newcomer)

    def _is_here(self, newcomer: Newcomer) -> bool:
        return newcomer in self._silent or newcomer in self._greeted

    def _send(self, newcomer: Newcomer, data: bytes) -> bool:
        """Whether all of it could be sent without waiting: it is little, and the first."""
        try:
            return newcomer.sock.send(data) == len(data)
        except OSError:
            return False

    def _drop(self, newcomer: Newcomer) -> None:
        self._forget(newcomer)
        newcomer.sock.close()

    def _forget(self, newcomer: Newcomer) -> None:
        self._silent.pop(newcomer, None)
        self._greeted.pop(newcomer, None)
        self._selector.unregister(newcomer.sock)


def _of_the_most(crowd: dict[Newcomer, None]) -> Newcomer:
    """The oldest of those that have the most of their kind, by network and by client."""
    networks = Counter(newcomer.network for newcomer in crowd)
    addresses = Counter(newcomer.address for newcomer in crowd)
    clients = Counter(newcomer.client_id for newcomer in crowd)
    return max(
        crowd,
        key=lambda n: (networks[n.network] + clients[n.client_id], addresses[n.address]),
    )


def _network(address: str) -> str:
    """What a host may choose its addresses from: an address of IPv4, 64 bits of one of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4 or found.ipv4_mapped:
        return address
    return found.packed[:8].hex()
