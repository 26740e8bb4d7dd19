"""The child process that trains: it owns the training tool, the data cache and the GPU.

Orders come in over a pipe, events go out over it. Three threads, with one concern each: the main
one loads and runs, in the order of arrival; one reads versions that are staged; one saves
versions while the main thread is at the next unit. The end of the pipe means that the daemon is
gone, and then this process ends at once: nothing trains for nobody. A unit for which memory or a
device gave out ends it too, so that the next one starts with all of it.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cerebro.backends.base import Handler, UnitRun, UnitTask
from cerebro.errors import UnsafePath, VersionDamaged
from cerebro.formatting import message_of
from cerebro.hopper.units import Failure, Split
from cerebro.protocol.messages import (
    AttemptFailed,
    AttemptRan,
    AttemptRunning,
    AttemptTimed,
    AttemptUntimed,
    Item,
    LoadFailed,
    LoadsDone,
    LoadWaits,
    PartitionLoaded,
    RunOptions,
    UnitOrder,
)
from cerebro.storage import check_version
from cerebro.worker.failures import OutOfResources, UnitFailure, describe, is_momentary
from cerebro.worker.leftovers import no_timer_left
from cerebro.worker.output_capture import OutputCapture, captured_output
from cerebro.worker.saver import RETRY_SECONDS, RETRY_SECONDS_MAX, Report, Saver

logger = logging.getLogger(__name__)

LOAD_RETRIES = 6
"""Further tries to load a partition that storage refuses for the moment: for a minute."""


class Executor:
    """Carries out orders with one handler, and reports what happens."""

    def __init__(
        self,
        handler: Handler,
        report: Report,
        exhausted: Callable[[], None],
        options: RunOptions,
    ) -> None:
        self._handler = handler
        self._report = report
        self._options = options
        self._data: dict[str, Any] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._staged: dict[int, Future[Any]] = {}
        self._saver = Saver(handler, report, exhausted)
        self._unreached: Counter[str] = Counter()
        self._patience = LOAD_RETRIES

    def preload(self, items: list[Item]) -> None:
        """Load partitions into the cache; report each, then that this worker is ready."""
        for item in items:
            with captured_output() as output, no_timer_left():
                try:
                    seconds = self._load_patiently(item.path)
                except BaseException as error:
                    if self._handler.is_resource_error(error):
                        self.end_for_resources()
                    problem = vars(describe(error, output))
                    self._report(LoadFailed(**vars(item), **problem))
                else:
                    self._report(PartitionLoaded(path=item.path, seconds=seconds))
        self._report(LoadsDone())

    def stage(self, order: UnitOrder) -> None:
        """Start to read the version that an order starts from. Not on the main thread."""
        if order.reads is not None:
            self._staged[order.attempt] = self._reader.submit(self._read, order)

    def unstage(self, attempt: int) -> None:
        """An order that was staged will not be started. Not on the main thread."""
        future = self._staged.pop(attempt, None)
        if future is not None:
            future.cancel()

    def forget(self, models: list[int]) -> None:
        """Drop what the handler keeps for models that have ended."""
        for model in models:
            self._handler.forget(model)

    def start(self, order: UnitOrder) -> None:
        """Run one attempt to its end, and hand its version to the saver."""
        self._report(AttemptRunning(attempt=order.attempt))
        with captured_output() as output, no_timer_left():
            try:
                load, read, result = self._run(order)
            except UnitFailure as failure:
                self._failed(order, failure, output)
                if failure.failure is Failure.RESOURCES:
                    self.end_for_resources()
                return
        phases = {"load": load, **result.phases}
        phases["restore"] = phases.get("restore", 0.0) + read
        started = time.perf_counter()
        self._saver.wait_until_free()
        phases["wait"] = time.perf_counter() - started
        self._report(
            AttemptRan(
                attempt=order.attempt,
                loss=result.loss,
                error=result.error,
                examples=result.examples,
                metrics=dict(result.metrics),
                states=None if result.states is None else dict(result.states),
                phases=phases,
                output=output.text(),
            )
        )
        if order.writes is not None:
            self._saver.save(order, result.state, result.finite)

    def end_for_resources(self) -> None:
        """Have this process end, once what is being saved is published: `OutOfResources`."""
        self._saver.wait_until_free()
        raise OutOfResources

    def _run(self, order: UnitOrder) -> tuple[float, float, UnitRun]:
        """(seconds loading, seconds reading, result) of an attempt."""
        try:
            load = self._load(order.path)
        except BaseException as error:
            self._unreached[order.path] += 1
            again = is_momentary(error) and self._unreached[order.path] <= LOAD_RETRIES
            kind = Failure.STORAGE if again else Failure.INPUT
            raise UnitFailure(self._machine_or(kind, error), error) from error
        started = time.perf_counter()
        try:
            state = self._state(order)
        except VersionDamaged as error:
            raise UnitFailure(Failure.DAMAGED, error) from error
        except Exception as error:
            raise UnitFailure(self._machine_or(Failure.STORAGE, error), error) from error
        read = time.perf_counter() - started
        task = UnitTask(
            model=order.model,
            epoch=order.epoch,
            train=order.split is Split.TRAIN,
            partition=order.partition,
            path=order.path,
            config=order.config,
            seed=order.seed,
            warm_start=is_warm_start(order),
        )
        self._report(AttemptTimed(attempt=order.attempt))
        try:
            return load, read, self._handler.run(task, self._data[order.path], state)
        except BaseException as error:
            raise UnitFailure(self._machine_or(Failure.USER, error), error) from error
        finally:
            self._report(AttemptUntimed(attempt=order.attempt))
            if not self._options.keep_data:
                self._data.clear()

    def _machine_or(self, otherwise: Failure, error: BaseException) -> Failure:
        return Failure.RESOURCES if self._handler.is_resource_error(error) else otherwise

    def _load_patiently(self, path: str) -> float:
        """Load a partition, trying again where storage is not reached for the moment.

        Where one has not been reached for all that time, others are not waited for as long.
        """
        wait = RETRY_SECONDS
        for _ in range(self._patience):
            try:
                return self._load(path)
            except Exception as error:
                if not is_momentary(error):
                    raise
                self._report(LoadWaits(path=path, cause=message_of(error)))
            time.sleep(wait)
            wait = min(2 * wait, RETRY_SECONDS_MAX)
        self._patience = 0
        return self._load(path)

    def _load(self, path: str) -> float:
        """Have a partition in the cache. Returns the seconds that loading took."""
        if path in self._data:
            return 0.0
        started = time.perf_counter()
        self._data[path] = self._handler.load(path, self._options.seed)
        del self._unreached[path]
        self._patience = LOAD_RETRIES
        return time.perf_counter() - started

    def _state(self, order: UnitOrder) -> Any:
        future = self._staged.pop(order.attempt, None)
        if future is not None:
            return future.result()
        return None if order.reads is None else self._read(order)

    def _read(self, order: UnitOrder) -> Any:
        assert order.reads is not None
        if _is_of_this_run(order):
            try:
                check_version(os.path.dirname(order.reads))
            except UnsafePath as error:
                raise VersionDamaged(str(error)) from error
        return self._handler.read(order.reads)

    def _failed(self, order: UnitOrder, failure: UnitFailure, output: OutputCapture) -> None:
        problem = vars(describe(failure.error, output))
        self._report(AttemptFailed(attempt=order.attempt, failure=failure.failure, **problem))


def _is_of_this_run(order: UnitOrder) -> bool:
    """Whether an order starts from a version of its run, and not from what the user has named."""
    if order.reads is None or order.writes is None:
        return order.reads is not None
    models = os.path.dirname(os.path.dirname(order.writes))
    return os.path.dirname(os.path.dirname(os.path.dirname(order.reads))) == models


def is_warm_start(order: UnitOrder) -> bool:
    """Whether an order starts from what is no version of its own model's.

    All versions of a model are folders in one folder.
    """
    if order.reads is None or order.writes is None:
        return False
    return os.path.dirname(os.path.dirname(order.reads)) != os.path.dirname(order.writes)
