"""Whether two drivers that name the same run id have the same folder.

A copy of a run may name the original's id, where nobody could tell the two apart: one of them must
not end what the other has started. Folders are compared here, where both are seen by one host.

A folder may also have been put back from a backup: its next drivers count generations again that
this worker has seen already.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cerebro.journal.paths import RunPaths
from cerebro.storage import FolderIdentity


@dataclass(frozen=True)
class RunFolder:
    """A run's folder by its path, and which one that was; None where it could not be looked at."""

    path: str
    identity: FolderIdentity | None

    @classmethod
    def look(cls, path: str) -> RunFolder:
        """Look at a path."""
        try:
            return cls(path, FolderIdentity.of(path))
        except OSError:
            return cls(path, None)

    def is_same(self, asked: RunFolder) -> bool:
        """Tell whether another driver asks for this folder: it may have been renamed since."""
        if self.identity is not None and asked.identity is not None:
            if self.identity == asked.identity:
                return True
            if self.identity.is_another(asked.identity):
                return False
            now = RunFolder.look(self.path).identity  # the share may have been mounted again
            if now is not None:
                return now == asked.identity
        return self.path == asked.path

    def was_put_back(self, generation: int) -> bool:
        """Tell whether a generation that was at work in this folder is not in its journal now."""
        paths = RunPaths(self.path)
        try:
            names = os.listdir(paths.journal)
        except OSError:
            return False  # nobody can tell
        return bool(names) and paths.generation(generation).name not in names
