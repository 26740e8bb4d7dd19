"""Publishing on shared storage, so that a reader sees a thing whole or not at all.

The rules come from what NFS clients do: a name that a host has looked up before it existed can
stay invisible to it for half a minute. So everything published gets a name never used before,
and nobody looks for a file until told that it exists. The sequence is always the same: write
beside, sync the content, rename, sync the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cerebro.errors import StorageError

TEMPORARY = ".tmp-"
"""How every temporary name begins."""


@contextlib.contextmanager
def storage_errors(what: str, path: str | Path) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that names the path and the cause."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot {what} {path}: {error.strerror or error}") from error


def sync_folder(path: str | Path) -> None:
    """Make the names in a folder durable."""
    _sync(path)


def sync_file(path: str | Path) -> None:
    """Make a file's content durable."""
    _sync(path)


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_beside(path: str | Path) -> Path:
    """A name beside `path` that nobody has used or will use."""
    path = Path(path)
    return path.parent / f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:12]}"


def write_file(path: str | Path, content: bytes) -> None:
    """Write a whole file so that readers see the old content or the new one, nothing between.

    Raises `StorageError`.
    """
    temporary = temporary_beside(path)
    with storage_errors("write", path):
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(temporary.parent)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def publish_folder(temporary: str | Path, final: str | Path) -> None:
    """Give a finished folder its final name, all its content being durable before.

    Raises `OSError`; the temporary folder is then still there.
    """
    for name in os.listdir(temporary):
        sync_file(os.path.join(temporary, name))
    sync_folder(temporary)
    os.rename(temporary, final)
    sync_folder(os.path.dirname(os.path.abspath(final)))


def make_folder(path: str | Path) -> None:
    """Have a folder, whose name is durable, in one that is there. Raises `OSError`."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
        sync_folder(os.path.dirname(os.path.abspath(path)))


def remove_folder(path: str | Path) -> bool:
    """Remove a folder of ours as far as possible; returns whether it is gone."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        os.lstat(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


@dataclass(frozen=True)
class FolderIdentity:
    """Which folder it was that a path led to, for a look at the path later on.

    Device numbers change when a share is mounted again, so only another folder of the same device
    is known to be another one.
    """

    device: int
    inode: int

    @classmethod
    def of(cls, path: str | Path | int) -> FolderIdentity:
        """Look at a folder, by its path or its descriptor. Raises `OSError`."""
        found = os.stat(path)
        return cls(found.st_dev, found.st_ino)

    def is_another(self, now: FolderIdentity) -> bool:
        """Tell whether a path leads to another folder now."""
        return self.device == now.device and self.inode != now.inode


def remove_below(root: str | Path, names: Sequence[str], identity: FolderIdentity | None) -> bool:
    """Remove the folder `root/names[0]/names[1]/...` and what is in it; returns whether it is gone.

    No link is followed, whoever puts one there meanwhile, and nothing is removed where `root` leads
    to another folder than `identity` (None: whichever it is). What cannot be removed stays.
    """
    *above, last = names
    opened: list[int] = []
    try:
        opened.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY))
        if identity is not None and identity.is_another(FolderIdentity.of(opened[0])):
            return False
        for name in above:
            opened.append(os.open(name, _FOLDER, dir_fd=opened[-1]))
        _remove_tree(last, opened[-1])
        return True
    except FileNotFoundError:
        return bool(opened)
    except OSError:
        return False
    finally:
        for descriptor in opened:
            os.close(descriptor)


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def _remove_tree(name: str, parent: int) -> None:
    """Remove a folder of the folder with descriptor `parent`, as far as possible."""
    descriptor = os.open(name, _FOLDER, dir_fd=parent)
    try:
        with os.scandir(descriptor) as entries:
            inside = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for entry, is_folder in inside:
            with contextlib.suppress(OSError):
                if is_folder:
                    _remove_tree(entry, descriptor)
                else:
                    os.unlink(entry, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)
