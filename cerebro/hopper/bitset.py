"""Sets of small numbers as the bits of an integer.

Ten thousand models that each have a thousand partitions before them are ten million units: as bits
they fit into two megabytes, and what one worker may be given is a few operations on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def mask_of(numbers: Iterable[int]) -> int:
    """Return the set of these numbers."""
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


def bits(mask: int) -> Iterator[int]:
    """Yield the numbers of a set, ascending."""
    if not mask & mask - 1:
        return iter((mask.bit_length() - 1,) if mask else ())
    return _several(mask)


def _several(mask: int) -> Iterator[int]:
    text = bin(mask)[:1:-1]
    at = text.find("1")
    while at >= 0:
        yield at
        at = text.find("1", at + 1)


def highest(mask: int, most: int) -> Iterator[int]:
    """Yield the numbers of a set, descending, at most so many: fast where they are few.

    The highest bit of a long integer is found at once, the lowest is not.
    """
    while mask and most:
        number = mask.bit_length() - 1
        yield number
        mask ^= 1 << number
        most -= 1


def bits_from(mask: int, start: int) -> Iterator[int]:
    """Yield the numbers of a set, those from `start` on first."""
    for number in bits(mask >> start):
        yield number + start
    yield from bits(mask & ((1 << start) - 1))


def last_before(mask: int, stop: int) -> int:
    """Return the highest number below `stop`, or else the highest; the set must not be empty."""
    low = mask & (1 << stop) - 1
    return (low or mask).bit_length() - 1
