"""What crosses the boundaries driver - daemon - executor: names, messages, nothing else.

The driver calls the methods of `Method` on the daemon. Orders travel down to the executor as
they are; what happens there travels up as events, numbered by the daemon, which the driver
fetches with a call that waits (`Method.EVENTS`). An event stays with the daemon until the driver
asks for later ones, so an answer that is lost costs nothing.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

from cerebro.protocol.types import check

T = TypeVar("T")

PROTOCOL = 1
"""Raised when driver and worker of different versions could misunderstand each other."""


class Method:
    """The remote methods of a worker."""

    DESCRIBE = "describe"
    INSPECT = "inspect"
    DRAIN = "drain"
    PROBE_STORAGE = "probe_storage"
    OPEN_RUN = "open_run"
    CLOSE_RUN = "close_run"
    PRELOAD = "preload"
    STAGE = "stage"
    UNSTAGE = "unstage"
    START = "start"
    FORGET = "forget"
    ORDERS = "orders"
    EVENTS = "events"


RESTART_STATUS = 75
"""An executor's exit status where memory or a device gave out and it has to be started again."""


class Happened:
    """The kinds of events, in the order in which a run meets them.

    `RUNNING`, `TIMED` and `UNTIMED` are for the daemon, which keeps them: an attempt has begun, and
    its `train_fn` (with what builds the model) begins and ends.
    """

    BEGUN = "begun"
    CANNOT_BEGIN = "cannot_begin"
    LOAD_WAITS = "load_waits"
    LOADED = "loaded"
    UNREADABLE = "unreadable"
    READY = "ready"
    RUNNING = "running"
    TIMED = "timed"
    UNTIMED = "untimed"
    RAN = "ran"
    SAVE_WAITS = "save_waits"
    COMMITTED = "committed"
    FAILED = "failed"
    EXECUTOR_DIED = "executor_died"
    DRAINING = "draining"
    LEAVING = "leaving"


@functools.lru_cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _from_json(kind: type[T], fields: dict[str, Any]) -> T:
    check(kind.__name__.lower(), fields, _hints(cast(Hashable, kind)))
    return kind(**fields)


@dataclass(frozen=True)
class Ticket:
    """Which run a call is for, and which of its lives.

    `generation` rises with every driver that takes the run up, `incarnation` with every time that
    this driver had given the worker up. A daemon refuses everything below the highest it has seen.
    """

    run: str
    generation: int
    incarnation: int

    @property
    def rank(self) -> tuple[int, int]:
        """What is compared."""
        return self.generation, self.incarnation

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Ticket:
        """From a dictionary; `TypeError` or `ValueError` for one of another form."""
        return _from_json(cls, fields)


@dataclass(frozen=True)
class Item:
    """A partition to load."""

    split: str
    partition: int
    path: str

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Item:
        """From a dictionary; `TypeError` or `ValueError` for one of another form."""
        return _from_json(cls, fields)


@dataclass(frozen=True)
class Order:
    """One attempt, as the executor needs it.

    `reads` is the checkpoint to start from (None: an untrained model), `writes` the folder to
    publish (None when validating); its name has never been used before.
    """

    attempt: int
    model: int
    epoch: int
    split: str
    partition: int
    path: str
    config: dict[str, Any]
    seed: int
    reads: str | None
    writes: str | None

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Order:
        """From a dictionary; `TypeError` or `ValueError` for one of another form."""
        return _from_json(cls, fields)
