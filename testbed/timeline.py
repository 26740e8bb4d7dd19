"""Where the time of a run went, from its table of units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

AT_ONCE = 0.05
"""Seconds. A worker that was free for longer before its next unit had nothing that could start."""

INSIDE = "inside train_fn"
PARTS = (
    INSIDE,
    "build",
    "load and restore",
    "fetch",
    "wait for the saver",
    "RPC and executor",
    "placement and journal",
    "nothing to start",
    "idle at the tail",
)


@dataclass(frozen=True)
class Timeline:
    """`makespan` in seconds, and how the mean worker spent it: `parts` sum up to it."""

    makespan: float
    parts: dict[str, float]
    train_seconds: list[float]
    save_seconds: list[float]

    @property
    def ratio(self) -> float:
        """Makespan by the seconds inside `train_fn` of the mean worker."""
        return self.makespan / self.parts[INSIDE]


def timeline(units: Any, workers: int) -> Timeline:
    """The timeline of a run without faults; `units` is `Result.units`.

    From the first unit's start to the last commit. Of each unit the driver knows when it told the
    worker to start and when it heard that it had run; the phases between are the worker's seconds,
    and what they leave is the way there and back. Raises `ValueError` if an attempt failed.
    """
    if set(units["outcome"]) != {"committed"}:
        raise ValueError(f"not every attempt was committed: {units['outcome'].value_counts()}")
    first, last = units["start"].min(), units["end"].max()
    parts = dict.fromkeys(PARTS, 0.0)
    for _, own in units.sort_values("start").groupby("worker"):
        free_since = first
        for unit in own.itertuples():
            gap = unit.start - free_since
            parts["placement and journal" if gap < AT_ONCE else "nothing to start"] += gap
            phases = {
                INSIDE: unit.run,
                "build": unit.build,
                "load and restore": unit.load + unit.restore,
                "fetch": unit.fetch,
                "wait for the saver": unit.wait,
            }
            for name, seconds in phases.items():
                parts[name] += seconds
            parts["RPC and executor"] += unit.ran - unit.start - sum(phases.values())
            free_since = unit.ran
        parts["idle at the tail"] += last - free_since
    parts["idle at the tail"] += (workers - units["worker"].nunique()) * (last - first)
    train = units[units["split"] == "train"]
    return Timeline(
        makespan=last - first,
        parts={name: seconds / workers for name, seconds in parts.items()},
        train_seconds=sorted(train["run"]),
        save_seconds=sorted(train["save"]),
    )
