"""Partition definition files: text files that list the directories of a partition."""

from __future__ import annotations

import os

from cerebro.errors import PartitionError, StorageError
from cerebro.storage import is_folder


def partition_dirs(path: str | os.PathLike[str]) -> list[str]:
    """Return the directories that the partition definition file at `path` lists, in its order.

    The file is UTF-8 text with one directory per line. Blank lines and lines that start with `#`
    are skipped; white space around a line does not count. A relative path counts from the folder
    of the definition file, whatever the working directory is. What is returned is absolute.

    Raises `PartitionError`, naming file and line, if the file is missing, cannot be read, is not
    text or lists no directory, or if a line names what is not there, is not a directory, or was
    listed before.
    """
    path = os.path.abspath(os.fspath(path))
    folder = os.path.dirname(path)
    directories: list[str] = []
    first_line: dict[str, int] = {}
    for number, text in enumerate(_read(path).split("\n"), start=1):
        name = text.strip()
        if not name or name.startswith("#"):
            continue
        directory = os.path.normpath(os.path.join(folder, name))
        where = f"{path}, line {number}"
        try:
            seen = is_folder(directory)
        except StorageError as error:
            raise PartitionError(
                f"{where}: {error}: correct the line, or let this user read the data"
            ) from error
        if not seen and not os.path.exists(directory):
            raise PartitionError(
                f"{where}: there is no directory {directory} on this host; correct the line "
                f"(a relative path counts from {folder}), or make the data visible here"
            )
        if not seen:
            raise PartitionError(
                f"{where}: {directory} is not a directory; list one directory per line"
            )
        # Two spellings of one directory (a link, say) would train twice on the same data.
        identity = os.path.realpath(directory)
        if identity in first_line:
            raise PartitionError(
                f"{where}: {directory} is already listed in line {first_line[identity]}; "
                "list each directory once"
            )
        first_line[identity] = number
        directories.append(directory)
    if not directories:
        raise PartitionError(f"{path} lists no directory; write one directory per line")
    return directories


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        raise PartitionError(
            f"there is no partition definition file {path} on this host; correct the path, or "
            "put the file on storage that every worker sees"
        ) from None
    except IsADirectoryError:
        raise PartitionError(
            f"{path} is a directory; a partition definition file is a text file that lists "
            "one directory per line"
        ) from None
    except OSError as error:
        raise PartitionError(
            f"the partition definition file {path} cannot be read: {error.strerror or error}"
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise PartitionError(
            f"{path}, line {number}: not UTF-8 text; a partition definition file is a text "
            "file that lists one directory per line"
        ) from error
