"""Arrays in a file: what a partition of arrays is, written and read.

A partition is one `.npz` file, as `numpy.savez` makes them: a zip archive that is not compressed,
with a member in NumPy's own format for each array. One file, so that the arrays of a partition
appear, are replaced and are copied together, and a label is never beside an example of another
split. Archives have checksums, so that damage is seen when a partition is read. A worker holds its
partitions in memory, so nothing would be gained by files that can be mapped.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from cerebro.errors import PartitionError

_BY_PLACE = re.compile(r"arr_(\d+)")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # an archive has times; with this one the same arrays are the same


def names_by_place(count: int) -> list[str]:
    """The names of arrays that have none of their own: those that `numpy.savez` gives them."""
    return [f"arr_{place}" for place in range(count)]


def is_by_place(name: str) -> bool:
    """Whether this is a name of an array that has none of its own."""
    return _BY_PLACE.fullmatch(name) is not None


def to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A partition's file: the same arrays always give the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.create_system = 3  # else it would tell the operating system
            info.file_size = array.nbytes  # near enough, to choose the format of large archives
            with archive.open(info, "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()


def read_arrays(path: str | os.PathLike[str]) -> Any:
    """Read the arrays of a partition that `partition_arrays` has written; an `input_fn` as it is.

    Returns a tuple in the order in which they were given, `(x, y)` say; a dictionary if they were
    given names. Raises `PartitionError`, naming the file, if it is missing, damaged, or something
    else.
    """
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds one array, and is not an archive")
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise PartitionError(
            f"{os.fspath(path)} cannot be read as a partition of arrays: {reason}; pass a path "
            "that partition_arrays has written, and make the partitions again if it is damaged"
        ) from error
    if list(arrays) == names_by_place(len(arrays)):
        return tuple(arrays.values())
    return arrays
