"""A file system that passes everything through to a folder, with faults that are switched live.

A command, started by `testbed.storage.FaultyFolder`: `passthrough.py BACKING MOUNTPOINT`. Each
line on standard input is a JSON list of faults, which replace those before; it is answered by
`switched` on standard output, after `mounted` at the start. Every operation that meets a fault
is told as `hit OPERATION PATH`. The end of standard input unmounts and ends the process, so it
never outlives whoever started it.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import mfusepy


@dataclass
class Fault:
    """What goes wrong: an error number, a delay in seconds, or half of a write left out.

    `path` is a shell pattern of the path below the mount point, which begins with a slash; `*`
    stands for slashes as well. After `times` hits (None: never) the fault is over.
    """

    operations: list[str]
    path: str
    error: int | None = None
    delay: float = 0.0
    short: bool = False
    times: int | None = None

    def takes(self, operation: str, paths: tuple[str, ...]) -> bool:
        """Whether an operation on these paths meets this fault; if so, one more time is over."""
        if operation not in self.operations or self.times == 0:
            return False
        if not any(fnmatch.fnmatchcase(path, self.path) for path in paths):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class PassThrough(mfusepy.Operations):
    """Every operation on the same path below `backing`."""

    use_ns = True

    def __init__(self, backing: str) -> None:
        self._backing = backing
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def switch(self, faults: list[Fault]) -> None:
        """Have these faults from now on, and no others."""
        with self._lock:
            self._faults = faults

    def _meet(self, operation: str, *paths: str) -> bool:
        """Let an operation meet its faults; returns whether it is to be cut short."""
        with self._lock:
            met = [fault for fault in self._faults if fault.takes(operation, paths)]
        if met:
            say(f"hit {operation} {paths[0]}")
        for fault in met:
            if fault.delay:
                time.sleep(fault.delay)
            if fault.error is not None:
                raise mfusepy.FuseOSError(fault.error)
        return any(fault.short for fault in met)

    def _real(self, path: str) -> str:
        return self._backing + path

    def init(self, path: str) -> None:
        say("mounted")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        self._meet("getattr", path)
        found = os.lstat(self._real(path)) if fh is None else os.fstat(fh)
        names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
        values = {name: getattr(found, name) for name in names}
        for name in ("st_atime", "st_mtime", "st_ctime"):
            values[name] = getattr(found, f"{name}_ns")
        return values

    def readdir(self, path: str, fh: int) -> list[str]:
        self._meet("readdir", path)
        return [".", "..", *os.listdir(self._real(path))]

    def mkdir(self, path: str, mode: int) -> int:
        self._meet("mkdir", path)
        os.mkdir(self._real(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        self._meet("rmdir", path)
        os.rmdir(self._real(path))
        return 0

    def unlink(self, path: str) -> int:
        self._meet("unlink", path)
        os.unlink(self._real(path))
        return 0

    def rename(self, old: str, new: str) -> int:
        self._meet("rename", old, new)
        os.rename(self._real(old), self._real(new))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._real(path), mode)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        if times is None:
            os.utime(self._real(path))
        else:
            os.utime(self._real(path), ns=times)
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        self._meet("truncate", path)
        os.truncate(self._real(path), length)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._real(path))
        names = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree")
        return {name: getattr(found, name) for name in (*names, "f_namemax")}

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self._meet("create", path)
        # The kernel has seen to O_EXCL, and to O_APPEND at every write.
        return os.open(self._real(path), os.O_RDWR | os.O_CREAT, mode)

    def open(self, path: str, flags: int) -> int:
        self._meet("open", path)
        return os.open(self._real(path), flags & ~os.O_APPEND)

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._meet("read", path)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if self._meet("write", path):
            data = data[: max(1, len(data) // 2)]
        return os.pwrite(fh, data, offset)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._meet("fsync", path)
        os.fsync(fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._meet("fsync", path)
        return 0


def say(line: str) -> None:
    """A line for whoever started this process, written at once and whole."""
    os.write(sys.stdout.fileno(), (line + "\n").encode())


def obey(operations: PassThrough, mountpoint: str) -> None:
    """Take orders until there is nobody to give any; then unmount and end."""
    for line in sys.stdin:
        operations.switch([Fault(**fault) for fault in json.loads(line)])
        say("switched")
    command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    subprocess.run([*command, mountpoint], check=False)
    os._exit(0)


def main() -> None:
    """Mount, and serve until standard input ends."""
    backing, mountpoint = sys.argv[1:]
    operations = PassThrough(backing)
    threading.Thread(target=obey, args=(operations, mountpoint), daemon=True).start()
    timeouts = {"attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0}
    mfusepy.FUSE(operations, mountpoint, foreground=True, **timeouts)


if __name__ == "__main__":
    main()
