"""Names that modules had in runs and pickles made with another layout of the package.

`MODULES` has a module's old name and the one that it goes by. An entry for which there is no such
module, because the old one is still in its place, does nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import types
from collections.abc import Iterator

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
