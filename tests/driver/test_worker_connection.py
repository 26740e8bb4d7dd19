"""The driver's link to a worker: where the two cross each other, and what it is told."""

from __future__ import annotations

import queue
import threading

import pytest
from patience import SOON
from worker_side import DRIVER, run_options

from cerebro.driver.admission import check_one_worker
from cerebro.driver.worker_connection import Connected, Disconnected, JoinRefused, Link, Opening
from cerebro.errors import InputError, RpcFault, RpcUnreachable
from cerebro.protocol.messages import DrainStarted, LoadsDone, Method
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
    opening = Opening("run", 1, DRIVER, "", run_options())
    notices = []
    url = f"http://127.0.0.1:{server.address[1]}"
    link = Link(0, url, lambda url: Client(url, KEY), opening, SOON, notices.append, admit)
    link.start()
    assert asked.wait(SOON)
    link.close()
    server.close()
    assert calls == ["close_run", "open_run", "close_run"]
    assert notices == []


def test_a_worker_that_cannot_prove_itself_does_not_take_part_and_is_named():
    """As where the address of a lost worker is another machine's now."""
    server = Server("127.0.0.1", 0, b"the secret of somebody else's", {})
    server.start()
    opening = Opening("run", 1, DRIVER, "", run_options())
    notices = queue.SimpleQueue()
    url = f"http://127.0.0.1:{server.address[1]}"
    link = Link(0, url, lambda url: Client(url, KEY), opening, SOON, notices.put, admit)
    link.start()
    news = notices.get(timeout=SOON).message
    link.close()
    server.close()
    assert isinstance(news, JoinRefused)
    assert news.reason.startswith(f"{url} has not shown that it knows the secret: ")


@pytest.mark.parametrize("method", ["describe", "open_run", "events", "forget"])
@pytest.mark.parametrize("answers", [True, False])
def test_no_thread_outlives_a_link_whatever_it_waits_for(method, answers):
    """Whether the worker lets the run go, or answers nothing any more."""
    reached, over = threading.Event(), threading.Event()

    def answer(name, value):
        def serve(**params):
            if name == method:
                reached.set()
                over.wait(SOON)
            elif name == "events":
                over.wait(0.05)
            elif name == "close_run" and not answers:
                over.wait(SOON)
            return value

        return serve

    values = {"describe": {}, "open_run": {}, "events": {"events": []}, "forget": {}}
    methods = {name: answer(name, value) for name, value in {**values, "close_run": {}}.items()}
    server = Server("127.0.0.1", 0, KEY, methods)
    server.start()
    opening = Opening("run", 1, DRIVER, "", run_options())
    url = f"http://127.0.0.1:{server.address[1]}"
    joined = threading.Event()

    def notify(notice):
        if isinstance(notice.message, Connected):
            link.joined(notice.message.incarnation)
            link.send(Method.FORGET, models=[])
            joined.set()

    link = Link(0, url, lambda url: Client(url, KEY), opening, SOON, notify, admit)
    link.start()
    assert reached.wait(SOON)
    link.close()
    left = [thread.name for thread in threading.enumerate() if url in thread.name]
    over.set()
    server.close()
    assert left == []


class TellingClient:
    """A worker that answers the first call for events with `events`, and then says nothing."""

    boot_id = "one"

    def __init__(self, events, let_go):
        self.events = events
        self.let_go = let_go
        self.acknowledged = []

    def call(self, method, seconds, **params):
        if method == "events":
            self.acknowledged.append(params["after"])
            if len(self.acknowledged) == 1:
                return {"events": self.events}
            self.let_go.wait(SOON)
            return {"events": []}
        if method == "close_run":
            self.let_go.set()
        return {}

    def close(self):
        pass


def told(events, number):
    """The messages of the first notices about a worker that tells events; what it was asked."""
    client = TellingClient(events, threading.Event())
    notices = queue.SimpleQueue()
    opening = Opening("run", 1, DRIVER, "", run_options())
    link = Link(0, "http://w", lambda _: client, opening, SOON, notices.put, admit)
    link.start()
    messages = [notices.get(timeout=SOON).message for _ in range(number)]
    link.close()
    return messages, client.acknowledged


def test_events_arrive_as_messages_and_unknown_kinds_are_passed_over():
    events = [
        {"number": 1, "kind": "ready"},
        {"number": 2, "kind": "of_a_later_version"},
        {"number": 3, "kind": "draining", "attempts": [7], "later": "field"},
    ]
    messages, acknowledged = told(events, 3)
    assert messages == [Connected({}, 1), LoadsDone(), DrainStarted(attempts=[7])]
    assert acknowledged[:2] in ([0], [0, 3])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([{"number": 1, "kind": "draining", "attempts": "7"}], "attempts must be"),
        ([{"number": 1, "kind": "draining"}], "draining: attempts is missing"),
        ([{"kind": "ready"}], "is not a list of numbered events"),
        (7, "is not a list of numbered events"),
    ],
)
def test_a_worker_whose_events_cannot_be_read_is_lost_and_says_why(answer, why):
    (_, lost), _ = told(answer, 2)
    assert isinstance(lost, Disconnected)
    assert lost.reason.startswith("its events cannot be read: ")
    assert why in lost.reason


class Behind:
    """A client of a URL behind which there are several workers, whose names are boot ids."""

    url = "http://w"

    def __init__(self, *workers):
        self.workers = list(workers)
        self.boot_id = ""

    def call(self, method, seconds, **params):
        self.boot_id = self.workers.pop(0) if len(self.workers) > 1 else self.workers[0]
        return {"host": "node", "pid": int(self.boot_id)}


def test_two_workers_behind_one_url_are_told_from_one_that_was_restarted():
    one, other, again = Behind("1"), Behind("2"), Behind("1")
    restarted = Behind("1", "2")
    for client in (one, restarted):
        client.call("describe", 1.0)
    check_one_worker(one, again, 1.0)
    check_one_worker(restarted, other, 1.0)
    said = "two workers answer at http://w, process 1 on node and process 2 on node"
    with pytest.raises(InputError, match=said):
        check_one_worker(one, other, 1.0)


def test_an_order_that_another_worker_gets_gives_up_the_one_that_is_listened_to():
    """It is lost with the order, and joins again: nothing waits for what nobody does."""
    cut = threading.Event()

    class Listened(TellingClient):
        def close(self):
            cut.set()

        def call(self, method, seconds, **params):
            if method == "events":
                cut.wait(SOON)
                raise RpcUnreachable("this client is closed")
            return super().call(method, seconds, **params)

    class Sending(TellingClient):
        def call(self, method, seconds, **params):
            if method == "start":
                self.boot_id = "another"
                raise RpcFault("RunNotHeld", "this worker does not hold it")
            return super().call(method, seconds, **params)

    clients = [kind([], threading.Event()) for kind in (Listened, Sending)]
    joins = iter(clients)
    notices = queue.SimpleQueue()
    opening = Opening("run", 1, DRIVER, "", run_options())

    def make_client(url):
        return next(joins, None) or TellingClient([], cut)

    link = Link(0, "http://w", make_client, opening, SOON, notices.put, admit)
    link.start()
    assert notices.get(timeout=SOON).message == Connected({}, 1)
    link.joined(1)
    link.send(Method.START, order={})
    assert notices.get(timeout=SOON).message == Disconnected("it was restarted")
    assert notices.get(timeout=SOON).message == Connected({}, 2)
    link.close()
