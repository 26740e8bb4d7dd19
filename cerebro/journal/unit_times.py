"""What units have taken of late, by model, by partition and by split."""

from __future__ import annotations

from collections import defaultdict

from cerebro.hopper.units import Split, Unit

RECENT = 0.3
"""How much a new measurement counts beside the ones before: recent times count most."""


class Average:
    """A moving average in seconds; None before the first measurement."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    def add(self, seconds: float) -> None:
        """Count one more measurement."""
        before = self.seconds
        self.seconds = seconds if before is None else before + RECENT * (seconds - before)


class UnitTimes:
    """Averages over committed units.

    A unit keeps its worker *busy* until `train_fn` has returned, and *holds* its model until it is
    committed: a training unit's new version is saved in between.
    """

    def __init__(self) -> None:
        self._busy: defaultdict[tuple[str, int, Split], Average] = defaultdict(Average)
        self._held: defaultdict[tuple[str, int, Split], Average] = defaultdict(Average)

    def add(self, unit: Unit, busy: float, held: float) -> None:
        """Count a unit that is committed."""
        for key in (
            ("model", unit.model, unit.split),
            ("partition", unit.partition, unit.split),
            ("split", 0, unit.split),
        ):
            self._busy[key].add(busy)
            self._held[key].add(held)

    def measured(self, split: Split) -> bool:
        """Whether some unit of a split has been measured."""
        return ("split", 0, split) in self._busy

    def busy(self, model: int, split: Split) -> float:
        """Seconds that a model's unit keeps a worker busy: as its own units, else as all models'
        have done; 0 before the first of the split.
        """
        return _first(self._busy, ("model", model, split), ("split", 0, split))

    def held(self, model: int, split: Split) -> float:
        """Seconds that a model's unit holds its model, in the same way."""
        return _first(self._held, ("model", model, split), ("split", 0, split))

    def busy_on(self, partition: int, split: Split) -> float:
        """Seconds that a unit on a partition keeps a worker busy, whichever model's it is."""
        return _first(self._busy, ("partition", partition, split), ("split", 0, split))


def _first(averages: dict[tuple[str, int, Split], Average], *keys: tuple[str, int, Split]) -> float:
    for key in keys:
        average = averages.get(key)
        if average is not None and average.seconds is not None:
            return average.seconds
    return 0.0
