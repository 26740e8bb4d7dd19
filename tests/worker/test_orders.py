"""Several orders in one call: what waits goes together, in turn, and comes but once."""

from __future__ import annotations

import queue
import threading

from patience import SOON
from worker_side import DRIVER, order, run_options

from cerebro.driver.worker_connection import ORDERS_AT_ONCE, Link, Opening
from cerebro.protocol.messages import ExecutorSetup, Method, Ticket
from cerebro.worker import session


def call(method, **params):
    """An order as it stands in a call of several."""
    return {"method": method, "params": params}


def test_orders_are_carried_out_in_turn(side):
    side.open()
    side.call("orders", orders=[call("start", order=order(n)) for n in (1, 2, 3)])
    side.until("ran", attempt=3)
    assert [e["attempt"] for e in side.seen if e["kind"] == "ran"] == [1, 2, 3]


def test_orders_that_are_sent_again_change_nothing(side, tmp_path):
    side.open()
    side.start(1, writes=tmp_path / "v1", path="a")
    first = side.until("committed", attempt=1)["checkpoint"]
    staged = order(2, reads=first, writes=tmp_path / "v2", path="b")
    batch = [call("stage", order=staged), call("start", order=staged), call("forget", models=[0])]
    for _ in range(3):
        side.call("orders", orders=batch)
    side.until("committed", attempt=2)
    assert side.settle() == ["begun", "ran", "committed", "ran", "committed"]


class PlayedExecutor:
    """Notes what is sent to it."""

    def __init__(self, setup, functions, environment, on_event, on_exit):
        self.sent = []

    def send(self, method, **params):
        self.sent.append((method.value, params))


def test_an_attempt_that_has_been_started_is_not_prepared_again(monkeypatch):
    """Nobody would take what was read for it, and it would lie in memory until the run's end."""
    monkeypatch.setattr(session, "ExecutorProcess", PlayedExecutor)
    setup = ExecutorSetup(run_options(), 1, None, None, 20)
    run = session.WorkerSession(Ticket("r", 1, 1), DRIVER, setup, {}, b"")
    orders = [order(number) for number in (1, 2)]
    run.stage(orders[0])
    run.start(orders[0])
    run.stage(orders[0])
    run.stage(orders[1])
    run.forget([7, 8])
    assert run._executor.sent == [
        ("stage", {"order": orders[0]}),
        ("start", {"order": orders[0]}),
        ("stage", {"order": orders[1]}),
        ("forget", {"models": [7, 8]}),
    ]


class PlayedClient:
    """A worker that does not answer its first order until it is told to."""

    boot_id = "one"

    def __init__(self, calls, answers, let_go):
        self._calls = calls
        self._answers = answers
        self._let_go = let_go

    def call(self, method, seconds, **params):
        if method == "events":
            self._let_go.wait(SOON)
            return {"events": []}
        if method == "close_run":
            self._let_go.set()
        elif method not in ("describe", "open_run"):
            self._calls.put((method, params))
            assert self._answers.wait(SOON)
        return {}

    def close(self):
        pass


def test_what_comes_while_an_order_is_under_way_goes_in_one_call():
    calls, answers, let_go = queue.SimpleQueue(), threading.Event(), threading.Event()
    notices = queue.SimpleQueue()
    opening = Opening("run", 1, DRIVER, "", run_options())
    link = Link(
        0,
        "http://w",
        lambda _: PlayedClient(calls, answers, let_go),
        opening,
        SOON,
        notices.put,
        lambda client, url, facts: None,
    )
    link.start()
    link.joined(notices.get(timeout=SOON).message.incarnation)
    link.send(Method.START, order={"attempt": 0})
    alone = calls.get(timeout=SOON)
    for number in range(1, ORDERS_AT_ONCE + 2):
        link.send(Method.UNSTAGE, attempt=number)
    answers.set()
    together, last = (calls.get(timeout=SOON) for _ in range(2))
    link.close()
    assert (alone[0], alone[1]["order"]) == ("start", {"attempt": 0})
    assert together[0] == "orders"
    assert together[1]["orders"] == [
        call("unstage", attempt=number) for number in range(1, ORDERS_AT_ONCE + 1)
    ]
    assert (last[0], last[1]["attempt"]) == ("unstage", ORDERS_AT_ONCE + 1)
