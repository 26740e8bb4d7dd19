"""Functions whose minimum is known, to hold procedures to.

Both are from Dixon and Szegő, "The global optimization problem: an introduction", 1978, with the
domains, constants and minima in which they are usually given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cerebro.search import Uniform


@dataclass(frozen=True)
class Function:
    """`value` of a configuration from `space` is nowhere below `minimum`."""

    name: str
    minimum: float
    space: Mapping[str, Any]
    value: Callable[[Mapping[str, Any]], float]


def branin(config: Mapping[str, Any]) -> float:
    """Two hyperparameters, three minima of the same depth."""
    x, y = config["x"], config["y"]
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


HEIGHTS = (1.0, 1.2, 3.0, 3.2)
STEEPNESS = (
    (10.0, 3.0, 17.0, 3.5, 1.7, 8.0),
    (0.05, 10.0, 17.0, 0.1, 8.0, 14.0),
    (3.0, 3.5, 1.7, 10.0, 17.0, 8.0),
    (17.0, 8.0, 0.05, 10.0, 0.1, 14.0),
)
CENTRES = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def hartmann(config: Mapping[str, Any]) -> float:
    """Six hyperparameters, four hollows."""
    total = 0.0
    for height, steepness, centre in zip(HEIGHTS, STEEPNESS, CENTRES, strict=True):
        distance = sum(
            a * (config[f"x{i}"] - p) ** 2
            for i, (a, p) in enumerate(zip(steepness, centre, strict=True))
        )
        total -= height * math.exp(-distance)
    return total


FUNCTIONS = (
    Function("Branin", 0.397887, {"x": Uniform(-5, 10), "y": Uniform(0, 15)}, branin),
    Function("Hartmann-6", -3.32237, {f"x{i}": Uniform(0, 1) for i in range(6)}, hartmann),
)
