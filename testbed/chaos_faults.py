"""The faults that chaos strikes with: what each does, and how it is healed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testbed.chaos_folder import RunFolder
from testbed.namespaces import Host
from testbed.storage import Tmpfs
from testbed.supervised_driver import SupervisedDriver
from testbed.workers import Worker

COMMAND_SECONDS = 10.0
LOSS = 0.3

Heal = Callable[[], None]


class Missed(Exception):
    """There was nothing to hit: the fault did not happen."""


@dataclass
class Scene:
    """What can be hit. `hosts` is empty on loopback; `disk` is None where none can be mounted.

    `troubles` takes what no fault explains.
    """

    workers: Sequence[Worker]
    hosts: Sequence[Host]
    driver: SupervisedDriver
    folder: RunFolder
    disk: Tmpfs | None
    ckpt_root: Path
    heartbeat: float
    random: random.Random
    troubles: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    `strike(scene, worker)` does it and returns what heals it after between `shortest` and
    `longest` seconds. Until then no other fault of its `layer` meets the same target: a worker, or
    the run as a whole if `everywhere`.
    """

    name: str
    layer: str
    strike: Callable[[Scene, int], Heal]
    shortest: float
    longest: float
    everywhere: bool = False


def kinds(scene: Scene) -> tuple[list[Kind], dict[str, str]]:
    """The kinds of faults that can happen to a scene, and the others, each with the reason."""
    beat = scene.heartbeat
    short, long = (0.1 * beat, 0.6 * beat), (1.3 * beat, 2.8 * beat)
    possible = [
        Kind("executor killed", "executor", _signal_executor(signal.SIGKILL), 0.0, 0.0),
        Kind("executor crashed (SEGV)", "executor", _signal_executor(signal.SIGSEGV), 0.0, 0.0),
        Kind("executor stopped", "executor", _stop_executor, short[0], long[1]),
        Kind("worker killed, started again", "daemon", _kill_daemon, 0.0, long[0]),
        Kind("worker ended, started again", "daemon", _end_daemon, 0.0, long[0]),
        Kind("worker stopped briefly", "daemon", _stop_daemon, *short),
        Kind("worker stopped for long", "daemon", _stop_daemon, *long),
        Kind("driver killed", "driver", _signal_driver(signal.SIGKILL), 0.0, 0.0, True),
        Kind("driver terminated", "driver", _signal_driver(signal.SIGTERM), 0.0, 0.0, True),
        Kind("driver stopped", "driver", _stop_driver, short[0], long[1], True),
        Kind("folder renamed between drivers", "driver", _rename_folder, 0.0, 0.0, True),
        Kind("folder copied between drivers", "driver", _copy_folder, 0.0, 0.0, True),
    ]
    network = [
        Kind("link cut briefly", "network", _network(lambda host, _: host.cut()), *short),
        Kind("link cut for long", "network", _network(lambda host, _: host.cut()), *long),
        Kind("black hole", "network", _network(Host.black_hole), short[0], long[1]),
        Kind("port refused", "network", _network(Host.refuse), short[0], long[1]),
        Kind("packets lost", "network", _network(lambda host, _: host.lose(LOSS)), *long),
    ]
    storage = [
        Kind("storage full", "storage", _fill, short[0], long[0], True),
        Kind("storage read-only", "read-only", _make_read_only, short[0], long[1]),
    ]
    left_out = {}
    if scene.hosts:
        possible += network
    else:
        left_out.update({kind.name: "no network namespaces here" for kind in network})
    if scene.disk is not None:
        possible += storage
    else:
        left_out.update({kind.name: "no file system can be mounted here" for kind in storage})
    return possible, left_out


def own_mounts() -> list[str]:
    """What stands before a worker's command so that its storage can be made read-only alone."""
    return ["unshare", "--mount"]


def can_own_mounts() -> bool:
    """Whether a worker can have mounts of its own here."""
    return shutil.which("unshare") is not None and shutil.which("nsenter") is not None


def _nothing() -> None:
    pass


def _executor(scene: Scene, worker: int) -> int:
    """The process id of a worker's executor."""
    found = scene.workers[worker].executors() if scene.workers[worker].alive else []
    if not found:
        raise Missed
    return scene.random.choice(found)


def _signal_executor(number: int) -> Callable[[Scene, int], Heal]:
    def strike(scene: Scene, worker: int) -> Heal:
        try:
            os.kill(_executor(scene, worker), number)
        except ProcessLookupError:
            raise Missed from None
        return _nothing

    return strike


def _stop_executor(scene: Scene, worker: int) -> Heal:
    try:
        descriptor = os.pidfd_open(_executor(scene, worker))
    except ProcessLookupError:
        raise Missed from None

    def send(number: int) -> None:
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass  # it has been killed meanwhile

    def heal() -> None:
        send(signal.SIGCONT)
        os.close(descriptor)

    send(signal.SIGSTOP)
    return heal


def _start_again(scene: Scene, worker: int) -> Heal:
    target = scene.workers[worker]

    def heal() -> None:
        if not target.wait():
            scene.troubles.append(f"worker {worker} did not end within 10 s of SIGTERM")
        target.start()

    return heal


def _kill_daemon(scene: Scene, worker: int) -> Heal:
    scene.workers[worker].signal(signal.SIGKILL)
    return _start_again(scene, worker)


def _end_daemon(scene: Scene, worker: int) -> Heal:
    scene.workers[worker].signal(signal.SIGTERM)
    return _start_again(scene, worker)


def _stop_daemon(scene: Scene, worker: int) -> Heal:
    target = scene.workers[worker]
    target.signal(signal.SIGSTOP)
    return lambda: target.signal(signal.SIGCONT)


def _signal_driver(number: int) -> Callable[[Scene, int], Heal]:
    def strike(scene: Scene, _: int) -> Heal:
        if scene.driver.signal(number) is None:
            raise Missed
        return _nothing

    return strike


def _stop_driver(scene: Scene, _: int) -> Heal:
    pid = scene.driver.signal(signal.SIGSTOP)
    if pid is None:
        raise Missed
    return lambda: scene.driver.resume(pid)


def _rename_folder(scene: Scene, _: int) -> Heal:
    return _between_drivers(scene, scene.folder.rename)


def _copy_folder(scene: Scene, _: int) -> Heal:
    # Workers hold the original's run until they have not heard of its driver for a while.
    scene.driver.expected.add("WorkerBusy")
    return _between_drivers(scene, scene.folder.copy)


def _between_drivers(scene: Scene, action: Callable[[], None]) -> Heal:
    if scene.driver.kill_then(action) is None:
        raise Missed
    return _nothing


def _network(fault: Callable[[Host, int], None]) -> Callable[[Scene, int], Heal]:
    def strike(scene: Scene, worker: int) -> Heal:
        host = scene.hosts[worker]
        fault(host, scene.workers[worker].port)
        return host.heal

    return strike


def _fill(scene: Scene, _: int) -> Heal:
    assert scene.disk is not None
    scene.disk.fill()
    return scene.disk.heal


def _make_read_only(scene: Scene, worker: int) -> Heal:
    """On one worker alone: the storage of the run's host cannot be while its journal is open."""
    target = scene.workers[worker]
    process = target.process
    if not target.alive:
        raise Missed

    def remount(mode: str) -> bool:
        command = ["nsenter", f"--mount=/proc/{process.pid}/ns/mnt"]
        command += ["mount", "-o", f"remount,bind,{mode}", str(scene.ckpt_root)]
        done = subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS, check=False)
        return done.returncode == 0

    def heal() -> None:
        # A worker that was started again sees the storage as it is.
        if process.poll() is None and not remount("rw") and process.poll() is None:
            scene.troubles.append(f"the storage of worker {worker} could not be healed")

    if not remount("ro"):  # a version is just being written
        raise Missed
    return heal
