"""Resuming a run: whether it is the same one, and which of its models continue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cerebro.driver.changes import named, why
from cerebro.driver.search_decisions import trials_of
from cerebro.errors import InputError, ResumeRefused, RunTooNew
from cerebro.hopper.units import ModelState
from cerebro.journal.ledger import Ledger
from cerebro.journal.run_plan import COMPARED, RunPlan, differences
from cerebro.search import SearchProcedure
from cerebro.shipping import FINGERPRINT_VERSION
from cerebro.version import __version__

Fingerprints = Callable[[int], dict[str, str]]
"""Gives the fingerprints of what was given, by role, by the rules of a version."""


def check_allowed(allow_changed: Sequence[str]) -> None:
    """`InputError` for a name that nothing is compared by."""
    unknown = [name for name in allow_changed if name not in COMPARED]
    if unknown:
        raise InputError(f"allow_changed names {unknown}: choose among {sorted(COMPARED)}")


def comparable(before: RunPlan, given: RunPlan, fingerprints: Fingerprints) -> RunPlan:
    """What is given, with fingerprints of the version that a run was recorded with, and its rules
    for metrics.

    `RunTooNew` if that version is not known here.
    """
    given = replace(given, metric_rules=before.metric_rules)
    version = before.fingerprint_version
    if version > FINGERPRINT_VERSION:
        raise RunTooNew(
            f"the run {before.name!r} has fingerprints of version {version}; this is cerebro-dl "
            f"{__version__}, which compares versions up to {FINGERPRINT_VERSION}: install a later "
            "cerebro-dl here"
        )
    if version == given.fingerprint_version:
        return given
    functions = fingerprints(version)
    return replace(given, functions=functions, fingerprint_version=version, parts=None)


def same_plan(
    before: RunPlan, given: RunPlan, allow_changed: Sequence[str], say: Callable[[str], None]
) -> RunPlan:
    """Return the plan to resume with; `ResumeRefused` where it is not the one that was started."""
    now = replace(given, id=before.id, name=before.name, global_step=before.global_step)
    check_allowed(allow_changed)
    changed = differences(before, now)
    if (before.search is None) != (now.search is None) and before.replay is None:
        kinds = {True: "configurations and mst_eval_fn", False: f"search={before.search}"}
        raise ResumeRefused(
            f"the run {before.name!r} was started with {kinds[before.search is None]}: resume it "
            "with these, or start another run"
        )
    refused = [name for name in changed if name not in allow_changed]
    if refused:
        raise ResumeRefused(
            f"the run {before.name!r} was started with other "
            f"{named(refused, before, now)}: resume it with the same, name what may differ in "
            f"allow_changed={refused!r}, or start another run"
        )
    if before.replay != now.replay:
        raise ResumeRefused(
            f"the run {before.name!r} was started with replay={before.replay!r}: resume it with "
            "the same, or start another run"
        )
    if "configs" in changed:
        now = replace(now, configs=before.configs)
        say("the models of the run keep the configurations they began with")
    for split in ("train_partitions", "valid_partitions"):
        if len(getattr(before, split)) != len(getattr(now, split)):
            raise ResumeRefused(
                f"the run {before.name!r} has {len(getattr(before, split))} {split}, not "
                f"{len(getattr(now, split))}: their number cannot change within a run"
            )
    if _differs("mst_eval_fn", before, now):
        what = f"mst_eval_fn has changed{why('mst_eval_fn', before, now)}"
        say(f"{what}: decisions from here on are the new one's")
    if "search" in changed:
        say(f"decisions from here on are those of {now.search}")
    return now


def reopen(
    ledger: Ledger, plan: RunPlan, search: SearchProcedure | None, *, retry_failed: bool
) -> list[tuple[tuple[int, ...], str]]:
    """Models that go on although they had ended, and why; a record each.

    Failed ones, if that is asked for. Where the run had ended and `mst_eval_fn` is another one now,
    those that the last decision stopped, and others that have come as far. Where the search
    procedure is another one, or has other parameters, those that it may let go on.
    """
    reopened: list[tuple[tuple[int, ...], str]] = []
    models = ledger.models.values()
    failed = tuple(m.id for m in models if m.state is ModelState.FAILED)
    if retry_failed and failed:
        reopened.append((failed, "retry_failed"))
    if plan.replay is not None:
        return reopened
    if search is not None and _differs("search", ledger.the_plan, plan):
        again = [t.model for t in trials_of(search, ledger) if not t.runs and search.reopens(t)]
        if again or ledger.ended:
            reopened.append((tuple(again), "the search procedure is asked again"))
    elif ledger.ended and _differs("mst_eval_fn", ledger.the_plan, plan):
        furthest = max((len(m.epochs) for m in models), default=0)
        stopped = tuple(
            m.id
            for m in models
            if m.state is ModelState.COMPLETED
            and (m.id in ledger.last_asked or len(m.epochs) == furthest)
        )
        if stopped:
            reopened.append((stopped, "mst_eval_fn is asked again"))
    return reopened


def _differs(role: str, before: RunPlan, now: RunPlan) -> bool:
    return before.functions.get(role) != now.functions.get(role)
