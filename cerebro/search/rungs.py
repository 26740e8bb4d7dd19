"""Rungs: the numbers of epochs after which halving procedures compare models."""

from __future__ import annotations

from collections.abc import Iterable

from cerebro.errors import ConfigurationError
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


def check_levels(name: str, least: int, most: int) -> None:
    """`ConfigurationError` unless the last rung is not below the first one."""
    if most < least:
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
