"""What has changed between two plans: which variable of a function, from what to what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cerebro.formatting import some
from cerebro.journal.run_plan import RunPlan
from cerebro.shipping import PARTS_KEPT

MOST = 4
"""So many changes of one function are named, and how many more there are."""

_VALUES = ("seed", "backend", "error_metric")


def named(differing: Sequence[str], before: RunPlan, now: RunPlan) -> str:
    """What differs between two plans, for a message: the roles, and what of them has changed."""
    known = {role: _changes(role, before, now) for role in differing}
    details = [
        text if len(known) == 1 else f"{role}: {text}" for role, text in known.items() if text
    ]
    if details:
        return f"{', '.join(differing)}: {'; '.join(details)}"
    functions = any(role.endswith("_fn") for role in differing)
    note = " (of a function, its code and the values it uses count)" if functions else ""
    return ", ".join(differing) + note


def why(role: str, before: RunPlan, now: RunPlan) -> str:
    """What of a role has changed, in brackets; empty where that is not known."""
    changes = _changes(role, before, now)
    return f" ({changes})" if changes else ""


def _changes(role: str, before: RunPlan, now: RunPlan) -> str:
    if role not in _VALUES:
        return some(changed_parts(_parts(before, role), _parts(now, role)), MOST)
    return f"changed from {getattr(before, role)!r} to {getattr(now, role)!r}"


def changed_parts(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The parts that differ, each with what it was and is: the innermost that are known."""
    differing = [
        name
        for name in dict.fromkeys([*before, *now])
        if name not in before or name not in now or before[name][0] != now[name][0]
    ]
    complete = max(len(before), len(now)) < PARTS_KEPT
    holders = {(now.get(name) or before[name])[2] for name in differing}
    return [
        said
        for name in differing
        if name not in holders
        for said in _said(name, before, now, complete=complete)
    ]


def _said(
    name: str, before: Mapping[str, Any], now: Mapping[str, Any], *, complete: bool
) -> Iterator[str]:
    if name in before and name in now:
        old, new = before[name][1], now[name][1]
        yield f"{name} changed" + (f" from {old} to {new}" if old != new else _of(new))
        return
    if complete:
        found, word = (now[name], "is new") if name in now else (before[name], "is gone")
        yield f"{name} {word}{_of(found[1])}"


def _of(text: str) -> str:
    return f" ({text})" if text else ""


def _parts(plan: RunPlan, role: str) -> dict[str, tuple[str, str, str | None]]:
    """The parts of a role that a plan names: digest, value, and the part that holds it."""
    return {
        _printable(name): (str(part[0]), _printable(part[1]), _printable(part[2]) or None)
        for name, part in (plan.parts or {}).get(role, {}).items()
        if len(part) == 3
    }


def _printable(text: str | None) -> str:
    """A text of a run's folder, which anybody may have written, without control characters."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text or "")
