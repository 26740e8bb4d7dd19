"""Records for tests, from fields as they stand on disk."""

from __future__ import annotations

from cerebro.journal.records import parse

REQUIRED = {
    "generation": {"run": "id", "time": 0.0},
}
"""Fields that tests need not give."""


def written(kind, t=0.0, *, generation=1, seq=0, **fields):
    """Make a record as reading its line would."""
    header = {"kind": kind, "t": t, "generation": generation, "seq": seq}
    return parse({**header, **REQUIRED.get(kind, {}), **fields}, generation)
