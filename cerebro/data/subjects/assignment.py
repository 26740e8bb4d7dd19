"""The table by which a user says what goes where: `subject,split,group`."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass

from cerebro.errors import InputError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Assignment:
    """What the table says of one subject: the side it is on, and whom it stays with; or None."""

    split: str | None
    group: str | None


def read_assignment(path: str, known: Collection[str]) -> dict[str, Assignment]:
    """The table at `path`, by subject.

    It is CSV in UTF-8 with a head line. `subject` is the name of a subject's directory; `split` is
    `train`, `valid`, `test` or empty; subjects of one `group` stay on one side, and in one
    partition. `split` and `group` may be missing; other columns do not count.

    Raises `InputError`, naming file and line, if the file cannot be read, lacks the column
    `subject`, or names a subject that is not among the `known` ones, names one twice, has another
    split, or puts a group on two sides.
    """
    found: dict[str, Assignment] = {}
    lines: dict[str, int] = {}
    sides: dict[str, tuple[str, str]] = {}
    for line, row in _rows(path):
        subject, split, group = (row.get(name) or None for name in ("subject", "split", "group"))
        where = f"{path}, line {line}"
        if subject is None:
            raise InputError(f"{where}: there is no subject; name one, or remove the line")
        if subject not in known:
            raise InputError(
                f"{where}: there is no subject {subject!r} in the data; a subject is called as "
                "its directory is"
            )
        if subject in found:
            raise InputError(
                f"{where}: subject {subject!r} is already in line {lines[subject]}; list each once"
            )
        if split is not None and split not in SPLITS:
            raise InputError(
                f"{where}: the split is {split!r}; it must be {', '.join(SPLITS)} or empty"
            )
        if group is not None and split is not None:
            other, side = sides.setdefault(group, (subject, split))
            if side != split:
                raise InputError(
                    f"{where}: group {group!r} is on two sides: {other!r} in {side}, {subject!r} "
                    f"in {split}; a group stays together"
                )
        found[subject] = Assignment(split, group)
        lines[subject] = line
    return found


def _rows(path: str) -> list[tuple[int, dict[str, str]]]:
    """The rows with their line numbers; blank lines are skipped, and white space around values."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [value.strip() for value in row]) for row in reader]
    except OSError as error:
        raise InputError(
            f"the table of subjects {path} cannot be read: {error.strerror or error}"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not CSV in UTF-8: {error}") from error
    rows = [(line, row) for line, row in rows if any(row)]
    head = rows[0][1] if rows else []
    if "subject" not in head:
        raise InputError(
            f"{path}: the first line is {','.join(head)!r}; it must name the columns, separated "
            "by commas: subject,split,group"
        )
    for line, row in rows[1:]:
        if len(row) > len(head):
            raise InputError(
                f"{path}, line {line}: {len(row)} values, while the head has {len(head)} columns"
            )
    return [(line, dict(zip(head, row, strict=False))) for line, row in rows[1:]]
