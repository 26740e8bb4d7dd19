"""The executor as a process: its pipe to the daemon, orders taken and passed on, and its end."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from cerebro import shipping
from cerebro.backends import handler_class
from cerebro.backends.base import Options, UserFunctions
from cerebro.protocol.messages import (
    RESTART_STATUS,
    ExecutorCannotStart,
    ExecutorSetup,
    ExecutorStarted,
    Item,
    Method,
    UnitOrder,
    WorkerEvent,
)
from cerebro.seeding import derive, seed_at_import
from cerebro.worker.daemon_log import PrintableFormatter
from cerebro.worker.executor import Executor
from cerebro.worker.failures import OutOfResources, describe
from cerebro.worker.output_capture import ProcessOutput

logger = logging.getLogger(__name__)

LAYOUT = "%(levelname)s %(name)s: %(message)s"
"""Of a line that is logged."""


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

    def report(event: WorkerEvent) -> None:
        content = json.dumps(event.to_json()).encode()
        with lock:
            connection.send_bytes(content)

    setup = ExecutorSetup.from_json(json.loads(connection.recv_bytes()))
    blob = connection.recv_bytes()
    _log_to_stderr(setup.log_level)
    orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    try:
        options = Options(
            threads=setup.threads,
            deterministic=setup.options.deterministic,
            global_step=setup.options.global_step,
            code=setup.options.code,
            gpu=setup.gpu,
            gpu_memory_gb=setup.gpu_memory_gb,
        )
        # TensorFlow leaves little garbage as it loads: to look for it takes a fifth of that time.
        gc.disable()
        handler_type = handler_class(setup.options.backend)
        # Before any code of the user's, which may use the tool while it is imported.
        handler_type.prepare_process(options)
        gc.enable()
        _keep_users_output(min(setup.log_level, logging.INFO))
        seed_at_import()
        handler_type.seed_process(derive(setup.options.seed, "modules"))
        shipping.share_with_children(blob)
        given = {**shipping.unpack(blob), "metric_rules": setup.options.metric_rules}
        handler = handler_type(UserFunctions(**given), options)
    except Exception as error:
        report(ExecutorCannotStart(**vars(describe(error))))
        return

    def exhausted() -> None:
        orders.put(executor.end_for_resources)

    executor = Executor(handler, report, exhausted, setup.options)
    # What is loaded by now stays: collecting garbage need not look at it again, and takes a tenth.
    gc.freeze()
    report(ExecutorStarted(devices=handler.devices(), pid=os.getpid()))
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


def _log_to_stderr(level: int) -> None:
    """Write what this library logs, which is in no model's log, to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter(LAYOUT))
    own = logging.getLogger("cerebro")
    own.addHandler(handler)
    own.setLevel(level)
    own.propagate = False


def _keep_users_output(level: int) -> None:
    """Have what user code prints and logs pass one stream, which knows the unit that runs.

    The tool has its handlers by now. The root logger has none, so that `logging.basicConfig` does
    what it does in a script. What a script has configured outside its functions is not known here:
    until then messages from `level` on are written.
    """
    sys.stdout = sys.stderr = stream = ProcessOutput(sys.stdout)  # type: ignore[arg-type]
    last_resort = logging.StreamHandler(stream)
    last_resort.setFormatter(logging.Formatter(LAYOUT))
    last_resort.setLevel(level)
    logging.lastResort = last_resort
    logging.getLogger().setLevel(level)


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
    method = message["method"]
    if method == Method.STAGE:
        executor.stage(UnitOrder.from_json(message["order"]))
    elif method == Method.UNSTAGE:
        executor.unstage(message["attempt"])
    elif method == Method.START:
        order = UnitOrder.from_json(message["order"])
        orders.put(lambda: executor.start(order))
    elif method == Method.PRELOAD:
        items = [Item.from_json(item) for item in message["items"]]
        orders.put(lambda: executor.preload(items))
    elif method == Method.FORGET:
        models = message["models"]
        orders.put(lambda: executor.forget(models))
    else:
        raise ValueError(f"unknown order {method!r}")
