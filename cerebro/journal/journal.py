"""The journal: what happened, in order, and the claim to say so.

`journal/<generation>.jsonl` holds one record a line: the CRC-32 of the JSON text as eight
hexadecimal digits, a space, the text. What the text may be is in `records`. Creating a
generation's file, which only one process can do, is the claim to drive the run. Its first record
says how much of the generation before it counts (length in bytes and SHA-256); what a driver that
was replaced adds later is void.

The first record also names the format (`FORMAT`). A reader passes over kinds of records and fields
that it does not know, and refuses a higher format.

Records are durable before what they say takes effect. After a write or sync that failed nobody
knows what the file holds, so it is left as it is, up to what was durable before, and a new
generation goes on, once storage takes a file again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from cerebro.errors import JournalDamaged, NotARun, RunHeld, RunTooNew, StorageError
from cerebro.formatting import some
from cerebro.journal.checkpoint_paths import CheckpointPaths
from cerebro.journal.paths import RunPaths, folder_of, runs_in
from cerebro.journal.records import (
    FORMAT,
    GenerationRecord,
    Predecessor,
    Record,
    is_plan,
    later_format,
    parse,
    predecessor,
)
from cerebro.storage import storage_errors, sync_file, sync_folder, temporary_beside
from cerebro.version import __version__

RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 30.0
PROBE_BYTES = 64 * 1024
"""What storage must take, beside what waits to be written, before a new generation is claimed."""

Wait = Callable[[StorageError, float], None]
"""Waits so many seconds before storage is tried again; raises to give up."""


def encode(content: dict[str, Any]) -> bytes:
    """Make a line of a record's content."""
    text = json.dumps(content, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decode(line: bytes) -> dict[str, Any] | None:
    """Return the content of a line's record; None if it is damaged or cut short."""
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if not line.endswith(b"\n") or int(crc, 16) != zlib.crc32(text):
            return None
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


@dataclass(frozen=True)
class Tail:
    """Where a journal ends: the generation of its last record, how much of that file counts, and
    the record's number. `claimed` is the last generation that has a file, with records or without.
    """

    generation: int
    length: int
    sha256: str
    seq: int
    claimed: int


NOTHING = Tail(0, 0, hashlib.sha256().hexdigest(), 0, 0)


def read_journal(paths: RunPaths) -> tuple[list[Record], Tail]:
    """All records that count, in order, and where they end.

    The paths in them are absolute, by the present place of the run's folder. There are none, or no
    plan among them, where a driver died before the run began. A last line that was cut short is
    left out. Raises `NotARun` for a folder without a journal, `JournalDamaged` for damage anywhere
    else, `RunTooNew` for a journal of a later format, and `StorageError`.
    """
    generations = paths.generations()
    if not generations:
        raise NotARun(_no_run(paths))
    files: dict[int, list[Record]] = {}
    checkpoints = CheckpointPaths(paths)
    tail = replace(NOTHING, claimed=generations[-1])
    for number in generations:
        with storage_errors("read", paths.generation(number)):
            content = paths.generation(number).read_bytes()
        own, length = _parse(paths, number, content, checkpoints)
        if not own:
            continue  # a claim, and its driver died or storage failed before it could write
        if files:
            files = _cut(paths, files, own[0])
        files[number] = own
        digest = hashlib.sha256(content[:length]).hexdigest()
        tail = Tail(number, length, digest, own[-1].seq, generations[-1])
    return [record for own in files.values() for record in own], tail


def has_begun(paths: RunPaths) -> bool:
    """Tell whether what the run is to do, a driver's second record, is written and counts.

    Of each generation two lines are read, however long the run is.
    """
    plan: tuple[int, int] | None = None  # the plan's generation, and its number there
    for number in paths.generations():
        with open(paths.generation(number), "rb") as file:
            lines = [decode(line) for line in itertools.islice(file, 2)]
        before = None if not lines or lines[0] is None else predecessor(lines[0], number)
        if plan is not None and before is not None and not _recognises(before, *plan):
            plan = None
        if plan is None and len(lines) == 2 and lines[1] is not None and is_plan(lines[1]):
            plan = number, lines[1]["seq"]
    return plan is not None


def last_opened(paths: RunPaths) -> float | None:
    """When a driver last took up a run, in Unix time; None if none is known to have done so.

    Of one generation a line is read, however long the run is. Raises `StorageError`.
    """
    for number in reversed(paths.generations()):
        with storage_errors("read", paths.generation(number)):
            with open(paths.generation(number), "rb") as file:
                content = decode(file.readline())
        time = None if content is None else content.get("time")
        if isinstance(time, (int, float)):
            return float(time)
    return None


def first_records(paths: RunPaths) -> list[GenerationRecord]:
    """The first record of each generation, as far as it can be understood.

    Of each a line is read, however long the run is. Raises `StorageError`.
    """
    found = []
    for number in paths.generations():
        with storage_errors("read", paths.generation(number)):
            with open(paths.generation(number), "rb") as file:
                content = decode(file.readline())
        with contextlib.suppress(ValueError):
            record = None if content is None else parse(content, number)
            if isinstance(record, GenerationRecord):
                found.append(record)
    return found


def committed_at(paths: RunPaths) -> str | None:
    """Where the run's folder lay by the newest generation with an absolute path in it.

    Earlier versions have written such paths; None where there is none. Raises `StorageError`.
    """
    for number in reversed(paths.generations()):
        with storage_errors("read", paths.generation(number)):
            with open(paths.generation(number), "rb") as file:
                for line in file:
                    checkpoint = (decode(line) or {}).get("checkpoint")
                    place = folder_of(checkpoint) if isinstance(checkpoint, str) else None
                    if place is not None:
                        return place
    return None


def _no_run(paths: RunPaths) -> str:
    """What to say of a folder without a journal."""
    if not paths.root.is_dir():
        return f"{paths.root} is not a folder: name the folder of a run"
    runs = runs_in(paths.root)
    if runs:
        return f"{paths.root} holds runs and is not one itself: name one of {some(runs, 5)}"
    return f"{paths.root} holds no run: there is no journal in {paths.journal}"


def _check_format(paths: RunPaths, first: dict[str, Any]) -> None:
    """`RunTooNew` for a generation that a later version wrote, in a format of its own."""
    later = later_format(first)
    if later is not None:
        format_, theirs = later
        raise RunTooNew(
            f"the run in {paths.root} was written by cerebro-dl {theirs}, in journal format "
            f"{format_}; this is {__version__}, which reads formats up to {FORMAT}: install "
            f"cerebro-dl {theirs} or later here"
        )


def _parse(
    paths: RunPaths, number: int, content: bytes, checkpoints: CheckpointPaths
) -> tuple[list[Record], int]:
    """A generation's records and the bytes they take up."""
    records: list[Record] = []
    checkpoints.place = None
    length = 0
    lines = content.splitlines(keepends=True)
    for index, line in enumerate(lines, start=1):
        content_of_line = decode(line)
        if content_of_line is None:
            if index == len(lines):
                break
            raise JournalDamaged(
                f"{paths.generation(number)}, line {index}: the record's checksum is wrong, and "
                "records follow it: restore the file from a copy; it must not be edited"
            )
        if not records:
            _check_format(paths, content_of_line)
        try:
            records.append(checkpoints.read(parse(content_of_line, number)))
        except ValueError as error:
            raise JournalDamaged(
                f"{paths.generation(number)}, line {index}: {error}: restore the file from a copy; "
                "it must not be edited"
            ) from None
        length += len(line)
    first = records[0] if records else None
    if isinstance(first, GenerationRecord) and first.folder is None:
        records[0] = replace(first, folder=checkpoints.place)
    return records, length


def _cut(paths: RunPaths, files: dict[int, list[Record]], first: Record) -> dict[int, list[Record]]:
    """Records of each file without those that the next generation does not recognise."""
    before = first.predecessor if isinstance(first, GenerationRecord) else None
    if before is None:
        raise JournalDamaged(f"{paths.journal}: a generation does not name the one before it")
    last, length, sha256, _ = before
    path = paths.generation(last)
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content[:length]).hexdigest() != sha256:
        raise JournalDamaged(
            f"{path}: its first {length} bytes are not those that the next generation was built "
            "on: restore the file from a copy"
        )
    counting = {n: [r for r in own if _recognises(before, n, r.seq)] for n, own in files.items()}
    return {n: own for n, own in counting.items() if own}


def _recognises(before: Predecessor, generation: int, seq: int) -> bool:
    """Whether a generation with this predecessor takes an earlier one's record to count."""
    return generation <= before.generation and seq <= before.seq


class Journal:
    """The journal of a run that this process drives.

    Making one claims the next generation; from then on the driver before knows that it was
    replaced. Then `inherit` gives what counts up to here, and `begin` makes it this driver's: what
    the one before adds in between is void. Raises `RunHeld` if another process was faster, and
    `StorageError` if the file cannot be written.
    """

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._checkpoints = CheckpointPaths(paths)
        self._first: GenerationRecord | None = None
        number = max(paths.generations(), default=0) + 1
        self._tail = replace(NOTHING, claimed=number)
        self._reach = number
        self._hash = hashlib.sha256()
        with storage_errors("create", paths.generation(number)):
            self._descriptor = self._create(number)
            sync_folder(paths.journal)

    def inherit(self) -> list[Record]:
        """All records that count so far. Raises as `read_journal`."""
        records, tail = read_journal(self._paths)
        if tail.claimed > self.generation:
            raise self._held()
        if tail.generation:
            # The driver before may have died between a write and its sync.
            with storage_errors("sync", self._paths.generation(tail.generation)):
                sync_file(self._paths.generation(tail.generation))
        self._tail = tail
        return records

    def begin(self, first: GenerationRecord) -> None:
        """Write this generation's first record, which is told what the one before ends with."""
        self._first = first
        with storage_errors("write", self._paths.generation(self.generation)):
            self._open(self._tail)

    @property
    def generation(self) -> int:
        """The generation that is being written."""
        return self._tail.claimed

    def reach(self) -> int:
        """The last generation that this driver has claimed, or is about to claim. Any thread."""
        return self._reach

    @property
    def opening(self) -> GenerationRecord:
        """The record that this driver began with."""
        assert self._first is not None, "begin comes first"
        return replace(self._first, generation=self.generation)

    def append(self, records: Iterable[Record], wait: Wait | None = None) -> None:
        """Make records durable, in one write. Versions in them lie in the run's folder.

        While storage refuses, `wait` is called between one try and the next; without it, or when
        it raises, nothing of the records counts. Raises `StorageError` without `wait`, and
        `RunHeld` if another driver has taken the run up meanwhile.
        """
        new = list(records)
        pause = RETRY_SECONDS
        while new:
            try:
                if self._descriptor < 0:
                    self._probe(sum(map(len, self._lines(new))))
                    self._reopen()
                self._write(b"".join(self._lines(new)), self._tail.seq + len(new))
                return
            except OSError as error:
                self.close()
                path = self._paths.generation(self.generation)
                trouble = StorageError(f"cannot write {path}: {error.strerror or error}")
                if wait is None:
                    raise trouble from error
                wait(trouble, pause)
                pause = min(2 * pause, RETRY_SECONDS_MAX)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            # Only what was synced counts: an error that comes as late as this changes nothing.
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def _lines(self, records: list[Record]) -> list[bytes]:
        first = self._tail.seq + 1
        written = map(self._checkpoints.written, records)
        return [
            encode({**record.to_json(), "seq": seq}) for seq, record in enumerate(written, first)
        ]

    def _probe(self, length: int) -> None:
        """See whether storage takes as much again: a claim that holds nothing is for good."""
        path = temporary_beside(self._paths.generation(self.generation))
        try:
            with open(path, "xb") as file:
                file.write(bytes(length + PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _create(self, number: int) -> int:
        path = self._paths.generation(number)
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        except FileExistsError:
            raise self._held() from None

    def _held(self) -> RunHeld:
        return RunHeld(f"another driver has just taken up the run in {self._paths.root}")

    def _reopen(self) -> None:
        """Go on in another generation, after a write that failed."""
        before = self._tail
        self._reach = before.claimed + 1
        self._descriptor = self._create(self._reach)
        self._tail = replace(before, claimed=self._reach)
        self._open(before)
        sync_folder(self._paths.journal)

    def _open(self, before: Tail) -> None:
        """Write the first record of the claimed generation; what counts ends at `before`."""
        number, seq = self.generation, before.seq + 1
        ending = Predecessor(before.generation, before.length, before.sha256, before.seq)
        first = replace(self.opening, seq=seq, predecessor=ending if number > 1 else None)
        self._hash = hashlib.sha256()
        self._tail = Tail(number, 0, self._hash.hexdigest(), before.seq, number)
        try:
            self._write(encode(first.to_json()), seq)
        except OSError:
            # What counts still ends in the generation before.
            self._tail = replace(before, claimed=number)
            raise

    def _write(self, content: bytes, seq: int) -> None:
        rest = content
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)
        self._hash.update(content)
        length = self._tail.length + len(content)
        self._tail = replace(self._tail, length=length, sha256=self._hash.hexdigest(), seq=seq)
