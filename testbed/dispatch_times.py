"""How long a free worker waits for its next unit, found in the times of a run's units.

All times are readings of one monotonic clock, in seconds: `begin` and `end` of a unit are its
`train_fn`'s own, `told` is when the driver took the report of its end in hand, `decided` when it
made the record that starts it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cerebro
from cerebro.journal.journal import read_journal
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import GenerationRecord


@dataclass(frozen=True)
class UnitTimes:
    """One committed unit; `save` is the seconds in which its version was written and published."""

    worker: int
    model: int
    decided: float
    begin: float
    end: float
    told: float
    save: float


@dataclass(frozen=True)
class Gap:
    """Between the end of one unit on a worker and the beginning of the next one there.

    `idle` is the whole of it. `wait` counts from when there was a unit to give, too: the model
    that comes had been published. `report`, `choice` and `order` are its parts: until the driver
    took the report in hand, until it decided, until the unit ran.
    """

    at: float
    idle: float
    wait: float
    report: float
    choice: float
    order: float


def read_units(run: Path) -> list[UnitTimes]:
    """The units of a run of `testbed.dispatch_driver`; `RuntimeError` unless each counts once."""
    units = cerebro.load(run).units
    if set(units["outcome"]) != {"committed"}:
        raise RuntimeError(f"not all attempts were committed: {units['outcome'].value_counts()}")
    if units.duplicated(["model_id", "epoch", "split", "partition"]).any():
        raise RuntimeError("a unit is committed twice")
    first = read_journal(RunPaths(run))[0][0]
    assert isinstance(first, GenerationRecord)
    # The driver's clock is a monotonic one that begins with the run; its first record gives both
    # readings, its own and the time of day.
    shift = first.time - first.t - (time.time() - time.monotonic())
    columns = ["worker", "model_id", "start", "loss", "error", "end", "save"]
    return [
        UnitTimes(worker, model, start + shift, begin, end, told + shift, save)
        for worker, model, start, begin, end, told, save in units[columns].itertuples(
            index=False, name=None
        )
    ]


def gaps(units: Iterable[UnitTimes]) -> list[Gap]:
    """The gaps on all workers, in the order in which they began."""
    ordered = sorted(units, key=lambda unit: unit.begin)
    published: dict[int, float] = {}
    before: dict[int, UnitTimes] = {}
    found = []
    for unit in ordered:
        last = before.get(unit.worker)
        if last is not None:
            there = max(last.end, published.get(unit.model, last.end))
            found.append(
                Gap(
                    at=last.end,
                    idle=unit.begin - last.end,
                    wait=unit.begin - there,
                    report=last.told - last.end,
                    choice=unit.decided - last.told,
                    order=unit.begin - unit.decided,
                )
            )
        before[unit.worker] = unit
        published[unit.model] = unit.end + unit.save
    return sorted(found, key=lambda gap: gap.at)


def plenty_until(units: Iterable[UnitTimes]) -> float:
    """Until when every model has a unit left: when the first one begins its last."""
    last: dict[int, float] = {}
    for unit in units:
        last[unit.model] = max(last.get(unit.model, unit.begin), unit.begin)
    return min(last.values())


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]
