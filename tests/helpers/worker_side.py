"""A driver's side of one worker, by hand: calls, orders, and the events that come back."""

from __future__ import annotations

import os
import select
import time
from dataclasses import replace
from pathlib import Path

from patience import SOON

from cerebro import shipping
from cerebro.protocol.messages import DriverInfo, RunOptions
from cerebro.rpc import encode_bytes

DRIVER = DriverInfo(host="driverhost", pid=4321, run_dir="/runs/one")


def gone(pid, seconds=SOON):
    """Whether a process, which need not be a child of ours, ends within some seconds."""
    if not hasattr(os, "pidfd_open"):
        return _gone_by_asking(pid, seconds)
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _gone_by_asking(pid, seconds):
    expires = time.monotonic() + seconds
    while time.monotonic() < expires:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def appears(path, seconds=SOON):
    """The content of a file that another process writes; '' if it does not within some seconds."""
    expires = time.monotonic() + seconds
    while time.monotonic() < expires:
        if Path(path).exists() and (content := Path(path).read_text()):
            return content
        time.sleep(0.02)
    return ""


def functions(input_fn=None, model_fn=None, train_fn=None):
    """The three functions of a run; what is not given is harmless."""

    def default_input_fn(path):
        return path

    def default_model_fn(data, config):
        return []

    def default_train_fn(model, data, train=True):
        model.append(data)
        return 1.0, 0.5

    return {
        "input_fn": input_fn or default_input_fn,
        "model_fn": model_fn or default_model_fn,
        "train_fn": train_fn or default_train_fn,
    }


def order(attempt, *, writes=None, reads=None, **fields):
    """An order as it travels; a validation unit unless it `writes`."""
    return {
        "attempt": attempt,
        "model": 0,
        "epoch": 0,
        "split": "valid" if writes is None else "train",
        "partition": 0,
        "path": "a partition",
        "config": {},
        "seed": 1,
        "reads": reads,
        "writes": None if writes is None else str(writes),
        **fields,
    }


def run_options(**fields):
    """The options of a run; what is not given is harmless."""
    options = {"backend": "python", "deterministic": True, "seed": 1, "keep_data": True}
    return RunOptions(**{**options, "unit_timeout": None, "lease": 60.0, **fields})


class Side:
    """One run's driver, as far as one worker meets it."""

    def __init__(self, client, *, run, generation=1, incarnation=1, run_dir=DRIVER.run_dir):
        self.client = client
        self.driver = replace(DRIVER, run_dir=str(run_dir))
        self.ticket = {"run": run, "generation": generation, "incarnation": incarnation}
        self.after = 0
        self.seen = []

    def call(self, method, **params):
        return self.client.call(method, SOON, ticket=self.ticket, **params)

    def open(self, user_functions=None, *, blob=None, **options):
        """`open_run`, with functions or with what was packed of them."""
        blob = blob or shipping.pack(user_functions or functions())
        return self.call(
            "open_run",
            driver=self.driver.to_json(),
            options=run_options(**options).to_json(),
            functions=encode_bytes(blob),
        )

    def start(self, attempt, **fields):
        self.call("start", order=order(attempt, **fields))

    def fetch(self, wait):
        """The events after those seen, waiting up to `wait` seconds for one."""
        events = self.call("events", after=self.after, wait=wait)["events"]
        if events:
            self.after = events[-1]["number"]
        self.seen.extend(events)
        return events

    def until(self, kind, **fields):
        """The next event of a kind and with these fields; those before it are in `seen`."""
        expires = time.monotonic() + SOON
        checked = 0
        while time.monotonic() < expires:
            for event in self.seen[checked:]:
                if event["kind"] == kind and all(event.get(k) == v for k, v in fields.items()):
                    return event
            checked = len(self.seen)
            self.fetch(min(5.0, max(0.0, expires - time.monotonic())))
        raise AssertionError(f"no {kind} {fields} in {self.seen}")

    def settle(self):
        """The kinds of all events so far, in order, after a validation unit has gone through."""
        marker = 10_000 + self.after
        self.start(marker)
        self.until("ran", attempt=marker)
        return [e["kind"] for e in self.seen if e.get("attempt") != marker]

    def executor(self):
        """The process id of the newest executor."""
        self.until("begun")
        return [e["pid"] for e in self.seen if e["kind"] == "begun"][-1]
