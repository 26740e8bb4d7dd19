"""Workers on this machine, for as long as a `with` block lasts."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
import weakref

from cerebro import machine
from cerebro.errors import RunError, WorkerUnreachable
from cerebro.rpc import create_secret
from cerebro.validation import integer

START_SECONDS = 60.0
STOP_SECONDS = 10.0


class LocalCluster:
    """Start workers on this machine: `with LocalCluster(2) as cluster: schedule(cluster, …)`.

    `workers` is their number and `threads` the CPU threads of each, both integers of 1 or more; by
    default the workers share the cores of this process out between them, as they do the GPUs where
    there are any. They listen on 127.0.0.1 at `urls`, with a secret of their own in `secret_file`.
    They end with the block, and also when this process dies in whatever way.

    Raises `InputError` for other numbers; the `with` block raises `WorkerUnreachable` if a worker
    does not start, and `RunError` on a worker.
    """

    def __init__(self, workers: int, *, threads: int | None = None) -> None:
        self._count = integer("workers", workers, at_least=1)
        if threads is None:
            threads = max(1, machine.available_threads() // self._count)
        self._threads = integer("threads", threads, at_least=1)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._folder = ""
        self.urls: list[str] = []
        self.secret_file = ""
        _clusters.add(self)

    def __enter__(self) -> LocalCluster:
        if machine.inside_executor():
            raise RunError(
                "LocalCluster was started on a worker, by code that came with a search: put it "
                'under `if __name__ == "__main__":` in the module that starts it'
            )
        self._folder = tempfile.mkdtemp(prefix="cerebro-cluster-")
        self.secret_file = os.path.join(self._folder, "secret")
        try:
            create_secret(self.secret_file)
            gpus = machine.tensorflow_devices({}) if machine.has_nvidia_gpu() else []
            for number in range(self._count):
                self._spawn(number % len(gpus) if gpus else None)
            self.urls = [f"http://127.0.0.1:{self._port(p)}" for p in self._processes]
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LocalCluster({self._count}): {', '.join(self.urls) or 'not started'}"

    def close(self) -> None:
        """End the workers. Harmless if they have ended."""
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._processes.clear()
        self.urls = []
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def _disown(self) -> None:
        """In a forked child: the workers are the parent's, and live as long as that one does."""
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
        self._processes.clear()
        self._folder = ""

    def _spawn(self, gpu: int | None) -> None:
        command = machine.python_command("from cerebro.worker.local_worker import main; main()")
        command += ["--secret-file", self.secret_file, "--threads", str(self._threads)]
        if gpu is not None:
            command += ["--gpu", str(gpu)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._processes.append(process)

    def _port(self, process: subprocess.Popen[bytes]) -> int:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        line = process.stdout.readline() if ready else b""
        if not line.strip().isdigit():
            raise WorkerUnreachable(
                f"a local worker (process {process.pid}) did not start within "
                f"{START_SECONDS:.0f} s: its messages are on standard error"
            )
        return int(line)


_clusters: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


def _disown_clusters() -> None:
    for cluster in _clusters:
        cluster._disown()


# A worker ends when nobody holds the other end of its pipe; a forked child must not hold it.
os.register_at_fork(after_in_child=_disown_clusters)
