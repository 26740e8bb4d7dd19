"""Where configurations come from: what each hyperparameter may be.

A space is a dictionary. A list of values, or a `Choice`, is a choice among them; `Uniform`,
`LogUniform` and `Integer` are ranges; any other value is what every configuration has.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from cerebro.errors import ConfigurationError
from cerebro.formatting import shorten
from cerebro.seeding import derive
from cerebro.validation import integer

Config = dict[str, Any]


class Dimension(ABC):
    """What one hyperparameter may be."""

    @abstractmethod
    def sample(self, rng: random.Random) -> Any:
        """Return a value, drawn at random."""


@dataclass(frozen=True)
class Choice(Dimension):
    """Draws one of `values`, each as likely. A list stands for it.

    Raises `ConfigurationError` if `values` is not a list, or has nothing in it.
    """

    values: Sequence[Any]

    def __post_init__(self) -> None:
        if isinstance(self.values, (str, bytes)) or not isinstance(self.values, Sequence):
            raise ConfigurationError(f"Choice({shorten(self.values)}): pass a list of values")
        if not self.values:
            raise ConfigurationError("a hyperparameter has no value to choose: name at least one")
        # As they come back from the journal, so that they can be compared.
        object.__setattr__(self, "values", tuple(_listed(value) for value in self.values))

    def sample(self, rng: random.Random) -> Any:
        return self.values[int(rng.random() * len(self.values))]


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


class Range(Dimension):
    """An interval, which a procedure may see as the numbers from 0 to 1."""

    @abstractmethod
    def at(self, position: float) -> float:
        """Return the value at a position; 0 is the lower end, 1 the upper one."""

    @abstractmethod
    def position(self, value: float) -> float:
        """Return where a value lies, in [0, 1]."""

    def sample(self, rng: random.Random) -> Any:
        return self.at(rng.random())


@dataclass(frozen=True)
class Uniform(Range):
    """Draws a number from `low` to `high`, each as likely.

    Raises `ConfigurationError` unless both are finite numbers, and `low` is below `high`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check(self)

    def at(self, position: float) -> float:
        return min(self.high, self.low + position * (self.high - self.low))

    def position(self, value: float) -> float:
        return _inside((value - self.low) / (self.high - self.low))


@dataclass(frozen=True)
class LogUniform(Range):
    """Draws a number from `low` to `high`, each order of magnitude as likely.

    Raises `ConfigurationError` unless both are finite, `low` is above 0, and below `high`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check(self, above_zero=True)

    def at(self, position: float) -> float:
        value = math.exp(math.log(self.low) + position * math.log(self.high / self.low))
        return min(self.high, max(self.low, value))

    def position(self, value: float) -> float:
        if value <= 0:
            return 0.0
        return _inside(math.log(value / self.low) / math.log(self.high / self.low))


@dataclass(frozen=True)
class Integer(Range):
    """Draws an integer from `low` to `high`, both of them included.

    With `log` each order of magnitude is as likely, and `low` has to be above 0. Raises
    `ConfigurationError` unless both are integers, and `low` is below `high`.
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = integer(f"{self!r}: {name}", getattr(self, name), refusal=ConfigurationError)
            object.__setattr__(self, name, value)
        _check(self, above_zero=self.log)

    def at(self, position: float) -> int:
        # Half a unit at both ends, so that these are as likely as the others.
        low, high = self.low - 0.5, self.high + 0.5
        if self.log:
            value = math.exp(math.log(low) + position * math.log(high / low))
        else:
            value = low + position * (high - low)
        return min(self.high, max(self.low, round(value)))

    def position(self, value: float) -> float:
        low, high = self.low - 0.5, self.high + 0.5
        if self.log:
            return _inside(math.log(max(value, low) / low) / math.log(high / low))
        return _inside((value - low) / (high - low))


def _inside(position: float) -> float:
    return min(1.0, max(0.0, position))


def _check(bounds: Uniform | LogUniform | Integer, *, above_zero: bool = False) -> None:
    low, high = bounds.low, bounds.high
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigurationError(f"{bounds!r}: {name} is {shorten(value)}: pass a number")
        if not math.isfinite(value):
            raise ConfigurationError(f"{bounds!r}: {name} is {value}: both ends must be finite")
    if not low < high:
        raise ConfigurationError(f"{bounds!r}: low must be below high; pass one value as it is")
    if above_zero and low <= 0:
        raise ConfigurationError(f"{bounds!r}: low must be above 0 on a logarithmic scale")


@dataclass(frozen=True)
class Space:
    """The hyperparameters and what they may be; a value that does not vary is a `Choice` of one."""

    dimensions: Mapping[str, Dimension]

    @classmethod
    def of(cls, space: Any) -> Space:
        """Make a space of what the user passed. Raises `ConfigurationError` if it is not one."""
        if isinstance(space, Space):
            return space
        if not isinstance(space, Mapping):
            raise ConfigurationError(
                f"the space is {shorten(space)}: pass a dictionary of hyperparameters, such as "
                "{'lr': [0.1, 0.01]} or {'lr': LogUniform(1e-4, 1e-1)}"
            )
        dimensions: dict[str, Dimension] = {}
        for name, values in space.items():
            if not isinstance(name, str):
                raise ConfigurationError(f"the space has the key {shorten(name)}: keys are strings")
            dimensions[name] = _dimension(name, values)
        return cls(dimensions)

    def sample(self, seed: int, number: int) -> Config:
        """Return configuration `number` of the endless random sequence that belongs to `seed`."""
        rng = random.Random(derive(seed, "sample", number))
        return {name: dimension.sample(rng) for name, dimension in self.dimensions.items()}

    def grid(self) -> list[Config]:
        """Return every combination of values; the last hyperparameter changes fastest.

        Raises `ConfigurationError` for a range, whose values nobody can list.
        """
        choices: list[Sequence[Any]] = []
        for name, dimension in self.dimensions.items():
            if not isinstance(dimension, Choice):
                raise ConfigurationError(
                    f"{name} is {dimension!r}, of which there is no grid: list the values to try, "
                    "or search at random"
                )
            choices.append(dimension.values)
        return [dict(zip(self.dimensions, values, strict=True)) for values in product(*choices)]


def _dimension(name: str, values: Any) -> Dimension:
    if isinstance(values, Dimension):
        return values
    if isinstance(values, (list, tuple)):
        try:
            return Choice(values)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from None
    if isinstance(values, (Mapping, set, range)) or callable(values) or hasattr(values, "tolist"):
        raise ConfigurationError(
            f"{name} is {shorten(values)}: pass a list of values, a range such as Uniform(0, 1), "
            "or one number or string"
        )
    return Choice([values])
