"""The storm itself: faults at random times, each healed after a while."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable

from testbed.chaos_faults import Heal, Kind, Missed, Scene

MISSED_PAUSE_SECONDS = 0.05
PROGRESS_SECONDS = 5.0
STUCK_SECONDS = 60.0

EVERYWHERE = -1


class Storm:
    """Strikes `faults` times, every `pause` seconds on average, all kinds equally often.

    `say` gets a line every few seconds.
    """

    def __init__(
        self,
        scene: Scene,
        kinds: list[Kind],
        faults: int,
        pause: float,
        say: Callable[[str], None],
    ) -> None:
        self.struck: Counter[str] = Counter()
        self._scene = scene
        self._kinds = kinds
        self._faults = faults
        self._pause = pause
        self._say = say
        self._random = scene.random
        self._busy: set[tuple[str, int]] = set()
        self._heals: list[tuple[float, int, tuple[str, int], Heal]] = []
        self._numbers = itertools.count()

    def blow(self) -> None:
        """Strike, and heal everything.

        Returns early if the run ends meanwhile, or if there is nothing to hit.
        """
        deck: list[Kind] = []
        strike_at = self._later(time.monotonic())
        said = struck_at = time.monotonic()
        while (left := self._faults - self.struck.total()) or self._heals:
            moments = [said + PROGRESS_SECONDS]
            if left:
                moments.append(strike_at)
            if self._heals:
                moments.append(self._heals[0][0])
            if self._scene.driver.over.wait(max(0.0, min(moments) - time.monotonic())):
                break
            now = time.monotonic()
            if now - struck_at > STUCK_SECONDS:
                self._scene.troubles.append(f"nothing could be hit for {STUCK_SECONDS:.0f} s")
                break
            self._heal(now)
            if left and now >= strike_at:
                deck = deck or self._random.sample(self._kinds, len(self._kinds))
                if self._strike(deck, now):
                    strike_at, struck_at = self._later(now), now
                else:
                    strike_at = now + MISSED_PAUSE_SECONDS
            if now >= said + PROGRESS_SECONDS:
                said = now
                self._say(f"{self.struck.total()} of {self._faults} faults")
        self.calm()

    def calm(self) -> None:
        """Heal whatever is not healed yet."""
        self._heal(float("inf"))

    def _later(self, now: float) -> float:
        return now + self._random.expovariate(1.0 / self._pause)

    def _strike(self, deck: list[Kind], now: float) -> bool:
        """One fault of the first kind in the deck that has a target; False if none has."""
        for position, kind in enumerate(deck):
            everyone = [EVERYWHERE] if kind.everywhere else range(len(self._scene.workers))
            targets = [t for t in everyone if (kind.layer, t) not in self._busy]
            if not targets:
                continue
            target = self._random.choice(targets)
            try:
                heal = kind.strike(self._scene, target)
            except Missed:
                continue
            del deck[position]
            self.struck[kind.name] += 1
            moment = now + self._random.uniform(kind.shortest, kind.longest)
            self._busy.add((kind.layer, target))
            entry = (moment, next(self._numbers), (kind.layer, target), heal)
            heapq.heappush(self._heals, entry)
            return True
        return False

    def _heal(self, now: float) -> None:
        while self._heals and self._heals[0][0] <= now:
            _, _, place, heal = heapq.heappop(self._heals)
            self._busy.discard(place)
            heal()


def seeded(seed: int) -> random.Random:
    """The generator of a storm: which faults, where, and how long apart."""
    return random.Random(f"chaos {seed}")
