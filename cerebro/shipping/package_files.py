"""The files of packages that travel: read by `importlib.resources`, `pkgutil` and `__file__`.

Up to `LIMIT` bytes travel, the smallest files first. A file that stays behind is an error to
whoever reads it by `importlib.resources` or `pkgutil`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable, TraversableResources
else:
    from importlib.abc import Traversable, TraversableResources

logger = logging.getLogger(__name__)

LIMIT = 8_000_000
"""Bytes of files that travel with the packages of a run, all together."""

_ENTRIES = 10_000
"""Files of a package that are looked at: a folder of data may lie in it."""


@dataclass
class PackageFiles:
    """The contents of packages' folders, by folder and path in it; sizes of what stayed behind."""

    contents: dict[str, dict[str, bytes]] = field(default_factory=dict)
    left: dict[str, dict[str, int]] = field(default_factory=dict)
    _places: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def collected(cls, folders: Iterable[str]) -> PackageFiles:
        """The files in these folders, with those in folders inside them."""
        made = cls()
        sizes = []
        for folder in sorted(set(folders)):
            if made._root(folder) is None:
                made.contents[folder], made.left[folder] = {}, {}
                sizes += [(size, folder, path) for path, size in _sizes(folder)]
        total = 0
        for size, folder, path in sorted(sizes):
            total += size
            try:
                content = Path(folder, path).read_bytes() if total <= LIMIT else None
            except OSError:
                content = None
            if content is None:
                made.left[folder][path] = size
            else:
                made.contents[folder][path] = content
        return made

    def place(self, file: str) -> str:
        """Where a file lies on this host: where it came from, or in a copy if it is not there."""
        root = self._root(file)
        if root is None:
            return file
        if root not in self._places:
            self._places[root] = root if self._is_here(root) else self._copied(root)
        return os.path.join(self._places[root], os.path.relpath(file, root))

    def read(self, path: str) -> bytes:
        """The content of a file, by the path that it has here.

        Raises `FileNotFoundError` for one that stayed behind.
        """
        for root, here in self._places.items():
            if path.startswith(here + os.sep):
                return self.content(root, os.path.relpath(path, here))
        return Path(path).read_bytes()

    def sent(self, file: str) -> bytes | None:
        """What was sent of a file, by its path on the driver's host; None if nothing was."""
        root = self._root(file)
        return None if root is None else self.contents[root].get(os.path.relpath(file, root))

    def content(self, folder: str, path: str) -> bytes:
        """The content of the file at `path` in a folder that travelled."""
        path = os.path.normpath(path).replace(os.sep, "/")
        if path in self.contents[folder]:
            return self.contents[folder][path]
        full = os.path.join(folder, path)
        size = self.left[folder].get(path)
        if size is None:
            raise FileNotFoundError(f"{full} was not sent with its package: it is not there")
        raise FileNotFoundError(
            f"{full} ({size / 1e6:.1f} MB) was not sent with its package, of whose files "
            f"{LIMIT / 1e6:.0f} MB travel: read it by its path on shared storage"
        )

    def reader(self, folder: str) -> TraversableResources | None:
        """The files of a package, as `importlib.resources` asks for them."""
        root = self._root(folder)
        if root is None:
            return None
        inner = os.path.relpath(folder, root).replace(os.sep, "/")
        return _Reader(_Entry(self, root, "" if inner == "." else inner))

    def paths(self, folder: str) -> list[str]:
        """The paths of all files in a folder, also of those that stayed behind."""
        return sorted({**self.contents[folder], **self.left[folder]})

    def _root(self, path: str) -> str | None:
        for folder in self.contents:
            if path == folder or path.startswith(folder + os.sep):
                return folder
        return None

    def _is_here(self, root: str) -> bool:
        return all(_holds(root, path, content) for path, content in self.contents[root].items())

    def _copied(self, root: str) -> str:
        """The folder with a copy of what was sent, the same one for all runs that send this."""
        if self.left[root]:
            logger.warning("%s: not sent with its package, for their size", [*self.left[root]])
        digest = hashlib.sha256()
        for path, content in sorted(self.contents[root].items()):
            digest.update(f"{path} {len(content)} ".encode() + content)
        name = f"cerebro-package-{os.getuid()}-{digest.hexdigest()[:32]}"
        base = Path(tempfile.gettempdir(), name)
        if not self._is_ours(base, root):
            new = Path(tempfile.mkdtemp(prefix=name))
            self._write(new / os.path.basename(root), root)
            try:
                new.rename(base)
            except OSError:
                base = new
        return str(base / os.path.basename(root))

    def _is_ours(self, base: Path, root: str) -> bool:
        """Whether a folder is this user's alone, and holds what was sent."""
        try:
            status = base.lstat()
        except OSError:
            return False
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return False
        inner = str(base / os.path.basename(root))
        return stat.S_IMODE(status.st_mode) == stat.S_IRWXU and all(
            _holds(inner, path, content) for path, content in self.contents[root].items()
        )

    def _write(self, folder: Path, root: str) -> None:
        folder.mkdir()
        for path, content in self.contents[root].items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)


def _sizes(folder: str) -> Iterator[tuple[str, int]]:
    seen = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if n != "__pycache__" and not n.startswith("."))
        for name in sorted(names):
            seen += 1
            if seen > _ENTRIES:
                return
            full = os.path.join(place, name)
            if not name.endswith(".pyc") and os.path.isfile(full):
                yield os.path.relpath(full, folder).replace(os.sep, "/"), os.path.getsize(full)


def _holds(folder: str, path: str, content: bytes) -> bool:
    try:
        return Path(folder, path).read_bytes() == content
    except OSError:
        return False


class _Reader(TraversableResources):
    def __init__(self, top: _Entry) -> None:
        self._top = top

    def files(self) -> Traversable:
        return self._top


class _Entry(Traversable):
    """A file or folder of a package that travelled."""

    def __init__(self, files: PackageFiles, root: str, path: str) -> None:
        self._files = files
        self._root = root
        self._path = path

    @property
    def name(self) -> str:
        return os.path.basename(self._path or self._root)

    def __str__(self) -> str:
        return os.path.join(self._root, self._path)

    def iterdir(self) -> Iterator[Traversable]:
        start = f"{self._path}/" if self._path else ""
        paths = [p for p in self._files.paths(self._root) if p.startswith(start)]
        if not paths:
            raise NotADirectoryError(str(self))
        for name in sorted({path[len(start) :].partition("/")[0] for path in paths}):
            yield _Entry(self._files, self._root, start + name)

    def is_dir(self) -> bool:
        start = f"{self._path}/" if self._path else ""
        return any(path.startswith(start) for path in self._files.paths(self._root))

    def is_file(self) -> bool:
        return self._path in self._files.paths(self._root)

    def joinpath(self, *descendants: Any) -> Traversable:
        path = os.path.normpath("/".join([self._path or ".", *map(str, descendants)]))
        return _Entry(self._files, self._root, "" if path == "." else path)

    def __truediv__(self, child: Any) -> Traversable:
        return self.joinpath(child)

    def read_bytes(self) -> bytes:
        return self._files.content(self._root, self._path)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        stream = io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding or "utf-8", errors)
        return stream.read()

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """A stream of the file's content: text, or bytes with mode `rb`."""
        if mode not in ("r", "rt", "rb"):
            raise ValueError(f"mode must be 'r' or 'rb', not {mode!r}: a package is only read")
        stream = io.BytesIO(self.read_bytes())
        return stream if mode == "rb" else io.TextIOWrapper(stream, *args, **kwargs)
