"""The executor seen from the daemon: a child process, its pipe, its output and its end."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from cerebro import machine
from cerebro.protocol.messages import ExecutorSetup, Method, WorkerEvent, parse_event

logger = logging.getLogger(__name__)

TAIL_LINES = 20
"""Lines of the executor's own output that are kept to explain its death."""

LINE_CHARACTERS = 2_000

BOOTSTRAP = "from cerebro.worker.executor_main import main; main()"
"""Leaves the executor's `__main__` empty: what comes from the user's script lives there."""


class ExecutorProcess:
    """One executor. `on_event` gets its events, `on_exit` its return code and last output.

    Both are called on threads of this object, `on_exit` once, after the last event.
    """

    def __init__(
        self,
        setup: ExecutorSetup,
        functions: bytes,
        environment: dict[str, str],
        on_event: Callable[[WorkerEvent], None],
        on_exit: Callable[[int, str], None],
    ) -> None:
        self._on_event = on_event
        self._on_exit = on_exit
        self._tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._lock = threading.Lock()
        self._ended = False
        ours, theirs = socket.socketpair()
        # Nothing is ever said here. The executor's end tells the kernel to end it, and what user
        # code has started, when this end is closed: also if it is stopped, or hangs in C code.
        self._lifeline, lifeline = socket.socketpair()
        python, *code = machine.python_command(BOOTSTRAP)
        with theirs, lifeline:
            descriptors = [theirs.fileno(), lifeline.fileno()]
            # A session of its own: a Ctrl-C in the daemon's terminal is the daemon's to handle,
            # and whatever user code starts can be ended with it.
            self._process = subprocess.Popen(
                [python, "-u", *code, *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        # Orders wait here, not in the daemon, while the executor is busy or stopped.
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._outbox.put(json.dumps(setup.to_json()).encode())
        self._outbox.put(functions)
        self._output = self._thread(self._read_output, "executor-output")
        self._writer = self._thread(self._write_orders, "executor-orders")
        self._reader = self._thread(self._read_events, "executor-events")

    def _thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group."""
        return self._process.pid

    def send(self, method: Method, **params: Any) -> None:
        """Send an order, without waiting. What dies with the executor is said by `on_exit`."""
        self._outbox.put(json.dumps({"method": method.value, **params}).encode())

    def kill(self) -> None:
        """End it and what it started, at once."""
        # The process id is ours until it is waited for, and not a moment longer.
        with self._lock:
            if not self._ended:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def join(self, seconds: float) -> bool:
        """Wait until its end has been dealt with."""
        self._reader.join(seconds)
        return not self._reader.is_alive()

    def _read_events(self) -> None:
        while True:
            try:
                event = parse_event(json.loads(self._connection.recv_bytes()))
            except (EOFError, OSError):
                break
            except ValueError as error:
                logger.warning("the executor sends what is not an event: %s", error)
                break
            if event is not None:
                self._on_event(event)
        self.kill()
        with self._lock:
            self._ended = True
        code = self._process.wait()
        self._outbox.put(None)
        self._writer.join(1.0)
        self._output.join(1.0)
        self._connection.close()
        self._lifeline.close()
        self._on_exit(code, "\n".join(self._tail))

    def _write_orders(self) -> None:
        with contextlib.suppress(OSError):
            while (content := self._outbox.get()) is not None:
                self._connection.send_bytes(content)

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            while line := stream.readline(LINE_CHARACTERS):
                text = line.decode(errors="replace").rstrip("\n")
                self._tail.append(text)
                logger.debug("executor %d: %s", self._process.pid, text)


def describe_exit(code: int) -> str:
    """A return code for people: `signal 9 (SIGKILL)` or `exit status 1`."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
