"""The numbers that the drawings are made from, as compact JSON inside the page."""

from __future__ import annotations

import json
import math
from typing import Any

from cerebro.formatting import printable, shown
from cerebro.report.axes import axis, varying
from cerebro.report.contents import NO_FAILURES, Contents, ReportedModel, ReportedWorker

NAMED = 6
"""So many models have a colour of their own; more are coloured by rank."""

METRICS = ("train_loss", "train_error", "valid_loss", "valid_error")


def packed(contents: Contents) -> str:
    """The JSON text, which can stand in a `<script>` whatever users' names hold.

    Bars are arrays of integers, a worker's in the order of their starts: starts as steps from one
    to the next, times in `tick` seconds. `outcome` counts in `outcomes`.
    """
    tick = _tick(contents.seconds)
    places = {model.id: place for place, model in enumerate(contents.models)}
    outcomes = sorted({bar.outcome for worker in contents.workers for bar in worker.bars})
    configs = [model.config for model in contents.models]
    content = {
        "seconds": contents.seconds,
        "tick": tick,
        "named": len(contents.models) <= NAMED,
        "metric": contents.metric_name,
        "models": _models(contents),
        "axes": [vars(axis(name, configs)) for name in varying(configs)],
        "outcomes": outcomes,
        "failures": [outcome not in NO_FAILURES for outcome in outcomes],
        "workers": [_worker(w, places, outcomes, tick) for w in contents.workers],
        "restarts": contents.restarts,
    }
    text = json.dumps(_printable(content), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _printable(content: Any) -> Any:
    """The same, with every text in it escaped: what the scripts show is text like the page's."""
    if isinstance(content, str):
        return printable(content)
    if isinstance(content, dict):
        return {key: _printable(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_printable(value) for value in content]
    return content


def label(config: dict[str, Any]) -> str:
    """A configuration in a line."""
    return ", ".join(f"{name} {shown(value)}" for name, value in config.items())


def _tick(seconds: float) -> float:
    """The resolution of times: a millisecond, for runs of minutes a thousandth of that."""
    return 1e-3 if seconds > 1000 else 1e-6


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _models(contents: Contents) -> list[dict[str, Any]]:
    """`rank` is 0 for the best and 1 for the last, None without a value."""
    ranked = [model.id for model in contents.ranked if not math.isnan(model.value)]
    last = max(1, len(ranked) - 1)
    ranks = {number: round(place / last, 4) for place, number in enumerate(ranked)}
    return [_model(model, ranks.get(model.id)) for model in contents.models]


def _model(model: ReportedModel, rank: float | None) -> dict[str, Any]:
    return {
        "id": model.id,
        "config": label(model.config),
        "state": model.state,
        "rank": rank,
        "epoch": [epoch.epoch for epoch in model.epochs],
        "inherited": sum(epoch.inherited for epoch in model.epochs),
        **{m: [_number(getattr(epoch, m)) for epoch in model.epochs] for m in METRICS},
        "best": _number(model.value),
    }


def _worker(
    worker: ReportedWorker, places: dict[int, int], outcomes: list[str], tick: float
) -> dict[str, Any]:
    starts = [round(bar.start / tick) for bar in worker.bars]
    ends = [round(bar.end / tick) for bar in worker.bars]
    steps = [start - before for before, start in zip([0, *starts], starts, strict=False)]
    return {
        "id": worker.id,
        "url": worker.url,
        "step": steps,
        "length": [max(0, end - start) for start, end in zip(starts, ends, strict=True)],
        "model": [places[bar.model] for bar in worker.bars],
        "epoch": [bar.epoch for bar in worker.bars],
        "valid": [int(bar.valid) for bar in worker.bars],
        "partition": [bar.partition for bar in worker.bars],
        "outcome": [outcomes.index(bar.outcome) for bar in worker.bars],
        "away": worker.away,
        "loading": worker.loading,
    }
