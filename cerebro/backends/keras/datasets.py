"""What `input_fn` may return where there is no `train_fn`, and data sets that draw numbers."""

from __future__ import annotations

from typing import Any

from cerebro.backends.keras.runtime import keras, tf
from cerebro.backends.tf.analysis import draws_random_numbers
from cerebro.backends.tf.private import dataset_graphs, dataset_sources
from cerebro.errors import BadReturn
from cerebro.formatting import shorten

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


def draws(dataset: Any) -> bool:
    """Whether a data set shuffles, or draws random numbers on the way: each pass is another one."""
    if any(word in type(dataset).__name__ for word in ("Shuffle", "Random", "Sample")):
        return True
    if any(draws_random_numbers(graph, set()) for graph in dataset_graphs(dataset)):
        return True
    return any(draws(source) for source in dataset_sources(dataset))


def _bad(message: str) -> BadReturn:
    return BadReturn(message, function="input_fn")
