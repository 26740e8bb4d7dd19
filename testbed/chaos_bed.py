"""Where chaos takes place: hosts, storage, workers, and the settings of their driver."""

from __future__ import annotations

import tempfile
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cerebro.rpc import create_secret
from cerebro.worker.daemon import Resources
from testbed import chaos_faults, namespaces, storage
from testbed.chaos_driver import Settings
from testbed.chaos_folder import RunFolder
from testbed.chaos_search import PACE, write_partitions
from testbed.processes import kill, wait_gone, with_environment
from testbed.workers import Worker

WORKERS = 3
PORT = 7777
RUN_NAME = "run"
DISK_SIZE = "512m"
DISK_FILES = 100_000
LEAVE_SECONDS = 10.0
MARK = "CEREBRO_CHAOS"
"""An environment variable that tells this chaos's processes from all others."""

Matrix = list[list[int]]

TRAIN: Matrix = [[1, 0, 0, 1, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 1]]
"""Two partitions with two holders, three with one."""

VALID: Matrix = [[1, 1], [1, 0], [0, 1]]

AVAILABILITIES: dict[str, tuple[Matrix | None, Matrix | None]] = {
    "mixed": (TRAIN, None),
    "matrix": (TRAIN, VALID),
    "shared": (None, None),
}
"""Of train and valid partitions."""


@dataclass(frozen=True)
class Tempo:
    """Seconds: of a unit, between two faults, and of the heartbeat."""

    unit: float
    pause: float
    heartbeat: float


TEMPOS = {
    "python": Tempo(0.05, 1.2, 1.5),
    "tf": Tempo(0.2, 5.0, 3.0),
    "keras": Tempo(0.2, 5.0, 3.0),
}


class Bed:
    """Three workers, in network namespaces and with a disk of their own where that can be had.

    All of it is gone when its block ends, in whatever way.
    """

    def __init__(self, backend: str, availability: str, seed: int) -> None:
        self.tempo = TEMPOS[backend]
        self.hosts: list[namespaces.Host] = []
        self.workers: list[Worker] = []
        self.disk: storage.Tmpfs | None = None
        self.run_folder: RunFolder
        self._backend = backend
        self._availability = availability
        self._seed = seed
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        self._stack = ExitStack()

    def __enter__(self) -> Bed:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def run_dir(self) -> Path:
        """The run's folder, by its present name."""
        return self.run_folder.path

    @property
    def stop_file(self) -> Path:
        """The search ends when it is there."""
        return self.folder / "stop"

    @property
    def settings_file(self) -> Path:
        """What the driver is given."""
        return self.folder / "settings.json"

    def reproducible(self) -> dict[str, str]:
        """The environment in which a process computes as the workers do."""
        return Resources(threads=1).environment()

    def leave(self) -> list[str]:
        """End the workers as a user does. Returns what is wrong with their end."""
        wrong = []
        for number, worker in enumerate(self.workers):
            if not worker.alive:
                wrong.append(f"worker {number} has ended by itself, see its log")
            elif not worker.stop():
                wrong.append(f"worker {number} did not end within 10 s of SIGTERM")
        left = wait_gone(with_environment(self._mark), LEAVE_SECONDS)
        return [*wrong, *(f"process {pid} is left" for pid in left)]

    def idle(self) -> list[str]:
        """Wait until the workers have let go of the run. Returns which have not."""
        seconds = 2 * self.tempo.heartbeat + LEAVE_SECONDS
        return [
            f"the executor of worker {number} is left after the run's end"
            for number, worker in enumerate(self.workers)
            if worker.alive and wait_gone(worker.executors(), seconds)
        ]

    def _build(self) -> None:
        enter = self._stack.enter_context
        self.folder = Path(enter(tempfile.TemporaryDirectory(prefix="cerebro-chaos-")))
        self.ckpt_root = self.folder / "shared"
        prefixes: list[list[str]] = [[]] * WORKERS
        if not storage.tmpfs_available() and chaos_faults.can_own_mounts():
            disk = storage.Tmpfs(self.ckpt_root, size=DISK_SIZE, inodes=DISK_FILES)
            self.disk = enter(disk)
            prefixes = [chaos_faults.own_mounts()] * WORKERS
        addresses, port = ["127.0.0.1"] * WORKERS, 0
        if namespaces.available() is None:
            self.hosts = enter(namespaces.Network(WORKERS)).hosts
            addresses, port = [host.address for host in self.hosts], PORT
            prefixes = [h.prefix + p for h, p in zip(self.hosts, prefixes, strict=True)]
        secret = self.folder / "secret"
        create_secret(str(secret))
        # Executors that were stopped when their daemon was killed cannot end by themselves.
        self._stack.callback(lambda: kill(with_environment(self._mark)))
        name, _, value = self._mark.partition("=")
        for number in range(WORKERS):
            worker = Worker(
                self.folder / f"worker{number}",
                secret,
                address=addresses[number],
                port=port,
                prefix=prefixes[number],
                environment={name: value, PACE: str(self.tempo.unit)},
            )
            self.workers.append(enter(worker))
        train, valid = write_partitions(self.folder / "data")
        matrices = AVAILABILITIES[self._availability]
        settings = Settings(
            workers=[worker.url for worker in self.workers],
            secret_file=str(secret),
            train=train,
            valid=valid,
            train_availability=matrices[0],
            valid_availability=matrices[1],
            ckpt_root=str(self.ckpt_root),
            run_name=RUN_NAME,
            backend=self._backend,
            seed=self._seed,
            heartbeat=self.tempo.heartbeat,
            stop_file=str(self.stop_file),
        )
        settings.save(self.settings_file)
        self.run_folder = RunFolder(self.ckpt_root, self.settings_file)
