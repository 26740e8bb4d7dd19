"""Whether a version's numbers are finite, found while it is saved.

What counts are a model's weights. NaN in one of them ruins the model. Infinity does in one that is
trained; one that is not may hold it by design, as a mask or the lowest loss so far does. An
optimizer's own variables do not count, nor do those of metrics: a model computes without them.

Plain objects do not say what of them is a weight. There it is the numbers of arrays and tensors
that count, and single numbers that are NaN; and what was so when the unit started is no news.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from cerebro.shipping.modules import Sources
from cerebro.shipping.pickler import Pickler

CHUNK = 1 << 18
"""Numbers that are looked at together: what is found of them stays in the processor's cache."""

FRAME = 1 << 17
"""Bytes. A pickler writes at most so many at a time (twice the size that it aims at), unless they
are those of one thing.
"""

_NAN_FLOATS = (b"G\x7f\xf8" + bytes(6), b"G\xff\xf8" + bytes(6))
"""How a pickle holds a float that is NaN, of either sign."""


def weights_are_finite(trained: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> bool:
    """Tell whether weights are sound: no NaN, and no infinity in those that are trained."""
    return not any(non_finite(array) for array in trained) and not any(
        non_finite(array, infinities=False) for array in others
    )


def non_finite(array: np.ndarray, *, infinities: bool = True) -> int:
    """Count an array's numbers that are NaN or, with `infinities`, infinite; 0 if it has others."""
    if array.dtype.kind not in "fcV" or array.dtype.names is not None:
        return 0
    numbers = array.reshape(-1, order="A") if array.ndim != 1 else array
    found = 0
    for start in range(0, numbers.size, CHUNK):
        chunk = numbers[start : start + CHUNK]
        try:
            sound = np.isfinite(chunk) if infinities else ~np.isnan(chunk)
        except TypeError:  # of a type that NumPy cannot compute with, raw bytes say
            return 0
        if not sound.all():
            found += int(np.count_nonzero(~sound))
    return found


class NonFinite(io.BytesIO):
    """A pickle in memory that counts, in `count`, the numbers in it that are not finite.

    It is the file of a pickler, and to be told of each thing that the pickler meets (`met`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def write(self, piece: Any, /) -> int:
        """Add to the pickle, and count the floats in it that are NaN."""
        # Other buffers, and longer pieces, are what a single array or text holds.
        if isinstance(piece, bytes) and len(piece) <= FRAME:
            self.count += sum(piece.count(pattern) for pattern in _NAN_FLOATS)
        return super().write(piece)

    def met(self, thing: Any) -> bool:
        """Count what is in one thing; returns whether it is an array or a tensor."""
        if isinstance(thing, np.ndarray):
            self.count += non_finite(thing)
            return True
        if isinstance(thing, np.generic):
            self.count += non_finite(np.asarray(thing), infinities=False)
            return False
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(thing, torch.Tensor):
            if thing.is_floating_point() or thing.is_complex():
                self.count += int((~torch.isfinite(thing.detach())).sum())
            return True
        return False


class _Survey(Pickler):
    """Meets all that a pickle of a thing would hold, without copying what arrays hold."""

    def __init__(self, found: NonFinite) -> None:
        super().__init__(found, Sources(), registered=True)
        self._found = found

    def reducer_override(self, thing: Any) -> Any:
        if self._found.met(thing):
            return int, ()
        return super().reducer_override(thing)


def count_non_finite(model: Any) -> float:
    """Count what a `NonFinite` would in a pickle of a model; infinity if it cannot be pickled."""
    found = NonFinite()
    try:
        _Survey(found).dump(model)
    except Exception:
        # Whoever saves the model says so. Until then, nothing can be told of it.
        return math.inf
    return found.count
