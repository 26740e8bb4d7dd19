"""Connections that have not authenticated: what they cost, whom they displace, what is logged."""

from __future__ import annotations

import logging
import os
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cerebro.errors import RpcUnreachable
from cerebro.rpc import Limits, checks, refusals
from cerebro.rpc.checks import Service
from cerebro.rpc.door import Door
from cerebro.rpc.refusals import SUMMARY_SECONDS, RefusalLog
from cerebro.rpc.replay_guard import ReplayGuard

TIMEOUT = 20.0


def echo(**params: Any) -> Any:
    return params


def wait_until(condition: Callable[[], bool]) -> None:
    expires = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < expires
        threading.Event().wait(0.01)


def has_ended(sock: socket.socket) -> bool:
    """Whether the other side has closed; reads what came before."""
    sock.settimeout(TIMEOUT)
    try:
        while sock.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    return False


class Doorstep:
    """A door without a server: everything happens in the test's thread."""

    def __init__(self, key: bytes, **limits: Any) -> None:
        self.boot_id = "0b" * 16
        self.entered: list[str] = []
        self.selector = selectors.DefaultSelector()
        kept = Limits(**limits)
        self.service = Service(key, self.boot_id, {}, kept, ReplayGuard(kept.max_clients))
        self.door = Door(
            self.selector,
            self.service,
            RefusalLog(),
            lambda: True,
            lambda newcomer, _: self.entered.append(newcomer.address),
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of all accepted
        self._sockets: list[socket.socket] = []

    def come(self, address: str, data: bytes = b"") -> socket.socket:
        """A connection that has sent `data`, taken as one from `address`."""
        near = socket.create_connection(self._listener.getsockname(), timeout=TIMEOUT)
        far, _ = self._listener.accept()
        self._sockets += [near, far]
        near.sendall(data)
        if data:
            far.recv(1, socket.MSG_PEEK)
        self.door.take(far, address, 1)
        return near

    def look(self) -> None:
        """Read what has arrived by now on connections that were known to send."""
        for key, _ in self.selector.select(TIMEOUT):
            self.door.read(key.data)

    def close(self) -> None:
        self.door.close()
        self.selector.close()
        for sock in (self._listener, *self._sockets):
            sock.close()


@pytest.fixture
def doorstep(key: bytes) -> Iterator[Callable[..., Doorstep]]:
    made: list[Doorstep] = []

    def make(**limits: Any) -> Doorstep:
        made.append(Doorstep(key, **limits))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_flood_displaces_its_own_oldest(doorstep: Any) -> None:
    step = doorstep(max_silent=4)
    honest = step.come("10.0.0.1")
    flood = [step.come("10.0.0.66") for _ in range(20)]
    assert is_open(honest)
    assert all(map(has_ended, flood[:-3]))
    assert all(map(is_open, flood[-3:]))


def test_from_one_address_the_oldest_goes(doorstep: Any) -> None:
    step = doorstep(max_silent=4)
    crowd = [step.come("10.0.0.66") for _ in range(6)]
    assert [is_open(sock) for sock in crowd] == [False, False, True, True, True, True]


def test_a_host_that_takes_ever_new_addresses_of_ipv6_displaces_its_own(doorstep: Any) -> None:
    step = doorstep(max_silent=4)
    honest = [step.come("2001:db8:0:1::7"), step.come("fe80::7%eth0")]
    flood = [step.come(f"2001:db8:0:2::{n:x}") for n in range(20)]
    assert all(map(is_open, honest))
    assert all(map(has_ended, flood[:-2]))


def test_within_a_network_it_is_the_address_with_the_most(doorstep: Any) -> None:
    step = doorstep(max_silent=4)
    neighbour = step.come("2001:db8::7")
    flood = [step.come("2001:db8::66") for _ in range(20)]
    assert is_open(neighbour)
    assert all(map(has_ended, flood[:-3]))


def test_addresses_of_ipv4_are_no_network_where_ipv6_carries_them(doorstep: Any) -> None:
    step = doorstep(max_silent=4)
    flood = [step.come("2001:db8::66"), step.come("2001:db8::67")]
    mapped = [step.come(f"::ffff:10.0.0.{n}") for n in range(3)]
    assert all(map(is_open, mapped))
    assert has_ended(flood[0])


def test_who_has_said_hello_is_not_displaced_by_strangers(doorstep: Any, by_hand: Any) -> None:
    step = doorstep(max_silent=4)
    hand = by_hand(step)
    greeted = step.come("10.0.0.66", hand.hello().bytes)
    assert hand.read(greeted)[0] == 200
    strangers = [step.come("10.0.0.66", b"POST") for _ in range(20)]
    assert all(map(has_ended, strangers[:-4]))
    assert is_open(greeted)
    greeted.sendall(hand.request("echo", {}).bytes)
    step.look()
    assert step.entered == ["10.0.0.66"]


def test_recorded_hellos_displace_each_other_alone(doorstep: Any, by_hand: Any) -> None:
    """Whoever listens on the network can say a hello again, and no more."""
    step = doorstep(max_silent=4, max_greeted=3)
    hand = by_hand(step)
    recorded = hand.hello().bytes
    honest = step.come("10.0.0.1", hand.hello("ef" * 16).bytes)
    silent = step.come("10.0.0.1")
    posing = [step.come("10.0.0.66", recorded) for _ in range(20)]
    assert all(map(has_ended, posing[:-2]))
    assert step.entered == []
    hand.read(honest)
    assert is_open(silent)
    assert is_open(honest)


def test_one_hello_said_again_and_again_displaces_itself(doorstep: Any, by_hand: Any) -> None:
    """Also where it comes from the address of an honest client, as behind one gateway."""
    step = doorstep(max_greeted=3)
    hand = by_hand(step)
    recorded = hand.hello().bytes
    hand.client_id = "cd" * 16
    honest = step.come("10.0.0.1", hand.hello().bytes)
    posing = [step.come("10.0.0.1", recorded) for _ in range(20)]
    assert all(map(has_ended, posing[:-2]))
    hand.read(honest)
    assert is_open(honest)


def test_a_recorded_request_does_not_get_in(doorstep: Any, by_hand: Any) -> None:
    step = doorstep()
    hand = by_hand(step)
    request = hand.request("echo", {}).bytes
    step.come("10.0.0.1", request)
    again = step.come("10.0.0.66", request)
    assert hand.read(again)[0] == 403
    assert step.entered == ["10.0.0.1"]


def test_repeated_hellos_do_not_prolong_the_stay(doorstep: Any, by_hand: Any) -> None:
    step = doorstep()
    hand = by_hand(step)
    sock = step.come("10.0.0.66", hand.hello().bytes)
    hand.read(sock)
    due = step.door.due
    sock.sendall(hand.hello().bytes)
    step.look()
    assert hand.read(sock)[0] == 200
    assert step.door.due == due
    step.door.expire(due)
    assert hand.read(sock)[0] == 408
    assert has_ended(sock)


def test_who_does_not_read_its_answers_is_dropped(doorstep: Any, by_hand: Any) -> None:
    step = doorstep()
    sock = step.come("10.0.0.66")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    hellos = by_hand(step).hello().bytes * 20
    for _ in range(1_000):
        sock.sendall(hellos)
        step.look()
        if step.door.due is None:
            return
    raise AssertionError("the server took answers upon itself without end")


def test_a_refused_sender_is_let_go_when_it_hangs_up(doorstep: Any, by_hand: Any) -> None:
    step = doorstep()
    sock = step.come("10.0.0.66", b"GET / HTTP/1.1\r\n\r\n" + b"x" * 1000)
    assert by_hand(step).read(sock)[0] == 404
    assert step.door.due is not None
    sock.close()
    step.look()
    assert step.door.due is None


def test_idle_connections_lock_nobody_out(serve: Any, connect: Any, by_hand: Any) -> None:
    server = serve({"echo": echo}, max_connections=2, max_silent=8)
    driver = connect(server)
    assert driver.call("echo", TIMEOUT, a=1) == {"a": 1}
    kept, threads = driver._stream, threading.active_count()
    hand = by_hand(server)
    idle = [hand.open() for _ in range(30)]
    assert connect(server).call("echo", TIMEOUT, a=2) == {"a": 2}
    assert all(map(has_ended, idle[:-8]))
    assert threading.active_count() <= threads + 1  # of the client that has just called
    assert driver.call("echo", TIMEOUT, a=3) == {"a": 3}
    assert driver._stream is kept


def test_a_crowd_without_a_hello_is_never_in_the_threads(
    serve: Any, connect: Any, by_hand: Any
) -> None:
    server = serve({"echo": echo}, max_connections=1)
    hand = by_hand(server)
    for _ in range(3):
        assert hand.status(hand.hello().bytes) == 200
    assert connect(server).call("echo", TIMEOUT, a=1) == {"a": 1}


def test_a_bug_that_a_newcomer_finds_ends_its_connection_alone(
    serve: Any, connect: Any, by_hand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve({"echo": echo})
    stranger = by_hand(server).open()
    with monkeypatch.context() as patch:
        patch.setattr(checks, "judge_head", lambda *_: 1 / 0)
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert has_ended(stranger)
    assert connect(server).call("echo", TIMEOUT, a=1) == {"a": 1}


def test_more_authenticated_connections_than_there_may_be(
    serve: Any, connect: Any, by_hand: Any
) -> None:
    server = serve({"echo": echo}, max_connections=2)
    first, second = connect(server), connect(server)
    for client in (first, second):
        assert client.call("echo", TIMEOUT, a=1) == {"a": 1}
    kept = first._stream
    third = connect(server)
    with pytest.raises(RpcUnreachable, match="takes no more connections: all 2"):
        third.call("echo", TIMEOUT)
    assert first.call("echo", TIMEOUT, a=2) == {"a": 2}
    assert first._stream is kept
    second.close()
    wait_until(lambda: len(server._connections) == 1)
    assert third.call("echo", TIMEOUT, a=3) == {"a": 3}


def test_newcomers_go_first_when_descriptors_run_out(serve: Any, by_hand: Any) -> None:
    server = serve({"echo": echo}, header_seconds=10 * TIMEOUT)
    hand = by_hand(server)
    idle, honest = hand.open(), socket.socket()
    assert hand.status(hand.hello().bytes) == 200  # so the one before was accepted, too
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        try:
            while True:
                fillers.append(os.dup(honest.fileno()))
        except OSError:
            pass
        honest.settimeout(TIMEOUT)
        honest.connect(server.address)
        honest.sendall(hand.request("echo", {}).bytes)
        assert honest.recv(1, socket.MSG_PEEK) == b"H"
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with honest:
        assert hand.read(honest)[0] == 200
    assert has_ended(idle)


def test_refusals_are_logged_at_once_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog()
    log.note("10.0.0.66", "bad signature", 100.0)
    assert len(caplog.records) == 1
    assert "10.0.0.66: bad signature" in caplog.text
    assert log.due == 100.0 + SUMMARY_SECONDS
    for _ in range(34_000):
        log.note("10.0.0.66", "too many", 101.0)
    log.note("10.0.0.1", "bad signature", 101.0)
    assert len(caplog.records) == 1
    log.flush(log.due)
    assert len(caplog.records) == 2
    assert "34001 in 30 s: 34000 of 10.0.0.66 (too many), 1 of 10.0.0.1 (bad" in caplog.text
    log.flush(log.due)  # nothing has come since
    assert len(caplog.records) == 2
    assert log.due is None
    log.note("10.0.0.66", "bad signature", 500.0)
    assert len(caplog.records) == 3


def test_refusals_of_ever_new_addresses_take_no_more_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = RefusalLog()
    for number in range(10_001):
        log.note(f"10.0.{number // 256}.{number % 256}", "too many", 1.0)
    assert len(log._counts) <= 100
    log.flush(log.due or 0.0)
    assert "10000 in 30 s" in caplog.text
    assert "9995 others" in caplog.text
    assert len(caplog.records) == 2


def test_the_last_counts_come_out_when_a_flood_ends(
    serve: Any, by_hand: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "SUMMARY_SECONDS", 0.2)
    hand = by_hand(serve({"echo": echo}))
    for _ in range(3):
        assert hand.status(b"GET / HTTP/1.1\r\n\r\n") == 404
    wait_until(lambda: "more connections" in caplog.text)  # though nobody comes any more


def test_the_last_counts_come_out_when_the_server_closes(
    serve: Any, by_hand: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    server = serve({"echo": echo})
    hand = by_hand(server)
    for _ in range(5):
        assert hand.status(b"GET / HTTP/1.1\r\n\r\n") == 404
    assert len(caplog.records) == 1
    server.close()
    assert len(caplog.records) == 2
    assert "4 of 127.0.0.1 (there is nothing but /RPC2 here)" in caplog.text
