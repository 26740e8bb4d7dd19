"""Storage that fails as ordered: a small disk that fills up, and a folder with faults.

Both are context managers that mount over a folder, unmount when their block ends in whatever
way, and say by a function `..._available()` why they cannot be had here ("" if they can).
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TypeVar

SECONDS = 20.0
"""How long mounting, switching faults, or the end of the pass-through may take."""


BALLAST = ".ballast"
CHUNK = bytes(1 << 16)
"""What takes up room, and how much of it at once."""

Disk = TypeVar("Disk", bound="_Mounted")


def _run(*command: str) -> None:
    """Run a command; `OSError` with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise OSError(errno.EIO, f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


class _Mounted(ABC):
    """Something mounted on `path` for as long as a block lasts."""

    path: Path

    @abstractmethod
    def mount(self) -> None:
        """Have it there."""

    @abstractmethod
    def unmount(self) -> None:
        """Take it away; harmless if it is not there."""

    def __enter__(self: Disk) -> Disk:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.mount()
        except BaseException:
            self.unmount()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.unmount()


def tmpfs_available() -> str:
    """Why no tmpfs can be mounted here; "" if one can."""
    if not sys.platform.startswith("linux"):
        return "tmpfs needs Linux"
    if os.geteuid() != 0:
        return "mounting a tmpfs needs root"
    with tempfile.TemporaryDirectory(prefix="cerebro-tmpfs-") as folder:
        try:
            with Tmpfs(Path(folder) / "disk", size="64k"):
                return ""
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"no tmpfs can be mounted here: {error}"


class Tmpfs(_Mounted):
    """A disk of `size` (as mount takes it: `8m`) and `inodes` files, mounted on `path`."""

    def __init__(self, path: str | Path, *, size: str = "16m", inodes: int = 2000) -> None:
        self.path = Path(path)
        self._options = f"size={size},nr_inodes={inodes},mode=755"

    def mount(self) -> None:
        _run("mount", "-t", "tmpfs", "-o", self._options, "cerebro-test", str(self.path))

    def unmount(self) -> None:
        if os.path.ismount(self.path):
            _run("umount", "-l", str(self.path))

    def fill(self) -> None:
        """Leave no byte free, by a file of ballast. A new file can be made, and stays empty."""
        with open(self.path / BALLAST, "ab", buffering=0) as file, _until_full():
            while True:
                file.write(CHUNK)

    def use_up_inodes(self) -> None:
        """Leave room for no other file or folder, by empty files."""
        folder = self.path / f"{BALLAST}-files"
        folder.mkdir(exist_ok=True)
        with _until_full():
            while True:
                os.close(tempfile.mkstemp(dir=folder)[0])

    def make_read_only(self) -> None:
        """Only possible while nobody has a file open for writing."""
        _run("mount", "-o", "remount,ro", str(self.path))

    def heal(self) -> None:
        """Take the ballast away, and allow writing."""
        _run("mount", "-o", f"remount,rw,{self._options}", str(self.path))
        shutil.rmtree(self.path / f"{BALLAST}-files", ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path / BALLAST)


@contextlib.contextmanager
def _until_full() -> Any:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def faulty_folder_available() -> str:
    """Why there can be no folder with faults here; "" if there can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "a folder with faults needs FUSE: /dev/fuse cannot be opened"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "a folder with faults needs root or fusermount3"
    if importlib.util.find_spec("mfusepy") is None:
        return "a folder with faults needs the package mfusepy"
    with tempfile.TemporaryDirectory(prefix="cerebro-fuse-") as folder:
        try:
            with FaultyFolder(Path(folder) / "mount", Path(folder) / "backing"):
                return ""
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"FUSE does not work here: {error}"


class FaultyFolder(_Mounted):
    """A pass-through to the folder `backing`, mounted on `path`, whose operations fail as ordered.

    The operations are `getattr`, `readdir`, `open` (of a file that is there), `create`, `read`,
    `write`, `truncate`, `fsync` (of files and folders), `rename`, `mkdir`, `rmdir` and `unlink`.
    `where` is a shell pattern of the path below the mount point, whose `*` stands for slashes as
    well: `/run/journal/*`.
    """

    def __init__(self, path: str | Path, backing: str | Path) -> None:
        self.path = Path(path)
        self._backing = Path(backing)
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._faults: list[dict[str, Any]] = []
        self._hits: list[str] = []
        self._lock = threading.Lock()

    def mount(self) -> None:
        self._backing.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("passthrough.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(self._backing), str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        reader.start()
        self._expect("mounted")

    def unmount(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if os.path.ismount(self.path) or _is_dead_mount(self.path):
            _run("umount", "-l", str(self.path))

    def fail(
        self, *operations: str, error: int = errno.EIO, where: str = "*", times: int | None = None
    ) -> None:
        """Have operations fail with an error number, for so many times or until healed."""
        self._add(operations=operations, path=where, error=error, times=times)

    def shorten_writes(self, *, where: str = "*") -> None:
        """Have every write take only half of what it was given."""
        self._add(operations=("write",), path=where, short=True)

    def delay(self, *operations: str, seconds: float, where: str = "*") -> None:
        """Have operations take longer."""
        self._add(operations=operations, path=where, delay=seconds)

    def heal(self) -> None:
        """End all faults."""
        self._switch([])

    @property
    def hits(self) -> list[str]:
        """The operations that met a fault so far, each as `OPERATION PATH`."""
        return list(self._hits)

    def _add(self, **fault: Any) -> None:
        self._switch([*self._faults, fault])

    def _switch(self, faults: list[dict[str, Any]]) -> None:
        with self._lock:
            assert self._process is not None
            assert self._process.stdin is not None
            self._faults = faults
            self._process.stdin.write(json.dumps(faults) + "\n")
            self._process.stdin.flush()
            self._expect("switched")

    def _expect(self, word: str) -> None:
        try:
            answer = self._answers.get(timeout=SECONDS)
        except queue.Empty:
            answer = "nothing"
        if answer != word:
            raise OSError(errno.EIO, f"the pass-through said {answer!r} instead of {word!r}")

    def _read(self, process: subprocess.Popen[str]) -> None:
        """Take in what the pass-through says, to its end."""
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                kind, _, rest = line.rstrip("\n").partition(" ")
                if kind == "hit":
                    self._hits.append(rest)
                else:
                    self._answers.put(kind)
        self._answers.put("nothing more")


def _is_dead_mount(path: Path) -> bool:
    """Whether a pass-through that was killed is still mounted here."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False
