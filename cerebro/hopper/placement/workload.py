"""How much is left: the seconds before each model (its chain) and before each worker (its load).

Work is counted in seconds of a worker of slowness 1. What is left on a partition that several
workers hold is shared out among them so that they would end together, as a fluid would settle; the
shares are settled anew now and then. A model's chain is the sum of its train units, each on the
fastest worker that holds its partition, and then the longest of its valid units, which may run at
once.

Sums are kept as what all models have from the start of an epoch, less what has gone. A cost that is
in use is changed when its estimate has moved by more than `MOVED`: then what has gone is counted
anew with it. Models of which nothing has been measured all have the typical cost of the moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cerebro.hopper.bitset import bits, mask_of
from cerebro.hopper.placement.estimates import Estimates
from cerebro.hopper.units import Split, Unit

Part = tuple[Split, int]

TRAIN, VALID = Split.TRAIN, Split.VALID

MOVED = 0.05
MOVED_SLIGHTLY = 1e-4
"""Where little is left."""

LITTLE = 0.1
"""A worker that has less than this part of the most that it has of any is not due a partition."""

SWEEPS = 8
"""Passes over the shared partitions in which their shares settle."""


@dataclass(slots=True)
class _Model:
    """`left` are the partitions before it, `cost` None where the typical one stands for it."""

    left: dict[Split, int]
    cost: dict[Split, float | None]
    gone: float = 0.0


@dataclass(slots=True)
class _Sum:
    """Work of several units: the sum of the costs that are known, and how many there are."""

    known: float = 0.0
    unknown: int = 0
    units: int = 0

    def add(self, cost: float | None, sign: int) -> None:
        self.units += sign
        if cost is None:
            self.unknown += sign
        else:
            self.known += sign * cost


class Workload:
    """What is left to do, by model, partition and worker.

    `left` is how many units there are. `has_moved` says that workers hold other partitions than
    when the shares were settled, and `copies` how many partitions they then held, all together.
    """

    def __init__(self, estimates: Estimates, train: int, valid: int) -> None:
        self._estimates = estimates
        self._models: dict[int, _Model] = {}
        self._every = {Split.TRAIN: (1 << train) - 1, Split.VALID: (1 << valid) - 1}
        self._all = {split: _Sum() for split in Split}
        self._gone = {(s, p): _Sum() for s in Split for p in bits(self._every[s])}
        self._slow = dict.fromkeys(self._gone, 1.0)
        self._whole = float(train)
        self._typical = {split: estimates.typical(split) for split in Split}
        self.holders: dict[Part, list[int]] = {part: [] for part in self._gone}
        self.has_replicas = False
        self.has_moved = False
        self.copies = 0
        self._slowness: dict[int, float] = {}
        self._held: dict[int, tuple[Part, ...]] = {}
        self._share: dict[tuple[int, Part], float] = {}
        self._settled: set[Part] = set()
        self._stale: dict[Part, None] = {}
        self._loads: dict[int, float] = {}
        self.left = 0

    # --- what is told ----------------------------------------------------------------------------

    def tell_model(self, number: int, train: int, valid: int) -> None:
        """Take in which partitions of its epoch a model has before it."""
        self._loads.clear()
        model = self._models.get(number)
        if model is None:
            costs = {split: self._known(number, split) for split in Split}
            model = self._models[number] = _Model(dict(self._every), costs)
            for split in Split:
                self._all[split].add(costs[split], 1)
                self.left += self._every[split].bit_count()
        for split, left in ((TRAIN, train), (VALID, valid)):
            if left != model.left[split]:
                self._leave(model, split, left)

    def _known(self, number: int, split: Split) -> float | None:
        known = self._estimates.knows(number, split)
        return self._estimates.cost(number, split) if known else None

    def _leave(self, model: _Model, split: Split, now: int) -> None:
        before, cost = model.left[split], model.cost[split]
        model.left[split] = now
        self.left += now.bit_count() - before.bit_count()
        for sign, partitions in ((1, before & ~now), (-1, now & ~before)):
            for partition in bits(partitions):
                self._gone[(split, partition)].add(cost, sign)
                if split is TRAIN:
                    model.gone += sign * self._slow[(split, partition)]

    def begin(self, unit: Unit, left: int) -> None:
        """Take a started train unit out: `left` is what its model still has before it."""
        self._loads.clear()
        model, part = self._models[unit.model], (TRAIN, unit.partition)
        model.left[TRAIN] = left
        model.gone += self._slow[part]
        self._gone[part].add(model.cost[TRAIN], 1)
        self.left -= 1

    def drop_model(self, number: int) -> None:
        """Drop a model that has ended."""
        self._loads.clear()
        model = self._models.pop(number, None)
        if model is not None:
            for split in Split:
                self._leave(model, split, self._every[split])
                self.left -= self._every[split].bit_count()
                self._all[split].add(model.cost[split], -1)

    def tell_worker(self, worker: int, held: Iterable[Part]) -> None:
        """Take in which partitions a worker may be given; none, if it is gone."""
        held = tuple(held)
        if held == self._held.get(worker):
            return
        self._loads.clear()
        before = self._held.get(worker, ())
        for part in before:
            self.holders[part].remove(worker)
        for part in held:
            self.holders.setdefault(part, []).append(worker)
        self._held[worker] = held
        self.has_moved = True
        self._slowness.setdefault(worker, self._estimates.slowness(worker))
        for part in dict.fromkeys((*before, *held)):
            self._stale[part] = None
            self._settled.discard(part)
            for holder in (worker, *self.holders[part]):
                self._share.pop((holder, part), None)

    def refresh(self) -> None:
        """Take all estimates as they are now."""
        for number in self._models:
            for split in Split:
                if self._estimates.knows(number, split):
                    self.learned(number, split, None, MOVED_SLIGHTLY)
        for worker in self._held:
            self._learn_slowness(worker, MOVED_SLIGHTLY)
        self._settle_slowness(MOVED_SLIGHTLY)
        self._loads.clear()

    def learned(self, number: int, split: Split, worker: int | None, moved: float = MOVED) -> None:
        """Take in estimates of a model and a worker that have moved by more than `moved`."""
        self._loads.clear()
        model = self._models.get(number)
        if model is not None:
            before, now = model.cost[split], self._estimates.cost(number, split)
            if before is None or abs(now - before) > moved * before:
                self._reprice(model, split, now)
        if worker in self._held:
            self._learn_slowness(worker, moved)

    def _learn_slowness(self, worker: int, moved: float) -> None:
        slowness = self._estimates.slowness(worker)
        if abs(slowness - self._slowness[worker]) > moved * self._slowness[worker]:
            self._slowness[worker] = slowness
            self._stale.update(dict.fromkeys(self._held[worker]))

    def _reprice(self, model: _Model, split: Split, cost: float) -> None:
        before, model.cost[split] = model.cost[split], cost
        self._all[split].add(before, -1)
        self._all[split].add(cost, 1)
        for partition in bits(self._every[split] & ~model.left[split]):
            self._gone[(split, partition)].add(before, -1)
            self._gone[(split, partition)].add(cost, 1)

    # --- settling --------------------------------------------------------------------------------

    def settle(self, busy_for: Callable[[int], float]) -> None:
        """Share out what is held by several, given how long each worker is busy from now on."""
        self._typical = {split: self._estimates.typical(split) for split in Split}
        self._loads.clear()
        if self.has_moved:
            self.has_moved = False
            self.copies = sum(len(holders) for holders in self.holders.values())
            self.has_replicas = any(len(holders) > 1 for holders in self.holders.values())
        if self.has_replicas:
            shared = [part for part, holders in self.holders.items() if len(holders) > 1]
            shared = [part for part in shared if self._work(part)]
            level = {w: busy_for(w) + self.load(w) for part in shared for w in self.holders[part]}
            for part in shared:
                if part not in self._settled:
                    self._give_away(part, level)
            for _ in range(SWEEPS):
                for part in shared:
                    self._pour(part, level)
        self._settle_slowness()
        self._stale.clear()
        self._loads.clear()

    def _give_away(self, part: Part, level: dict[int, float]) -> None:
        """Start with one holder for all of a partition: then shares get no more than they must."""
        work = self._work(part)
        holder = min(self.holders[part], key=lambda w: level[w] + work * self._slowness[w])
        level[holder] += work * self._slowness[holder]
        self._share[(holder, part)] = 1.0
        self._settled.add(part)

    def _pour(self, part: Part, level: dict[int, float]) -> None:
        """Share one partition's work out so that its holders' levels become equal, if they can."""
        work, holders = self._work(part), self.holders[part]
        base = {w: level[w] - self._share_of(w, part) * work * self._slowness[w] for w in holders}
        ordered = sorted(holders, key=lambda w: base[w])
        speed = filled = surface = 0.0
        for number, worker in enumerate(ordered):
            speed += 1.0 / self._slowness[worker]
            filled += base[worker] / self._slowness[worker]
            surface = (work + filled) / speed
            if number + 1 == len(ordered) or surface <= base[ordered[number + 1]]:
                break
        for worker in holders:
            poured = max(0.0, surface - base[worker])
            level[worker] = base[worker] + poured
            self._share[(worker, part)] = poured / self._slowness[worker] / work

    def _share_of(self, worker: int, part: Part) -> float:
        return 1.0 if len(self.holders[part]) == 1 else self._share.get((worker, part), 0.0)

    def _settle_slowness(self, moved: float = MOVED) -> None:
        """Find how slow each partition's fastest holder is; chains are told if that has moved."""
        changes: dict[int, float] = {}
        for part in self._stale:
            holders, before = self.holders[part], self._slow[part]
            now = min((self._slowness[w] for w in holders), default=before)
            if abs(now - before) > moved * before:
                self._slow[part] = now
                if part[0] is TRAIN:
                    changes[part[1]] = now - before
        if not changes:
            return
        changed = mask_of(changes)
        self._whole += sum(changes.values())
        for model in self._models.values():
            gone = changed & ~model.left[TRAIN]
            if gone:
                model.gone += sum(changes[partition] for partition in bits(gone))

    # --- what is asked ---------------------------------------------------------------------------

    def _work(self, part: Part) -> float:
        """Return the seconds that are left on a partition, on a worker of slowness 1."""
        split = part[0]
        total, gone = self._all[split], self._gone[part]
        if total.units == gone.units:
            return 0.0
        left = total.known - gone.known + (total.unknown - gone.unknown) * self._typical[split]
        return max(left, 0.0)

    def _cost(self, model: _Model, split: Split) -> float:
        cost = model.cost[split]
        return self._typical[split] if cost is None else cost

    def seconds(self, number: int, split: Split, worker: int) -> float:
        """Return the seconds that a unit will take on a worker."""
        model = self._models.get(number)
        cost = self._typical[split] if model is None else self._cost(model, split)
        return cost * self._slowness[worker]

    def penalty(self, number: int, part: Part, worker: int) -> float:
        """Return how much longer a unit takes here than on its partition's fastest holder."""
        extra = self._slowness[worker] - self._slow[part]
        return extra * self._cost(self._models[number], part[0]) if extra > 0.0 else 0.0

    def slowest(self) -> float:
        """Return the longest that a unit may take, in seconds."""
        costs = (cost for model in self._models.values() for cost in model.cost.values() if cost)
        cost = max(costs, default=self._typical[TRAIN])
        return cost * max(self._slowness.values(), default=0.0)

    def chain(self, number: int) -> float:
        """Return the seconds that a model's epoch will still take if it never waits."""
        model = self._models[number]
        seconds = 0.0
        if model.left[TRAIN]:
            seconds = self._cost(model, TRAIN) * (self._whole - model.gone)
        if model.left[VALID]:
            seconds += self._cost(model, VALID)
        return seconds

    def load(self, worker: int) -> float:
        """Return the seconds that a worker will still work if it never waits."""
        seconds = self._loads.get(worker)
        if seconds is None:
            held = self._held[worker]
            total = sum(self._work(part) * self._share_of(worker, part) for part in held)
            seconds = self._loads[worker] = total * self._slowness[worker]
        return seconds

    def by_share(self, worker: int) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """Return the partitions of which much is the worker's to do, and those left to others."""
        dues = {part: self.due(worker, part) for part in self._held[worker]}
        limit = LITTLE * max(dues.values(), default=0.0)
        much = tuple(part for part, due in dues.items() if due >= limit)
        return much, tuple(part for part, due in dues.items() if due < limit)

    def due(self, worker: int, part: Part) -> float:
        """Return a worker's part of the work on a partition, on a worker of slowness 1."""
        return self._work(part) * self._share_of(worker, part)
