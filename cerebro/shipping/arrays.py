"""What arrays and tables hold, as values that are the same in every process: for fingerprints.

No library is loaded for it: what holds an array of one has loaded it.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

_WITH_ARRAYS = {"torch", "jax", "jaxlib", "tensorflow", "keras", "cupy"}
"""Libraries whose tensors can be had as arrays of NumPy."""


def content(thing: Any) -> list[Any] | None:
    """The class of an array or table, and what it holds; None for any other thing."""
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if numpy is not None and isinstance(thing, (numpy.ndarray, numpy.generic)):
        return _of_numpy(thing, numpy)
    try:
        if pandas is not None and hasattr(pandas, "DataFrame"):
            found = _of_pandas(thing, pandas)
            if found is not None:
                return found
        kind = type(thing)
        if str(kind.__module__).partition(".")[0] in _WITH_ARRAYS and hasattr(kind, "__array__"):
            return _of_tensor(thing)
    except Exception:
        # Whatever a library raises for what it cannot give, such as a symbolic tensor's values.
        return None
    return None


def _of_numpy(thing: Any, numpy: Any) -> list[Any]:
    parts: list[Any] = [type(thing)]
    if isinstance(thing, numpy.ma.MaskedArray):
        # What lies under the mask is by chance where it was never set.
        parts += [_array(numpy.ma.getmaskarray(thing)), numpy.asarray(thing.fill_value)]
        return [*parts, _array(numpy.asarray(thing.filled()))]
    parts.append(_array(numpy.asarray(thing)))
    if not type(thing).__module__.startswith("numpy"):
        parts.append(sorted(getattr(thing, "__dict__", {}).items()))
    return parts


def _array(array: Any) -> list[Any]:
    """Type, shape and elements, without what lies between them."""
    kind = array.dtype
    if kind.names is not None:
        return [array.shape, [[name, _array(array[name])] for name in kind.names]]
    named = [f"{kind.str} {kind}", array.shape]
    if kind.kind in "OT":
        return [*named, array.reshape(-1).tolist()]
    if kind.char in "gG":  # some of the bytes of a long double mean nothing
        return [*named, [str(number) for number in array.reshape(-1)]]
    import numpy

    flat = numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8)
    return [*named, hashlib.sha256(flat.data).digest()]


def _of_pandas(thing: Any, pandas: Any) -> list[Any] | None:
    kind = type(thing)
    if isinstance(thing, pandas.DataFrame):
        columns = [thing.iloc[:, n].array for n in range(thing.shape[1])]
        return [kind, thing.columns, thing.index, columns, dict(thing.attrs)]
    if isinstance(thing, pandas.Series):
        return [kind, thing.name, thing.index, thing.array, dict(thing.attrs)]
    if isinstance(thing, pandas.RangeIndex):
        return [kind, list(thing.names), thing.start, thing.stop, thing.step]
    if isinstance(thing, pandas.MultiIndex):
        return [kind, list(thing.names), list(thing.levels), [_array(c) for c in thing.codes]]
    if isinstance(thing, pandas.Index):
        return [kind, list(thing.names), thing.array]
    if isinstance(thing, pandas.Categorical):
        return [kind, _array(thing.codes), thing.categories, thing.ordered]
    if isinstance(thing, pandas.api.extensions.ExtensionArray):
        if hasattr(thing, "asi8"):
            return [kind, str(thing.dtype), _array(thing.asi8)]
        return [kind, str(thing.dtype), _array(thing.to_numpy())]
    return None


def _of_tensor(thing: Any) -> list[Any]:
    import numpy

    kind, named = type(thing), str(thing.dtype)
    if kind.__module__.startswith("torch"):
        thing = thing.detach().cpu()
        if "bfloat16" in named:
            thing = thing.float()
    return [kind, named, _array(numpy.asarray(thing))]
