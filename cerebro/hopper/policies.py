"""The placement policies by name."""

from __future__ import annotations

from collections.abc import Callable

from cerebro.hopper.critical import CriticalPlacement
from cerebro.hopper.placement import Placement
from cerebro.hopper.randomized import RandomizedPlacement

POLICIES: dict[str, Callable[[int], Placement]] = {
    "critical": CriticalPlacement,
    "randomized": RandomizedPlacement,
}
"""Each is made with a seed."""

DEFAULT = "critical"
