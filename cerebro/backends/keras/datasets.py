"""What `input_fn` may return where there is no `train_fn`, and data sets that draw numbers."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from cerebro.backends.keras.runtime import keras, tf
from cerebro.backends.probe import ROWS, mapped
from cerebro.backends.tf.analysis import calls_python, draws_random_numbers
from cerebro.backends.tf.private import dataset_graphs, dataset_sources
from cerebro.errors import BadReturn
from cerebro.formatting import shorten, some

EXPECTED = "without a train_fn, expected (x, y), (x, y, sample_weight) or a batched tf.data.Dataset"


def is_dataset(data: Any) -> bool:
    """Whether this is a `tf.data.Dataset`."""
    return isinstance(data, tf.data.Dataset)


def is_arrays(data: Any) -> bool:
    """Whether this is (x, y) or (x, y, sample_weight), each an array or a structure of them."""
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        return False
    leaves = keras.tree.flatten(data)
    return bool(leaves) and all(hasattr(a, "shape") and len(a.shape) > 0 for a in leaves)


def as_arrays(data: Any) -> Any:
    """Return (x, y) or (x, y, sample_weight) with NumPy arrays in place of pandas' tables.

    Keras' `fit` takes a DataFrame of n rows and k columns as an array (n, k), and a Series as one
    (n, 1). Anything else is returned as it is. Raises `BadReturn` for columns that are no numbers.
    """
    pandas = sys.modules.get("pandas")
    if pandas is None or not is_arrays(data):
        return data
    tables = (pandas.DataFrame, pandas.Series)
    if not any(isinstance(leaf, tables) for leaf in keras.tree.flatten(data)):
        return data

    def converted(leaf: Any) -> Any:
        if not isinstance(leaf, tables):
            return leaf
        array = leaf.to_numpy()
        if array.dtype.kind not in "biufc":
            kinds = leaf.dtypes if isinstance(leaf, pandas.DataFrame) else {leaf.name: leaf.dtype}
            wrong = [f"{name!r} ({kind})" for name, kind in kinds.items() if _is_no_number(kind)]
            raise _bad(
                f"input_fn returned a pandas {type(leaf).__name__} whose columns are not all "
                f"numbers: {some(wrong or [str(array.dtype)], 5)}; convert them, or leave them out"
            )
        return array if array.ndim > 1 else array[:, None]

    return keras.tree.map_structure(converted, tuple(data))


def _is_no_number(kind: Any) -> bool:
    return not isinstance(kind, np.dtype) or kind.kind not in "biufc"


def check_data(data: Any) -> None:
    """`BadReturn` for what one `fit` cannot take, or would not come to an end with."""
    if is_dataset(data):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise _bad("input_fn returned an endless tf.data.Dataset: leave its repeat() out")
    elif not is_arrays(data):
        raise _bad(f"input_fn returned {shorten(data)}: {EXPECTED}")
    elif len({len(array) for array in keras.tree.flatten(data)}) > 1:
        lengths = ", ".join(str(len(array)) for array in keras.tree.flatten(data))
        raise _bad(
            f"input_fn returned arrays of {lengths} examples: x, y and sample_weight must have "
            "the same number"
        )
    elif examples(data) == 0:
        raise _bad("input_fn returned no examples: a partition must have at least one")


def examples(data: Any) -> int:
    """The number of examples in arrays."""
    return len(keras.tree.flatten(data)[0])


def first_batch(data: Any, size: int) -> Any:
    """Shapes and types of a batch, for building a model; None if `data` does not tell."""
    if is_dataset(data):
        return data.element_spec
    if is_arrays(data):
        return keras.tree.map_structure(lambda array: array[:size], tuple(data))
    return None


def shortened(data: Any, steps: int, size: int) -> Any:
    """The first steps of what it is known of how to cut it; anything else as it is."""
    if is_dataset(data):
        return data.take(steps)
    if is_arrays(data):
        return keras.tree.map_structure(lambda array: array[: steps * size], tuple(data))
    return data


def head(data: Any, rows: Callable[[int], int]) -> Any:
    """The inputs of the first examples, as a structure of NumPy arrays.

    None where they are something else, or where a look at them would not leave the data as it is.
    `rows` says how many to take, by the bytes of one; there may be fewer.
    """
    element = _first_element(data) if is_dataset(data) else tuple(data)
    x = None if element is None else keras.utils.unpack_x_y_sample_weight(element)[0]
    leaves = keras.tree.flatten(x)
    if not leaves or not all(hasattr(leaf, "shape") and len(leaf.shape) for leaf in leaves):
        return None
    one = mapped(lambda leaf: np.asarray(leaf[:1]), x)
    count = rows(sum(array.nbytes for array in keras.tree.flatten(one)))
    found = mapped(lambda leaf: np.asarray(leaf[:count]), x)
    return found if count and all(_is_storable(a) for a in keras.tree.flatten(found)) else None


def _is_storable(array: np.ndarray) -> bool:
    if array.dtype.kind == "O":
        return all(isinstance(item, (str, bytes)) for item in array.reshape(-1))
    return array.ndim > 0 and array.dtype.names is None


def _first_element(dataset: Any) -> Any:
    """The first batch of a data set that can be read once more; None of any other."""
    batched = False
    while _PASSING.fullmatch(type(dataset).__name__):
        batched = batched or "Batch" in type(dataset).__name__
        (dataset,) = dataset_sources(dataset)
    if not _is_plain(dataset):
        return None
    return next(iter(dataset.take(ROWS).batch(ROWS) if batched else dataset.take(1)), None)


_PASSING = re.compile(r"_?(Shuffle|Prefetch|Options|Repeat|Cache|(Parallel)?Batch)Dataset(V\d)?")
"""Data sets that hand on the elements of one other, in another order or in batches."""

_PLAIN = re.compile(
    r"_?(TensorSlice|Tensor|Range|Zip|Concatenate|Take|Skip|Enumerate|Options|Prefetch|Repeat"
    r"|(Parallel)?Map|Filter|FlatMap|(Parallel)?Interleave|(Parallel|Padded)?Batch|Unbatch"
    r"|Shard|TFRecord|TextLine|FixedLengthRecord)Dataset(V\d)?"
)
"""Data sets that give the same whenever they are read, if their functions do."""


def _is_plain(dataset: Any) -> bool:
    """Whether to read a data set changes nothing, and costs what is read of it."""
    return (
        _PLAIN.fullmatch(type(dataset).__name__) is not None
        and not any(calls_python(graph) for graph in dataset_graphs(dataset))
        and not any(draws_random_numbers(graph, set()) for graph in dataset_graphs(dataset))
        and all(_is_plain(source) for source in dataset_sources(dataset))
    )


def draws(dataset: Any) -> bool:
    """Whether a data set shuffles, or draws random numbers on the way: each pass is another one."""
    if any(word in type(dataset).__name__ for word in ("Shuffle", "Random", "Sample")):
        return True
    if any(draws_random_numbers(graph, set()) for graph in dataset_graphs(dataset)):
        return True
    return any(draws(source) for source in dataset_sources(dataset))


def _bad(message: str) -> BadReturn:
    return BadReturn(message, function="input_fn")
