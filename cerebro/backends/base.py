"""What the executor asks of a training tool: the contract that every backend keeps.

A *handler* is one run's use of a tool in one process. The executor (and `cerebro.check`, in the
user's own process) owns the data cache, the order of units and the files' names; the handler
builds, restores, trains and turns a model's state into bytes on disk and back.

Threads: `load` and `run` are called by one thread. `read` and `write` may be called by another
one at the same time, so that saving and reading hide behind training; they share nothing with
`run` but the state they are given, and what `recycle` takes back.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cerebro.errors import UserFunctionError
from cerebro.formatting import message_of
from cerebro.metrics.rules import EXACT
from cerebro.seeding import derive, seed_generators

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclass(frozen=True)
class UserFunctions:
    """The functions that the user supplied, as callables in this process.

    Where a backend trains by itself, `train_fn` may be None; `error_metric` is then the metric
    that is the error, None for the backend's own choice. `metric_rules` are the run's
    (`cerebro.metrics.rules`).
    """

    input_fn: Callable[..., Any]
    model_fn: Callable[..., Any]
    train_fn: Callable[..., Any] | None
    error_metric: str | None = None
    metric_rules: int = EXACT


@dataclass(frozen=True)
class Options:
    """What a handler may use of this machine, and how it trains. `threads` is the number of CPU
    threads; with `global_step` the optimizer of a V1 graph advances the graph's global step.
    `code` names the code that plain models need, where it is stored.
    """

    threads: int = 1
    deterministic: bool = True
    global_step: bool = True
    code: str | None = None
    gpu: int | None = None
    gpu_memory_gb: float | None = None


@dataclass(frozen=True)
class UnitTask:
    """One training unit, with all that determines its result apart from data and input state.

    `seed` is the run's seed, or the configuration's own; the seeds in use follow from it.
    `warm_start` says that the input state is another model's, or of a file that the run was given.
    """

    model: int
    epoch: int
    train: bool
    partition: int
    path: str
    config: Mapping[str, Any]
    seed: int
    warm_start: bool = False

    @property
    def init_seed(self) -> int:
        """For a model's initial weights, wherever it starts."""
        return derive(self.seed, "init", self.model)

    @property
    def unit_seed(self) -> int:
        """For what is drawn while the unit runs."""
        split = "train" if self.train else "valid"
        return derive(self.seed, "unit", self.model, self.epoch, split, self.partition)


def not_known() -> None:
    """What is told of weights that nobody has looked at."""


@dataclass(frozen=True)
class UnitRun:
    """What a unit gave. `state` is None when validating; `examples` None when not reported.

    `phases` are seconds: `build` (model and graph), `restore` (state into the model), `run`
    (inside `train_fn`) and `fetch` (the new state out of it, and making ready for the next unit).
    `metrics` are further values by name, over the unit's examples; `states` is what
    `cerebro.metrics.states` describes, where it is known. `finite`, which is called while the state
    is saved, tells whether its weights are finite (`cerebro.backends.finite`); None stands for "as
    those that the unit started with".
    """

    loss: float
    error: float
    examples: float | None
    state: Any
    phases: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    states: Mapping[str, Any] | None = None
    finite: Callable[[], bool | None] = not_known


class Handler(ABC):
    """One run's use of a training tool in this process."""

    def __init__(self, functions: UserFunctions, options: Options) -> None:
        self.functions = functions
        self.options = options

    @classmethod  # noqa: B027
    def prepare_process(cls, options: Options) -> None:
        """Set this process up for the tool, once, before it is used; an executor's only."""

    @classmethod
    def seed_process(cls, seed: int) -> None:
        """Seed all generators before the user's modules are imported; an executor's only."""
        seed_generators(seed)

    @classmethod
    def for_check(cls, functions: UserFunctions, options: Options, steps: int) -> Handler:
        """A handler for the user's own process, whose settings it leaves as they are.

        Units end after `steps` steps where the tool can tell them apart.
        """
        del steps
        return cls(functions, options)

    @abstractmethod
    def load(self, path: str, seed: int) -> Any:
        """`input_fn(path)` with the random generators seeded by (seed, path)."""

    @abstractmethod
    def read(self, checkpoint: str) -> Any:
        """The state saved under `checkpoint`, on the host.

        Raises `VersionDamaged` if a checksum fails or the files are cut short or gone, and
        `StorageError` if storage refuses to read them.
        """

    @abstractmethod
    def run(self, task: UnitTask, data: Any, state: Any) -> UnitRun:
        """Train or validate on `data` from `state`, leaving `state` as it is.

        `state` None means a model that has not been trained yet. Raises `UserFunctionError` (or
        its `BadReturn`) where the user's functions are at fault, `MemoryError` or another error
        that `is_resource_error` recognises where the machine is.
        """

    @abstractmethod
    def write(self, state: Any, directory: str) -> str:
        """Write `state` into `directory`, which exists and is empty.

        Returns the checkpoint's name inside it (a file or a prefix of files). The caller syncs
        and publishes the directory.
        """

    def recycle(self, state: Any) -> None:  # noqa: B027
        """Take back a state that `run` gave and nobody will read any more; any thread may call."""

    def is_resource_error(self, error: BaseException) -> bool:
        """Whether `error`, or one it was raised from, says that memory or a device gave out."""
        return any(isinstance(link, MemoryError) for link in chain(error))

    def forget(self, model: int) -> None:  # noqa: B027
        """Drop what is kept for a model that will not run here again."""

    def close(self) -> None:  # noqa: B027
        """Release everything."""

    def devices(self) -> list[str]:
        """What this process computes on, for people: `["CPU"]`, `["GPU NVIDIA A100 80 GB"]`."""
        return ["CPU"]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from: each once, where they form a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


@contextlib.contextmanager
def timed(phases: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds that the block takes, also where it raises, to `phases[name]`."""
    began = time.perf_counter()
    try:
        yield
    finally:
        phases[name] += time.perf_counter() - began


@contextlib.contextmanager
def user_code(function: str) -> Iterator[None]:
    """Turn whatever a function of the user raises into a `UserFunctionError` that names it.

    Memory errors pass through as they are (the machine is at fault, not the code). `sys.exit` is
    an error as well: it would end the process of everybody's models.
    """
    try:
        yield
    except (UserFunctionError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            trace = trace.tb_next
        # The user's own frames; all of them where the error arose before any of them.
        text = "".join(traceback.format_exception(type(error), error, trace or error.__traceback__))
        raise UserFunctionError(
            f"{function} raised {type(error).__name__}: {message_of(error)}",
            function=function,
            remote_traceback=text,
        ) from error
