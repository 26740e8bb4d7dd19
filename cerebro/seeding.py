"""Seeds that depend on what is computed, never on where or when.

A seed is a hash of the run's seed and of the names of the thing it is for, so that a training
unit draws the same numbers whichever worker runs it, and however often it has to be run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import random
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def derive(seed: int, *names: object) -> int:
    """The seed in [0, 2**31) that belongs to `names` under the run's `seed`.

    `names` are strings and integers. The value is the head of a SHA-256 over their JSON form, so
    it is the same on every host, Python version and process.
    """
    text = json.dumps([seed, *names], separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") & 0x7FFF_FFFF


def seed_generators(seed: int) -> None:
    """Seed the global generators that user code draws from: Python's, NumPy's, and those of
    PyTorch and CuPy, on all devices, where the user has imported these packages.
    """
    global _seed
    _seed = seed
    random.seed(seed)
    np.random.seed(seed)
    for name in _PACKAGES:
        if name in sys.modules:
            _seed_package(name, seed)


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Leave these generators, but for CuPy's, as they were before the block."""
    global _seed
    seed, python, numpy = _seed, random.getstate(), np.random.get_state()
    torch = _torch()
    on_cpu = None if torch is None else torch.random.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        _seed = seed
        random.setstate(python)
        np.random.set_state(numpy)
        if torch is not None:
            torch.random.set_rng_state(on_cpu)
        if torch is not None and on_gpus is not None:
            torch.cuda.set_rng_state_all(on_gpus)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed these generators for the block, and leave them as they were before it."""
    with kept_generators():
        seed_generators(seed)
        yield


# --- packages that only some users have ----------------------------------------------------------

_PACKAGES = ("torch", "cupy")

_seed: int | None = None
"""The seed that generators were given last."""


def _seed_package(name: str, seed: int) -> None:
    package: Any = sys.modules[name]
    if name == "torch" and _torch() is not None:
        package.manual_seed(seed)  # of all devices
    elif name == "cupy" and hasattr(package, "is_available") and package.is_available():
        package.random.seed(seed)


def _torch() -> Any:
    """PyTorch, if it has been imported, and to its end."""
    package: Any = sys.modules.get("torch")
    return package if hasattr(package, "manual_seed") and hasattr(package, "random") else None


def seed_at_import() -> None:
    """Have packages that are imported later seeded then, with the seed of the others; for an
    executor.

    A function that imports one when it runs would find its generators seeded in one process, where
    another unit has imported it, and not in the next.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds these packages where they are, and has them seeded once they are imported."""

    def __init__(self) -> None:
        self._searching = False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _PACKAGES or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            _seed_after(spec.loader, name)
        return spec


def _seed_after(loader: Any, name: str) -> None:
    execute = loader.exec_module

    def exec_module(module: types.ModuleType) -> None:
        execute(module)
        if _seed is not None:
            _seed_package(name, _seed)

    loader.exec_module = exec_module
