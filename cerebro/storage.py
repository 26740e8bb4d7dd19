"""Publishing on shared storage, so that a reader sees a thing whole or not at all.

The rules come from what NFS clients do: a name that a host has looked up before it existed can
stay invisible to it for half a minute. So everything published gets a name never used before,
and nobody looks for a file until told that it exists. The sequence is always the same: write
beside, sync the content, rename, sync the folder.

A run's folder may have come from somebody else, so nothing in it is trusted to be what its name
says. With `inside`, the folder of a run, no link below that folder is followed, and only regular
files are opened: anything else is refused with `UnsafePath`, and is neither read nor
changed. Above `inside` links are the user's own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cerebro.errors import StorageError, UnsafePath

TEMPORARY = ".tmp-"
"""How every temporary name starts."""

WRITTEN_ASIDE = re.compile(rf"{re.escape(TEMPORARY)}.+-[0-9a-f]{{12}}", re.DOTALL)
"""A name that `temporary_beside` gives."""

FILE_MODE = 0o664
FOLDER_MODE = 0o775
"""Permissions of what is made, less the umask: whatever that is, strangers get none to write."""

KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextlib.contextmanager
def storage_errors(what: str, path: str | Path) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that names the path and the cause."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot {what} {path}: {error.strerror or error}") from error


def is_folder(path: str | Path) -> bool:
    """Tell whether a path leads to a folder.

    Raises `StorageError` where that cannot be seen: in a folder closed to this user, for example.
    """
    try:
        with storage_errors("read", path), _nothing_there():
            return stat.S_ISDIR(os.stat(path).st_mode)
    except ValueError:  # no file has such a name
        return False
    return False


def names_in(folder: str | Path) -> list[str]:
    """The names in a folder, sorted; none where there is no folder. Raises `StorageError`."""
    try:
        with storage_errors("read", folder), _nothing_there():
            return sorted(os.listdir(folder))
    except ValueError:
        return []
    return []


def _nothing_there() -> contextlib.suppress:
    return contextlib.suppress(FileNotFoundError, NotADirectoryError)


def sync_folder(path: str | Path, above: int | None = None) -> None:
    """Make the names in a folder durable. A relative path counts from `above`, an open folder."""
    _sync(path, above)


def sync_file(path: str | Path) -> None:
    """Make a file's content durable."""
    _sync(path)


def _sync(path: str | Path, above: int | None = None) -> None:
    descriptor = os.open(path, os.O_RDONLY, dir_fd=above)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_beside(path: str | Path) -> Path:
    """A name beside `path` that nobody has used or will use."""
    path = Path(path)
    return path.parent / f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:12]}"


def write_file(
    path: str | Path, content: bytes, *, inside: str | Path | None = None, durable: bool = True
) -> None:
    """Write a whole file so that readers see the old content or the new one, nothing between.

    What can be made again need not be durable. Raises `UnsafePath` where something else than a file
    is in its place, and `StorageError`.
    """
    with storage_errors("write", path), _folder_of(path, inside) as (folder, name):
        if inside is not None:
            with contextlib.suppress(FileNotFoundError):
                check_kind(path, stat.S_IFREG)
        temporary = str(temporary_beside(name))
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(temporary, flags, FILE_MODE, dir_fd=folder), "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            if durable:
                sync_folder(os.path.dirname(name) or ".", folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise


def open_file(
    path: str | Path, flags: int = os.O_RDONLY, *, inside: str | Path | None = None
) -> BinaryIO:
    """Open a regular file. Raises as `open_descriptor`."""
    descriptor = open_descriptor(path, flags, inside=inside)
    return open(descriptor, "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "wb")


def open_descriptor(path: str | Path, flags: int, *, inside: str | Path | None = None) -> int:
    """Open a regular file as `os.open` does, never waiting for the other end of a pipe.

    A file that is to be written, and has a second name, is refused: it may be another one's.
    Raises `UnsafePath` and `OSError`.
    """
    with _folder_of(path, inside) as (folder, name):
        flags |= os.O_CLOEXEC | (0 if inside is None else os.O_NOFOLLOW)
        try:
            try:
                descriptor = os.open(name, flags | os.O_NONBLOCK, FILE_MODE, dir_fd=folder)
            except BlockingIOError:  # somebody has a lease of it, which only files can have
                descriptor = os.open(name, flags, FILE_MODE, dir_fd=folder)
        except OSError as error:
            # A link; a pipe that nobody reads, or a socket; a folder.
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                check_kind(path, stat.S_IFREG)
            raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _unsafe(path, status.st_mode, stat.S_IFREG)
        if flags & os.O_ACCMODE != os.O_RDONLY and inside is not None and status.st_nlink > 1:
            raise UnsafePath(
                f"{path} has {status.st_nlink} names (hard links), so that writing to it would "
                "change what others call theirs: put a copy in its place, or remove it"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_bytes(path: str | Path, *, inside: str | Path | None = None) -> bytes:
    """Return the content of a regular file. Raises `UnsafePath` and `OSError`."""
    with open_file(path, inside=inside) as file:
        return file.read()


@contextlib.contextmanager
def _folder_of(path: str | Path, inside: str | Path | None) -> Iterator[tuple[int | None, str]]:
    """The folder of `path`, opened, and what the file is called in it.

    Each folder below `inside` is opened in the one before, so that none can be swapped for a link
    between a look and its use.
    """
    if inside is None:
        yield None, os.fspath(path)
        return
    *folders, name = _below(path, inside)
    how = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
    at, current = Path(inside), os.open(inside, how)
    try:
        for folder in folders:
            at /= folder
            try:
                following = os.open(folder, how | os.O_NOFOLLOW, dir_fd=current)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    check_kind(at, stat.S_IFDIR)
                raise
            os.close(current)
            current = following
        yield current, name
    finally:
        os.close(current)


def _below(path: str | Path, inside: str | Path) -> tuple[str, ...]:
    """The names that lead from `inside` to `path`."""
    full, above = Path(path).absolute(), Path(inside).absolute()
    parts = full.relative_to(above).parts if full.is_relative_to(above) else ()
    if not parts or os.pardir in parts:
        raise UnsafePath(f"{path} is not below {inside}")
    return parts


def check_kind(path: str | Path, kind: int) -> None:
    """Raise `UnsafePath` where a name is no folder (`S_IFDIR`), or no regular file (`S_IFREG`).

    A link is neither. Raises `OSError`, so `FileNotFoundError` where there is nothing.
    """
    mode = os.lstat(path).st_mode
    if stat.S_IFMT(mode) != kind:
        raise _unsafe(path, mode, kind)


def check_version(folder: str | Path) -> None:
    """Raise `UnsafePath` where a version's folder, or the two above, are links, or hold no files.

    What is not there is not looked for. Raises `OSError`.
    """
    with contextlib.suppress(FileNotFoundError):
        for path in (*reversed(Path(folder).parents[:2]), folder):
            check_kind(path, stat.S_IFDIR)
        for name in os.listdir(folder):
            check_kind(os.path.join(folder, name), stat.S_IFREG)


def _unsafe(path: str | Path, mode: int, due: int) -> UnsafePath:
    found, due_kind = KINDS.get(stat.S_IFMT(mode), "something else"), KINDS[due]
    return UnsafePath(
        f"{path} is {found}, where {due_kind} must be, and is neither followed nor opened: put "
        f"{due_kind} in its place, or remove it"
    )


def publish_folder(temporary: str | Path, final: str | Path) -> None:
    """Give a finished folder its final name, all its content being durable before.

    Raises `OSError`; the temporary folder is then still there.
    """
    for name in os.listdir(temporary):
        sync_file(os.path.join(temporary, name))
    sync_folder(temporary)
    os.rename(temporary, final)
    sync_folder(os.path.dirname(os.path.abspath(final)))


def make_folder(path: str | Path, mode: int = FOLDER_MODE) -> None:
    """Have a folder, whose name is durable, in one that is there.

    Raises `UnsafePath` for a link, or whatever else has its name, and `OSError`.
    """
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        check_kind(path, stat.S_IFDIR)
    else:
        sync_folder(os.path.dirname(os.path.abspath(path)))


def make_folders(path: str | Path) -> None:
    """Have a folder, and those above it, for what the user has named: links may lead there.

    Raises `OSError`.
    """
    path = os.path.abspath(path)
    if not os.path.isdir(path):
        make_folders(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):  # by another process, just now
            os.mkdir(path, FOLDER_MODE)


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
    to another folder than `identity` (None: whichever it is). What cannot be removed stays, also
    because too many folders lie in each other.
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
    except (OSError, RecursionError):
        return False
    finally:
        for descriptor in opened:
            os.close(descriptor)


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def _remove_tree(name: str, parent: int) -> None:
    """Remove a folder of the folder with descriptor `parent`, as far as possible.

    `shutil.rmtree` takes a descriptor to start from only since Python 3.11.
    """
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
