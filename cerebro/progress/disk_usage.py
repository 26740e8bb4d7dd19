"""What the kept versions of a run's models will take on disk."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cerebro.formatting import count, size

VERSIONS_KEPT = 3
"""Of each model at most: its newest version, the one before, and its best epoch's."""

CLOSE_SECONDS = 1.5


@dataclass
class DiskUse:
    """What is known: bytes of a version, by model, and bytes that are free (None: not known).

    `present` versions were there already when this driver started, and `room` was free then.
    """

    present: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    room: int | None = None
    free: int | None = None

    def measured(self, model: int | None, count: int, free: int | None) -> None:
        """Take in that a model's version has so many bytes, and that so many are free."""
        if model is not None:
            self.sizes[model] = count
        self.free = free
        self.room = free if self.room is None else self.room

    @property
    def each(self) -> float | None:
        """Average bytes of a version; None before the first is saved."""
        return sum(self.sizes.values()) / len(self.sizes) if self.sizes else None

    def is_short(self, models: int) -> bool:
        """Whether the versions of so many models are more than there is room for."""
        if self.each is None or self.room is None:
            return False
        return self.each * (VERSIONS_KEPT * models - self.present) > self.room

    def text(self, models: int) -> str:
        """Say it in words; a model without a saved version is taken for an average one."""
        of = count(models, "model") if models else "each model"
        text = f"up to {VERSIONS_KEPT} versions of {of}"
        if self.each is None:
            text += ", size known after a save"
        else:
            text += f", {size(self.each)} each: {size(self.each * VERSIONS_KEPT * models)}"
        if self.free is not None:
            text += f"; {size(self.free)} free"
        if self.is_short(models):
            text += ", which is too little"
        return text


class DiskMonitor:
    """Measures versions and free space on a thread of its own: storage may be slow, or hang.

    `found` is called with a model, the bytes of its version, and the bytes that are free in
    `folder`; first with no model, for the free space alone.
    """

    def __init__(self, folder: Path, found: Callable[[int | None, int, int | None], None]) -> None:
        self._folder = folder
        self._found = found
        self._asked: set[int] = set()
        self._waiting: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="disk", daemon=True)
        self._thread.start()

    def measure(self, model: int, checkpoint: str) -> None:
        """Have a model's version measured, its first one that comes here."""
        if model not in self._asked:
            self._asked.add(model)
            self._waiting.put((model, checkpoint))

    def close(self) -> None:
        """End the thread, unless storage holds it."""
        self._waiting.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _serve(self) -> None:
        self._found(None, 0, _free(self._folder))
        while (asked := self._waiting.get()) is not None:
            model, checkpoint = asked
            with contextlib.suppress(OSError):  # it may be gone by now
                self._found(model, _bytes_in(Path(checkpoint).parent), _free(self._folder))


def _bytes_in(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
