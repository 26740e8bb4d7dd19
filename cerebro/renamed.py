"""Names that modules had in runs and pickles made with another layout of the package.

`MODULES` has a module's old name and the one that it goes by. To import the old name gives that
module, the one object, so that pickles can be read. An entry for which there is no such module,
because the old one is still in its place, does nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
import types
from collections.abc import Iterator, Sequence

MODULES = {
    "cerebro.data.array_files": "cerebro.data.arrays.files",
    "cerebro.data.array_partitioning": "cerebro.data.arrays.partitioning",
    "cerebro.data.manifest": "cerebro.data.subjects.manifest",
    "cerebro.data.partitioning": "cerebro.data.subjects.partitioning",
    "cerebro.run": "cerebro.driver",
    "cerebro.run.check": "cerebro.driver.check",
    "cerebro.run.ledger": "cerebro.journal.ledger",
    "cerebro.run.local_cluster": "cerebro.local_cluster",
    "cerebro.run.paths": "cerebro.journal.paths",
    "cerebro.run.plan": "cerebro.journal.run_plan",
    "cerebro.run.presence": "cerebro.results.worker_timeline",
    "cerebro.run.result": "cerebro.results.result",
    "cerebro.run.schedule": "cerebro.driver.schedule",
}
"""Homes of what is public, and of what pickles of results hold."""

_renaming = threading.RLock()


def old_name(module: str) -> str:
    """The name that a module had, by which fingerprints of version 1 go; others' own."""
    return next((old for old, new in MODULES.items() if new == module), module)


@contextlib.contextmanager
def under_old_names() -> Iterator[None]:
    """While this lasts, loaded functions and classes say that they are of their old modules.

    A pickle made meanwhile is, byte for byte, what it was before they moved.
    """
    renamed: list[tuple[type | types.FunctionType, str]] = []
    with _renaming:
        try:
            for old, new in MODULES.items():
                if new not in sys.modules:
                    continue
                importlib.import_module(old)  # a pickler looks there for what it names
                for thing in list(vars(sys.modules[new]).values()):
                    if isinstance(thing, (type, types.FunctionType)) and thing.__module__ == new:
                        renamed.append((thing, new))
                        thing.__module__ = old
            yield
        finally:
            for thing, new in renamed:
                thing.__module__ = new


def new_name(module: str) -> str | None:
    """The name that an old one stands for; None for one that stands for itself.

    What lies below a package that was renamed lies below its new name, unless it has its own.
    """
    if module in MODULES:
        return MODULES[module]
    parent, _, name = module.rpartition(".")
    return f"{MODULES[parent]}.{name}" if parent in MODULES else None


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules by their old names.

    It comes before the finder of files, which would find `cerebro.run.check` in the folder of the
    package that `cerebro.run` stands for, and load it a second time.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of an old name, if the module is at its new one."""
        new = new_name(name)
        if new is None or not _is_there(new):
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def exec_module(self, module: types.ModuleType) -> None:
        """Put the module itself in the place of the one that was made for the old name."""
        new = new_name(module.__name__)
        assert new is not None
        sys.modules[module.__name__] = importlib.import_module(new)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package that it would be in
        return False


def install() -> None:
    """Have old names imported in this process, from now on."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())
