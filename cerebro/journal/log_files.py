"""The original's log files, in its line formats, made from the journal's records.

`logs/scheduler.log` has a line a launch and a completion, `logs/<model>.log` what a model's units
gave; what its functions print is there too, indented. `logs/workers.log`, which the original
did not have, has a line for each worker that came or went. All follow from the journal and can be
made again from it. What a terminal would obey is escaped; colours that functions print stay.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cerebro.errors import StorageError
from cerebro.formatting import first_line, one_line, printable_log
from cerebro.journal.ledger import AttemptRecord, Ledger
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import (
    CommittedRecord,
    DecisionRecord,
    ModelFailedRecord,
    PlanRecord,
    Record,
    StartedRecord,
    WorkerStateRecord,
)
from cerebro.journal.worker_states import WorkerState
from cerebro.storage import open_file, storage_errors, write_file

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.2
CLOSE_SECONDS = 1.5
"""How long the end of a run waits for lines that are not written yet."""


def mst_identifier(mst: dict[str, Any]) -> str:
    """`key:value-key:value`, the keys sorted, blanks as underscores."""
    return "-".join(f"{key}:{mst[key]}" for key in sorted(mst)).replace(" ", "_")


Append = Callable[[Path, str], None]


def append(path: Path, text: str) -> None:
    """Add text to a file. Storage that fails costs lines of a log, never a run."""
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with storage_errors("write", path), open_file(path, flags, inside=_run_of(path)) as file:
            file.write(_encoded(text))
    except StorageError as error:
        logger.warning("%s: lines are missing there", error)


def _run_of(log: Path) -> Path:
    """The folder of the run that a log belongs to."""
    return log.parent.parent


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


class Background:
    """Adds text to files in turn, on a thread of its own: storage that is slow holds nobody up.

    What comes for the same file within `GATHER_SECONDS` is added to it at once, by `write`.
    """

    def __init__(self, write: Append = append) -> None:
        self._write = write
        self._waiting: queue.SimpleQueue[tuple[Path, str] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="logs", daemon=True)
        self._thread.start()

    def __call__(self, path: Path, text: str) -> None:
        """Have text added to a file, soon."""
        self._waiting.put((path, text))

    def close(self) -> None:
        """Wait until everything is written, for a while: storage may not answer at all."""
        self._closing.set()
        self._waiting.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _serve(self) -> None:
        more = True
        while more:
            taken = [self._waiting.get()]
            self._closing.wait(GATHER_SECONDS)
            with contextlib.suppress(queue.Empty):
                while True:
                    taken.append(self._waiting.get_nowait())
            more = None not in taken
            texts: dict[Path, list[str]] = {}
            for path, text in filter(None, taken):
                texts.setdefault(path, []).append(text)
            for path, parts in texts.items():
                self._write(path, "".join(parts))


class LogWriter:
    """A listener of the ledger that writes the log lines of each record."""

    def __init__(self, paths: RunPaths, write: Append = append) -> None:
        self._paths = paths
        self._write = write

    def __call__(self, record: Record, ledger: Ledger) -> None:
        """Write the lines that belong to a record, if any."""
        if isinstance(record, PlanRecord) and record.base is not None:
            for model in ledger.models:
                self._begin(model, ledger)
        elif isinstance(record, DecisionRecord):
            for new in record.add:
                self._begin(new.model, ledger)
        elif isinstance(record, WorkerStateRecord) and record.state is WorkerState.READY:
            self._scheduler(
                f"TIME: {record.t:.0f}, EVENT: PRELOAD_COMPLETED, WORKER: {record.worker}"
            )
        elif isinstance(record, WorkerStateRecord):
            self._worker(record, ledger)
        elif isinstance(record, StartedRecord):
            self._unit(record, ledger, "LAUNCHED")
        elif isinstance(record, CommittedRecord):
            self._unit(record, ledger, "COMPLETED")
            self._result(record, ledger)
        elif isinstance(record, ModelFailedRecord):
            lines = [f"FAILED: {record.message}", record.traceback.rstrip()]
            lines += _indented(record.output)
            self._model(record.model, "\n".join(line for line in lines if line))

    def _worker(self, record: WorkerStateRecord, ledger: Ledger) -> None:
        began = ledger.generations[-1]
        moment = time.localtime(began.time + record.t - began.t)
        reason = f": {first_line(record.reason)}" if record.reason else ""
        line = f"worker {record.worker} ({record.url}) {record.state.value}{reason}"
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", moment)
        self._write(self._paths.workers_log(), f"{stamp} {one_line(line)}\n")

    def _scheduler(self, line: str) -> None:
        self._write(self._paths.scheduler_log(), one_line(line) + "\n")

    def _model(self, model: int, text: str) -> None:
        self._write(self._paths.model_log(model), printable_log(text) + "\n")

    def _begin(self, number: int, ledger: Ledger) -> None:
        model = ledger.models[number]
        lines = [
            f"Checkpoint Path: {self._paths.models / str(number)}",
            f"MST: {mst_identifier(model.mst)}",
        ]
        if model.parent is not None:
            lines.append(f"Init MST ID: {model.parent}")
            lines.append(f"Init MST: {mst_identifier(ledger.models[model.parent].mst)}")
        self._model(number, "\n".join(lines))

    def _unit(self, record: StartedRecord | CommittedRecord, ledger: Ledger, what: str) -> None:
        attempt: AttemptRecord = ledger.attempts[record.attempt]
        unit = attempt.unit
        self._scheduler(
            f"TIME: {record.t:.0f}, EVENT: {unit.split.name}_{what}, "
            f"ITERATION: {ledger.decisions}, WORKER: {attempt.worker}, MST: {unit.model}, "
            f"PARTITIONS: {unit.partition}, EPOCH: {unit.epoch}, "
            f"{mst_identifier(ledger.models[unit.model].mst)}"
        )

    def _result(self, record: CommittedRecord, ledger: Ledger) -> None:
        unit = ledger.attempts[record.attempt].unit
        phases = record.phases
        where = f"EPOCH: {unit.epoch}, PARTITION: {unit.partition}, "
        building = phases.get("build", 0.0) + phases.get("restore", 0.0)
        lines = [f"{where}Model Building and Session Initialization Time: {building:.0f}"]
        lines += _indented(record.output)
        lines.append(
            f"{where}{unit.split.name} LOSS: {record.loss:f}, ERROR: {record.error:f}, "
            f"Time: {record.run_seconds:f}"
        )
        if "save" in phases:
            lines.append(f"{where}Checkpoint Save Time: {phases['save']:.0f}")
        if record.finite is False:
            lines.append(f"{where}WARNING: weights are not finite")
        model = ledger.models[unit.model]
        if model.has_ended_epoch() and model.epochs[-1].flaw:
            lines.append(f"EPOCH: {unit.epoch}, WARNING: {model.epochs[-1].warning}")
        self._model(unit.model, "\n".join(lines))


def _indented(output: str) -> list[str]:
    return [f"    {line}" for line in output.splitlines()]


def rebuild(paths: RunPaths, records: list[Record]) -> None:
    """Make the logs again from the journal's records."""
    texts: dict[Path, list[str]] = {}
    ledger = Ledger()
    ledger.listeners.append(
        LogWriter(paths, lambda path, text: texts.setdefault(path, []).append(text))
    )
    for record in records:
        ledger.add(record)
    for path, parts in texts.items():
        write_file(path, _encoded("".join(parts)), inside=paths.root, durable=False)
