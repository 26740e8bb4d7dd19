"""Who else decides what is in a folder that code is loaded from.

A plain model is a pickle: who can change it runs code as whoever loads it. So before one is loaded,
all that leads to it is looked at:

- Each folder on the way from the root, through whatever links the user has made. In one that
  everybody may write anybody may put another thing in the place of the next; unless it is sticky,
  as `/tmp` is, and it and what comes next belong to this user or to root.
- The top, a run's folder or a file's: it belongs to this user or to root, and nobody writes to it
  but its owner and its own group, if this user is in that.
- What is looked at below the top: the same; and in a folder that its group may write, what belongs
  to that group may be another user's.

What is not seen is said in the documents: access control lists, and who may act as root on a host
that the folder comes from.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator

from cerebro.errors import UntrustedFolder
from cerebro.storage import storage_errors
from cerebro.users import named

LINKS_AT_MOST = 40


def check_place(folder: str | os.PathLike[str], remedy: str) -> None:
    """Raise `UntrustedFolder` where strangers could swap what is made in a folder.

    Folders that are not there yet are this user's to make. `remedy` ends the message. Raises
    `StorageError`.
    """
    with storage_errors("look at", os.fspath(folder)):
        _raise(_on_the_way(folder) or _last(folder), remedy)


def check_not_planted(path: str | os.PathLike[str], remedy: str) -> None:
    """Raise `UntrustedFolder` where strangers have made a folder, or one above it, for all to find.

    That is one in a folder that everybody may write. `remedy` ends the message. Raises
    `StorageError`.
    """
    with storage_errors("look at", os.fspath(path)):
        for folder, above, name, own in _steps(path):
            _raise(_planted(folder, above, name, own), remedy)


def check_way(path: str | os.PathLike[str], remedy: str) -> None:
    """Raise `UntrustedFolder` where strangers could put something else in the place of a path.

    `remedy` ends the message. Raises `StorageError`.
    """
    with storage_errors("look at", os.fspath(path)):
        _raise(_on_the_way(path), remedy)


def check_trusted(top: str | os.PathLike[str], below: Iterable[str], remedy: str) -> None:
    """Raise `UntrustedFolder`, with the reason, where strangers own or can write what is loaded.

    `top` is the folder, or the file, whose group may be trusted; `below` what else is loaded. What
    is not there is left out. `remedy` ends the message. Raises `StorageError`.
    """
    with storage_errors("look at", os.fspath(top)):
        try:
            status = os.stat(top)
        except FileNotFoundError:
            return
        _raise(_on_the_way(top) or _about(os.fspath(top), status, None), remedy)
        for path in below:
            with contextlib.suppress(FileNotFoundError):
                _raise(_about(path, os.lstat(path), status), remedy)


def _raise(reason: str | None, remedy: str) -> None:
    if reason is not None:
        raise UntrustedFolder(f"{reason}: {remedy}")


def _last(folder: str | os.PathLike[str]) -> str | None:
    """What is wrong with the folder in which a new one is made."""
    try:
        status = os.stat(folder)
    except FileNotFoundError:
        return None
    path = os.fspath(folder)
    return _open_to_all(path, status) or (
        None if status.st_mode & stat.S_IWOTH else _open_to_group(path, status)
    )


def _on_the_way(path: str | os.PathLike[str]) -> str | None:
    """The first folder above a path in which strangers could put something else in its place."""
    for folder, above, name, own in _steps(path):
        reason = _open_to_all(folder, above) or _planted(folder, above, name, own)
        if reason is not None:
            return reason
    return None


def _planted(
    folder: str, above: os.stat_result, name: str, own: os.stat_result | None
) -> str | None:
    if not above.st_mode & stat.S_IWOTH or own is None or _is_ours(own):
        return None
    return f"{name} {_belongs(own)}, and lies in {folder}, where everybody may make folders"


def _steps(
    path: str | os.PathLike[str],
) -> Iterator[tuple[str, os.stat_result, str, os.stat_result | None]]:
    """(folder, its status, path of the next, its status), from the root on, links followed.

    The last status is None where the next is not there. As for the system, `..` after a link is
    the folder above the one that it leads to.
    """
    at, links = "/", 0
    whole = os.path.join(os.getcwd(), os.fspath(path))
    names = [name for name in reversed(whole.split("/")) if name not in ("", ".")]
    while names:
        name = names.pop()
        if name == "..":
            at = os.path.dirname(at)
            continue
        following = os.path.join(at, name)
        try:
            own = os.lstat(following)
        except FileNotFoundError:
            yield at, os.lstat(at), following, None
            return
        yield at, os.lstat(at), following, own
        if not stat.S_ISLNK(own.st_mode):
            at = following
            continue
        links += 1
        if links > LINKS_AT_MOST:
            return  # opening it fails, and says so
        target = os.readlink(following)
        names += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        at = "/" if target.startswith("/") else at


def _about(path: str, status: os.stat_result, top: os.stat_result | None) -> str | None:
    """What is wrong with one path; `top` is the status of the folder that it is part of."""
    if status.st_mode & stat.S_IWOTH and not stat.S_ISLNK(status.st_mode):
        return f"{path} can be written by everybody (mode {stat.filemode(status.st_mode)})"
    shared = top is not None and top.st_mode & stat.S_IWGRP and status.st_gid == top.st_gid
    if not _is_ours(status) and not shared:
        return f"{path} {_belongs(status)}"
    return None if shared else _open_to_group(path, status)


def _open_to_all(folder: str, status: os.stat_result) -> str | None:
    if not status.st_mode & stat.S_IWOTH:
        return None
    if not status.st_mode & stat.S_ISVTX:
        return (
            f"{folder} can be written by everybody (mode {stat.filemode(status.st_mode)}, not "
            "sticky), so that anybody may put something else in the place of what is in it"
        )
    if _is_ours(status) or _may_be_roots(status):
        return None
    return f"{folder} can be written by everybody, and {_belongs(status)}"


def _open_to_group(path: str, status: os.stat_result) -> str | None:
    if not status.st_mode & stat.S_IWGRP or status.st_gid in (os.getegid(), *os.getgroups()):
        return None
    return (
        f"{path} can be written by group {status.st_gid}, in which this user is not (mode "
        f"{stat.filemode(status.st_mode)})"
    )


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid in (os.geteuid(), 0)


def _may_be_roots(status: os.stat_result) -> bool:
    """Whether a file's owner is not known here: in a container, root of the host is not."""
    with contextlib.suppress(OSError):
        with open("/proc/self/uid_map") as file:
            everybody = file.read().split() == ["0", "0", "4294967295"]
        with open("/proc/sys/kernel/overflowuid") as file:
            return not everybody and status.st_uid == int(file.read())
    return False


def _belongs(status: os.stat_result) -> str:
    return f"belongs to {named(status.st_uid)}, and this is user {os.geteuid()}"
