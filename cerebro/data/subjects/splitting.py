"""Groups of subjects onto sides (train, valid, test), and each side into partitions.

No clock, file or global generator: the same groups, numbers and seed give the same answer.
Candidates are drawn at random. The one that comes nearest to the fractions that were asked for,
with partitions as even as `balancing` can have them, is taken, and groups change places between
its sides where that brings it nearer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from cerebro.data.subjects import balancing
from cerebro.data.subjects.survey import Subject
from cerebro.errors import SubjectError
from cerebro.formatting import count

CANDIDATES, EXCHANGES = 120, 600
"""How many candidates are drawn and changes tried; with folds, each of which costs, fewer."""

GOOD = 0.01
"""A candidate that is off by so little is taken at once."""

AIM = balancing.TOLERANCE - 0.01
"""How uneven a candidate's partitions may be without being off: a little less than is said to
users, so that nothing is gained by being just beyond that."""

UNEVEN = 5.0
"""How much what a partition has above that counts, beside a side's share that is off."""

SLACK, FAR = 0.05, 100.0
"""A share may be off by this and half a group of mean size; what is beyond counts so much more."""

QUICK_STARTS, STARTS = 3, 50
"""How many orders are tried to even partitions out: for a candidate, and for what is taken."""


@dataclass(frozen=True)
class Group:
    """Subjects that stay together, and the side that they were assigned to, if any."""

    subjects: tuple[Subject, ...]
    split: str | None = None

    @property
    def windows(self) -> int:
        """Usable windows of all its subjects."""
        return sum(subject.windows for subject in self.subjects)


Groups = list[Group]


@dataclass(frozen=True)
class Wanted:
    """What is asked for: fractions are of all usable windows.

    With two or more `folds` the valid side of each fold is an equal share of the groups that were
    assigned to no side, each group in one of them.
    """

    partitions: int
    valid_fraction: float
    test_fraction: float
    folds: int


@dataclass(frozen=True)
class FoldGroups:
    """The partitions of one fold's sides."""

    train: list[Groups]
    valid: list[Groups]


@dataclass(frozen=True)
class GroupSplit:
    """The groups of the test side, which all folds share, and those of each fold."""

    test: Groups
    folds: list[FoldGroups]


@dataclass(frozen=True)
class _Draw:
    """A candidate: where the groups are that were assigned to no side.

    `valid` has an entry for each fold; `train` is empty with folds, where a fold trains on what
    the others validate on.
    """

    test: Groups
    valid: list[Groups]
    train: Groups

    def sides(self, fixed: dict[str, Groups]) -> tuple[Groups, list[tuple[Groups, Groups]]]:
        """The test side, and train and valid of each fold, with the groups that are fixed."""
        folds = []
        for number, valid in enumerate(self.valid):
            others = self.valid[:number] + self.valid[number + 1 :]
            train = [*fixed["train"], *self.train, *(group for one in others for group in one)]
            folds.append((train, fixed["valid"] + valid))
        return fixed["test"] + self.test, folds

    def exchanged(self, rng: random.Random) -> _Draw:
        """Another candidate, in which two groups have changed places."""
        bins = [list(one) for one in (self.test, *self.valid, self.train)]
        filled = [one for one in bins if one]
        if len(filled) > 1:
            one, other = rng.sample(filled, 2)
            first, second = rng.randrange(len(one)), rng.randrange(len(other))
            one[first], other[second] = other[second], one[first]
        return _Draw(bins[0], bins[1:-1], bins[-1])


def split(groups: Groups, wanted: Wanted, seed: int) -> GroupSplit:
    """Groups on their sides and in their partitions; raises `SubjectError` if they are too few."""
    rng = random.Random(seed)
    room = _Room(groups, wanted)
    best: _Draw | None = None
    lowest = 0.0
    for draw in _candidates(groups, wanted, room, rng):
        off = _off(draw, room.fixed, wanted, rng)
        if best is None or off < lowest:
            best, lowest = draw, off
        if lowest <= GOOD:
            break
    assert best is not None
    for _ in range(EXCHANGES // wanted.folds):
        if lowest <= GOOD:
            break
        draw = best.exchanged(rng)
        off = _off(draw, room.fixed, wanted, rng)
        if off < lowest:
            best, lowest = draw, off
    test, folds = best.sides(room.fixed)
    return GroupSplit(
        test,
        [
            FoldGroups(
                _partitions(train, wanted.partitions, rng, STARTS),
                _partitions(valid, wanted.partitions, rng, STARTS),
            )
            for train, valid in folds
        ],
    )


class _Room:
    """How many groups a side can give and take, so that each gets what it needs."""

    def __init__(self, groups: Groups, wanted: Wanted) -> None:
        self.free = [group for group in groups if group.split is None]
        self.fixed = {
            side: [group for group in groups if group.split == side]
            for side in ("train", "valid", "test")
        }
        self.train = max(0, wanted.partitions - len(self.fixed["train"]))
        self.test = int(wanted.test_fraction > 0 and not self.fixed["test"])
        self.valid = int(wanted.valid_fraction > 0 and not self.fixed["valid"])
        self.folds = wanted.folds
        self._check(groups, wanted)

    def most_in_test(self) -> int:
        """So many free groups can be on the test side, and the others still have enough."""
        sizes = range(len(self.free), -1, -1)
        return next((size for size in sizes if self._enough(len(self.free) - size)), -1)

    def _enough(self, left: int) -> bool:
        if self.folds == 1:
            return left >= self.train + self.valid
        return left >= self.folds and self._in_train(left) >= self.train

    def _in_train(self, left: int) -> int:
        """How many of the free groups that test leaves are on every fold's train side."""
        return left - (self.valid if self.folds == 1 else -(-left // self.folds))

    def _check(self, groups: Groups, wanted: Wanted) -> None:
        left = len(self.free) - self.test
        if self.most_in_test() >= self.test:
            return
        noun = "group" if any(len(group.subjects) > 1 for group in groups) else "subject"
        said = count(len(groups), noun)
        if any(self.fixed.values()):
            said += f" ({len(self.free)} of them without an assigned split)"
        if self.folds > max(left, 1):
            raise SubjectError(
                f"{self.folds} folds were asked for, but of {said} only {max(left, 0)} can take "
                "turns in validation: ask for fewer folds, or add subjects"
            )
        most = len(self.fixed["train"]) + max(0, self._in_train(max(left, 0)))
        others = [
            name
            for name, needed in (
                ("validation", self.valid or self.folds > 1),
                ("test", self.test),
            )
            if needed
        ]
        kept = f" (others are needed for {' and '.join(others)})" if others else ""
        raise SubjectError(
            f"{wanted.partitions} training partitions need as many {noun}s, but of {said} at most "
            f"{most} can train{kept}: ask for fewer partitions, or add subjects"
        )


def _candidates(groups: Groups, wanted: Wanted, room: _Room, rng: random.Random) -> Iterator[_Draw]:
    total = _windows(groups)
    fixed = {side: _windows(found) for side, found in room.fixed.items()}
    for number in range(max(8, CANDIDATES // wanted.folds)):
        free = rng.sample(room.free, len(room.free))
        # Where whole groups do not allow even partitions at the fractions, they may beside them.
        stretch = 1.0 if number < CANDIDATES // 4 else rng.uniform(0.75, 1.25)
        for_test = wanted.test_fraction * total - fixed["test"]
        test, free = _take(free, for_test, room.test, room.most_in_test())
        if wanted.folds == 1:
            for_valid = wanted.valid_fraction * stretch * total - fixed["valid"]
            valid, train = _take(free, for_valid, room.valid, len(free) - room.train)
            yield _Draw(test, [valid], train)
        else:
            yield _Draw(test, _folds(free, wanted.folds, room.train), [])


def _take(groups: Groups, windows: float, least: int, most: int) -> tuple[Groups, Groups]:
    """Groups whose windows come near to so many, in their order; and the rest."""
    taken: Groups = []
    left: Groups = []
    for group in groups:
        closer = abs(windows - group.windows) < abs(windows)
        if len(taken) < most and (closer or len(taken) < least):
            taken.append(group)
            windows -= group.windows
        else:
            left.append(group)
    return taken, left


def _folds(free: Groups, folds: int, train: int) -> list[Groups]:
    """The valid side of each fold: each group is in one of them."""
    bins = balancing.spread([group.windows for group in free], range(len(free)), folds)
    if len(free) - max(map(len, bins)) < train:
        # Where there are so few groups that every one counts, folds have the same number of them.
        bins = [list(range(fold, len(free), folds)) for fold in range(folds)]
    return [[free[index] for index in one] for one in bins]


def _off(draw: _Draw, fixed: dict[str, Groups], wanted: Wanted, rng: random.Random) -> float:
    """How far a candidate is from what is wanted; 0 if not at all.

    The sum of what each side's share of the windows is off by, and of what its heaviest partition
    is above the aim, which counts more, unless a share is far off; over folds, the mean.
    """
    test, folds = draw.sides(fixed)
    total = _windows(test) + _windows(folds[0][0]) + _windows(folds[0][1])
    off = 0.0
    if wanted.test_fraction:
        off += _off_share(_windows(test) / total - wanted.test_fraction, draw)
    fraction = wanted.valid_fraction
    if wanted.folds > 1:
        fraction = sum(_windows(valid) for _, valid in folds) / total / wanted.folds
    for train, valid in folds:
        off += _off_share(_windows(valid) / total - fraction, draw) / wanted.folds
        for side in (train, valid):
            bins = _partitions(side, wanted.partitions, rng, QUICK_STARTS, AIM)
            above = max(0.0, unevenness(bins) - AIM)
            off += UNEVEN * above / wanted.folds
    return off


def _off_share(difference: float, draw: _Draw) -> float:
    free = len(draw.test) + sum(map(len, draw.valid)) + len(draw.train)
    return abs(difference) + FAR * max(0.0, abs(difference) - SLACK - 0.5 / max(1, free))


def _windows(groups: Groups) -> int:
    return sum(group.windows for group in groups)


def _partitions(
    groups: Groups, most: int, rng: random.Random, starts: int, close: float = balancing.CLOSE
) -> list[Groups]:
    """Groups in as many partitions as are asked for, or as many as there are groups."""
    if not groups:
        return []
    weights = [group.windows for group in groups]
    bins = balancing.pack(weights, min(most, len(groups)), rng, starts, close)
    return [[groups[index] for index in sorted(one)] for one in bins]


def unevenness(partitions: list[Groups]) -> float:
    """The heaviest partition's windows over the mean; 1 if there are none."""
    sums = [_windows(groups) for groups in partitions]
    return max(sums) * len(sums) / sum(sums) if sums else 1.0
