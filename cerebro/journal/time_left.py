"""How long what is left of a run, or of its epoch, will take: by what units have taken so far.

The driver's live view and `cerebro status` both ask `estimate`, so that they say the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cerebro.formatting import duration
from cerebro.hopper.units import ModelState, Split
from cerebro.journal.run_progress import RunProgress


@dataclass(frozen=True)
class TimeLeft:
    """An estimate in seconds, for the whole run where its end is known, else for the epoch.

    `at_least`: units are still to come of a split of which none has been measured, or on partitions
    that no present worker may read.
    """

    seconds: float
    whole_run: bool = False
    at_least: bool = False

    def text(self) -> str:
        """Say it as every display does: `about 3 min left in this epoch`."""
        about = "at least" if self.at_least else "about"
        span = "run" if self.whole_run else "epoch"
        return f"{about} {duration(self.seconds)} left in this {span}"


@dataclass(frozen=True)
class SplitWork:
    """What one model has left of one split.

    `units` include those under way. A unit keeps a worker busy for `busy` seconds and holds its
    model for `held` seconds, of which `busy_done` and `held_done` seconds have passed in the units
    under way: of all of them together, and of the one that is furthest behind.
    """

    units: int = 0
    busy: float = 0.0
    held: float = 0.0
    busy_done: float = 0.0
    held_done: float = 0.0


@dataclass(frozen=True)
class WorkLeft:
    """What one model has left, with `epoch_valid`, its valid units of one epoch."""

    train: SplitWork
    valid: SplitWork
    epoch_valid: int

    @property
    def total(self) -> float:
        """Seconds of workers' time."""
        return sum(
            max(0.0, split.units * split.busy - split.busy_done)
            for split in (self.train, self.valid)
        )

    def chain(self, workers: int) -> float:
        """Seconds that the model needs however many others wait: train units come one after
        another, and the valid units of an epoch side by side.
        """
        epochs, rest = divmod(self.valid.units, max(1, self.epoch_valid))
        turns = epochs * math.ceil(self.epoch_valid / workers) + math.ceil(rest / workers)
        return max(0.0, self.train.units * self.train.held - self.train.held_done) + max(
            0.0, turns * self.valid.held - self.valid.held_done
        )


def seconds_left(
    work: Sequence[WorkLeft], workers: int, loads: Iterable[float] = ()
) -> float | None:
    """Return the seconds until all work is done on so many workers; None if there are none.

    It is the longest of three: all work shared out evenly, the longest chain of one model's units,
    and the heaviest of `loads`, the seconds of work that only a given worker may do.
    """
    if not workers:
        return None
    shared = sum(model.total for model in work) / workers
    return max(shared, *(m.chain(workers) for m in work), *loads, 0.0)


def estimate(progress: RunProgress, now: float) -> TimeLeft | None:
    """Estimate the time left, from a moment in seconds since the run started.

    It goes to the end of the run where that is known beforehand (`Ledger.totals`), else until
    all running models have ended the epochs that they are in. None where nothing is left, no
    unit has been measured yet, or no worker takes units.

    It assumes that units take what they took of late (see `UnitTimes`), by whichever driver and
    worker, that exactly the workers that take units now continue to do so, and that models end
    when the search procedure planned. Workers are taken to be alike, and never to idle but for
    the reasons in `seconds_left`, so that it is rather too low than too high.
    """
    return _Estimate(progress).time_left(now)


class _Estimate:
    """One estimate, from how far a run's models have come."""

    def __init__(self, progress: RunProgress) -> None:
        self._ledger = progress.ledger
        self._plan = progress.plan
        self._models = progress.models
        self._attempts = progress.attempts
        self._partitions = progress.partitions
        self._workers = progress.workers

    def time_left(self, now: float) -> TimeLeft | None:
        """See `estimate`."""
        times, workers = self._ledger.unit_times, self._workers
        if not any(times.measured(split) for split in Split):
            return None
        work = dict(self._work(now, len(workers)))
        loads, stranded = self._loads(workers, now)
        left = seconds_left(list(work.values()), len(workers), loads)
        units = {
            Split.TRAIN: sum(model.train.units for model in work.values()),
            Split.VALID: sum(model.valid.units for model in work.values()),
        }
        if left is None or not any(units.values()):
            return None
        unmeasured = any(units[split] and not times.measured(split) for split in Split)
        return TimeLeft(left, self._ledger.totals is not None, unmeasured or stranded)

    def _units_left(self) -> Iterator[tuple[int, dict[Split, int]]]:
        """Yield each model with its units left: in the run where its end is known, else in its
        epoch.
        """
        totals = self._ledger.totals
        for number, model in self._models.items():
            if model.state is not ModelState.RUNNING:
                continue
            left = {split: len(model.left[split]) for split in Split}
            if totals is not None and number in totals:
                for split, total in zip(Split, totals[number], strict=True):
                    parts = self._partitions[split]
                    under_way = 0 if model.waits else parts - left[split]
                    left[split] = max(0, total - model.ended * parts - under_way)
            yield number, left
        for number, total_units in (totals or {}).items():
            if number not in self._models:  # a decision has yet to add it
                yield number, dict(zip(Split, total_units, strict=True))

    def _work(self, now: float, workers: int) -> Iterator[tuple[int, WorkLeft]]:
        """Yield each model with the work that it has left."""
        started: dict[tuple[int, Split], list[float]] = {}
        for attempt in self._attempts.values():
            key = attempt.unit.model, attempt.unit.split
            started.setdefault(key, []).append(attempt.start)
        for number, left in self._units_left():
            split_work = {
                split: self._split_work(
                    number, split, left[split], [now - s for s in started.get((number, split), [])],
                    workers,
                )
                for split in Split
            }  # fmt: skip
            yield (
                number,
                WorkLeft(
                    split_work[Split.TRAIN], split_work[Split.VALID], self._partitions[Split.VALID]
                ),
            )

    def _split_work(
        self, model: int, split: Split, units: int, elapsed: list[float], workers: int
    ) -> SplitWork:
        times = self._ledger.unit_times
        busy, held = times.busy(model, split), times.held(model, split)
        # A turn of valid units that have not all been started ends no sooner for those that were.
        side_by_side = 1 if split is Split.TRAIN else workers
        all_started = len(elapsed) >= min(units, side_by_side)
        return SplitWork(
            units,
            busy,
            held,
            sum(min(seconds, busy) for seconds in elapsed),
            min((*elapsed, held)) if elapsed and all_started else 0.0,
        )

    def _loads(self, workers: frozenset[int], now: float) -> tuple[list[float], bool]:
        """Seconds of work that only given workers may do, where a matrix says who may read what,
        and whether there is work that no present worker may do.

        What the matrix leaves open is shared out evenly among those who may. Nothing is said where
        workers are present that were added during the run: `workers.json` has their rows.
        """
        times, loads = self._ledger.unit_times, dict.fromkeys(workers, 0.0)
        stranded = False
        if any(worker >= len(self._plan.workers) for worker in workers):
            return [], False
        for split in Split:
            matrix = self._plan.availability(split)
            if matrix is None:
                continue
            for partition, units in self._units_by_partition(split).items():
                holders = [worker for worker in workers if matrix[worker][partition]]
                stranded = stranded or not holders
                seconds = units * times.busy_on(partition, split)
                for worker in holders:
                    loads[worker] += seconds / len(holders)
            for attempt in self._attempts.values():
                if attempt.unit.split is split and attempt.worker in loads:
                    expected = times.busy_on(attempt.unit.partition, split)
                    loads[attempt.worker] -= min(now - attempt.start, expected)
        return list(loads.values()), stranded

    def _units_by_partition(self, split: Split) -> Counter[int]:
        """Count the units left on each partition; those of epochs to come visit each one once."""
        counts: Counter[int] = Counter()
        to_come = 0
        for number, units in self._units_left():
            model = self._models.get(number)
            now = model.left[split] if model is not None else frozenset()
            counts.update(now)
            to_come += max(0, units[split] - len(now))
        each, rest = divmod(to_come, max(1, self._partitions[split]))
        for partition in range(self._partitions[split]):
            if each + (partition < rest):
                counts[partition] += each + (partition < rest)
        return counts
