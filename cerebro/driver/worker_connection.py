"""The connection to one worker: a listener that waits for events, a sender that gives orders.

A link keeps trying for as long as the run goes on. Whatever fails is tried again within the
heartbeat time; a worker that gives no sign of life for that long is lost, and joins again as a
new incarnation when it answers. Orders carry an attempt's number and are taken once, so that
sending one again is harmless.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from cerebro.errors import (
    CerebroError,
    RpcFault,
    RpcTimeout,
    RunNotHeld,
    Superseded,
    WorkerBusy,
    WorkerLeaving,
)
from cerebro.protocol.messages import Happened, Method, Ticket
from cerebro.rpc import Client

logger = logging.getLogger(__name__)

REJOIN_SECONDS = 1.0
REJOIN_SECONDS_MAX = 15.0
REJECTED_SECONDS = 10.0
REJECTED_SECONDS_MAX = 300.0
"""A worker that answers and cannot work is tried again after so long, doubling."""
OPEN_SECONDS = 30.0
CLOSE_SECONDS = 1.5
CUT_SECONDS = 0.3
"""How long a thread is waited for whose call was cut short, where the worker does not answer."""


STOPPED = "it was stopped"
DRAINED = "it was drained"
"""How a worker ends that says so: at once, or when it has ended what it had begun."""

LEARNT_BY_LISTENING = (RunNotHeld, Superseded, WorkerLeaving)

ORDERS_AT_ONCE = 16
"""Orders that one call carries at most: those that came while the one before was under way."""

Order: TypeAlias = "tuple[str, dict[str, Any]]"
"""A method, and its parameters but the ticket."""

Orders: TypeAlias = "queue.SimpleQueue[Order | None]"
"""Orders that wait to be sent to one incarnation of a worker; None is the last."""


class Signal:
    """What a link itself says of its worker, beside the events of `Happened`."""

    JOINED = "joined"
    LOST = "lost"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    LISTED = "listed"
    WAKE = "wake"


@dataclass(frozen=True)
class Notice:
    """Something about one worker, for the driver's queue."""

    worker: int
    kind: str
    content: dict[str, Any]
    incarnation: int = 0


@dataclass(frozen=True)
class Opening:
    """How a run is opened on a worker: all of `open_run` but the ticket."""

    run: str
    generation: int
    driver: dict[str, Any]
    lease: float
    backend: str
    functions: str
    deterministic: bool
    seed: int
    keep_data: bool
    unit_timeout: float | None = None

    def parameters(self, incarnation: int) -> dict[str, Any]:
        """The parameters of `open_run`."""
        ticket = Ticket(self.run, self.generation, incarnation)
        return {
            "ticket": vars(ticket),
            "driver": self.driver,
            "lease": self.lease,
            "backend": self.backend,
            "functions": self.functions,
            "deterministic": self.deterministic,
            "seed": self.seed,
            "keep_data": self.keep_data,
            "unit_timeout": self.unit_timeout,
        }


Admit: TypeAlias = "Callable[[Client, str, dict[str, Any]], None]"
"""Sees whether the worker behind a client, at a URL, with what it says of itself, can take part."""


class Link:
    """One worker of a run. `notify` is called with each `Notice`, on this link's threads.

    `admit` raises a `CerebroError` for a worker that cannot take part; it is tried again.
    """

    def __init__(
        self,
        worker: int,
        url: str,
        make_client: Callable[[str], Client],
        opening: Opening,
        heartbeat: float,
        notify: Callable[[Notice], None],
        admit: Admit,
    ) -> None:
        self.worker = worker
        self.url = url
        self._make_client = make_client
        self._opening = opening
        self._heartbeat = heartbeat
        self._notify = notify
        self._admit = admit
        self._incarnation = 0
        self._closing = threading.Event()
        self._opened: tuple[int, Orders] | None = None
        self._orders: Orders | None = None
        self._refusal = ""
        self._connection: Client | None = None
        self._listening: Client | None = None
        self._listener = threading.Thread(target=self._serve, name=f"link {url}", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._listener.start()

    def joined(self, incarnation: int) -> None:
        """The driver has heard that this incarnation joined: orders from now on are for it.

        An order that the driver gives before it has heard of a loss must not reach the next one.
        """
        opened = self._opened
        self._orders = opened[1] if opened is not None and opened[0] == incarnation else None

    def order(self, method: str, **params: Any) -> None:
        """Send an order, in turn with the others; lost together with the worker."""
        if self._orders is not None:
            self._orders.put((method, params))

    def reject(self, reason: str) -> None:
        """Give this worker up, though it answers: it cannot work. It is tried again later."""
        self._refusal = reason
        client = self._listening
        if client is not None:
            client.close()

    def close(self) -> None:
        """Let the worker go, and end the threads, whatever they wait for.

        That takes a moment; a worker that is cut off gives the run up by itself. Only a thread that
        is about to connect to a host that does not answer may be left, until it finds that out.
        """
        expires = time.monotonic() + CLOSE_SECONDS
        self._closing.set()
        patience = CUT_SECONDS
        try:
            client = self._make_client(self.url)
            try:
                self._let_go(client)
                patience = OPEN_SECONDS  # nothing holds a thread but a busy machine
            finally:
                client.close()
        except CerebroError as error:
            logger.debug("%s: %s", self.url, error)
        if self._listener.ident is None:
            return
        self._listener.join(max(0.0, expires - time.monotonic()))
        connection = self._connection
        if self._listener.is_alive() and connection is not None:
            connection.close()
            self._listener.join(patience)

    def _let_go(self, client: Client) -> None:
        client.call(Method.CLOSE_RUN, CLOSE_SECONDS, ticket=self._ticket())

    def _ticket(self) -> dict[str, Any]:
        return vars(Ticket(self._opening.run, self._opening.generation, self._incarnation))

    def _say(self, kind: str, **content: Any) -> None:
        if not self._closing.is_set():
            self._notify(Notice(self.worker, kind, content, self._incarnation))

    # --- joining and listening -------------------------------------------------------------------

    def _serve(self) -> None:
        wait, rejected = REJOIN_SECONDS, REJECTED_SECONDS
        said = ""
        while not self._closing.is_set():
            self._incarnation += 1
            client = self._connection = self._make_client(self.url)
            if self._closing.is_set():  # `close` may have cut off the one before
                return
            try:
                facts = client.call(Method.DESCRIBE, self._heartbeat)
                self._admit(client, self.url, facts)
                client.call(
                    Method.OPEN_RUN, OPEN_SECONDS, **self._opening.parameters(self._incarnation)
                )
                if self._closing.is_set():  # `close` may have let go what was not open yet
                    self._let_go(client)
            except CerebroError as error:
                client.close()
                if is_fault(error, Superseded):
                    self._say(Signal.SUPERSEDED, reason=str(error))
                    return
                if str(error) != said:
                    said = str(error)
                    kind = WorkerBusy if is_fault(error, WorkerBusy) else type(error)
                    self._say(Signal.REFUSED, reason=said, error=kind.__name__)
                self._closing.wait(wait)
                wait = min(2 * wait, REJOIN_SECONDS_MAX)
                continue
            wait, said = REJOIN_SECONDS, ""
            orders: Orders = queue.SimpleQueue()
            gone = threading.Event()
            self._opened = self._incarnation, orders
            sending = self._make_client(self.url)
            sender = threading.Thread(
                target=self._send,
                args=(sending, orders, gone),
                name=f"orders {self.url}",
                daemon=True,
            )
            self._refusal = ""
            self._listening = client
            sender.start()
            self._say(Signal.JOINED, facts=facts)
            reason = self._listen(client)
            self._listening = None
            gone.set()
            orders.put(None)
            sending.close()
            if reason is not None:
                self._say(Signal.LOST, reason=reason)
            sender.join()
            if reason == DRAINED:  # it waits for that
                with contextlib.suppress(CerebroError):
                    self._let_go(client)
            client.close()
            if reason is not None and reason == self._refusal:
                self._closing.wait(rejected)
                rejected = min(2 * rejected, REJECTED_SECONDS_MAX)

    def _listen(self, client: Client) -> str | None:
        """Fetch events until the worker is lost; returns why, None when closing."""
        after = 0
        heard = time.monotonic()
        trouble = ""
        failed = False
        while not self._closing.is_set():
            left = heard + self._heartbeat - time.monotonic()
            if left <= 0:
                silence = f"no sign of life for {self._heartbeat:g} s"
                return f"{silence}: {trouble}" if trouble else silence
            wait = min(self._heartbeat / 3, left)
            try:
                answer = client.call(
                    Method.EVENTS,
                    min(2 * wait, left) if failed else 2 * wait,
                    ticket=self._ticket(),
                    after=after,
                    wait=0.0 if failed else wait,
                )
            except RpcFault as error:
                if is_fault(error, Superseded):
                    self._say(Signal.SUPERSEDED, reason=str(error))
                    return None
                return "it was restarted" if is_fault(error, RunNotHeld) else str(error)
            except CerebroError as error:
                if self._refusal:
                    return self._refusal
                failed = True
                trouble = "" if isinstance(error, RpcTimeout) else str(error)
                self._closing.wait(min(0.2, self._heartbeat / 10))
                continue
            heard, trouble, failed = time.monotonic(), "", False
            for event in answer["events"]:
                after = event["number"]
                if event["kind"] == Happened.LEAVING:
                    return DRAINED if event.get("drained") else STOPPED
                self._say(**event)
        return None

    # --- orders ----------------------------------------------------------------------------------

    def _send(self, client: Client, orders: Orders, gone: threading.Event) -> None:
        """Send orders until the worker is lost; the listener finds out when that is.

        A worker that refuses an order for a reason that the listener does not learn by itself is
        as good as lost.
        """
        ticket = self._ticket()
        while not gone.is_set() and (order := orders.get()) is not None:
            method, params = _together([order, *_waiting(orders)])
            while not gone.is_set():
                try:
                    client.call(method, self._heartbeat, ticket=ticket, **params)
                    break
                except RpcFault as error:
                    logger.debug("%s: %s: %s", self.url, method, error)
                    if not any(is_fault(error, kind) for kind in LEARNT_BY_LISTENING):
                        self.reject(f"it refused an order ({method}): {error}")
                    break
                except CerebroError as error:
                    logger.debug("%s: %s: %s", self.url, method, error)
                    gone.wait(min(0.2, self._heartbeat / 10))
        client.close()


def _waiting(orders: Orders) -> list[Order]:
    """What waits behind an order that is about to be sent, and goes with it."""
    found: list[Order] = []
    with contextlib.suppress(queue.Empty):
        while len(found) < ORDERS_AT_ONCE - 1:
            order = orders.get_nowait()
            if order is None:  # the worker is gone, and the sender knows
                break
            found.append(order)
    return found


def _together(orders: list[Order]) -> Order:
    """One call for all of them."""
    if len(orders) == 1:
        return orders[0]
    return Method.ORDERS, {"orders": [{"method": m, "params": params} for m, params in orders]}


def is_fault(error: CerebroError, kind: type[CerebroError]) -> bool:
    """Whether a remote method raised this error of ours."""
    return isinstance(error, RpcFault) and error.kind == kind.__name__
