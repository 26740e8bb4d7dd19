"""The run's folder under chaos: renamed, or left behind for a copy of it, between two drivers."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

from testbed.chaos_driver import Settings


class RunFolder:
    """Where the run lies now, its `path`, which is what the next driver is told.

    `renamed` and `copied` count how often that happened.
    """

    def __init__(self, ckpt_root: Path, settings_file: Path) -> None:
        self.renamed = 0
        self.copied = 0
        self._ckpt_root = ckpt_root
        self._settings_file = settings_file
        self.path = ckpt_root / Settings.load(settings_file).run_name
        self._left: dict[Path, str] = {}

    def rename(self) -> None:
        """Give the folder another name; nothing happens before there is one."""
        before, after = self.path, self._next("renamed", self.renamed)
        with contextlib.suppress(FileNotFoundError):
            before.rename(after)
            self.renamed += 1
            self._tell(after)

    def copy(self) -> None:
        """Let a copy of the folder go on; the original stays as it is now."""
        before, after = self.path, self._next("copied", self.copied)
        try:
            shutil.copytree(before, after)
        except (OSError, shutil.Error):  # there is none yet, or storage is broken just now
            shutil.rmtree(after, ignore_errors=True)
            return
        self.copied += 1
        # Of what its workers still publish, nothing is promised.
        self._left.update({file: _digest(file) for file in _files(before)})
        self._tell(after)

    def lost(self) -> list[str]:
        """What has become of the files of the originals that were left behind."""
        return [
            f"{file} of a run that was copied has been {'changed' if file.exists() else 'deleted'}"
            for file, digest in self._left.items()
            if not file.exists() or _digest(file) != digest
        ]

    def _next(self, how: str, number: int) -> Path:
        return self._ckpt_root / f"run-{how}-{number + 1}"

    def _tell(self, folder: Path) -> None:
        self.path = folder
        settings = replace(Settings.load(self._settings_file), run_name=folder.name)
        settings.save(self._settings_file)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and ".tmp-" not in str(path)]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
