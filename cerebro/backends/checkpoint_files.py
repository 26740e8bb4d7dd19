"""Reading what was published: damage is told from storage that refuses for a while.

What is damaged or gone is recomputed from the version before it. What storage only refuses is
read again later, so it must never be taken for damage: an error of the file system is not, nor is
"no such file" while the folder still lists the name, or where the folders above are missing as
well and the storage is merely not mounted here.

A version may come from anybody. So nothing is read but a file itself: a link would have the reader
fetch what its maker may not read, a pipe never ends. And it is read only where it fits into memory.
A link that the user names (`latest.weights.h5`) is followed before, by `behind_link`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from cerebro import storage
from cerebro.errors import StorageError, UnsafePath, VersionDamaged, VersionRefused
from cerebro.formatting import size as size_text

_LINKS = 40
"""In a row, at most: as many as Linux follows."""


def read_file(path: str, most: int | None = None) -> bytes:
    """Read a published file, of `most` bytes at most; of what this host has memory for if None.

    Raises `VersionDamaged` if it is gone, `VersionRefused` if it is no regular file or too large,
    and `StorageError` where storage refuses.
    """
    with _reading(path), open_file(path) as file:
        return file.read(_checked_size(path, file, most))


def read_part(path: str, start: int, size: int) -> bytes:
    """Read a part of a published file, which is less if the file ends before.

    Raises what `read_file` does.
    """
    with _reading(path), open_file(path) as file:
        file.seek(start)
        return file.read(size)


def file_size(path: str) -> int:
    """Return the size of a published file, which this host has memory for.

    Raises what `read_file` does.
    """
    with _reading(path), open_file(path) as file:
        return _checked_size(path, file, None)


@contextlib.contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """Open a regular file to read, and nothing else under its name.

    Raises `VersionRefused` for a link, a pipe, a device or a folder, and `OSError`.
    """
    with _refusing():
        file = storage.open_file(path, inside=os.path.dirname(path) or os.curdir)
    with file:
        yield file


def behind_link(path: str) -> str:
    """Return the file that a link leads to; the path itself if it is none, or not to be followed.

    A link is followed if it was made by this user, by root, or by the owner of the file, who could
    have put the file there: so nobody shows what belongs to somebody else.
    """
    at, makers = path, set[int]()
    try:
        for _ in range(_LINKS):
            status = os.lstat(at)
            folder, name = os.path.split(at)
            if not stat.S_ISLNK(status.st_mode):
                if makers <= {os.geteuid(), 0, status.st_uid}:
                    return os.path.join(os.path.realpath(folder), name) if makers else path
                break
            makers.add(status.st_uid)
            at = os.path.join(os.path.realpath(folder), os.readlink(at))
    except OSError:
        pass  # opening the path says why
    return path


def check_regular(path: str) -> None:
    """Raise `VersionRefused` if a name is not that of a regular file, and `OSError`."""
    with _refusing():
        storage.check_kind(path, stat.S_IFREG)


def copy_files(prefix: str, folder: str) -> str:
    """Copy index and data of a checkpoint into a folder of this host; returns their prefix there.

    Raises what `read_file` does; `VersionDamaged` if there is none of the files.
    """
    try:
        names = listed(prefix)
    except OSError as error:
        raise _refused(prefix, error) from error
    base = os.path.basename(prefix)
    names = [name for name in names if name.startswith((f"{base}.index", f"{base}.data-"))]
    if not names:
        raise VersionDamaged(f"{prefix} is gone")
    for name in names:
        content = read_file(os.path.join(os.path.dirname(prefix), name))
        copy = os.path.join(folder, name)
        try:
            with open(copy, "xb") as file:
                file.write(content)
        except OSError as error:
            raise StorageError(
                f"cannot check the checkpoint {prefix} by a copy, {copy}: {error.strerror}"
            ) from error
    return os.path.join(folder, base)


def listed(prefix: str) -> list[str]:
    """List the names that start with a checkpoint's in its folder; none if it is gone.

    The folder above the checkpoint's must be there. Raises `OSError` where storage refuses.
    """
    folder, base = os.path.split(prefix)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        above, own = os.path.split(folder)
        if own in os.listdir(above):
            raise
        return []
    return [name for name in names if name == base or name.startswith(f"{base}.")]


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turn the errors of opening and reading a published file into what they mean."""
    try:
        try:
            yield
        except FileNotFoundError:
            if listed(path):
                raise
            raise VersionDamaged(f"{path} is gone") from None
    except NotADirectoryError as error:
        raise VersionDamaged(f"{path} is not a file") from error
    except OSError as error:
        raise _refused(path, error) from error


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except UnsafePath as error:
        raise VersionRefused(
            f"{error}; where it is a link, name the file that it leads to"
        ) from error


def _checked_size(path: str, file: BinaryIO, most: int | None) -> int:
    size = os.fstat(file.fileno()).st_size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if most is not None and size > most:
        raise VersionRefused(
            f"{path} has {size_text(size)}, and such a file has no more than "
            f"{size_text(most)}: it is not what it is named, and is not read"
        )
    if size > memory:
        raise VersionRefused(
            f"{path} has {size_text(size)}, more than the memory of this host "
            f"({size_text(memory)}), and is not read: no model that is trained here can be in it"
        )
    return size


def _refused(path: str, error: OSError) -> StorageError:
    return StorageError(f"cannot read {path}: {error.strerror or error}")
