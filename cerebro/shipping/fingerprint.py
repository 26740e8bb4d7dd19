"""Whether a function is still the same: a digest over what it does, not where it stands.

A run is compared by the version of fingerprints that it was recorded with. What a version gives
stays as it is for good.
"""

from __future__ import annotations

from typing import Any

from cerebro.errors import ShippingError
from cerebro.shipping.older_fingerprints import older_fingerprint
from cerebro.shipping.walk import PARTS_KEPT, Walk

__all__ = ["FINGERPRINT_VERSION", "PARTS_KEPT", "fingerprint", "fingerprint_and_parts"]

FINGERPRINT_VERSION = 3
"""The version that new runs are recorded with, the highest that is known."""


def fingerprint(thing: Any, version: int = FINGERPRINT_VERSION) -> str:
    """A digest over a function's bytecode, constants, defaults, and all the values it uses.

    Helper functions, classes and local modules that it uses are part of it; installed modules
    count by name. Addresses, hash seeds, line numbers, file names, comments and docstrings do not
    count. Only fingerprints of one `version` can be compared.
    """
    if version == FINGERPRINT_VERSION:
        return _walk(thing).digest
    return older_fingerprint(thing, version)


def fingerprint_and_parts(thing: Any) -> tuple[str, dict[str, list[str | None]]]:
    """A fingerprint of the newest version, and what it is over, to say what has changed.

    Each part, by name, has a digest, its value in short, and the name of the part that holds it, if
    any.
    """
    walk = _walk(thing)
    return walk.digest, {name: list(part) for name, part in walk.parts.items()}


def _walk(thing: Any) -> Walk:
    try:
        return Walk(thing)
    except RecursionError as error:
        raise ShippingError(
            f"{getattr(thing, '__qualname__', type(thing).__qualname__)} uses a value that holds "
            "others in hundreds of levels, a linked list for example, so that it cannot be seen "
            "whether it changes: build it inside the function"
        ) from error
