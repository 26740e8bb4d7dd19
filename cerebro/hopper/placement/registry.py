"""The placement policies by name."""

from __future__ import annotations

from collections.abc import Callable

from cerebro.hopper.placement.base import Placement
from cerebro.hopper.placement.critical_path import CriticalPlacement
from cerebro.hopper.placement.oldest import OldestPlacement
from cerebro.hopper.placement.randomized import RandomizedPlacement

POLICIES: dict[str, Callable[[int], Placement]] = {
    "critical": CriticalPlacement,
    "oldest": OldestPlacement,
    "randomized": RandomizedPlacement,
}
"""Each is made with a seed."""

TOGETHER = "critical"
"""For models that start together, and end their epochs together."""

ONE_BY_ONE = "oldest"
"""For models that come and go, each with a decision at its own end of an epoch."""
