"""From pre-processed data to partitions: subjects are counted, split, and written down."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from cerebro.data import manifest_file, publishing
from cerebro.data.catalog import availability
from cerebro.data.subjects import balancing, manifest
from cerebro.data.subjects.assignment import Assignment, read_assignment
from cerebro.data.subjects.manifest import Fold, Partition, Partitioning, Side
from cerebro.data.subjects.splitting import Group, Groups, GroupSplit, Wanted, split
from cerebro.data.subjects.survey import OnSubject, Subject, SubjectSurvey, survey
from cerebro.errors import InputError, SubjectError
from cerebro.formatting import count, one_line, printable, some
from cerebro.users import expanded
from cerebro.validation import fraction, integer
from cerebro.version import __version__

logger = logging.getLogger(__name__)

NEAR = 0.02
"""A side's share of the windows may be off by so much without a word about it."""

NAMED = 8
"""So many subjects are named in a note."""

SHOWN = 20
"""So many subjects that cannot be used are named in an error."""


def partition_subjects(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    partitions: int,
    valid_fraction: float | None = None,
    test_fraction: float = 0.0,
    assign: str | os.PathLike[str] | None = None,
    folds: int = 1,
    replicas: int = 1,
    seed: int = 0,
    force: bool = False,
    skip_unusable: bool = False,
    progress: OnSubject | None = None,
) -> Partitioning:
    """Cut pre-processed data into partitions by subject, and write definition files into `out`.

    `source` holds a directory for each subject, with an HDF5 file for each day. Training and
    validation get `partitions` definition files each (validation fewer if it has fewer subjects),
    `train_0.txt`, `valid_0.txt` and so on, and test one, `test.txt`; with folds, training's and
    validation's lie in `fold_0` and so on. `manifest.json` is written last.

    - `valid_fraction` and `test_fraction` are shares of all usable ten-second windows, met as
      nearly as whole subjects and even partitions allow. `valid_fraction` may be left out with
      `folds`, and where `assign` gives every subject a split.
    - `assign` is a table `subject,split,group` (see `read_assignment`): splits that it gives are
      kept, in every fold, and groups stay together.
    - `folds` of 2 or more: each fold validates on an equal share of what is not test and has no
      assigned split, each subject in one fold; `valid_fraction` is not used then.
    - `replicas`: how many workers hold a partition. The availability matrices have a row for each
      of `partitions` workers.
    - `seed`: the same data and options give the same files.
    - `force`: replace what was written into `out` before, and has not been changed since.
    - `skip_unusable`: leave out, with a warning, subjects with a damaged file or without a usable
      window, which otherwise are an error.
    - `progress(done, subjects)` is called after each subject that has been read.

    Raises `InputError` for a bad argument or table, or if something is in the way in `out`;
    `SubjectError`, which is one, for subjects that cannot be used or are too few; `StorageError`
    if storage refuses. Then nothing has been written over.
    """
    source = os.path.abspath(os.fspath(source))
    out = os.path.abspath(expanded(out))
    partitions = integer("partitions", partitions, at_least=1)
    folds = integer("folds", folds, at_least=1)
    replicas = integer("replicas", replicas, at_least=1)
    seed = integer("seed", seed, at_least=0)
    if replicas > partitions:
        raise InputError(
            f"replicas is {replicas}, and there is a worker for each of "
            f"{count(partitions, 'partition')}: at most {partitions} can hold one"
        )
    publishing.refuse_early(out, force)
    test_fraction = fraction("test_fraction", test_fraction)
    if valid_fraction is not None:
        valid_fraction = fraction("valid_fraction", valid_fraction)
    if (valid_fraction or 0) + test_fraction >= 1:
        raise InputError(
            f"the fractions of validation, {valid_fraction}, and test, {test_fraction}, leave "
            "nothing to train on: their sum must be below 1"
        )
    seen = survey(source, leave_out=out, progress=progress)
    notes = list(seen.notes)
    table: dict[str, Assignment] = {}
    if assign is not None:
        table = _table(os.fspath(assign), seen, notes)
    if seen.unusable:
        _leave_out(seen.unusable, skip_unusable)
    if not seen.subjects:
        raise SubjectError(f"no subject in {source} can be used")
    empty = [name for name in seen.without_days if name not in seen.unusable]
    if empty:
        notes.append(f"No .h5 file in {some(empty, NAMED)}: not taken for subjects.")
    groups = _groups(seen.subjects, table)
    valid = _valid_fraction(valid_fraction, folds, groups, notes)
    wanted = Wanted(partitions, valid, test_fraction, folds)
    found = split(groups, wanted, seed)
    partitioning = Partitioning(
        folder=out,
        source=source,
        version=__version__,
        options={
            "partitions": partitions,
            "valid_fraction": valid_fraction,
            "test_fraction": test_fraction,
            "assign": None if assign is None else os.path.abspath(os.fspath(assign)),
            "folds": folds,
            "replicas": replicas,
            "seed": seed,
            "skip_unusable": skip_unusable,
        },
        folds=_folds(found, partitions, replicas),
        test=_partition("test.txt", found.test) if found.test else None,
        skipped=seen.unusable,
        notes=[*notes, *_off_fractions(found, wanted), *_shortfalls(found, wanted)],
    )
    files = _definition_files(partitioning, {s.name: s.path for s in seen.subjects})
    publishing.publish(
        out, files, lambda digests: manifest.to_json(partitioning, digests), force=force
    )
    return partitioning


# --- what is asked for ---------------------------------------------------------------------------


def _valid_fraction(given: float | None, folds: int, groups: Groups, notes: list[str]) -> float:
    """The share of one fold's valid side that is asked for; 0 where folds or a table decide."""
    if folds > 1:
        if given is not None:
            notes.append(
                f"With {folds} folds each validates on 1/{folds} of what may change sides; the "
                f"valid fraction of {given} is not used."
            )
        return 0.0
    if given is None and any(group.split is None for group in groups):
        raise InputError(
            "the valid fraction is missing: give the share of the windows that is to validate "
            "(0.2, say), or ask for folds, or assign every subject to a split"
        )
    return given or 0.0


# --- subjects ------------------------------------------------------------------------------------


def _table(path: str, seen: SubjectSurvey, notes: list[str]) -> dict[str, Assignment]:
    names = [subject.name for subject in seen.subjects]
    known = {*names, *seen.unusable, *seen.without_days}
    table = read_assignment(path, known)
    for name in seen.without_days:
        if name in table:
            where = os.path.join(os.path.abspath(seen.source), name)
            seen.unusable[name] = f"{where} holds no .h5 file"
    unlisted = [name for name in names if name not in table]
    if unlisted:
        notes.append(
            f"{path} does not list {some(unlisted, NAMED)}: placed like those without a split."
        )
    return table


def _leave_out(unusable: dict[str, str], skip: bool) -> None:
    reasons = list(unusable.values())
    if skip:
        for name, reason in unusable.items():
            logger.warning("%s is left out: %s", one_line(name), printable(reason))
        return
    shown = "".join(f"\n  {reason}" for reason in reasons[:SHOWN])
    if len(reasons) > SHOWN:
        shown += f"\n  and {len(reasons) - SHOWN} more"
    raise SubjectError(
        f"{count(len(reasons), 'subject')} cannot be used:{shown}\n"
        "Mend or move them away, or have them left out (skip_unusable, --skip-unusable): a "
        "definition file lists whole subjects, so one bad file concerns all of a subject's days."
    )


def _groups(subjects: Sequence[Subject], table: dict[str, Assignment]) -> Groups:
    """Subjects by group; one without a group is its own. A member's split is that of all."""
    members: dict[tuple[str, str], list[Subject]] = {}
    splits: dict[tuple[str, str], str] = {}
    for subject in subjects:
        said = table.get(subject.name, Assignment(None, None))
        key = ("subject", subject.name) if said.group is None else ("group", said.group)
        members.setdefault(key, []).append(subject)
        if said.split is not None:
            splits[key] = said.split
    return [Group(tuple(found), splits.get(key)) for key, found in members.items()]


# --- what is written -----------------------------------------------------------------------------


def _folds(found: GroupSplit, workers: int, replicas: int) -> list[Fold]:
    folds = []
    for number, fold in enumerate(found.folds):
        folder = f"fold_{number}/" if len(found.folds) > 1 else ""
        sides = [
            Side(
                [
                    _partition(f"{folder}{name}_{p}.txt", groups)
                    for p, groups in enumerate(partitions)
                ],
                availability(workers, len(partitions), replicas),
            )
            for name, partitions in (("train", fold.train), ("valid", fold.valid))
        ]
        folds.append(Fold(*sides))
    return folds


def _partition(file: str, groups: Groups) -> Partition:
    subjects = sorted((s for group in groups for s in group.subjects), key=lambda s: s.name)
    return Partition(
        file,
        [subject.name for subject in subjects],
        sum(subject.sitting for subject in subjects),
        sum(subject.not_sitting for subject in subjects),
    )


def _definition_files(partitioning: Partitioning, paths: dict[str, str]) -> dict[str, bytes]:
    files = {}
    for partition in partitioning.all_partitions():
        lines = [
            f"# {count(len(partition.subjects), 'subject')}, {partition.windows} usable windows; "
            f"see {manifest_file.NAME}",
            *(paths[name] for name in partition.subjects),
        ]
        files[partition.file] = ("\n".join(lines) + "\n").encode()
    return files


def _off_fractions(found: GroupSplit, wanted: Wanted) -> list[str]:
    """Where a side's share of the windows is not near to the fraction that was asked for."""
    fold = found.folds[0]
    valid = [group for groups in fold.valid for group in groups]
    train = [group for groups in fold.train for group in groups]
    sides = {
        "Validation": (valid, wanted.valid_fraction),
        "Test": (found.test, wanted.test_fraction),
    }
    total = sum(group.windows for group in [*train, *valid, *found.test])
    notes = []
    for name, (groups, wish) in sides.items():
        share = sum(group.windows for group in groups) / total
        if wish and abs(share - wish) > NEAR:
            notes.append(
                f"{name} has {100 * share:.1f} % of the windows, where {100 * wish:.1f} % were "
                "asked for: nothing nearer was found with whole subjects, the splits that are "
                "assigned, and even partitions."
            )
    return notes


def _shortfalls(found: GroupSplit, wanted: Wanted) -> list[str]:
    """Where what was asked for could not be met, in sentences, each said once."""
    notes: dict[str, None] = {}
    for number, fold in enumerate(found.folds):
        where = f"Fold {number}, " if len(found.folds) > 1 else ""
        for name, partitions in (("training", fold.train), ("validation", fold.valid)):
            said = f"{where}{name}" if where else name.capitalize()
            if 0 < len(partitions) < wanted.partitions:
                notes[
                    f"{said} has {count(len(partitions), 'partition')}, because it has no more "
                    "subjects or groups."
                ] = None
            reason = _uneven(partitions)
            if reason:
                notes[f"{said}: the heaviest partition is {reason}"] = None
    return list(notes)


def _uneven(partitions: list[Groups]) -> str | None:
    """Why the heaviest partition is above the tolerance; None if it is not."""
    if not partitions:
        return None
    weights = [group.windows for groups in partitions for group in groups]
    mean = sum(weights) / len(partitions)
    top = max(sum(group.windows for group in groups) for groups in partitions)
    if top <= balancing.TOLERANCE * mean:
        return None
    share = f"{100 * (top / mean - 1):.0f} % above the mean of {mean:,.0f} windows"
    if balancing.least(weights, len(partitions)) <= balancing.TOLERANCE * mean:
        return f"{share}; no more even arrangement of these subjects was found."
    if max(weights) > balancing.TOLERANCE * mean:
        heavy = max((g for groups in partitions for g in groups), key=lambda group: group.windows)
        names = some([subject.name for subject in heavy.subjects], NAMED)
        return f"{share}; the subjects do not allow less: {names} alone has {heavy.windows:,}."
    return (
        f"{share}; the subjects do not allow less: there are {len(weights)} to share, and two of "
        "the heaviest are in one partition."
    )
