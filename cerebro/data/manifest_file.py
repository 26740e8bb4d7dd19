"""The file `manifest.json` in a folder of partitions: what they are, and a digest of each file.

It is written last, so where it is everything that it names is there.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from cerebro.errors import InputError, PartitionError, UnsafePath
from cerebro.storage import open_file, read_bytes

NAME = "manifest.json"
FORMAT = 1
PIECE = 2**20
"""So many bytes are read at once."""
ARRAYS = "arrays"
"""The `kind` in the manifest of partitions of arrays; that of subjects has none."""


def digest(content: bytes) -> str:
    """Return what a file is known by: the SHA-256 of its content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write_manifest(content: dict[str, Any], digests: dict[str, str]) -> bytes:
    """Return a manifest's file: `content`, and the digests of the files that it names."""
    whole = {"format": FORMAT, **content, "files": digests}
    return json.dumps(whole, indent=2).encode() + b"\n"


def read_manifest(folder: str) -> dict[str, Any]:
    """Read the manifest in a folder.

    Raises `InputError` if there is none, it is damaged, or of a newer version of this library.
    """
    path = os.path.join(folder, NAME)
    try:
        content: Any = json.loads(read_bytes(path))
    except FileNotFoundError:
        raise InputError(
            f"there is no {NAME} in {folder}, where one is written when all else is: correct "
            "the path, or make the partitions again"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnsafePath as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged, or was not written by this library") from error
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(version, int) or not isinstance(content.get("files"), dict):
        raise InputError(f"{path} was not written by this library: it has no list of files")
    if version > FORMAT:
        raise InputError(
            f"{path} was written by a newer version of this library, {content.get('version')}: "
            "use that version"
        )
    return dict(content)


def check_files(folder: str, digests: dict[str, str]) -> None:
    """Raise `PartitionError` if a file that a manifest names is gone, or has been changed."""
    for name, expected in digests.items():
        if file_digest(os.path.join(folder, name)) != expected:
            raise PartitionError(
                f"{os.path.join(folder, name)} is gone, or is not what {NAME} says: make the "
                "partitions again, or pass the paths of files of your own"
            )


def file_digest(path: str) -> str | None:
    """Return the digest of a file's content; None if there is no such file."""
    try:
        found = hashlib.sha256()
        with open_file(path) as file:
            while piece := file.read(PIECE):
                found.update(piece)
        return found.hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PartitionError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnsafePath as error:
        raise PartitionError(f"{path} cannot be read: {error}") from error
