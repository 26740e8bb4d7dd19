"""Resuming a run: whether what is given is what it was started with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cerebro.driver.changes import named, why
from cerebro.errors import InputError, ResumeRefused, RunTooNew
from cerebro.formatting import count, shorten
from cerebro.hopper.values import same
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths, folder_of, relative_in_run, same_folder
from cerebro.journal.run_plan import COMPARED, START, RunPlan, differences
from cerebro.protocol.bounds import LARGEST, LARGEST_INDEX, LONGEST_SECONDS
from cerebro.shipping import FINGERPRINT_VERSION
from cerebro.version import __version__

NAMED = 10
"""So many configurations are named one by one in a message."""

Fingerprints = Callable[[int], dict[str, str]]
"""Gives the fingerprints of what was given, by role, by the rules of a version."""


def check_allowed(allow_changed: Sequence[str]) -> None:
    """`InputError` for a name that nothing is compared by."""
    unknown = [name for name in allow_changed if name not in COMPARED]
    if unknown:
        raise InputError(f"allow_changed names {unknown}: choose among {sorted(COMPARED)}")


def check_room(ledger: Ledger, generation: int, root: Path) -> None:
    """`ResumeRefused` for a run whose numbers leave none for another driver: no driver counts so
    far, so somebody else has written them.

    `generation` is the last that was claimed.
    """
    used: tuple[tuple[str, float, float], ...] = (
        ("generation", generation, LARGEST),
        ("t", ledger.last_t, LONGEST_SECONDS),
        ("attempt", ledger.next_attempt(), LARGEST),
        ("worker", max(ledger.workers, default=0), LARGEST_INDEX),
    )
    for name, value, most in used:
        if value > most / 2:
            raise ResumeRefused(
                f"the journal of the run in {root} has come to {name} {value:.16g}, of "
                f"{most:.16g} that it can hold: the run can be looked at, and not be resumed"
            )


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


def follow_moved(
    given: Sequence[dict[str, Any]],
    recorded: Sequence[dict[str, Any]],
    folders: Sequence[str],
    root: str | Path,
) -> list[dict[str, Any]]:
    """Return the configurations that are given, with versions of the run by its present folder.

    A script names such a version by an absolute path, which may be that of the folder before it was
    moved to `root`: of one of `folders`, where it was driven, or of a place where nothing is that
    the model of this configuration could have begun with. `recorded` are the configurations of the
    run.
    """
    paths = RunPaths(root)
    configs = list(given)
    for number, config in enumerate(configs):
        path = config.get(START)
        if not isinstance(path, str):
            continue
        relative, folder = relative_in_run(path), folder_of(path)
        if relative is None or folder is None:
            continue
        present = paths.present(relative)
        begun = number < len(recorded)
        if begun and recorded[number].get(START) != present:
            continue
        signs = (begun, folder in folders, not os.path.isdir(os.path.dirname(path)))
        if same_folder(folder, root) or signs.count(True) >= 2:
            configs[number] = {**config, START: present}
    return configs


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
    if "configs" in changed:
        check_extended(before.name, before.configs, now.configs)
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
    for split in ("train_partitions", "valid_partitions"):
        if len(getattr(before, split)) != len(getattr(now, split)):
            raise ResumeRefused(
                f"the run {before.name!r} has {len(getattr(before, split))} {split}, not "
                f"{len(getattr(now, split))}: their number cannot change within a run"
            )
    if differs("mst_eval_fn", before, now):
        what = f"mst_eval_fn has changed{why('mst_eval_fn', before, now)}"
        say(f"{what}: decisions from here on are the new one's")
    if "search" in changed:
        say(f"decisions from here on are those of {now.search}")
    return now


def check_extended(
    run: str, before: Sequence[dict[str, Any]], given: Sequence[dict[str, Any]]
) -> None:
    """`ResumeRefused` unless what is given are the run's configurations, perhaps with more behind.

    A model keeps the configuration that it started with, so none can be replaced.
    """
    other = [n for n, (a, b) in enumerate(zip(before, given, strict=False)) if not same(a, b)]
    missing = range(len(given), len(before))
    if not other and not missing:
        return
    said = []
    if other:
        number = other[0]
        moved = next((n for n, b in enumerate(given) if same(before[number], b)), None)
        said.append(
            f"configuration {number} is {shorten(before[number])}, "
            + (
                f"and {shorten(given[number])} is given in its place"
                if moved is None
                else f"which is given as configuration {moved}: their order is another one"
            )
        )
        if other[1:]:
            said.append(f"{_numbered(other[1:])} differ{'s' * (len(other) == 2)}, too")
    if missing:
        said.append(
            f"{_numbered(missing)} of {len(before)}, such as {shorten(before[missing[0]])}, "
            f"{'is' if len(missing) == 1 else 'are'} not given"
        )
    raise ResumeRefused(
        f"the configs of the run {run!r} cannot be replaced, left out or put in another order: "
        f"{'; '.join(said)}. Give those of the run, in their order, with new ones behind them "
        "(and allow_changed=['configs']), or start another run"
    )


def _numbered(numbers: Sequence[int]) -> str:
    """`configuration 3`, `configurations 3, 5`, or how many where they are many."""
    if len(numbers) > NAMED:
        return f"{count(len(numbers), 'configuration')} from {numbers[0]} on"
    return f"configuration{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def differs(role: str, before: RunPlan, now: RunPlan) -> bool:
    """Whether a function, or the search procedure, is another one."""
    return before.functions.get(role) != now.functions.get(role)
