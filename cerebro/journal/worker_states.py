"""The states of a worker, and what a worker's records add up to: the one place that knows both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class WorkerState(str, Enum):
    """What a record says of a worker.

    `ADDED`: it is listed in `workers.json` and has not joined; `JOINED`: it answers, and loads its
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


PRESENT = (WorkerState.JOINED, WorkerState.READY, WorkerState.DRAINING)
"""States of a worker that is there."""

TROUBLES = (WorkerState.LOST, WorkerState.ASIDE, WorkerState.UNREADABLE)
"""What a worker should not come to: each counts as a fault of the run."""

_REMARKS = (WorkerState.ASIDE, WorkerState.UNREADABLE)
"""What is said of a worker without a change in whether it is there."""

_STAYS = (WorkerState.READY, WorkerState.DRAINING)
"""States of a worker that has been there before: what was said of it still holds."""


@dataclass(frozen=True, slots=True)
class WorkerCondition:
    """What is known of a worker at a moment, from the records of the present driver.

    `state` is the last one that says whether it is there, never `ASIDE` or `UNREADABLE`; None where
    this driver has not heard of it. It has lasted since `since`, because of `reason`. `is_aside`:
    it gets no units for a while. That ends without a record: it shows in the next unit. `remarks`
    are the partitions that it cannot read, and why it was set aside, since it joined last.
    """

    state: WorkerState | None = None
    since: float = 0.0
    reason: str = ""
    is_aside: bool = False
    remarks: tuple[tuple[WorkerState, str], ...] = ()

    @property
    def is_present(self) -> bool:
        """Whether it is there."""
        return self.state in PRESENT

    @property
    def may_get_units(self) -> bool:
        """Whether it may be given units now."""
        return self.state is WorkerState.READY and not self.is_aside

    @property
    def takes_units(self) -> bool:
        """Whether it is given units now, or will be once its partitions are loaded."""
        return self.state in (WorkerState.JOINED, WorkerState.READY) and not self.is_aside

    def after(self, state: WorkerState, t: float, reason: str = "") -> WorkerCondition:
        """Its condition once a record has said so."""
        if state in _REMARKS:
            is_aside = self.is_aside or state is WorkerState.ASIDE
            return replace(self, is_aside=is_aside, remarks=(*self.remarks, (state, reason)))
        if state in _STAYS:
            return replace(self, state=state, since=t, reason=reason)
        return WorkerCondition(state, t, reason)

    def given_unit(self, t: float) -> WorkerCondition:
        """Its condition once a unit was started on it, which shows that it is ready."""
        if self.state in _STAYS:
            return replace(self, is_aside=False) if self.is_aside else self
        return replace(self, state=WorkerState.READY, since=t, reason="", is_aside=False)
