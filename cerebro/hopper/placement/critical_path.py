"""Critical first: the policy for models that start together, as those of a grid do.

An epoch cannot end before its most loaded worker has done its work, nor before its longest chain
(the units of one model, which run one at a time) has been gone through. The larger of the two is
the *horizon*; the *slack* of a worker or model is how long it may wait without moving it. Models
and workers of little slack are *critical*: they are served first. For the others any unit will do:
what they have staged, or else one of the longest chains, at random. Where little is left, all of it
is planned (`planner`), and a worker may wait for what would find nobody free otherwise.

Seconds are learned from what ran (`estimates`). A choice costs a few operations on sets held as
bits, however many models there are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Container
from itertools import islice

from cerebro.hopper.bitset import bits, bits_from, highest, last_before, mask_of
from cerebro.hopper.placement.base import Choices, ModelWork, Placed, WorkerSlots
from cerebro.hopper.placement.board import Board
from cerebro.hopper.placement.estimates import Estimates
from cerebro.hopper.placement.matching import Matching
from cerebro.hopper.placement.planner import MOST_UNITS, OVERDUE, Planner
from cerebro.hopper.placement.rows import Rows
from cerebro.hopper.placement.workload import Workload
from cerebro.hopper.units import Split, Unit

NODES_ALWAYS = 64
"""With so many models, workers and partitions at most the horizon is computed whenever something is
placed; else when as many have been."""

MOVED_MUCH = 0.2
"""If the typical cost has moved by such a part, the horizon is computed too."""

MATCHED = 250_000
"""Critical models times free workers up to which models are served as well as workers."""

EXACT = 8
"""Of so many models at most the one with the longest chain is looked for, else any is taken."""

SHORTEST = 0.001
"""Seconds that are waited at least before it is looked again."""

STAYS = 0.25
"""What is staged is started although another model has less slack, by this part of a unit."""


TRAIN, VALID = Split.TRAIN, Split.VALID

ABSENT = WorkerSlots((), None, None, False)
NO_CHOICES = Choices([], [])


class CriticalPlacement:
    """Serves the most loaded worker and the longest chain first, by measured times."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.board = Board(self.random)
        self.estimates = Estimates()
        self.load = Workload(self.estimates, 0, 0)
        self.now = 0.0
        self.models = Rows(dict.fromkeys(Split, 0))
        self.rows = self.models.rows
        self.ends: dict[int, float] = {}
        self._lasts: dict[int, float] = {}
        self.horizon = 0.0
        self.unit = 0.0
        self._critical = 0
        self._placed_since = 0
        self._level = math.inf
        self._planner = Planner(self)
        self._planned = False
        self._waiting: list[int] = []
        self._unstaged: list[int] = []

    # --- what is told ----------------------------------------------------------------------------

    def tell_partitions(self, train: int, valid: int) -> None:
        self.load = Workload(self.estimates, train, valid)
        self.models = Rows({Split.TRAIN: (1 << train) - 1, Split.VALID: (1 << valid) - 1})
        self.rows = self.models.rows

    def observe(self, unit: Unit, worker: int | None, seconds: float) -> None:
        self.estimates.observe(unit.model, unit.split, worker, seconds)
        self.load.learned(unit.model, unit.split, worker)

    def tell_worker(self, worker: int, slots: WorkerSlots | None) -> None:
        before = self.board.workers.get(worker)
        self.board.tell_worker(worker, slots)
        before, slots = before or ABSENT, slots or ABSENT
        if before.staged is not slots.staged:
            self.models.reserve(before.staged, False)
            self.models.reserve(slots.staged, True)
        if before is ABSENT or before.held is not slots.held:
            self.load.tell_worker(worker, slots.held)
        running = slots.running
        if running is None:
            self.ends.pop(worker, None)
            number = None if before.running is None else self.models.number(before.running.model)
            if number is not None:
                self.rows[number].end = self.now
        elif before.running is not running:
            self._expect(worker, running)

    def _expect(self, worker: int, unit: Unit) -> None:
        """Note when a unit that has been started should end."""
        seconds = self.load.seconds(unit.model, unit.split, worker)
        self.ends[worker], self._lasts[worker] = self.now + seconds, seconds
        number = self.models.number(unit.model)
        if number is not None:
            row = self.rows[number]
            row.end, row.seconds = self.now + seconds, seconds

    def tell_model(self, model: int, work: ModelWork | None) -> None:
        self.board.tell_model(model, work)
        if work is None:
            self._drop(model)
        else:
            self._follow(model, work)

    def _follow(self, model: int, work: ModelWork) -> None:
        number = self.models.enter(model)
        row, bit = self.rows[number], 1 << number
        if row.work[:-1] != work[:-1]:
            self.models.reopen(number, work)
            self.load.tell_model(model, work.train, work.valid)
        row.work = work
        self._critical ^= self._critical & bit
        if not work.idle or not work.open:
            self.models.set_busy(row, bit)
            return
        chain = self.load.chain(model)
        self.models.set_idle(row, bit, chain, self.estimates.knows(model, TRAIN))
        if self.horizon - self.now - chain < self.unit:
            self._critical |= bit

    def _begun(self, unit: Unit) -> None:
        """Take a started unit out of what its model has before it."""
        work, number = self.board.work[unit.model], self.models.number(unit.model)
        if work.idle or number is None:
            self._follow(unit.model, work)
            return
        self.models.begin(number, unit.partition, work)
        self.load.begin(unit, work.train)
        self._critical ^= self._critical & 1 << number

    def _drop(self, model: int) -> None:
        number = self.models.number(model)
        if number is not None:
            self._critical &= ~(1 << number)
            self.models.leave(model)
            self.load.drop_model(model)
            self.estimates.forget(model)

    # --- slack -----------------------------------------------------------------------------------

    def worker_slack(self, worker: int) -> float:
        """Return the seconds that a worker may wait, once what it runs has ended."""
        return self.horizon - max(self.now, self.ends.get(worker, 0.0)) - self.load.load(worker)

    def row_slack(self, number: int) -> float:
        """Return the seconds that a model may wait, once what it runs has ended."""
        row = self.rows[number]
        at = self.now if row.work.idle else max(self.now, row.end)
        return self.horizon - at - self.load.chain(row.model)

    def _look_ahead(self, always: bool) -> None:
        """Compute the horizon, and who is critical; now and then only, where there are many."""
        nodes = len(self.rows) + len(self.board.workers) + len(self.load.holders)
        level = self.estimates.level()
        changed = abs(level - self._level) > MOVED_MUCH
        soon = self._placed_since < nodes - NODES_ALWAYS
        if soon and not (always or changed or self.load.has_moved):
            return
        self._placed_since, self._level = 0, level
        self.load.settle(lambda worker: max(0.0, self.ends.get(worker, 0.0) - self.now))
        self.horizon = 0.0
        rows = [(self.row_slack(number), number) for number in self.rows]
        slacks = [*map(self.worker_slack, self.board.workers), *(slack for slack, _ in rows)]
        self.horizon = -min(slacks, default=0.0)
        self.unit = self.load.slowest()
        critical = (number for slack, number in rows if slack < self.unit - self.horizon)
        self._critical = mask_of(critical) & self.models.idle

    # --- what is asked ---------------------------------------------------------------------------

    def place(self, now: float) -> Choices:
        self.now = now
        if not self.board.has_news:
            return NO_CHOICES
        self._unstaged = []
        starts = self._starts()
        for worker, unit in starts:
            for released in self.board.begin(worker, unit):
                self.models.reserve(released, False)
            self._expect(worker, unit)
            self._begun(unit)
        stages = self._stages()
        for worker, unit in stages:
            self.board.stage(worker, unit)
            self.models.reserve(unit, True)
        self.board.looked()
        if self._waiting or self._unstaged:
            self.board.look_at([*self._waiting, *self._unstaged])
        return Choices(starts, stages)

    def _starts(self) -> list[Placed]:
        self._waiting, self._planned = [], False
        free = self.board.free()
        if not free:
            return []
        is_little = self.load.left <= MOST_UNITS
        unit = self._startable(free[0]) if len(free) == 1 and not is_little else None
        found = {} if unit is not None else self._found(free, staging=False)
        if not found and unit is None:
            return []
        if is_little:
            self.estimates.fit()
            self.load.refresh()
        self._look_ahead(is_little)
        if unit is not None and not self._critical:
            # Nobody has a better claim.
            self._placed_since += 1
            return [Placed(free[0], unit)]
        found = found or self._found(free, staging=False)
        if is_little and self._planner.renew():
            due = self._due(found, staging=False)
            if due or self.ends:
                self._planned = True
                self._placed_since += len(due)
                starting = {placed.worker for placed in due}
                self._waiting = [worker for worker in free if worker not in starting]
                return due
        return self._placed(self._match(found, self._to_start), found, staging=False)

    def _startable(self, worker: int) -> Unit | None:
        """Return what a worker that shares nothing with others has staged, if it can start."""
        held, _, unit, _ = self.board.workers[worker]
        number = None if unit is None else self.models.number(unit.model)
        if unit is None or number is None or len(held) > 1 or self.load.has_replicas:
            return None
        return unit if self.models.may_start(number, unit) else None

    def _stages(self) -> list[Placed]:
        busy = self.board.busy()
        if not busy:
            return []
        if self._planned:
            # The plan may be another one when they are looked at next.
            self._unstaged = busy
            return self._due(self._found(busy, staging=True), staging=True)
        if len(busy) == 1:
            return self._stage_one(busy[0])
        found = self._found(busy, staging=True)
        if not found:
            return []
        return self._placed(self._match(found, self._longest), found, staging=True)

    def _stage_one(self, worker: int) -> list[Placed]:
        rows = self._candidates(worker, True)
        unit = self._unit(worker, self._longest(worker, rows), (), True) if rows else None
        if unit is None:
            return []
        self._placed_since += 1
        return [Placed(worker, unit)]

    def _due(self, found: dict[int, int], *, staging: bool) -> list[Placed]:
        """Return the units that the plan has next for workers, if they may start or be staged."""
        placed = []
        for worker, (model, part, _) in self._planner.due(found).items():
            number, work = self.models.number(model), self.board.work[model]
            if number is not None and self.models.startable(part, staging) >> number & 1:
                placed.append(Placed(worker, Unit(model, work.epoch, *part)))
        return placed

    def patience(self) -> float | None:
        """Return how long it is until a unit that may be waited for takes too long."""
        if not self._waiting:
            return None
        left = [self._overdue_at(worker) - self.now for worker in self.ends]
        return max(min((seconds for seconds in left if seconds > 0), default=self.unit), SHORTEST)

    # --- choosing --------------------------------------------------------------------------------

    def _found(self, workers: list[int], *, staging: bool) -> dict[int, int]:
        """Find the rows that each worker could be given, of workers that could be given any."""
        found: dict[int, int] = {}
        for worker in workers:
            rows = self._candidates(worker, staging)
            if rows:
                found[worker] = rows
        return found

    def _candidates(self, worker: int, staging: bool) -> int:
        held = self.board.workers[worker].held
        if len(held) == 1:
            return self.models.startable(held[0], staging)
        if not self.models.idle:
            return 0
        startable = {part: self.models.startable(part, staging) for part in held}
        if not any(startable.values()):
            return 0
        much, little = self.load.by_share(worker)
        due = others = 0
        for part in much:
            due |= startable[part]
        for part in little:
            others |= startable[part]
        return due | others & self._critical or others

    def is_overdue(self, worker: int) -> bool:
        """Tell whether what a worker runs takes much longer than expected."""
        return self.now > self._overdue_at(worker)

    def _overdue_at(self, worker: int) -> float:
        return self.ends[worker] + OVERDUE * self._lasts[worker]

    def _match(self, found: dict[int, int], choose: Callable[[int, int], int]) -> dict[int, int]:
        """Match rows to workers, the most critical first."""
        if len(found) == 1:
            return {worker: choose(worker, rows) for worker, rows in found.items()}
        slack = {worker: self.worker_slack(worker) for worker in found}
        ordered = sorted(found, key=lambda worker: slack[worker])
        matching = Matching({worker: found[worker] for worker in ordered}, choose)
        wanted = 0
        for rows in found.values():
            wanted |= rows
        nodes = [(slack[worker], False, worker) for worker in ordered]
        wanted &= self._critical
        if wanted.bit_count() * len(found) <= MATCHED:
            nodes += [(self.row_slack(row), True, row) for row in bits(wanted)]
        for _, is_row, number in sorted(nodes):
            if is_row:
                matching.serve_row(number)
            else:
                matching.serve_worker(number)
        return matching.row_of

    def _to_start(self, worker: int, rows: int) -> int:
        """Choose one of the rows for a free worker."""
        own = self._own(worker, rows)
        critical = rows & self._critical
        if critical:
            best = self._tightest(critical)
            if own is None or self.row_slack(own) > self.row_slack(best) + STAYS * self.unit:
                return best
        if own is not None:
            return own
        return self._longest(worker, rows ^ (rows & self.models.reserved[None]) or rows)

    def _own(self, worker: int, rows: int) -> int | None:
        """Return the row of what a worker has staged, if it is one of these."""
        staged = self.board.workers[worker].staged
        own = None if staged is None else self.models.number(staged.model)
        return own if own is not None and rows >> own & 1 else None

    def _tightest(self, rows: int) -> int:
        start = self.random.randrange(rows.bit_length())
        return min(islice(bits_from(rows, start), NODES_ALWAYS), key=self.row_slack)

    def _longest(self, worker: int, rows: int) -> int:
        """Choose a row with one of the longest chains, or the critical one of least slack."""
        if rows & self._critical:
            return self._tightest(rows & self._critical)
        found = self.models.longest(rows)
        if found.bit_count() > EXACT:
            return last_before(found, int(self.random.random() * found.bit_length()))
        return max(highest(found, EXACT), key=lambda number: self.rows[number].chain)

    def _placed(
        self, pairs: dict[int, int], found: dict[int, int], *, staging: bool
    ) -> list[Placed]:
        """Turn pairs into units; of a validating model several workers may have some."""
        self._placed_since += len(pairs)
        if len(found) == len(pairs) == 1:
            ((worker, row),) = pairs.items()
            unit = self._unit(worker, row, (), staging)
            return [] if unit is None else [Placed(worker, unit)]
        placed: dict[Unit, int] = {}
        for worker, row in pairs.items():
            unit = self._unit(worker, row, placed, staging)
            if unit is not None:
                placed[unit] = worker
        for worker, rows in found.items():
            if worker not in pairs and worker not in self._waiting:
                for row in bits(rows & self.models.validating):
                    unit = self._unit(worker, row, placed, staging)
                    if unit is not None:
                        placed[unit] = worker
                        break
        return [Placed(worker, unit) for unit, worker in placed.items()]

    def _unit(self, worker: int, row: int, taken: Container[Unit], staging: bool) -> Unit | None:
        """Choose a model's unit for a worker: of the partition with most for it to do."""
        model, work, slots = self.rows[row].model, self.rows[row].work, self.board.workers[worker]
        if not staging and slots.staged is not None and slots.staged.model == model:
            own = slots.staged
            if own.split is work.split and own not in taken and work.open >> own.partition & 1:
                return own
        units = [
            unit
            for part in slots.held
            if part[0] is work.split and work.open >> part[1] & 1
            if (unit := Unit(model, work.epoch, *part)) not in taken
        ]
        if work.split is VALID:
            unstaged = [unit for unit in units if unit not in self.board.staged]
            units = unstaged or ([] if staging else units)
        if len(units) < 2:
            return units[0] if units else None
        self.random.shuffle(units)
        if self._critical >> row & 1:
            best = min(self.load.penalty(model, unit[2:], worker) for unit in units)
            units = [u for u in units if self.load.penalty(model, u[2:], worker) <= best]
        return max(units, key=lambda unit: self.load.due(worker, unit[2:]))
