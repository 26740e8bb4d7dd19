"""The models that may start a unit, as sets: which partitions they are open to, and how urgent.

Each running model has a row, and a set of rows is an integer. A model is in the set of its split,
and *closed* to the partitions on which no unit of it may start, so that one that starts an epoch
costs nothing. Idle models are kept in buckets by the length of their chains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from cerebro.hopper.bitset import bits
from cerebro.hopper.placement.base import ModelWork
from cerebro.hopper.placement.workload import Part
from cerebro.hopper.units import Split, Unit

STEPS_AN_OCTAVE = 4
"""Chains are told apart by steps of 2^(1/4)."""

FIRST = 10_000
"""Models that nothing is known of come first: one of them may have the longest chain."""

TRAIN, VALID = Split.TRAIN, Split.VALID

NOTHING = ModelWork(-1, 0, 0, Split.TRAIN, 0, False)


@dataclass(slots=True)
class Row:
    """A model's row; `chain` is as of when it became idle, `end` when its unit is to end."""

    model: int
    open: dict[Split, int]
    work: ModelWork = NOTHING
    bucket: int = 0
    chain: float = 0.0
    end: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class Rows:
    """The rows, and sets of them; `every` has all partitions of each split."""

    every: dict[Split, int]
    rows: dict[int, Row] = field(default_factory=dict)
    idle: int = 0
    validating: int = 0
    buckets: dict[int, int] = field(default_factory=dict)
    reserved: dict[Part | None, int] = field(default_factory=lambda: {None: 0})
    _of: dict[int, int] = field(default_factory=dict)
    _unused: list[int] = field(default_factory=list)
    _in: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(Split, 0))
    _closed: dict[Part, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._closed = {(s, p): 0 for s, every in self.every.items() for p in bits(every)}

    def number(self, model: int) -> int | None:
        """Return a model's row number, if it has one."""
        return self._of.get(model)

    def row(self, model: int) -> Row:
        """Return the row of a model that has one."""
        return self.rows[self._of[model]]

    def enter(self, model: int) -> int:
        """Return a model's row number, a new one if it has none."""
        number = self._of.get(model)
        if number is None:
            number = self._of[model] = self._unused.pop() if self._unused else len(self.rows)
            self.rows[number] = Row(model, dict(self.every))
        return number

    def leave(self, model: int) -> None:
        """Free the row of a model that has ended."""
        number = self._of.pop(model, None)
        if number is None:
            return
        row, bit = self.rows[number], 1 << number
        for split, every in self.every.items():
            self.reopen(number, NOTHING._replace(split=split, open=every))
            self._in[split] &= ~bit
        self.set_busy(row, bit)
        for key in self.reserved:
            self.reserved[key] &= ~bit
        del self.rows[number]
        self._unused.append(number)

    def reopen(self, number: int, work: ModelWork) -> None:
        """Record that a model could go to other partitions next than before."""
        row, split, bit = self.rows[number], work.split, 1 << number
        if row.work.split is not split or not self._in[split] & bit:
            self._in[row.work.split] &= ~bit
            self._in[split] |= bit
        changed = row.open[split] ^ work.open
        if changed:
            row.open[split] = work.open
            for partition in bits(changed):
                self._closed[(split, partition)] ^= bit
        row.work = work

    def begin(self, number: int, partition: int, work: ModelWork) -> None:
        """Record that a model has started a unit on a partition: no other may start now."""
        row, split, bit = self.rows[number], work.split, 1 << number
        row.work, row.open[split] = work, work.open
        self._closed[(split, partition)] |= bit
        self.set_busy(row, bit)

    def longest(self, rows: int) -> int:
        """Return those of some idle rows that are in the first bucket that has any of them."""
        for members in self.buckets.values():
            found = members & rows
            if found:
                return found
        return 0

    def open(self, part: Part) -> int:
        """Return the rows of models that could go to a partition next, if they are idle."""
        rows = self._in[part[0]]
        return rows ^ (rows & self._closed[part])

    def startable(self, part: Part, staging: bool) -> int:
        """Return the rows of which a unit may start on a partition, or be staged."""
        # On long integers this is much faster than `& ~`.
        rows = self.idle & self._in[part[0]]
        rows ^= rows & self._closed[part]
        if staging and rows:
            rows ^= rows & self.reserved.get(None if part[0] is TRAIN else part, 0)
        return rows

    def may_start(self, number: int, unit: Unit) -> bool:
        """Tell whether a model is idle and could go to a unit's partition next."""
        _, _, _, split, is_open, idle = self.rows[number].work
        return idle and split is unit.split and bool(is_open >> unit.partition & 1)

    def reserve(self, unit: Unit | None, is_staged: bool) -> None:
        """Record what is staged, or no longer: a train unit stands for its model."""
        number = None if unit is None else self._of.get(unit.model)
        if unit is None or number is None:
            return
        key = None if unit.split is TRAIN else (unit.split, unit.partition)
        before = self.reserved.get(key, 0)
        if before >> number & 1 != is_staged:
            self.reserved[key] = before ^ 1 << number

    def set_busy(self, row: Row, bit: int) -> None:
        """Record that no unit of a model may start now."""
        if self.idle & bit:
            self.idle ^= bit
            self.buckets[row.bucket] ^= bit
            if self.validating:
                self.validating ^= self.validating & bit

    def set_idle(self, row: Row, bit: int, chain: float, is_known: bool) -> None:
        """Record that units of a model may start; its chain takes so many seconds."""
        self.set_busy(row, bit)
        self.idle |= bit
        if row.work.split is VALID:
            self.validating |= bit
        row.chain = chain
        row.bucket = math.frexp(chain**STEPS_AN_OCTAVE)[1] if is_known else FIRST
        if row.bucket not in self.buckets:
            self.buckets = dict(sorted({**self.buckets, row.bucket: 0}.items(), reverse=True))
        self.buckets[row.bucket] |= bit
