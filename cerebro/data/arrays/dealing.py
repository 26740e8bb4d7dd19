"""Which example goes into which partition. No clock, file or global generator.

Examples are put into a random order, class by class where there are classes, and then dealt:
validation gets every so-many-th, and the partitions of a side get theirs in turn. So sides and
partitions have the sizes that were asked for to the example, and of each class, which lies in one
piece, what is due to them, rounded up or down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Dealt:
    """The examples' numbers, int64, for each partition of either side, in random order."""

    train: list[np.ndarray]
    valid: list[np.ndarray]


def deal(
    examples: int,
    validating: int,
    train: int,
    valid: int,
    classes: np.ndarray | None,
    seed: int,
) -> Dealt:
    """`validating` of so many examples into `valid` partitions, the others into `train`.

    `classes` is an integer (examples,) for each, or None. Of the m examples of a class the valid
    side gets m * validating / examples, rounded up or down; of the k that a side has of it, each
    of its p partitions gets k / p, rounded up or down. The partitions of a side differ by one
    example at most.
    """
    # The stream of a bit generator is the same in all versions of NumPy; that of a Generator's
    # permutation may change.
    bits = np.random.PCG64(seed)
    order = _shuffled(np.arange(examples), bits)
    if classes is not None:
        order = order[np.argsort(classes[order], kind="stable")]
    # Of the first n examples in this order floor(n * validating / examples) validate.
    due = np.arange(examples + 1) * validating // examples
    validates = np.diff(due) > 0
    return Dealt(
        [_shuffled(order[~validates][place::train], bits) for place in range(train)],
        [_shuffled(order[validates][place::valid], bits) for place in range(valid)],
    )


def _shuffled(numbers: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
    return numbers[np.argsort(bits.random_raw(len(numbers)), kind="stable")]
