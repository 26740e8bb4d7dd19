"""Who is there: the workers of a run, as they join, load, are lost, and come back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cerebro.driver.worker_connection import DRAINED, Connected, Link, Notice
from cerebro.driver.workers_file import Listed
from cerebro.hopper import events as ev
from cerebro.journal.records import Header, Record, WorkerStateRecord
from cerebro.journal.worker_states import WorkerCondition, WorkerState
from cerebro.progress import Reporter
from cerebro.protocol.messages import LoadFailed, Method

CLOSES_AT_ONCE = 1024

MakeLink = Callable[[int, str, Callable[[Notice], None]], Link]
"""Makes the link to a worker, by its number and URL; the link tells its notices."""


class Workers:
    """The workers, with a link to each.

    What changes becomes events for the scheduler, and records, which are added to the list that
    is passed. The workers in `absent` did not answer at the start: nothing waits for them.
    `workers_file` is where people can add some.
    """

    def __init__(
        self,
        urls: dict[int, str],
        absent: set[int],
        make_link: MakeLink,
        notify: Callable[[Notice], None],
        header: Callable[[], Header],
        progress: Reporter,
        workers_file: str,
    ) -> None:
        self._urls = dict(urls)
        self._make_link = make_link
        self._notify = notify
        self._header = header
        self._progress = progress
        self._workers_file = workers_file
        self._links = {worker: make_link(worker, url, notify) for worker, url in urls.items()}
        self._listed: dict[int, Listed] = {}
        self._absent = set(absent)
        self._joining = set(urls) - absent
        self._joined: list[int] = []
        self._conditions = {worker: WorkerCondition() for worker in urls}
        self._loads: dict[int, int] = {}
        self._told_lost: dict[int, str] = {}
        self._devices: dict[int, list[str]] = {}

    def start(self) -> None:
        """Start to connect."""
        for link in self._links.values():
            link.start()

    def close(self) -> None:
        """Let all workers go."""
        with ThreadPoolExecutor(max(1, min(CLOSES_AT_ONCE, len(self._links)))) as pool:
            list(pool.map(lambda link: link.close(), self._links.values()))

    def url(self, worker: int) -> str:
        """A worker's URL."""
        return self._urls[worker]

    def send(self, worker: int, method: Method, **params: Any) -> None:
        """Send a worker an order."""
        self._links[worker].send(method, **params)

    def send_all(self, method: Method, **params: Any) -> None:
        """Send every worker an order."""
        for link in self._links.values():
            link.send(method, **params)

    def expect_load(self, worker: int) -> None:
        """Wait for a worker that is being told to load partitions."""
        self._loads[worker] = self._loads.get(worker, 0) + 1

    # --- what happens ----------------------------------------------------------------------------

    def add(self, listed: list[Listed], records: list[Record]) -> None:
        """Workers that stand in `workers.json` and are not known yet: start to connect to them."""
        known = set(self._urls.values())
        for entry in listed:
            if entry.url in known:
                continue
            known.add(entry.url)
            worker = max(self._urls) + 1
            self._urls[worker] = entry.url
            self._listed[worker] = entry
            self._links[worker] = self._make_link(worker, entry.url, self._notify)
            records.append(self._state(worker, WorkerState.ADDED))
            self._links[worker].start()

    def joined(self, worker: int, message: Connected, records: list[Record]) -> list[ev.Event]:
        """A worker answers, and holds the run."""
        self._progress.reset_waits()
        self._links[worker].joined(message.incarnation)
        records.append(self._state(worker, WorkerState.JOINED, facts=message.facts))
        self._joining.discard(worker)
        self._joined.append(worker)
        return self._join()

    def executor_started(self, worker: int, devices: list[str]) -> None:
        """A worker's executor is up."""
        self._devices[worker] = devices

    def ready(self, worker: int, records: list[Record]) -> list[ev.Event]:
        """A worker has loaded what it was told to load."""
        self._loads[worker] = self._loads.get(worker, 1) - 1
        if self._loads[worker] <= 0:
            del self._loads[worker]
            self._progress.wait_over(_loading(worker))
            devices = self._devices.get(worker, [])
            if not self._drains(worker):
                records.append(self._state(worker, WorkerState.READY, devices=devices))
        return [ev.WorkerReady(worker)]

    def unreadable(self, worker: int, message: LoadFailed, records: list[Record]) -> ev.Event:
        """A worker cannot read a partition."""
        reason = f"{message.path}: {message.message}"
        records.append(self._state(worker, WorkerState.UNREADABLE, reason=reason))
        return ev.PartitionUnreadable(worker, message.split, message.partition)

    def set_aside(self, worker: int, seconds: float) -> Record:
        """A worker gets no work for a while: the record of it."""
        reason = (
            f"its executor died in unit after unit; tried again in {seconds:.0f} s. If "
            "every worker does that, the cause is in the functions or the memory they need"
        )
        return self._state(worker, WorkerState.ASIDE, reason=reason)

    def reject(self, worker: int, reason: str) -> None:
        """Give up a worker that answers and cannot work; it is tried again later."""
        self._links[worker].reject(reason)

    def draining(self, worker: int, attempts: list[int], records: list[Record]) -> list[ev.Event]:
        """A worker ends these attempts, takes no more, and will then leave."""
        records.append(self._state(worker, WorkerState.DRAINING))
        self._loads.pop(worker, None)
        if worker in self._joined:
            self._joined.remove(worker)
        return [ev.WorkerDrains(worker, tuple(attempts))]

    def lost(self, worker: int, reason: str, records: list[Record]) -> list[ev.Event]:
        """A worker is gone or cut off, or has left in order."""
        state = WorkerState.LEFT if reason == DRAINED else WorkerState.LOST
        records.append(self._state(worker, state, reason=reason))
        self._loads.pop(worker, None)
        self._progress.wait_over(_loading(worker))
        self._told_lost[worker] = reason
        if worker in self._joined:
            self._joined.remove(worker)
            return []
        return [ev.WorkerLost(worker)]

    def refused(self, worker: int, reason: str) -> list[ev.Event]:
        """A worker does not join, and why."""
        if worker in self._absent:
            self._absent.discard(worker)
        elif reason not in self._told_lost.pop(worker, "") and not self._drains(worker):
            self._progress.say(f"worker {self._urls[worker]}: {reason}")
        self._joining.discard(worker)
        return self._join()

    def _join(self) -> list[ev.Event]:
        """At the start workers join together, so that shares are settled before they load."""
        if self._joining:
            return []
        joined, self._joined = self._joined, []
        return [self._join_event(worker) for worker in joined]

    def _join_event(self, worker: int) -> ev.WorkerJoined:
        listed = self._listed.get(worker)
        if listed is None:
            return ev.WorkerJoined(worker)
        return ev.WorkerJoined(worker, listed.train, listed.valid)

    def _drains(self, worker: int) -> bool:
        """Whether it takes no more, or has left after that."""
        return self._conditions[worker].state in (WorkerState.DRAINING, WorkerState.LEFT)

    def _state(self, worker: int, state: WorkerState, **fields: Any) -> Record:
        record = WorkerStateRecord(
            **self._header(), worker=worker, url=self._urls[worker], state=state, **fields
        )
        before = self._conditions.get(worker, WorkerCondition())
        self._conditions[worker] = before.after(state, record.t, record.reason or "")
        return record

    # --- what is waited for ----------------------------------------------------------------------

    def is_deserted(self) -> bool:
        """Whether no worker is there, or about to be."""
        present = any(condition.is_present for condition in self._conditions.values())
        return not self._joining and not present

    def waits(self) -> dict[str, str]:
        """Which workers are being waited for, and what for, by matter."""
        if self.is_deserted():
            text = (
                f"no worker is left: waiting for one of {', '.join(self._urls.values())}; "
                "start it again with cerebro-standalone-worker, or start another one and add its "
                f"URL to {self._workers_file}"
            )
            return {"no worker": text}
        waits = {}
        for worker in sorted(self._joining):
            waits[f"answer of {worker}"] = f"waiting for {self._urls[worker]} to answer"
        for worker in sorted(self._loads):
            text = f"waiting for {self._urls[worker]} to load its partitions"
            waits[_loading(worker)] = text
        return waits


def _loading(worker: int) -> str:
    """What a worker's loading is called among the waits."""
    return f"partitions of {worker}"
