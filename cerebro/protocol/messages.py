"""What crosses the boundaries driver - daemon - executor: names, messages, nothing else.

The driver calls the methods of `Method` on the daemon. Orders travel down to the executor as
they are; what happens there travels up as events, numbered by the daemon, which the driver
fetches with a call that waits (`Method.EVENTS`). An event stays with the daemon until the driver
asks for later ones, so an answer that is lost costs nothing.

Each message is a frozen dataclass. Its fields are the keys of the JSON object that travels, and
nothing else knows them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, ClassVar, TypeVar

from cerebro.formatting import shorten
from cerebro.hopper.units import Failure, Split
from cerebro.protocol import types
from cerebro.protocol.bounds import (
    LONGEST_SECONDS,
    Count,
    Examples,
    Index,
    Number,
    Path,
    RunId,
    Seconds,
    States,
    Within,
)

logger = logging.getLogger(__name__)

M = TypeVar("M", bound="Message")

PROTOCOL = 2
"""Raised when driver and worker of different versions could misunderstand each other."""


class Method(str, Enum):
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


class Message:
    """What all messages have in common; each is a dataclass."""

    @classmethod
    def from_json(cls: type[M], content: Any) -> M:
        """Parse one; unknown fields are passed over.

        Raises `ValueError` for a field that is missing, or not of its type.
        """
        return types.from_json(cls, content, cls.__name__)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return types.to_json(self)


# --- down: which run, how, and what is to be done ------------------------------------------------


@dataclass(frozen=True)
class Ticket(Message):
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


@dataclass(frozen=True)
class DriverInfo(Message):
    """Who drives a run, for people: process `pid` on `host`, which keeps it in `run_dir`."""

    host: str
    pid: int
    run_dir: str


@dataclass(frozen=True)
class HeldRun(Message):
    """The run that a worker holds, as it says to all who ask.

    It gives the run up in `lease_left` seconds, unless it hears of the driver.
    """

    run: RunId
    generation: Count
    lease_left: Annotated[float, Within(-LONGEST_SECONDS, LONGEST_SECONDS)]
    host: str
    pid: Count
    run_dir: str

    def __str__(self) -> str:
        return f"the run {self.run_dir} of the driver with process {self.pid} on {self.host}"


@dataclass(frozen=True)
class RunOptions(Message):
    """How a run is carried out, on every worker alike.

    `seed` is the run's; `keep_data` says whether partitions stay in memory after a unit. A unit
    may run for `unit_timeout` seconds (None: for any time), and a worker gives the run up when it
    has not heard of the driver for `lease` seconds. `metric_rules` are those of the run's plan.
    `global_step` says whether optimizers of V1 graphs advance the global step, and `code` names the
    functions' code where it is stored.
    """

    backend: str
    deterministic: bool
    seed: int
    keep_data: bool
    unit_timeout: float | None
    lease: float
    metric_rules: int = 1
    global_step: bool = False
    code: str | None = None


@dataclass(frozen=True)
class ExecutorSetup(Message):
    """What a daemon tells a new executor first; the functions follow.

    `options` are the run's; the others are this worker's: CPU threads, which GPU, and how much of
    its memory, and the level of `logging`.
    """

    options: RunOptions
    threads: int
    gpu: int | None
    gpu_memory_gb: float | None
    log_level: int


@dataclass(frozen=True)
class Item(Message):
    """A partition to load."""

    split: Split
    partition: int
    path: str


@dataclass(frozen=True)
class UnitOrder(Message):
    """One attempt, as the executor needs it.

    `seed` is the run's, or the configuration's own. `reads` is the checkpoint to start from
    (None: an untrained model), `writes` the folder to publish (None when validating); its name
    has never been used before.
    """

    attempt: int
    model: int
    epoch: int
    split: Split
    partition: int
    path: str
    config: dict[str, Any]
    seed: int
    reads: str | None
    writes: str | None


# --- up: what happens on a worker ----------------------------------------------------------------


class EventKind(str, Enum):
    """The kinds of events, in the order in which a run meets them."""

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


class WorkerEvent(Message):
    """Something that happened on a worker: the base of the classes below, one for each kind."""

    kind: ClassVar[EventKind]

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"kind": self.kind.value, **types.to_json(self)}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An error on a worker, for the driver and its user.

    `error` is its class, `function` the function of the user's that it came from ('' where none
    did), `output` what was printed last.
    """

    message: str
    error: str = ""
    function: str = ""
    traceback: str = ""
    output: str = ""


@dataclass(frozen=True, kw_only=True)
class AttemptEvent(WorkerEvent):
    """Something that concerns one attempt."""

    attempt: Count


@dataclass(frozen=True, kw_only=True)
class ExecutorStarted(WorkerEvent):
    """An executor has the tool and the functions, and takes orders."""

    kind = EventKind.BEGUN
    devices: list[str]
    pid: Count


@dataclass(frozen=True, kw_only=True)
class ExecutorCannotStart(Problem, WorkerEvent):
    """No executor can use the functions or the tool here."""

    kind = EventKind.CANNOT_BEGIN


@dataclass(frozen=True, kw_only=True)
class LoadWaits(WorkerEvent):
    """Storage refuses a partition for the moment; it is tried again."""

    kind = EventKind.LOAD_WAITS
    path: str
    cause: str


@dataclass(frozen=True, kw_only=True)
class PartitionLoaded(WorkerEvent):
    """A partition is in the cache; loading it took `seconds`."""

    kind = EventKind.LOADED
    path: str
    seconds: Seconds


@dataclass(frozen=True, kw_only=True)
class LoadFailed(Problem, WorkerEvent):
    """`input_fn` failed for a partition."""

    kind = EventKind.UNREADABLE
    split: Split
    partition: Index
    path: str


@dataclass(frozen=True, kw_only=True)
class LoadsDone(WorkerEvent):
    """All that was to be loaded is, or has failed."""

    kind = EventKind.READY


@dataclass(frozen=True, kw_only=True)
class AttemptRunning(AttemptEvent):
    """The executor has taken an attempt up. The daemon keeps this for itself."""

    kind = EventKind.RUNNING


@dataclass(frozen=True, kw_only=True)
class AttemptTimed(AttemptEvent):
    """The model is being built, and `train_fn` follows. The daemon keeps this for itself."""

    kind = EventKind.TIMED


@dataclass(frozen=True, kw_only=True)
class AttemptUntimed(AttemptEvent):
    """`train_fn` has ended, in one way or another. The daemon keeps this for itself."""

    kind = EventKind.UNTIMED


@dataclass(frozen=True, kw_only=True)
class AttemptRan(AttemptEvent):
    """`train_fn` has returned: the worker is free for the next unit.

    `phases` are seconds by name, `metrics` further values; `examples` None where not reported.
    `states` is what `cerebro.metrics.states` describes, of a validation unit.
    """

    kind = EventKind.RAN
    loss: Number
    error: Number
    examples: Examples | None
    phases: dict[str, Seconds]
    output: str
    metrics: dict[str, Number] = field(default_factory=dict)
    states: States | None = None

    def __post_init__(self) -> None:
        if "run" not in self.phases:
            raise ValueError(f"ran: phases has no 'run': {shorten(self.phases)}")


@dataclass(frozen=True, kw_only=True)
class SaveWaits(AttemptEvent):
    """Storage refuses the version that an attempt made; it is tried again, from memory."""

    kind = EventKind.SAVE_WAITS
    path: str
    cause: str


@dataclass(frozen=True, kw_only=True)
class VersionPublished(AttemptEvent):
    """The version that an attempt made can be read; publishing it took `save` seconds.

    `finite` says whether its weights are; None stands for "as those of the version before".
    """

    kind = EventKind.COMMITTED
    checkpoint: Path
    save: Seconds
    finite: bool | None = None


@dataclass(frozen=True, kw_only=True)
class AttemptFailed(Problem, AttemptEvent):
    """An attempt has ended without a result."""

    kind = EventKind.FAILED
    failure: Failure


@dataclass(frozen=True, kw_only=True)
class ExecutorDied(WorkerEvent):
    """An executor ended with these attempts under way; `output` is what it printed last."""

    kind = EventKind.EXECUTOR_DIED
    attempts: list[Count]
    cause: str
    output: str


@dataclass(frozen=True, kw_only=True)
class DrainStarted(WorkerEvent):
    """The worker ends these attempts, and takes no more."""

    kind = EventKind.DRAINING
    attempts: list[Count]


@dataclass(frozen=True, kw_only=True)
class Leaving(WorkerEvent):
    """The worker ends: it is `drained`, or was stopped."""

    kind = EventKind.LEAVING
    drained: bool = False


EVENTS: Mapping[EventKind, type[WorkerEvent]] = {
    event.kind: event
    for event in (
        ExecutorStarted,
        ExecutorCannotStart,
        LoadWaits,
        PartitionLoaded,
        LoadFailed,
        LoadsDone,
        AttemptRunning,
        AttemptTimed,
        AttemptUntimed,
        AttemptRan,
        SaveWaits,
        VersionPublished,
        AttemptFailed,
        ExecutorDied,
        DrainStarted,
        Leaving,
    )
}
"""The class of each kind of event."""


def parse_event(content: Any) -> WorkerEvent | None:
    """Parse an event; None for one of a kind that is not known here, which is passed over.

    Raises `ValueError` for a field that is missing, or not of its type.
    """
    if not isinstance(content, dict) or not isinstance(content.get("kind"), str):
        raise ValueError(f"{content!r:.200} is not an event: an object with a kind is needed")
    try:
        kind = EventKind(content["kind"])
    except ValueError:
        logger.debug("an event of unknown kind is passed over: %.200r", content)
        return None
    return types.from_json(EVENTS[kind], content, kind.value)
