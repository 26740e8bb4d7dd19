"""How a worker spent its time, from the attempts that it was given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cerebro.hopper.units import Split
from cerebro.journal.ledger import AttemptRecord
from cerebro.report.contents import COMMITTED, PARTS, Bar, Interval

DURING = ("load", "build", "restore", "fetch", "wait")
"""Phases of a unit beside `run` that keep its worker busy; it saves beside its next unit."""


def bars(attempts: Iterable[AttemptRecord], until: float) -> list[tuple[Bar, AttemptRecord]]:
    """Turn attempts of one worker into the times that they kept it busy, in turn, up to `until`."""
    found: list[tuple[Bar, AttemptRecord]] = []
    free = 0.0
    for attempt in sorted(attempts, key=lambda a: (a.start, a.number)):
        end = None if attempt.committed is None else attempt.committed.ran
        if end is None:
            end = until if attempt.end is None else attempt.end
        start = max(free, attempt.start)
        free = end = max(start, min(end, until))
        unit = attempt.unit
        valid = unit.split is Split.VALID
        bar = Bar(unit.model, unit.epoch, valid, unit.partition, start, end, attempt.outcome)
        found.append((bar, attempt))
    return found


def seconds_by_part(
    done: Sequence[tuple[Bar, AttemptRecord]],
    away: Sequence[Interval],
    loading: Sequence[Interval],
    until: float,
) -> dict[str, float]:
    """Return the seconds of each of the `PARTS`; they sum up to `until`.

    A phase counts as far as it lies within the time that the unit kept its worker busy: a version
    may have been restored before.
    """
    spent = dict.fromkeys(PARTS, 0.0)
    for bar, attempt in done:
        left = bar.end - bar.start
        if bar.outcome != COMMITTED or attempt.committed is None:
            spent["void"] += left
            continue
        phases = attempt.committed.phases
        for name in ("run", *DURING):
            seconds = min(left, phases.get(name) or 0.0)
            left -= seconds
            if name == "run":
                name = "validating" if bar.valid else "training"
            spent[name] += seconds
        spent["orders"] += left
    for begin, end in _gaps([(bar.start, bar.end) for bar, _ in done], until):
        gone = {
            name: sum(max(0.0, min(end, b) - max(begin, a)) for a, b in intervals)
            for name, intervals in (("away", away), ("loading", loading))
        }
        for name, seconds in gone.items():
            spent[name] += seconds
        spent["idle"] += max(0.0, end - begin - sum(gone.values()))
    return spent


def _gaps(busy: Iterable[Interval], until: float) -> list[Interval]:
    gaps, free = [], 0.0
    for start, end in busy:
        if start > free:
            gaps.append((free, start))
        free = end
    if until > free:
        gaps.append((free, until))
    return gaps
