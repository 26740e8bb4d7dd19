"""Which saved versions of a model are still needed.

Kept are the newest version *n*, *n - 1* (until *n + 1* is committed), the version at the end of
the best epoch, and what a warm-started child has yet to read; and,
where models may be copied at any time, the version at the end of the last epoch.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass
class _Kept:
    saved: set[int] = field(default_factory=set)
    newest: int = 0
    best: int | None = None
    best_score: float = math.inf
    epoch_end: int | None = None
    pins: dict[int, int] = field(default_factory=dict)


class Retention:
    """Says which versions may be dropped, as versions are committed and epochs end."""

    def __init__(self, *, keep_epoch_ends: bool = False) -> None:
        self._keep_epoch_ends = keep_epoch_ends
        self._models: dict[int, _Kept] = {}

    def committed(self, model: int, version: int) -> list[int]:
        """Note a committed version. Returns the versions that nobody needs any more."""
        kept = self._models.setdefault(model, _Kept())
        kept.saved.add(version)
        kept.newest = version
        return self._superfluous(kept)

    def voided(self, model: int, version: int) -> None:
        """Take back a version that cannot be read; the one before it is the newest again.

        It will be made again: if it is the best one, it stays so.
        """
        kept = self._models[model]
        kept.saved.discard(version)
        kept.newest = version - 1

    def epoch_ended(self, model: int, version: int, score: float) -> list[int]:
        """Note an epoch's end at `version`, which is better the lower its score is.

        Of equal ones the first is the best; NaN never becomes it. Returns what may go.
        """
        kept = self._models.setdefault(model, _Kept())
        first = kept.best is None and not math.isnan(score)
        if first or score < kept.best_score:
            kept.best, kept.best_score = version, score
        if self._keep_epoch_ends:
            kept.epoch_end = version
        return self._superfluous(kept)

    def ruined(self, model: int, versions: Collection[int | None]) -> None:
        """Note versions that can never be the best, whatever was thought of them."""
        kept = self._models.setdefault(model, _Kept())
        if kept.best in versions:
            kept.best, kept.best_score = None, math.inf

    def pin(self, model: int, version: int) -> None:
        """Keep a version that a child will read."""
        pins = self._models.setdefault(model, _Kept()).pins
        pins[version] = pins.get(version, 0) + 1

    def unpin(self, model: int, version: int) -> list[int]:
        """Note that a child has read it. Returns what may go."""
        kept = self._models[model]
        kept.pins[version] -= 1
        if not kept.pins[version]:
            del kept.pins[version]
        return self._superfluous(kept)

    def dropped(self, model: int, version: int) -> None:
        """Forget a version that has been deleted."""
        self._models[model].saved.discard(version)

    def _superfluous(self, kept: _Kept) -> list[int]:
        needed = {kept.newest, kept.newest - 1, kept.best, kept.epoch_end, *kept.pins}
        return sorted(kept.saved - needed)
