"""Rungs: the numbers of epochs after which halving procedures compare models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cerebro.errors import ConfigurationError
from cerebro.search.procedure import at_least
from cerebro.search.trials import Trial


def levels(least: int, most: int, eta: int) -> list[int]:
    """Return the rungs' epochs: `least`, times `eta` from one to the next, and `most` as the last.

    For least 1, most 30 and eta 3: 1, 3, 9, 30.
    """
    found = []
    level = least
    while level * eta <= most:
        found.append(level)
        level *= eta
    return [*found, most]


def best(trials: Iterable[Trial], epochs: int) -> list[int]:
    """Return the ids of models that have a number after so many epochs, best first."""
    ranks = sorted(trial.rank(epochs) for trial in trials if trial.epochs >= epochs)
    return [model for value, model in ranks if value < float("inf")]


def check_levels(name: str, least: Any, most: Any) -> None:
    """Raise `ConfigurationError` unless there is a first rung, and a last one not below it."""
    at_least(name, least, 1)
    if at_least("max_epochs", most, 1) < least:
        raise ConfigurationError(f"max_epochs={most}: it must be at least {name}={least}")


def check_number(n: int, rungs: int, eta: int, *, least: str, most: str) -> None:
    """Raise `ConfigurationError` if `n` configurations are too few for one to reach the end."""
    needed = eta ** (rungs - 1)
    if n < needed:
        raise ConfigurationError(
            f"n={n}: one in eta={eta} goes on from each rung, so of fewer than {needed} nobody "
            f"would be trained for {most}: give n={needed} or more, a higher {least}, or a lower "
            "max_epochs"
        )
