"""A random order that is the same on every worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cerebro.errors import InputError
from cerebro.validation import integer


def shuffled(arrays: Sequence[np.ndarray], seed: int | None = None) -> list[np.ndarray]:
    """Return copies of `arrays`, the rows of all in one random order; for use in `input_fn`.

    The arrays have equal first dimensions (n, ...), and row i of one still belongs to row i of the
    others. Without `seed` one is drawn from NumPy's global generator. The library seeds that by
    the run's seed and the partition's path before it calls `input_fn`, so every worker that reads
    the partition has the same order. A `seed` of your own is an integer of 0 or more.

    Raises `InputError` if there is no array, if their first dimensions differ, or for another
    seed.
    """
    arrays = [np.asarray(array) for array in arrays]
    shapes = [array.shape for array in arrays]
    if not shapes or any(shape[:1] != (shapes[0] or (None,))[:1] for shape in shapes):
        raise InputError(
            f"the arrays have the shapes {shapes}; pass a list of arrays with one first dimension"
        )
    if seed is None:
        seed = int(np.random.randint(2**31))
    number = integer("seed", seed, at_least=0)
    order = np.random.default_rng(number).permutation(shapes[0][0])
    return [array[order] for array in arrays]
