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


Averages = defaultdict[tuple[str, int, Split], Average]


class UnitTimes:
    """Averages over committed units.

    A unit keeps its worker *busy* until `train_fn` has returned, and *holds* its model until it is
    committed: a training unit's new version is saved in between.
    """

    def __init__(self) -> None:
        self._busy: Averages = defaultdict(Average)
        self._held: Averages = defaultdict(Average)

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
        """Return the seconds that a model's unit keeps a worker busy.

        They are those of its own units of the split. Before the first of these they are those of
        all models, times how much longer its units of the other split take than all models'; 0
        where nothing has been measured.
        """
        return _of_model(self._busy, model, split)

    def held(self, model: int, split: Split) -> float:
        """Return the seconds that a model's unit holds its model, in the same way."""
        return _of_model(self._held, model, split)

    def busy_on(self, partition: int, split: Split) -> float:
        """Return the seconds that a unit on a partition keeps a worker busy, whichever model's."""
        own = _seconds(self._busy, ("partition", partition, split))
        return own if own is not None else _seconds(self._busy, ("split", 0, split)) or 0.0


def _of_model(averages: Averages, model: int, split: Split) -> float:
    own = _seconds(averages, ("model", model, split))
    if own is not None:
        return own
    other = Split.VALID if split is Split.TRAIN else Split.TRAIN
    of_all = _seconds(averages, ("split", 0, split)) or 0.0
    own_other = _seconds(averages, ("model", model, other))
    all_other = _seconds(averages, ("split", 0, other))
    return of_all * own_other / all_other if own_other is not None and all_other else of_all


def _seconds(averages: Averages, key: tuple[str, int, Split]) -> float | None:
    average = averages.get(key)
    return None if average is None else average.seconds
