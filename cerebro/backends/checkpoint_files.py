"""Reading what was published: damage is told from storage that refuses for a while.

What is damaged or gone is recomputed from the version before it. What storage only refuses is
read again later, so it must never be taken for damage: an error of the file system is not, nor is
"no such file" while the folder still lists the name, or where the folders above are missing as
well and the storage is merely not mounted here.
"""

from __future__ import annotations

import os

from cerebro.errors import StorageError, UnsafePath, VersionDamaged
from cerebro.storage import read_bytes


def read_file(path: str) -> bytes:
    """Read a published file.

    Raises `VersionDamaged` if it is gone, and `StorageError` where storage refuses.
    """
    try:
        try:
            return read_bytes(path)
        except FileNotFoundError:
            if listed(path):
                raise
            raise VersionDamaged(f"{path} is gone") from None
    except NotADirectoryError as error:
        raise VersionDamaged(f"{path} is not a file") from error
    except UnsafePath as error:
        raise VersionDamaged(str(error)) from error
    except OSError as error:
        raise _refused(path, error) from error


def copy_files(prefix: str, folder: str) -> str:
    """Copy the files of a checkpoint into a folder of this host; returns their prefix there.

    Raises what `read_file` does; `VersionDamaged` if there is none of the files.
    """
    try:
        names = listed(prefix)
    except OSError as error:
        raise _refused(prefix, error) from error
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
    return os.path.join(folder, os.path.basename(prefix))


def listed(prefix: str) -> list[str]:
    """List the names that begin with a checkpoint's in its folder; none if it is gone.

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


def _refused(path: str, error: OSError) -> StorageError:
    return StorageError(f"cannot read {path}: {error.strerror or error}")
