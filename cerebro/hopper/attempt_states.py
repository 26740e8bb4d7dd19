"""The states of an attempt: its slot on a worker, and a table of what can happen to it.

Whatever `TRANSITIONS` does not have raises `IllegalTransition`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Slot(str, Enum):
    """What a live attempt occupies on its worker."""

    STAGED = "staged"
    RUNNING = "running"
    SAVING = "saving"

    __hash__ = str.__hash__  # as with `Split`


class SlotEvent(str, Enum):
    """What happens to an attempt under way."""

    STARTED = "started"
    """Its worker is free, and told to run what it has prepared."""

    UNSTAGED = "unstaged"
    """Its worker is told to forget it, before it was started."""

    TRAINED = "trained"
    """It has run, and made a version that counts once it is saved."""

    RAN = "ran"
    """It has run, and there is nothing to save: a validation unit, or an attempt that is void."""

    COMMITTED = "committed"
    """The version that it made is published."""

    FAILED = "failed"
    """Its worker says that it ended without a result."""

    ABANDONED = "abandoned"
    """Its worker was lost, or drains before it was given this: it will never report on it."""

    __hash__ = str.__hash__


TRANSITIONS: Mapping[tuple[Slot, SlotEvent], Slot | None] = {
    (Slot.STAGED, SlotEvent.STARTED): Slot.RUNNING,
    (Slot.STAGED, SlotEvent.UNSTAGED): None,
    (Slot.STAGED, SlotEvent.FAILED): None,
    (Slot.STAGED, SlotEvent.ABANDONED): None,
    (Slot.RUNNING, SlotEvent.TRAINED): Slot.SAVING,
    (Slot.RUNNING, SlotEvent.RAN): None,
    (Slot.RUNNING, SlotEvent.FAILED): None,
    (Slot.RUNNING, SlotEvent.ABANDONED): None,
    (Slot.SAVING, SlotEvent.COMMITTED): None,
    (Slot.SAVING, SlotEvent.FAILED): None,
    (Slot.SAVING, SlotEvent.ABANDONED): None,
}
"""The slot that an attempt has after an event, by the one before; None: its slot is free.

An attempt enters as staged or as running.
"""
