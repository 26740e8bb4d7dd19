"""What a run tells people while it goes on, a line at a time on standard error."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from cerebro.hopper.units import Failure
from cerebro.run.journal import Record
from cerebro.run.ledger import DISCARDED, Ledger
from cerebro.wording import count, first_line


class Progress:
    """Prints what a person waiting wants to know: epochs, decisions, troubles, waits."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._told: set[str] = set()
        self._open: set[str] = set()
        self._ready: set[int] = set()

    def say(self, text: str) -> None:
        """Print a line, with the day and the time."""
        stream = self._stream or sys.stderr
        print(f"[{time.strftime('%a %H:%M:%S')}] {text}", file=stream, flush=True)

    def say_once(self, text: str, matter: str = "") -> None:
        """Print a line unless something was said about the same matter (the text itself)."""
        if (matter or text) not in self._told:
            self._told.add(matter or text)
            self.say(text)

    def open(self, matter: str, text: str) -> None:
        """Print a line about something that lasts, unless it is open already."""
        if matter not in self._open:
            self._open.add(matter)
            self.say(text)

    def is_open(self, matter: str) -> bool:
        """Whether a matter was opened and is not over."""
        return matter in self._open

    def close(self, matter: str, text: str = "") -> None:
        """A matter is over: print a line, if it was open."""
        if matter in self._open:
            self._open.discard(matter)
            if text:
                self.say(text)

    def forget(self) -> None:
        """What was waited for has come: the same wait would be news again."""
        self._told.clear()

    def __call__(self, record: Record, ledger: Ledger) -> None:
        """A listener of the ledger."""
        kind = record["kind"]
        if kind == "worker":
            reason = f": {record['reason']}" if record.get("reason") else ""
            if record["state"] == "ready":
                if record["worker"] in self._ready:
                    return  # it has loaded what it took over
                self._ready.add(record["worker"])
            elif record["state"] == "joined":
                self._ready.discard(record["worker"])
            self.say(f"worker {record['worker']} ({record['url']}) {record['state']}{reason}")
        elif kind == "model_failed":
            self.say(f"model {record['model']} FAILED: {first_line(record['message'])}")
            if record.get("output"):
                self.say("its last lines:\n" + record["output"])
        elif kind == "failed" and record["failure"] not in ("lost", DISCARDED):
            attempt = ledger.attempts[record["attempt"]]
            url = ledger.workers[attempt.worker].url
            message = first_line(record["message"])
            text = f"{attempt.unit} is run again, on {url} it failed: {message}"
            if record["failure"] == Failure.STORAGE.value:
                self.say_once(text, matter=f"storage {url} {message}")
            else:
                self.say(text)
        elif kind == "decision":
            self._epoch(record, ledger)

    def _epoch(self, record: Record, ledger: Ledger) -> None:
        asked = [ledger.models[number] for number in record["asked"]]
        ended = [m for m in asked if m.epochs]
        best_epochs = ((m.id, m.best_epoch()) for m in ledger.models.values())
        best = min(((e.valid_error, n) for n, e in best_epochs if e is not None), default=None)
        epochs = sorted({m.epochs[-1].epoch for m in ended})
        text = f"epoch {'/'.join(map(str, epochs))} ended for {count(len(ended), 'model')}"
        if best is not None:
            text += f"; best so far model {best[1]}, valid error {best[0]:.4f}"
        if record["stop"]:
            text += f"; {len(record['stop'])} stop"
        if record["add"]:
            text += f"; {len(record['add'])} new"
        self.say(text)
