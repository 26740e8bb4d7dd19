"""What the driver tells people while a run is in progress, and the thread that shows it."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from cerebro.formatting import duration
from cerebro.journal.ledger import Ledger
from cerebro.journal.records import CommittedRecord, Record
from cerebro.progress.announcements import Announcements, ProgressMessage
from cerebro.progress.disk_usage import DiskMonitor, DiskUse
from cerebro.progress.plain import Display, Plain, Silent
from cerebro.progress.tally import Tally
from cerebro.progress.view import View

INTERVAL = 0.4
"""Seconds between two drawings at least."""

SHARE = 100
"""And so many times the CPU time that the last one took, so that drawing stays below 1 %."""

TICK = 1.0
"""A view is drawn again after so long if nothing happens: its seconds continue."""

LONG_SECONDS = 5.0
"""What the driver is at for longer than this is said in a line."""

CLOSE_SECONDS = 2.0


class Reporter:
    """Tells what a person waiting wants to know: epochs, decisions, troubles, waits.

    Inside its `with` block a thread draws, says what takes long, and has versions measured.
    """

    def __init__(self, display: Display | None = None) -> None:
        self._display = display or Plain()
        self._announcements = Announcements()
        self._told: set[str] = set()
        self._open: dict[str, str] = {}
        self._doing: dict[str, float] = {}
        self._waits: dict[str, str] = {}
        self._tally: Tally | None = None
        self._disk_monitor: DiskMonitor | None = None
        self._disk = DiskUse()
        self._models: Mapping[int, object] = {}
        self._clock: Callable[[], float] = time.monotonic
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._began = time.monotonic()

    # --- lines -----------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Show a line that stays, with the day and the time; further lines are indented."""
        text = text.replace("\n", "\n    ")
        self._display.line(f"[{time.strftime('%a %H:%M:%S')}] {text}")
        if self._display.has_view:
            self._changed.set()

    def say_once(self, text: str, key: str = "") -> None:
        """Say a line unless one with its key (the text itself, if empty) was said."""
        if (key or text) not in self._told:
            self._told.add(key or text)
            self.say(text)

    def reset_waits(self) -> None:
        """Clear pending waits, so that a repeated wait is announced again."""
        self._told.clear()
        self._wait_for({})

    # --- waits -----------------------------------------------------------------------------------

    def open(self, key: str, text: str) -> None:
        """Say a line about a trouble that lasts, unless it is open already."""
        if key not in self._open:
            self._open[key] = text
            self._wait_for(self._waits)
            self.say(text)

    def is_open(self, key: str) -> bool:
        """Whether a trouble is open."""
        return key in self._open

    def close(self, key: str, text: str = "") -> None:
        """End a trouble, and say a line if it was open."""
        if self._open.pop(key, None) is not None:
            self._wait_for(self._waits)
            if text:
                self.say(text)

    def wait_for(self, waits: Mapping[str, str]) -> None:
        """Set what is being waited for now, and why, by key; say it once where no view shows it."""
        if not self._display.has_view:
            for key, text in waits.items():
                self.say_once(text, key)
        self._wait_for(waits)

    def wait_over(self, key: str) -> None:
        """End one of these waits."""
        if key in self._waits:
            self._wait_for({key: text for key, text in self._waits.items() if key != key})

    def _wait_for(self, waits: Mapping[str, str]) -> None:
        self._waits = dict(waits)
        self._update(lambda tally: tally.wait_for({**self._open, **self._waits}))

    @contextlib.contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Show, during the `with` block, what the driver itself is doing: it may take long."""
        self._doing = {**self._doing, text: time.monotonic()}
        self._changed.set()
        try:
            yield
        finally:
            self._doing = {key: t for key, t in self._doing.items() if key != text}
            self._changed.set()

    # --- what happens ----------------------------------------------------------------------------

    def follow(
        self,
        ledger: Ledger,
        run_dir: Path,
        clock: Callable[[], float],
        *,
        absent: Iterable[int] = (),
        together: bool = True,
    ) -> None:
        """Follow a run that starts or resumes from what its ledger says (see `Tally`).

        `clock` gives the driver's seconds.
        """
        ledger.listeners.append(self)
        if isinstance(self._display, Silent):
            return
        self._clock = clock
        self._models = ledger.models
        self._disk = DiskUse(sum(len(model.checkpoints) for model in ledger.models.values()))
        if self._display.has_view:
            tally = Tally(run_dir.name, ledger, clock(), absent=absent, together=together)
            with self._lock:
                self._tally = tally
        self._disk_monitor = DiskMonitor(run_dir, self._measured)

    def __call__(self, record: Record, ledger: Ledger) -> None:
        """Take in a record that has been added to the ledger."""
        for line in self._announcements(record, ledger):
            self._tell(line)
        self._update(lambda tally: tally.add(record, ledger))
        if self._disk_monitor is None or not isinstance(record, CommittedRecord):
            return
        if record.checkpoint is not None:
            model = ledger.attempts[record.attempt].unit.model
            self._disk_monitor.measure(model, record.checkpoint)

    def _tell(self, line: ProgressMessage) -> None:
        if line.in_view and self._display.has_view:
            return
        if line.key:
            self.say_once(line.text, line.key)
        else:
            self.say(line.text)

    def loading(self, worker: int, partitions: int) -> None:
        """Take in that a worker is told to load so many partitions."""
        self._update(lambda tally: tally.loading(worker, partitions))

    def loaded(self, worker: int) -> None:
        """Take in that a worker has loaded a partition."""
        self._update(lambda tally: tally.loaded(worker))

    def ran(self, attempt: int) -> None:
        """Take in that an attempt's `train_fn` has returned."""
        self._update(lambda tally: tally.ran(attempt, self._clock()))

    def _update(self, update: Callable[[Tally], None]) -> None:
        """Have the tally take something in, while nobody looks at it."""
        if self._tally is not None:
            with self._lock:
                update(self._tally)
            self._changed.set()

    def _measured(self, model: int | None, count: int, free: int | None) -> None:
        """Take in what the monitor has found, on its thread."""
        first = not self._disk.sizes
        models = len(self._models)
        self._disk.measured(model, count, free)
        if first and (self._disk.is_short(models) or not self._display.has_view):
            self.say(f"disk: {self._disk.text(models)}")
        if self._display.has_view:
            self._changed.set()

    # --- the thread ------------------------------------------------------------------------------

    def __enter__(self) -> Reporter:
        self._display.start()
        if not isinstance(self._display, Silent):
            # A notebook knows by the context which cell an output belongs to.
            context = contextvars.copy_context()
            self._thread = threading.Thread(
                target=context.run, args=(self._serve,), name="progress", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._disk_monitor is not None:
            self._disk_monitor.close()
        self._closing.set()
        self._changed.set()
        if not isinstance(self._display, Silent):
            self._thread.join(CLOSE_SECONDS)
        self._update(lambda tally: tally.end(_outcome(kind)))
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._display.end(None if self._tally is None else self._view())

    def _serve(self) -> None:
        said: dict[str, float] = {}
        while not self._closing.is_set():
            self._changed.wait(self._patience(said))
            self._changed.clear()
            for text, began in self._doing.items():
                took = time.monotonic() - began
                if took >= LONG_SECONDS and said.get(text) != began:
                    said[text] = began
                    if not self._display.has_view:
                        self.say(f"still {text}, for {duration(took)} so far")
            if self._display.has_view and not self._closing.is_set():
                before = time.thread_time()
                try:
                    self._display.draw(self._view())
                except OSError:
                    return  # the terminal is gone
                self._closing.wait(max(INTERVAL, SHARE * (time.thread_time() - before)))

    def _patience(self, said: Mapping[str, float]) -> float | None:
        """Return the seconds until there is something to do, if nothing happens."""
        if self._display.has_view:
            return TICK
        due = [began + LONG_SECONDS for text, began in self._doing.items() if text not in said]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _view(self) -> View:
        now = time.monotonic()
        doing = tuple((text, now - began) for text, began in self._doing.items())
        if self._tally is None:
            return View(seconds=now - self._began, doing=doing)
        disk = self._disk.text(len(self._models))
        with self._lock:
            return self._tally.view(self._clock(), doing, disk)


def _outcome(kind: type[BaseException] | None) -> str:
    if kind is None:
        return "ended"
    return "interrupted" if issubclass(kind, KeyboardInterrupt) else f"stopped by {kind.__name__}"
