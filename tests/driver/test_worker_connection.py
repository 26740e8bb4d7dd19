"""The driver's link to a worker, where the two cross each other."""

from __future__ import annotations

import threading

from patience import SOON

from cerebro.driver.worker_connection import Link, Opening
from cerebro.rpc import Client, Server

KEY = b"the key that both sides hold....."


def admit(client, url, facts):
    """Everybody may take part."""


def test_a_run_is_not_left_open_on_a_worker_that_joins_while_the_link_closes():
    calls = []
    asked, closed = threading.Event(), threading.Event()

    def describe():
        asked.set()
        closed.wait(SOON)
        return {}

    def open_run(**params):
        calls.append("open_run")
        return {}

    def close_run(ticket):
        calls.append("close_run")
        closed.set()
        return {}

    methods = {"describe": describe, "open_run": open_run, "close_run": close_run}
    server = Server("127.0.0.1", 0, KEY, methods)
    server.start()
    opening = Opening("run", 1, {}, 60.0, "python", "", True, 1, True)
    notices = []
    url = f"http://127.0.0.1:{server.address[1]}"
    link = Link(0, url, lambda url: Client(url, KEY), opening, SOON, notices.append, admit)
    link.start()
    assert asked.wait(SOON)
    link.close()
    server.close()
    assert calls == ["close_run", "open_run", "close_run"]
    assert notices == []
