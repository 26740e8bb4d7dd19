"""Seeds that depend on what is computed, never on where or when.

A seed is a hash of the run's seed and of the names of the thing it is for, so that a training
unit draws the same numbers whichever worker runs it, and however often it has to be run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator

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
    """Seed the generators that user code draws from: Python's and NumPy's global ones."""
    random.seed(seed)
    np.random.seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed these generators for the block, and leave them as they were before it."""
    states = random.getstate(), np.random.get_state()
    seed_generators(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
