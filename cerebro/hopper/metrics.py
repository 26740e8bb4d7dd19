"""One epoch's metrics from its units' metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping


def epoch_mean(values: Mapping[int, float], examples: Mapping[int, float | None]) -> float:
    """Return the mean over partitions, weighted by examples where every partition reports them.

    `values` and `examples` are keyed by partition. Summed in the partitions' order, not in that
    of their visits, so that the figure does not depend on the schedule. Without partitions: NaN.
    """
    if not values:
        return math.nan
    order = sorted(values)
    weights = [examples.get(partition) for partition in order]
    known = [weight for weight in weights if weight is not None]
    if len(known) < len(weights) or sum(known) <= 0:
        known = [1.0] * len(order)
    total = sum(weight * values[partition] for weight, partition in zip(known, order, strict=True))
    return total / sum(known)
