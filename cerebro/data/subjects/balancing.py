"""Weights into bins of nearly equal sums.

Each weight goes onto the bin that is lightest so far, the heaviest weights first; then weights
move or change places between the heaviest bin and another as long as that makes the heaviest
lighter. Where this does not come near enough to equal, it is tried again from other orders.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

import numpy as np

TOLERANCE = 1.05
"""The heaviest bin's sum over the mean that is aimed at."""

CLOSE = 1.001
"""Bins as even as this are left as they are."""

Bins = list[list[int]]
"""Indices of weights."""


def pack(
    weights: Sequence[int], bins: int, rng: random.Random, starts: int, close: float = CLOSE
) -> Bins:
    """Indices of `weights` (each above 0) in so many bins, of which none is empty.

    There must be as many weights as bins. Up to `starts` orders are tried. Bins whose heaviest is
    at most `close` times the mean are left as they are.
    """
    order = sorted(range(len(weights)), key=lambda index: -weights[index])
    enough = max(TOLERANCE * sum(weights) / bins, least(weights, bins))
    best = spread(weights, order, bins, close)
    for _ in range(starts - 1):
        if heaviest(weights, best) <= enough:
            break
        rng.shuffle(order)
        found = spread(weights, order, bins, close)
        if heaviest(weights, found) < heaviest(weights, best):
            best = found
    return best


def spread(weights: Sequence[int], order: Sequence[int], bins: int, close: float = CLOSE) -> Bins:
    """Weights dealt in this order, each onto the lightest bin; then evened out."""
    found: Bins = [[] for _ in range(bins)]
    lightest = [(0, number) for number in range(bins)]
    for index in order:
        total, number = heapq.heappop(lightest)
        found[number].append(index)
        heapq.heappush(lightest, (total + weights[index], number))
    _even_out(np.asarray(weights, dtype=np.int64), found, close)
    return found


def heaviest(weights: Sequence[int], bins: Bins) -> int:
    """The sum of the heaviest bin."""
    return max(sum(weights[index] for index in one) for one in bins)


def least(weights: Sequence[int], bins: int) -> int:
    """What no arrangement's heaviest bin can be below."""
    ordered = sorted(weights, reverse=True)
    bounds = [-(-sum(ordered) // bins), ordered[0]]
    if len(ordered) > bins:  # of the bins + 1 heaviest, two share a bin
        bounds.append(ordered[bins - 1] + ordered[bins])
    return max(bounds)


def _even_out(weights: np.ndarray, bins: Bins, close: float) -> None:
    sums = [int(weights[one].sum()) for one in bins]
    mean = sum(sums) / len(sums)
    while max(sums) > close * mean:
        heavy = sums.index(max(sums))
        best: tuple[int, int, int, int] | None = None
        for other, total in enumerate(sums):
            gap = sums[heavy] - total
            # A weight of ours for one of theirs, or for nothing.
            given = weights[bins[heavy]][:, None] - np.append(weights[bins[other]], 0)[None, :]
            # Both are even where half of the gap is given.
            off = np.abs(2 * given - gap)
            ours, theirs = divmod(int(off.argmin()), off.shape[1])
            nearest = int(off[ours, theirs])
            larger = (sums[heavy] + total + nearest) // 2
            if nearest < gap and (best is None or larger < best[0]):
                best = (larger, other, ours, theirs)
        if best is None:
            return
        _, other, ours, theirs = best
        mine = bins[heavy].pop(ours)
        if theirs < len(bins[other]):
            bins[heavy].append(bins[other].pop(theirs))
        bins[other].append(mine)
        for number in (heavy, other):
            sums[number] = int(weights[bins[number]].sum())
