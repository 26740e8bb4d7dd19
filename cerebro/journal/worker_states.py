"""The states of a worker, as its records tell them."""

from __future__ import annotations

from enum import Enum


class WorkerState(str, Enum):
    """What a record says of a worker.

    `ADDED`: it stands in `workers.json` and has not joined; `JOINED`: it answers, and loads its
    partitions; `READY`: it has loaded them; `DRAINING`: it ends what it has, and takes no more;
    `LEFT`: it has gone after that; `LOST`: it is gone, or cut off; `ASIDE`: it gets no units for a
    while; `UNREADABLE`: it cannot read a partition.
    """

    ADDED = "added"
    JOINED = "joined"
    READY = "ready"
    DRAINING = "draining"
    LEFT = "left"
    LOST = "lost"
    ASIDE = "aside"
    UNREADABLE = "unreadable"

    __hash__ = str.__hash__


TROUBLES = (WorkerState.LOST, WorkerState.ASIDE, WorkerState.UNREADABLE)
"""What a worker should not come to: each counts as a fault of the run."""
