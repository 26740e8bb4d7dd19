"""Processes that user code starts by `spawn` or `forkserver`: they get the functions as well.

In a script such a process imports the script anew. In a process that got its functions by value
there is none to import, and whatever it is to run would not be found; a pool would start one after
another for ever.
"""

from __future__ import annotations

import multiprocessing.spawn
import sys
from collections.abc import Callable
from typing import Any

_KEY = "functions of the script"


class Passenger:
    """A blob that is unpacked where a pickle that holds it is read."""

    def __init__(self, blob: bytes, unpack: Callable[[bytes], Any]) -> None:
        self._blob = blob
        self._unpack = unpack

    def __reduce__(self) -> Any:
        return _arrive, (self._blob, self._unpack, list(sys.path))


def share(blob: bytes, unpack: Callable[[bytes], Any]) -> None:
    """Have `unpack(blob)` called first in each process that this one starts by `multiprocessing`.

    Those made by `fork` have all of this process anyway.
    """
    prepare = multiprocessing.spawn.get_preparation_data

    def preparation(name: str) -> dict[str, Any]:
        return {**prepare(name), _KEY: Passenger(blob, unpack)}

    multiprocessing.spawn.get_preparation_data = preparation


def _arrive(blob: bytes, unpack: Callable[[bytes], Any], path: list[str]) -> None:
    sys.path[:] = path
    unpack(blob)
