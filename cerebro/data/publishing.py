"""Writing partitions and their manifest, over nothing that somebody else has written."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from cerebro.data import manifest_file
from cerebro.errors import InputError
from cerebro.storage import (
    FOLDER_MODE,
    check_kind,
    make_folder,
    make_folders,
    publish_folder,
    remove_folder,
    storage_errors,
    temporary_beside,
    write_file,
)

_OURS = re.compile(r"(fold_\d+/)?(train|valid)_\d+\.txt|test\.txt|(train|valid)_\d+\.npz")


def refuse_early(folder: str, force: bool) -> None:
    """`InputError` where it is clear already that nothing may be written into `folder`."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise InputError(f"{folder} exists and is not a folder: choose another one to write into")
    if os.path.lexists(os.path.join(folder, manifest_file.NAME)):
        if not force:
            raise InputError(
                f"{folder} holds partitions already: choose another folder, or use force "
                "(--force) to have them replaced"
            )
        _written_before(folder)


def publish(
    folder: str,
    files: Mapping[str, bytes],
    to_manifest: Callable[[dict[str, str]], bytes],
    *,
    force: bool,
) -> None:
    """Write `files` (names below `folder`, and contents), then the manifest.

    `to_manifest` makes the manifest's content of the files' digests. A content is asked for once,
    when its turn has come, so that a mapping that makes them holds one at a time.
    A folder that is not there yet appears with all of it at once. With `force`, files that are
    named by the manifest in `folder`, and still are as they were written, are replaced, or removed
    where they are not among the new ones. Raises `InputError`, before anything is written, if
    another file is in the way, `UnsafePath` if one of them is a link, and `StorageError` if storage
    refuses.
    """
    refuse_early(folder, force)
    if os.path.isdir(folder):
        before = _written_before(folder) if force else {}
        _check_free(folder, {*files, *before}, before)
        digests = _write(folder, files)
        _remove(folder, set(before) - set(files))
        write_file(os.path.join(folder, manifest_file.NAME), to_manifest(digests))
        return
    parent = os.path.dirname(folder)
    with storage_errors("make", parent):
        make_folders(parent)
    temporary = temporary_beside(folder)
    with storage_errors("write", folder):
        os.mkdir(temporary, FOLDER_MODE)
        try:
            digests = _write(temporary, files)
            write_file(temporary / manifest_file.NAME, to_manifest(digests))
            publish_folder(temporary, folder)
        except BaseException:
            remove_folder(temporary)
            raise


def _written_before(folder: str) -> dict[str, str]:
    """The digests of the files that the manifest in `folder` names; empty if there is none."""
    if not os.path.lexists(os.path.join(folder, manifest_file.NAME)):
        return {}
    files: dict[str, str] = manifest_file.read_manifest(folder)["files"]
    for name in files:
        if not _OURS.fullmatch(name):
            raise InputError(
                f"{os.path.join(folder, manifest_file.NAME)} names {name!r}, which this library "
                "does not write: choose another folder"
            )
    return files


def _check_free(folder: str, names: set[str], before: dict[str, str]) -> None:
    for name in sorted(names):
        path = os.path.join(folder, name)
        if os.path.dirname(name) and os.path.lexists(os.path.dirname(path)):
            with storage_errors("look at", path):
                check_kind(os.path.dirname(path), stat.S_IFDIR)
        if not os.path.lexists(path):
            continue
        if name not in before:
            raise InputError(
                f"{path} is there and was not written with the partitions in {folder}: it is not "
                "overwritten; move it away, or choose another folder"
            )
        with storage_errors("look at", path):  # its manifest may be somebody else's
            check_kind(path, stat.S_IFREG)
        if manifest_file.file_digest(path) != before[name]:
            raise InputError(
                f"{path} has been changed since it was written: it is not overwritten; move it "
                "away, or choose another folder"
            )


def _write(folder: str | Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """The digests of what has been written."""
    digests = {}
    for name, content in files.items():
        path = Path(folder, name)
        if os.path.dirname(name):
            with storage_errors("make", path.parent):
                make_folder(path.parent)
        write_file(path, content)
        digests[name] = manifest_file.digest(content)
    return digests


def _remove(folder: str, names: set[str]) -> None:
    for name in sorted(names):
        path = Path(folder, name)
        with storage_errors("remove", path):
            path.unlink(missing_ok=True)
        if path.parent != Path(folder):
            with contextlib.suppress(OSError):  # somebody keeps files of their own in it
                path.parent.rmdir()
