"""Workers by their command that can be ended in any way and started again on the same port."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.gauges import children

START_SECONDS = 60.0
STOP_SECONDS = 10.0

_LISTENING = re.compile(r"worker on [\d.]+:(\d+)")


class Worker:
    """One worker; with a port of 0 it takes a free one at its first start and keeps to it.

    `prefix` is what stands before the command (it must leave the process id as it is), and
    `environment` is added to this process's own. What it logs is in `log`. Ended with its block.
    """

    def __init__(
        self,
        folder: Path,
        secret_file: Path,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        self.log = folder / "log"
        self.address = address
        self.port = port
        self.starts = 0
        self._folder = folder
        self._secret_file = secret_file
        self._prefix = list(prefix)
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self._listening = threading.Event()
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Worker:
        try:
            self.start()
            self.wait_until_listening()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.address}:{self.port}"

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process of the last start."""
        assert self._process is not None
        return self._process

    @property
    def alive(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, again if need be; the one before must have ended."""
        command = [sys.executable, "-m", "cerebro.cli.worker", "--hostname", self.address]
        command += ["--port", str(self.port), "--threads", "1"]
        self._listening.clear()
        self._process = subprocess.Popen(
            [*self._prefix, *command, "--secret-file", str(self._secret_file)],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,
        )
        self.starts += 1
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def wait_until_listening(self) -> None:
        """Return when it takes calls. Raises `RuntimeError` if it does not come to that."""
        self._listening.wait(START_SECONDS)
        if not self.alive or not self.port:
            raise RuntimeError(f"a worker does not listen: {self.log.read_text()}")

    def signal(self, number: int) -> None:
        """Send its daemon a signal."""
        self.process.send_signal(number)

    def executors(self) -> list[int]:
        """The process ids of what the daemon has started."""
        return children(self.process.pid)

    def wait(self) -> bool:
        """Wait for its end. False if it had to be killed after a while."""
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        return True

    def stop(self) -> bool:
        """End it as a user does, be it stopped (SIGSTOP) or ended already; as `wait`."""
        if self._process is None:
            return True
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)
        willing = self.wait()
        assert self._reader is not None
        self._reader.join(STOP_SECONDS)
        return willing

    def _read(self, process: subprocess.Popen[str]) -> None:
        """Keep what it says, to its end."""
        assert process.stderr is not None
        with process.stderr, open(self.log, "a") as log:
            for line in process.stderr:
                log.write(line)
                log.flush()
                if found := _LISTENING.search(line):
                    self.port = int(found[1])
                    self._listening.set()
        self._listening.set()
