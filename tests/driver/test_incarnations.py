"""Orders and the incarnations of a worker."""

from __future__ import annotations

import queue
import threading

from patience import SOON
from worker_side import DRIVER, run_options

from cerebro.driver.worker_connection import Connected, Disconnected, Link, Opening
from cerebro.errors import RpcFault
from cerebro.protocol.messages import Method


class PlayedClient:
    """A worker that forgets the run once, and then holds it until it is let go."""

    boot_id = "one"

    def __init__(self, world):
        self.world = world

    def call(self, method, seconds, **params):
        incarnation = params.get("ticket", {}).get("incarnation", 0)
        if method == "events":
            if incarnation == 1:
                raise RpcFault("RunNotHeld", "restarted")
            self.world.let_go.wait(SOON)
            return {"events": []}
        if method == "close_run":
            self.world.let_go.set()
        if method in ("start", "unstage"):
            self.world.orders.put((method, incarnation))
        return {}

    def close(self):
        pass


def admit(client, url, facts):
    """Everybody may take part."""


class World:
    def __init__(self):
        self.orders = queue.SimpleQueue()
        self.let_go = threading.Event()
        self.notices = queue.SimpleQueue()

    def notice(self):
        return self.notices.get(timeout=SOON)


def test_an_order_given_before_a_loss_was_heard_of_does_not_reach_the_next_incarnation():
    world = World()
    opening = Opening("run", 1, DRIVER, "", run_options())
    link = Link(
        0, "http://w", lambda _: PlayedClient(world), opening, 3.0, world.notices.put, admit
    )
    link.start()
    first, lost, second = world.notice(), world.notice(), world.notice()
    said = [type(notice.message) for notice in (first, lost, second)]
    assert said == [Connected, Disconnected, Connected]
    link.joined(first.message.incarnation)
    link.send(Method.START, order={})  # the driver has not read on
    link.joined(second.message.incarnation)
    link.send(Method.UNSTAGE, attempt=1)
    assert world.orders.get(timeout=SOON) == ("unstage", 2)
    link.close()
    assert world.orders.empty()
