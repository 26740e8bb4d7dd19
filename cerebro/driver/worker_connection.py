"""The connection to one worker: a listener that waits for events, a sender of calls.

A link keeps trying for as long as the run lasts. Whatever fails is tried again within the
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
from typing import Any, NamedTuple, TypeAlias

from cerebro.driver.admission import check_one_worker
from cerebro.errors import (
    CerebroError,
    RpcFault,
    RpcTimeout,
    RunNotHeld,
    Superseded,
    WorkerLeaving,
)
from cerebro.formatting import shorten
from cerebro.protocol.bounds import Count
from cerebro.protocol.messages import (
    DriverInfo,
    Leaving,
    Method,
    RunOptions,
    Ticket,
    WorkerEvent,
    parse_event,
)
from cerebro.protocol.types import fits
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
"""How a worker ends that says so: at once, or when it has ended what it had started."""

RESTARTED = "it was restarted"

LEARNT_BY_LISTENING = (RunNotHeld, Superseded, WorkerLeaving)

ORDERS_AT_ONCE = 16
"""Orders that one call carries at most: those that came while the one before was under way."""


class Call(NamedTuple):
    """A call of a remote method, with its parameters but the ticket."""

    method: Method
    params: dict[str, Any]


Calls: TypeAlias = "queue.SimpleQueue[Call | None]"
"""Calls that wait to be sent to one incarnation of a worker; None is the last."""


@dataclass(frozen=True)
class Connected:
    """A worker answers, and holds the run.

    `facts` are what it says of itself. `incarnation` rises each time that it joins.
    """

    facts: dict[str, Any]
    incarnation: int


@dataclass(frozen=True)
class Disconnected:
    """A worker is gone or cut off, or has left in order, and why."""

    reason: str


@dataclass(frozen=True)
class JoinRefused:
    """A worker does not take part, and why: it does not answer, refuses, or does not fit."""

    reason: str


@dataclass(frozen=True)
class DriverReplaced:
    """Another driver has taken the run up."""

    reason: str


WorkerNews: TypeAlias = WorkerEvent | Connected | Disconnected | JoinRefused | DriverReplaced
"""What is said of a worker: what it tells, and what its link finds out."""


@dataclass(frozen=True)
class Notice:
    """Something about one worker, for the driver's queue."""

    worker: int
    message: WorkerNews


@dataclass(frozen=True)
class Opening:
    """How a run is opened on a worker: all of `open_run` but the incarnation."""

    run: str
    generation: int
    driver: DriverInfo
    functions: str
    options: RunOptions

    def parameters(self, incarnation: int) -> dict[str, Any]:
        """The parameters of `open_run`."""
        return {
            "ticket": Ticket(self.run, self.generation, incarnation).to_json(),
            "driver": self.driver.to_json(),
            "options": self.options.to_json(),
            "functions": self.functions,
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
        self._opened: tuple[int, Calls] | None = None
        self._calls: Calls | None = None
        self._refusal = ""
        self._is_another = False
        self._connection: Client | None = None
        self._listening: Client | None = None
        self._listener = threading.Thread(target=self._serve, name=f"link {url}", daemon=True)

    def start(self) -> None:
        """Start to connect."""
        self._listener.start()

    def joined(self, incarnation: int) -> None:
        """The driver has heard that this incarnation joined: orders from now on are for it.

        An order that the driver gives before it has heard of a loss must not reach the next one.
        """
        opened = self._opened
        self._calls = opened[1] if opened is not None and opened[0] == incarnation else None

    def send(self, method: Method, **params: Any) -> None:
        """Send an order, in turn with the others; lost together with the worker."""
        if self._calls is not None:
            self._calls.put(Call(method, params))

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
        client.call(Method.CLOSE_RUN.value, CLOSE_SECONDS, ticket=self._ticket())

    def _ticket(self) -> dict[str, Any]:
        opening = self._opening
        return Ticket(opening.run, opening.generation, self._incarnation).to_json()

    def _say(self, message: WorkerNews) -> None:
        if not self._closing.is_set():
            self._notify(Notice(self.worker, message))

    # --- joining and listening -------------------------------------------------------------------

    def _serve(self) -> None:
        wait, rejected = REJOIN_SECONDS, REJECTED_SECONDS
        said = ""
        while not self._closing.is_set():
            self._incarnation += 1
            client = self._connection = self._make_client(self.url)
            sending = self._make_client(self.url)
            if self._closing.is_set():  # `close` may have cut off the one before
                return
            try:
                facts = client.call(Method.DESCRIBE.value, self._heartbeat)
                self._admit(client, self.url, facts)
                params = self._opening.parameters(self._incarnation)
                client.call(Method.OPEN_RUN.value, OPEN_SECONDS, **params)
                check_one_worker(client, sending, self._heartbeat)
                if self._closing.is_set():  # `close` may have let go what was not open yet
                    self._let_go(client)
            except CerebroError as error:
                client.close()
                sending.close()
                if is_fault(error, Superseded):
                    self._say(DriverReplaced(str(error)))
                    return
                if str(error) != said:
                    said = str(error)
                    self._say(JoinRefused(said))
                self._closing.wait(wait)
                wait = min(2 * wait, REJOIN_SECONDS_MAX)
                continue
            wait, said = REJOIN_SECONDS, ""
            calls: Calls = queue.SimpleQueue()
            gone = threading.Event()
            self._opened = self._incarnation, calls
            sender = threading.Thread(
                target=self._send,
                args=(sending, calls, gone),
                name=f"orders {self.url}",
                daemon=True,
            )
            self._refusal, self._is_another = "", False
            self._listening = client
            sender.start()
            self._say(Connected(facts, self._incarnation))
            reason = self._listen(client)
            self._listening = None
            gone.set()
            calls.put(None)
            sending.close()
            if reason is not None:
                self._say(Disconnected(reason))
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
                    Method.EVENTS.value,
                    min(2 * wait, left) if failed else 2 * wait,
                    ticket=self._ticket(),
                    after=after,
                    wait=0.0 if failed else wait,
                )
            except RpcFault as error:
                if is_fault(error, Superseded):
                    self._say(DriverReplaced(str(error)))
                    return None
                return RESTARTED if is_fault(error, RunNotHeld) else str(error)
            except CerebroError as error:
                if self._refusal:
                    return self._refusal
                if self._is_another:
                    return RESTARTED
                failed = True
                trouble = "" if isinstance(error, RpcTimeout) else str(error)
                self._closing.wait(min(0.2, self._heartbeat / 10))
                continue
            heard, trouble, failed = time.monotonic(), "", False
            try:
                after, events = parse_events(answer, after)
            except ValueError as error:
                self._refusal = f"its events cannot be read: {error}"
                return self._refusal
            for event in events:
                if isinstance(event, Leaving):
                    return DRAINED if event.drained else STOPPED
                self._say(event)
        return None

    # --- orders ----------------------------------------------------------------------------------

    def _send(self, client: Client, calls: Calls, gone: threading.Event) -> None:
        """Send orders until the worker is lost; the listener finds out when that is.

        A worker that refuses an order for a reason that the listener does not learn by itself is
        as good as lost.
        """
        ticket = self._ticket()
        while not gone.is_set() and (call := calls.get()) is not None:
            call = _together([call, *_waiting(calls)])
            method = call.method.value
            while not gone.is_set():
                try:
                    client.call(method, self._heartbeat, ticket=ticket, **call.params)
                    break
                except RpcFault as error:
                    logger.debug("%s: %s: %s", self.url, method, error)
                    self._compare(client, error)
                    if not any(is_fault(error, kind) for kind in LEARNT_BY_LISTENING):
                        self.reject(f"it refused an order ({method}): {error}")
                    break
                except CerebroError as error:
                    logger.debug("%s: %s: %s", self.url, method, error)
                    gone.wait(min(0.2, self._heartbeat / 10))
        client.close()

    def _compare(self, sending: Client, error: RpcFault) -> None:
        """Give the worker up where the order has reached another one than is listened to.

        It was restarted, and the listener may not know yet; or there are two at this URL, which is
        found out when it joins again.
        """
        listening = self._listening
        if listening is None or not is_fault(error, RunNotHeld):
            return
        if sending.boot_id != listening.boot_id:
            self._is_another = True
            listening.close()


def _waiting(calls: Calls) -> list[Call]:
    """What waits behind an order that is about to be sent, and goes with it."""
    found: list[Call] = []
    with contextlib.suppress(queue.Empty):
        while len(found) < ORDERS_AT_ONCE - 1:
            call = calls.get_nowait()
            if call is None:  # the worker is gone, and the sender knows
                break
            found.append(call)
    return found


def _together(calls: list[Call]) -> Call:
    """One call for all of them."""
    if len(calls) == 1:
        return calls[0]
    orders = [{"method": call.method.value, "params": call.params} for call in calls]
    return Call(Method.ORDERS, {"orders": orders})


def parse_events(answer: Any, after: int) -> tuple[int, list[WorkerEvent]]:
    """The number of the last event in an answer, and those of a kind that is known here.

    `after` is the number of the last one before. Raises `ValueError` where it is not an answer.
    """
    events = []
    try:
        for content in answer["events"]:
            number = content["number"]
            if not fits(number, Count):
                raise ValueError(f"an event has the number {shorten(number)}")
            after = number
            event = parse_event(content)
            if event is not None:
                events.append(event)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{shorten(answer)} is not a list of numbered events") from error
    return after, events


def is_fault(error: CerebroError, kind: type[CerebroError]) -> bool:
    """Whether a remote method raised this error of ours."""
    return isinstance(error, RpcFault) and error.kind == kind.__name__
