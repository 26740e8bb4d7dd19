"""The driver's link to a worker, where the two cross each other."""

from __future__ import annotations

import threading

import pytest
from worker_side import PATIENCE

from cerebro.driver.worker_connection import Link, Opening, Signal
from cerebro.rpc import Client, Server

KEY = b"the key that both sides hold....."


def admit(client, url, facts):
    """Everybody may take part."""


def test_a_run_is_not_left_open_on_a_worker_that_joins_while_the_link_closes():
    calls = []
    asked, closed = threading.Event(), threading.Event()

    def describe():
        asked.set()
        closed.wait(PATIENCE)
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
    link = Link(0, url, lambda url: Client(url, KEY), opening, PATIENCE, notices.append, admit)
    link.start()
    assert asked.wait(PATIENCE)
    link.close()
    server.close()
    assert calls == ["close_run", "open_run", "close_run"]
    assert notices == []


@pytest.mark.parametrize("method", ["describe", "open_run", "events", "forget"])
@pytest.mark.parametrize("answers", [True, False])
def test_no_thread_outlives_a_link_whatever_it_waits_for(method, answers):
    """Whether the worker lets the run go, or answers nothing any more."""
    reached, over = threading.Event(), threading.Event()

    def answer(name, value):
        def serve(**params):
            if name == method:
                reached.set()
                over.wait(PATIENCE)
            elif name == "events":
                over.wait(0.05)
            elif name == "close_run" and not answers:
                over.wait(PATIENCE)
            return value

        return serve

    values = {"describe": {}, "open_run": {}, "events": {"events": []}, "forget": {}}
    methods = {name: answer(name, value) for name, value in {**values, "close_run": {}}.items()}
    server = Server("127.0.0.1", 0, KEY, methods)
    server.start()
    opening = Opening("run", 1, {}, 60.0, "python", "", True, 1, True)
    url = f"http://127.0.0.1:{server.address[1]}"
    joined = threading.Event()

    def notify(notice):
        if notice.kind == Signal.JOINED:
            link.joined(notice.incarnation)
            link.order("forget", models=[])
            joined.set()

    link = Link(0, url, lambda url: Client(url, KEY), opening, PATIENCE, notify, admit)
    link.start()
    assert reached.wait(PATIENCE)
    link.close()
    left = [thread.name for thread in threading.enumerate() if url in thread.name]
    over.set()
    server.close()
    assert left == []
