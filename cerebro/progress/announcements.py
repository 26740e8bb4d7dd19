"""Which of the journal's records make a message, and its words."""

from __future__ import annotations

import math
from typing import NamedTuple

from cerebro.formatting import count, first_line, metric_name, without_colours
from cerebro.hopper.units import Failure
from cerebro.journal.best import best_so_far
from cerebro.journal.ledger import DISCARDED, LOST, EpochRecord, Ledger, ModelRecord
from cerebro.journal.records import (
    CommittedRecord,
    DecisionRecord,
    FailedRecord,
    ModelFailedRecord,
    Record,
    WorkerStateRecord,
)
from cerebro.journal.worker_states import WorkerState

MODELS_NAMED = 8
"""So many models are named one by one; of more, how many they are."""


class ProgressMessage(NamedTuple):
    """A line for people, said once for its `key` if it has one. `in_view`: a view shows it, too."""

    text: str
    key: str = ""
    in_view: bool = False


class Announcements:
    """Makes messages from records: epochs, decisions, workers that come and go, failures."""

    def __init__(self) -> None:
        self._ready: set[int] = set()
        self._measured: frozenset[str] = frozenset()

    def __call__(self, record: Record, ledger: Ledger) -> list[ProgressMessage]:
        """Return the messages that a record makes; most make none."""
        if isinstance(record, WorkerStateRecord):
            return self._worker(record)
        if isinstance(record, ModelFailedRecord):
            lines = [ProgressMessage(f"model {record.model} FAILED: {first_line(record.message)}")]
            if record.output:
                output = without_colours(record.output)
                lines.append(ProgressMessage("its last lines:\n" + output))
            return lines
        if isinstance(record, FailedRecord) and record.failure not in (LOST, DISCARDED):
            attempt = ledger.attempts[record.attempt]
            url = ledger.workers[attempt.worker].url
            message = first_line(record.message)
            text = f"{attempt.unit} is run again, on {url} it failed: {message}"
            storage = record.failure == Failure.STORAGE.value
            return [ProgressMessage(text, key=f"storage {url} {message}" if storage else "")]
        if isinstance(record, DecisionRecord):
            text = _epoch(record, ledger) if ledger.the_plan.search is None else _decision(record)
            return [ProgressMessage(text)] if text else []
        if isinstance(record, CommittedRecord):
            own = [] if ledger.the_plan.search is None else _own_epoch(record, ledger)
            return [*own, *self._flaws(record, ledger)]
        return []

    def _flaws(self, record: CommittedRecord, ledger: Ledger) -> list[ProgressMessage]:
        """Say what is wrong with the epoch that a model has ended: each model's flaw once.

        Where a metric is measured for the first time, epochs of other models may have one now.
        """
        model = ledger.models[ledger.attempts[record.attempt].unit.model]
        if not model.has_ended_epoch():
            return []
        models = [model] if ledger.measured == self._measured else list(ledger.models.values())
        self._measured = ledger.measured
        return [_flaw(m, m.epochs[-1], ledger) for m in models if m.epochs and m.epochs[-1].flaw]

    def _worker(self, record: WorkerStateRecord) -> list[ProgressMessage]:
        number, state = record.worker, record.state
        reason = f": {record.reason}" if record.reason else ""
        if state is WorkerState.READY:
            if number in self._ready:
                return []  # it has loaded what it took over
            self._ready.add(number)
        elif state is WorkerState.JOINED:
            self._ready.discard(number)
        text = f"worker {number} ({record.url}) {state.value}{reason}"
        return [ProgressMessage(text, in_view=state in (WorkerState.JOINED, WorkerState.READY))]


def _own_epoch(record: CommittedRecord, ledger: Ledger) -> list[ProgressMessage]:
    """Say that a model has ended an epoch, where that is at its own time."""
    unit = ledger.attempts[record.attempt].unit
    model = ledger.models[unit.model]
    if not model.has_ended_epoch():
        return []
    metric = ledger.the_plan.metric
    value = f"{metric_name(metric)} {model.epochs[-1].metric(metric):.4f}"
    text = f"epoch {model.epoch} ended for model {model.id}, {value}{_best(ledger)}"
    return [ProgressMessage(text)]


def _flaw(model: ModelRecord, epoch: EpochRecord, ledger: Ledger) -> ProgressMessage:
    """Say what is wrong with a model's epoch, and on which partition it was met first."""
    where = ""
    for split, units in (("train", model.train), ("valid", model.valid)):
        for attempt in sorted(units.values(), key=lambda attempt: attempt.number):
            unit = attempt.committed
            if attempt.unit.epoch != epoch.epoch or unit is None or where:
                continue
            if unit.finite is False or not (math.isfinite(unit.loss) and math.isfinite(unit.error)):
                path = ledger.the_plan.partitions(attempt.unit.split)[attempt.unit.partition]
                where = f" (first on {split} partition {attempt.unit.partition}, {path})"
    text = f"model {model.id}, epoch {epoch.epoch}: {epoch.flaw}{where}"
    if epoch.ruined:
        text += ": this epoch is never best, and no search continues from it"
    return ProgressMessage(text, key=f"flaw {model.id} {epoch.flaw}")


def _decision(record: DecisionRecord) -> str:
    """Say which models a search procedure stops and adds; nothing if models only continue."""
    ends: dict[str, list[int]] = {}
    for number, state in record.stop.items():
        ends.setdefault(state.value, []).append(number)
    parts = [f"{_models(numbers)} {state}" for state, numbers in ends.items()]
    new = [entry.model for entry in record.add if entry.parent is None]
    if new:
        parts.append(f"{_models(new)} begin{'s' * (len(new) == 1)}")
    parts += [
        f"model {entry.model} begins as a copy of model {entry.parent}"
        for entry in record.add
        if entry.parent is not None
    ]
    return "; ".join(parts)


def _models(numbers: list[int]) -> str:
    """`model 3`, `models 3, 5`, `models 3 to 9`, `12 models`."""
    numbers = sorted(numbers)
    if len(numbers) == 1:
        return f"model {numbers[0]}"
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"models {numbers[0]} to {numbers[-1]}"
    if len(numbers) <= MODELS_NAMED:
        return f"models {', '.join(map(str, numbers))}"
    return count(len(numbers), "model")


def _best(ledger: Ledger) -> str:
    found = best_so_far(ledger)
    if found is None:
        return ""
    model, epoch = found
    metric = ledger.the_plan.metric
    return f"; best so far model {model.id}, {metric_name(metric)} {epoch.metric(metric):.4f}"


def _epoch(record: DecisionRecord, ledger: Ledger) -> str:
    said = []
    if record.asked:  # not where configurations were appended
        ended = [m for m in map(ledger.models.__getitem__, record.asked) if m.epochs]
        epochs = sorted({m.epochs[-1].epoch for m in ended})
        text = f"epoch {'/'.join(map(str, epochs))} ended for {count(len(ended), 'model')}"
        said.append(text + _best(ledger))
    if record.stop:
        said.append(f"{len(record.stop)} stop")
    if record.add:
        said.append(f"{len(record.add)} new")
    return "; ".join(said)
