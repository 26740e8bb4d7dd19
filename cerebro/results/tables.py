"""The tables that users get, made from the ledger. Only here is pandas loaded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cerebro.journal.best import best_epoch
from cerebro.journal.ledger import METRICS, EpochRecord, Ledger, ModelRecord
from cerebro.journal.run_plan import hyperparameters

if TYPE_CHECKING:
    import pandas

PHASES = ("load", "build", "restore", "run", "fetch", "wait", "save")
"""What a worker does for a unit; it waits for the version of the unit before to be saved, and saves
beside its next unit."""


def config_columns(ledger: Ledger) -> list[str]:
    """List every hyperparameter that some model has, in order of first appearance."""
    names: dict[str, None] = {}
    for model in ledger.models.values():
        names.update(dict.fromkeys(hyperparameters(model.mst)))
    return list(names)


def metric_names(ledger: Ledger) -> list[str]:
    """List the metrics of every epoch, then each other one that some epoch has, as they appear.

    What the run compares models by is among them, also before an epoch has ended.
    """
    names = dict.fromkeys(METRICS)
    for model in ledger.models.values():
        for epoch in model.epochs:
            names.update(dict.fromkeys(epoch.metrics))
    return list(dict.fromkeys((*names, ledger.the_plan.metric)))


def means(ledger: Ledger) -> list[str]:
    """List the metrics that are means over partitions in some epoch, rather than exact."""
    epochs = [epoch for model in ledger.models.values() for epoch in model.epochs]
    return [
        name
        for name in metric_names(ledger)
        if any(name not in e.exact and not math.isnan(e.metric(name)) for e in epochs)
    ]


def _config(model: ModelRecord, names: list[str]) -> dict[str, Any]:
    config = hyperparameters(model.mst)
    return {f"config.{name}": config.get(name) for name in names}


def history(ledger: Ledger) -> pandas.DataFrame:
    """Make one row per (model, epoch); epochs count from 0.

    `flaw` says what is wrong with its numbers (empty: nothing), and `ruined` whether that keeps the
    epoch from ever being best.
    """
    names = config_columns(ledger)
    metrics = metric_names(ledger)
    columns = ["model_id", "epoch", *(f"config.{n}" for n in names), *metrics]
    columns += ["train_seconds", "valid_seconds", "inherited", "ruined", "flaw"]
    rows = [
        {
            "model_id": model.id,
            "epoch": epoch.epoch,
            **_config(model, names),
            **{metric: epoch.metric(metric) for metric in metrics},
            "train_seconds": epoch.train_seconds,
            "valid_seconds": epoch.valid_seconds,
            "inherited": epoch.inherited,
            "ruined": epoch.ruined,
            "flaw": epoch.flaw,
        }
        for model in ledger.models.values()
        for epoch in model.epochs
    ]
    return _frame(rows, columns)


def units(ledger: Ledger) -> pandas.DataFrame:
    """Make one row per attempt; phases in the worker's seconds, times in seconds of the run.

    A train unit has run at `ran`, when its worker was free again, and counts from `end` on, when
    its version was published. `finite` says whether its weights are.
    """
    columns = ["model_id", "epoch", "split", "partition", "worker", "attempt"]
    columns += ["start", "ran", "end"]
    columns += ["outcome", "loss", "error", "examples", *PHASES, "finite"]
    rows = []
    for attempt in ledger.attempts.values():
        result = attempt.committed
        phases = {} if result is None else result.phases
        rows.append(
            {
                "model_id": attempt.unit.model,
                "epoch": attempt.unit.epoch,
                "split": attempt.unit.split.value,
                "partition": attempt.unit.partition,
                "worker": attempt.worker,
                "attempt": attempt.number,
                "start": attempt.start,
                "ran": _number(None if result is None else result.ran),
                "end": math.nan if attempt.end is None else attempt.end,
                "outcome": attempt.outcome,
                "loss": _number(None if result is None else result.loss),
                "error": _number(None if result is None else result.error),
                "examples": _number(None if result is None else result.examples),
                **{phase: _number(phases.get(phase)) for phase in PHASES},
                "finite": None if result is None else result.finite,
            }
        )
    return _frame(rows, columns).astype({"finite": "boolean"})


def models(ledger: Ledger) -> pandas.DataFrame:
    """Make one row per model: its state, its last and best metrics, and where its weights are.

    `flaw` says what is wrong with the numbers of its last epoch.
    """
    names = config_columns(ledger)
    metrics = metric_names(ledger)
    best_columns = [f"best_{metric}" for metric in metrics]
    columns = ["model_id", *(f"config.{n}" for n in names), "state", "epochs", "best_epoch"]
    columns += [*metrics, *best_columns, "checkpoint", "best_checkpoint", "failure", "flaw"]
    rows = []
    for model in ledger.models.values():
        last = model.epochs[-1] if model.epochs else None
        best = best_epoch(model, ledger.the_plan)
        rows.append(
            {
                "model_id": model.id,
                **_config(model, names),
                "state": model.state.value,
                "epochs": len(model.epochs),
                "best_epoch": None if best is None else best.epoch,
                **{metric: _metric(last, metric) for metric in metrics},
                **{f"best_{metric}": _metric(best, metric) for metric in metrics},
                "checkpoint": model.checkpoint(),
                "best_checkpoint": model.checkpoint(best.version) if best else None,
                "failure": model.failure.message if model.failure else None,
                "flaw": "" if last is None else last.flaw,
            }
        )
    frame = _frame(rows, columns)
    frame["failure"] = frame["failure"].astype(object).where(frame["failure"].notna(), None)
    return frame.astype({"best_epoch": "Int64"})


def _metric(epoch: EpochRecord | None, metric: str) -> float:
    return math.nan if epoch is None else epoch.metric(metric)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(rows, columns=columns)
