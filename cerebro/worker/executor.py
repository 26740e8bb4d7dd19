"""The child process that trains: it owns the training tool, the data cache and the GPU.

Orders come in over a pipe, events go out over it. Three threads, with one concern each: the main
one loads and runs, in the order of arrival; one reads versions that are staged; one saves
versions while the main thread is at the next unit. The end of the pipe means that the daemon is
gone, and then this process ends at once: nothing trains for nobody. A unit for which memory or a
device gave out ends it too, so that the next one begins with all of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cerebro import shipping
from cerebro.backends import handler_class
from cerebro.backends.base import Handler, Options, UnitRun, UnitTask, UserFunctions, chain
from cerebro.errors import CerebroError, StorageError, UserFunctionError, VersionDamaged
from cerebro.hopper.units import Failure, Split
from cerebro.storage import (
    make_folder,
    publish_folder,
    remove_folder,
    sync_folder,
    temporary_beside,
)
from cerebro.wording import message_of, readable
from cerebro.worker.output import Recorder, clip, last_lines, recorded
from cerebro.worker.protocol import RESTART_STATUS, Happened, Order

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 30.0

LOAD_RETRIES = 6
"""Further tries to load a partition that storage refuses for the moment: for a minute."""

MOMENTARY = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO"
    )
    if hasattr(errno, name)
)  # fmt: skip
"""Errors of storage that is not reached, rather than of a path that is wrong."""

OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG, errno.EBADF})
"""Errors of a process that has run out of something, or has limits of its own."""

MESSAGE_CHARACTERS = 4_000
TRACEBACK_CHARACTERS = 40_000
"""What of an error travels: its beginning and its end."""

Report = Callable[..., None]


class Saver:
    """Publishes versions, one at a time, from the values on the host.

    A version that storage refuses is tried again from memory, with backoff, until it succeeds
    (and at once when the next one waits for its place): the unit is not trained again. If the
    cause is this process itself, out of descriptors say, the unit has failed, and `exhausted` is
    called.
    """

    def __init__(self, handler: Handler, report: Report, exhausted: Callable[[], None]) -> None:
        self._handler = handler
        self._report = report
        self._exhausted = exhausted
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._current: Future[None] | None = None
        self._wanted = threading.Event()
        self._remains: set[Path] = set()

    def wait_until_free(self) -> None:
        """Wait until the version being saved is published."""
        if self._current is not None:
            self._wanted.set()
            self._current.result()
            self._current = None

    def save(self, order: Order, state: Any) -> None:
        """Begin to publish the version that `order` made. The state is the saver's from now on."""
        self._current = self._pool.submit(self._save, order, state)

    def _save(self, order: Order, state: Any) -> None:
        try:
            self._publish(order, state)
        finally:
            self._handler.recycle(state)

    def _publish(self, order: Order, state: Any) -> None:
        assert order.writes is not None
        final = Path(order.writes)
        begun = time.perf_counter()
        wait = RETRY_SECONDS
        while True:
            temporary = temporary_beside(final)
            try:
                checkpoint = self._write(state, temporary, final)
                break
            except Exception as error:
                if not waits_for_storage(error):
                    self._give_up(order, error)
                    return
                cause = str(error) or type(error).__name__
                self._report(
                    Happened.SAVE_WAITS,
                    attempt=order.attempt,
                    path=order.writes,
                    # The same cause reads the same at every try.
                    cause=cause.replace(str(temporary), order.writes),
                )
                self._wanted.wait(wait)
                self._wanted.clear()
                wait = min(2 * wait, RETRY_SECONDS_MAX)
        self._report(
            Happened.COMMITTED,
            attempt=order.attempt,
            checkpoint=checkpoint,
            save=time.perf_counter() - begun,
        )

    def _give_up(self, order: Order, error: Exception) -> None:
        """A version that this process will never be able to write: its unit runs again."""
        self._report(
            Happened.FAILED,
            attempt=order.attempt,
            failure=Failure.RESOURCES.value,
            **describe(error, Recorder(None)),
        )
        self._exhausted()

    def _write(self, state: Any, temporary: Path, final: Path) -> str:
        # The run's folder is there: without it the storage is not mounted here, and what would
        # be made in its place nobody else could read.
        make_folder(final.parent.parent)
        make_folder(final.parent)
        # A folder that could not be removed when its try had failed takes up room until it is.
        self._remains = {path for path in self._remains if not remove_folder(path)}
        try:
            temporary.mkdir()
            name = self._handler.write(state, str(temporary))
            _publish_once(temporary, final)
        finally:
            if not remove_folder(temporary):
                self._remains.add(temporary)
        return str(final / name)


def _publish_once(temporary: Path, final: Path) -> None:
    """Publish, also where an earlier try got as far as the rename, whose success was not heard of.

    The name is ours alone and given to finished folders only, so what stands there is whole.
    """
    try:
        publish_folder(temporary, final)
    except OSError:
        if not final.is_dir():
            raise
        sync_folder(final.parent)


class Executor:
    """Carries out orders with one handler, and reports what happens."""

    def __init__(
        self,
        handler: Handler,
        report: Report,
        exhausted: Callable[[], None],
        *,
        keep_data: bool,
        seed: int,
    ) -> None:
        self._handler = handler
        self._report = report
        self._keep_data = keep_data
        self._seed = seed
        self._data: dict[str, Any] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._staged: dict[int, Future[Any]] = {}
        self._saver = Saver(handler, report, exhausted)
        self._unreached: Counter[str] = Counter()
        self._patience = LOAD_RETRIES

    def preload(self, items: list[dict[str, Any]]) -> None:
        """Load partitions into the cache; report each, then that this worker is ready."""
        for item in items:
            with recorded() as output:
                try:
                    seconds = self._load_patiently(item["path"])
                except BaseException as error:
                    if self._handler.is_resource_error(error):
                        self.end_for_resources()
                    self._report(
                        Happened.UNREADABLE,
                        split=item["split"],
                        partition=item["partition"],
                        path=item["path"],
                        **describe(error, output),
                    )
                else:
                    self._report(Happened.LOADED, path=item["path"], seconds=seconds)
        self._report(Happened.READY)

    def stage(self, order: Order) -> None:
        """Begin to read the version that an order starts from. Not on the main thread."""
        if order.reads is not None:
            self._staged[order.attempt] = self._reader.submit(self._handler.read, order.reads)

    def unstage(self, attempt: int) -> None:
        """An order that was staged will not be started. Not on the main thread."""
        future = self._staged.pop(attempt, None)
        if future is not None:
            future.cancel()

    def forget(self, model: int) -> None:
        """Drop what the handler keeps for a model that has ended."""
        self._handler.forget(model)

    def start(self, order: Order) -> None:
        """Run one attempt to its end, and hand its version to the saver."""
        self._report(Happened.RUNNING, attempt=order.attempt)
        with recorded() as output:
            try:
                load, read, result = self._run(order)
            except _UnitFailure as failure:
                self._failed(order, failure, output)
                if failure.failure is Failure.RESOURCES:
                    self.end_for_resources()
                return
        phases = {"load": load, **result.phases}
        phases["restore"] = phases.get("restore", 0.0) + read
        begun = time.perf_counter()
        self._saver.wait_until_free()
        phases["wait"] = time.perf_counter() - begun
        self._report(
            Happened.RAN,
            attempt=order.attempt,
            loss=result.loss,
            error=result.error,
            examples=result.examples,
            metrics=dict(result.metrics),
            phases=phases,
            output=output.text(),
        )
        if order.writes is not None:
            self._saver.save(order, result.state)

    def end_for_resources(self) -> None:
        """Have this process end, once what is being saved is published: `OutOfResources`."""
        self._saver.wait_until_free()
        raise OutOfResources

    def _run(self, order: Order) -> tuple[float, float, UnitRun]:
        """(seconds loading, seconds reading, result) of an attempt."""
        try:
            load = self._load(order.path)
        except BaseException as error:
            self._unreached[order.path] += 1
            again = is_momentary(error) and self._unreached[order.path] <= LOAD_RETRIES
            kind = Failure.STORAGE if again else Failure.INPUT
            raise _UnitFailure(self._machine_or(kind, error), error) from error
        begun = time.perf_counter()
        try:
            state = self._state(order)
        except VersionDamaged as error:
            raise _UnitFailure(Failure.DAMAGED, error) from error
        except Exception as error:
            raise _UnitFailure(self._machine_or(Failure.STORAGE, error), error) from error
        read = time.perf_counter() - begun
        task = UnitTask(
            model=order.model,
            epoch=order.epoch,
            train=order.split == Split.TRAIN.value,
            partition=order.partition,
            path=order.path,
            config=order.config,
            seed=order.seed,
        )
        self._report(Happened.TIMED, attempt=order.attempt)
        try:
            return load, read, self._handler.run(task, self._data[order.path], state)
        except BaseException as error:
            raise _UnitFailure(self._machine_or(Failure.USER, error), error) from error
        finally:
            self._report(Happened.UNTIMED, attempt=order.attempt)
            if not self._keep_data:
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
                self._report(Happened.LOAD_WAITS, path=path, cause=message_of(error))
            time.sleep(wait)
            wait = min(2 * wait, RETRY_SECONDS_MAX)
        self._patience = 0
        return self._load(path)

    def _load(self, path: str) -> float:
        """Have a partition in the cache. Returns the seconds that loading took."""
        if path in self._data:
            return 0.0
        begun = time.perf_counter()
        self._data[path] = self._handler.load(path, self._seed)
        del self._unreached[path]
        self._patience = LOAD_RETRIES
        return time.perf_counter() - begun

    def _state(self, order: Order) -> Any:
        future = self._staged.pop(order.attempt, None)
        if future is not None:
            return future.result()
        return None if order.reads is None else self._handler.read(order.reads)

    def _failed(self, order: Order, failure: _UnitFailure, output: Recorder) -> None:
        self._report(
            Happened.FAILED,
            attempt=order.attempt,
            failure=failure.failure.value,
            **describe(failure.error, output),
        )


def waits_for_storage(error: BaseException) -> bool:
    """Whether a version that could not be written can be written later by this process."""
    own = any(isinstance(link, OSError) and link.errno in OWN for link in chain(error))
    return isinstance(error, (OSError, StorageError)) and not own


def is_momentary(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is of storage that is not reached."""
    return any(isinstance(link, OSError) and link.errno in MOMENTARY for link in chain(error))


class OutOfResources(Exception):
    """Memory or a device gave out: what this process holds of it is to be given back."""


class _UnitFailure(Exception):
    def __init__(self, failure: Failure, error: BaseException) -> None:
        super().__init__(str(error))
        self.failure = failure
        self.error = error


def describe(error: BaseException, output: Recorder) -> dict[str, str]:
    """An error as fields of an event: its class, message, function, traceback, last prints.

    An error of this library that a user's function let through keeps its own class.
    """
    if isinstance(error, UserFunctionError):
        text, function = error.remote_traceback, error.function
    else:
        text, function = "".join(traceback.format_exception(error)), ""
    raised = type(error) is UserFunctionError and isinstance(error.__cause__, CerebroError)
    inner = (error.__cause__ or error) if raised else error
    message = message_of(inner)
    if not isinstance(inner, CerebroError):
        message = f"{type(inner).__name__}: {message}"
    return {
        "error": type(inner).__name__,
        "message": clip(message, MESSAGE_CHARACTERS),
        "function": function,
        "traceback": clip(readable(text), TRACEBACK_CHARACTERS),
        "output": last_lines(output.text()),
    }


def main() -> None:
    """Serve the daemon at the other end of a pipe, until its end.

    The arguments are two descriptors: the pipe's, and that of a socket which lives as long as the
    daemon does.
    """
    descriptor, lifeline = map(int, sys.argv[1:])
    os.set_inheritable(descriptor, False)
    os.set_inheritable(lifeline, False)
    _end_with(lifeline)
    connection = Connection(descriptor)
    # A process that user code forks must not keep this pipe open when the executor is gone.
    os.register_at_fork(after_in_child=connection.close)
    lock = threading.Lock()

    def report(kind: str, **fields: Any) -> None:
        content = json.dumps({"kind": kind, **fields}).encode()
        with lock:
            connection.send_bytes(content)

    begin = json.loads(connection.recv_bytes())
    blob = connection.recv_bytes()
    logging.basicConfig(level=begin["log_level"], format="%(levelname)s %(name)s: %(message)s")
    orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    try:
        options = Options(**begin["options"])
        handler_type = handler_class(begin["backend"])
        # Before any code of the user's, which may use the tool while it is imported.
        handler_type.prepare_process(options)
        handler = handler_type(UserFunctions(**shipping.unpack(blob)), options)
    except Exception as error:
        report(Happened.CANNOT_BEGIN, **describe(error, Recorder(None)))
        return

    def exhausted() -> None:
        orders.put(executor.end_for_resources)

    executor = Executor(
        handler, report, exhausted, keep_data=begin["keep_data"], seed=begin["seed"]
    )
    # What is loaded by now stays: collecting garbage need not look at it again, and takes a tenth.
    gc.freeze()
    report(Happened.BEGUN, devices=handler.devices(), pid=os.getpid())
    threading.Thread(
        target=_receive, args=(connection, executor, orders), name="orders", daemon=True
    ).start()
    try:
        while True:
            orders.get()()
    except OutOfResources:
        os._exit(RESTART_STATUS)
    except BaseException:
        # Ending the ordinary way would wait for a version that storage does not take.
        logger.exception("the executor cannot go on")
        os._exit(1)


def _end_with(lifeline: int) -> None:
    """Have the kernel end this process group when the other end of a socket is closed.

    Linux sends the signal that `F_SETSIG` names where input or its end would give SIGIO. Elsewhere
    a thread waits for the end of the pipe, which takes the interpreter.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def _receive(
    connection: Connection,
    executor: Executor,
    orders: queue.SimpleQueue[Callable[[], None]],
) -> None:
    """Pass orders on as they come; end the process when the pipe does."""
    try:
        while True:
            message = json.loads(connection.recv_bytes())
            _dispatch(message, executor, orders)
    except (EOFError, OSError):
        # With the daemon gone nobody else ends what user code has started.
        with contextlib.suppress(OSError):
            os.killpg(os.getpid(), signal.SIGKILL)
    except Exception:
        logger.exception("an order could not be taken")
    os._exit(1)


def _dispatch(
    message: dict[str, Any],
    executor: Executor,
    orders: queue.SimpleQueue[Callable[[], None]],
) -> None:
    kind = message["kind"]
    if kind == "stage":
        executor.stage(Order.from_json(message["order"]))
    elif kind == "unstage":
        executor.unstage(message["attempt"])
    elif kind == "start":
        order = Order.from_json(message["order"])
        orders.put(lambda: executor.start(order))
    elif kind == "preload":
        orders.put(lambda: executor.preload(message["items"]))
    elif kind == "forget":
        orders.put(lambda: executor.forget(message["model"]))
    else:
        raise ValueError(f"unknown order {kind!r}")
