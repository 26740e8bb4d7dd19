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
generation continues, once storage takes a file again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from cerebro.errors import JournalDamaged, NotARun, RunHeld, RunTooNew, StorageError
from cerebro.formatting import shorten, some
from cerebro.journal.checkpoint_paths import CheckpointPaths
from cerebro.journal.paths import RunPaths, folder_of, runs_in
from cerebro.journal.records import (
    FORMAT,
    DoesNotFit,
    GenerationRecord,
    Predecessor,
    Record,
    is_plan,
    later_format,
    parse,
    predecessor,
)
from cerebro.protocol.bounds import UnixTime
from cerebro.protocol.types import depth, fits
from cerebro.storage import (
    is_folder,
    open_descriptor,
    open_file,
    read_bytes,
    storage_errors,
    sync_file,
    sync_folder,
    temporary_beside,
)
from cerebro.version import __version__

WRITE = "write"
"""A field of records that were written together: the `seq` of the first of them."""

RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 30.0
DEPTH = 100
"""So deep lists and objects may be nested in a record: what goes through them must get to the end.
"""

LONGEST_LINE = 128 * 1024 * 1024
"""A longer line is no record: twice what a worker can report at once."""

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
    try:
        return _content(line)
    except ValueError:
        return None


def _content(line: bytes) -> dict[str, Any] | None:
    """The content of a line's record; None if its checksum is wrong, as of one that is cut short.

    Raises `ValueError` where the checksum is right, so that somebody has written just this, and it
    is nothing that a driver writes.
    """
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if not line.endswith(b"\n") or int(crc, 16) != zlib.crc32(text):
            return None
    except ValueError:
        return None
    try:
        content = json.loads(text.decode())
    except RecursionError:
        raise ValueError(f"it is nested too deeply: {DEPTH} levels are allowed") from None
    except ValueError as error:
        raise ValueError(f"it is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"it is {shorten(content)}: it must be a JSON object")
    if text.count(b"[") + text.count(b"{") > DEPTH and depth(content) > DEPTH:
        raise ValueError(f"it is nested too deeply: {DEPTH} levels are allowed")
    return content


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
    plan among them, where a driver died before the run started. A last line that was cut short is
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
            _check_lengths(paths, number)
            content = read_bytes(paths.generation(number), inside=paths.root)
        own, length = _parse(paths, number, content, checkpoints)
        if not own:
            continue  # a claim, and its driver died or storage failed before it could write
        if files:
            files = _cut(paths, number, files, own[0])
        last = next(reversed(files.values()))[-1].seq if files else 0
        if own[0].seq != last + 1:
            raise _damaged(paths, number, 1, f"its seq is {own[0].seq}: it must be {last + 1}")
        files[number] = own
        digest = hashlib.sha256(content[:length]).hexdigest()
        tail = Tail(number, length, digest, own[-1].seq, generations[-1])
    return [record for own in files.values() for record in own], tail


def has_begun(paths: RunPaths) -> bool:
    """Tell whether what the run is to do, a driver's second record, is written and counts.

    Of each generation two lines are read, however long the run is. Raises `StorageError`.
    """
    plan: tuple[int, int] | None = None  # the plan's generation, and its number there
    for number in paths.generations():
        with storage_errors("read", paths.generation(number)):
            with open_file(paths.generation(number), inside=paths.root) as file:
                first, second = (decode(file.readline(LONGEST_LINE)) for _ in range(2))
        before = None if first is None else predecessor(first, number)
        if plan is not None and before is not None and not _recognises(before, *plan):
            plan = None
        if plan is None and second is not None and is_plan(second):
            seq = second.get("seq")
            plan = number, seq if isinstance(seq, int) else 0  # the reader will refuse it
    return plan is not None


def last_opened(paths: RunPaths) -> float | None:
    """When a driver last took up a run, in Unix time; None if none is known to have done so.

    Of one generation a line is read, however long the run is. Raises `StorageError`.
    """
    for number in reversed(paths.generations()):
        with storage_errors("read", paths.generation(number)):
            with open_file(paths.generation(number), inside=paths.root) as file:
                content = decode(file.readline(LONGEST_LINE))
        if content is not None and fits(content.get("time"), UnixTime):
            return float(content["time"])
    return None


def first_records(paths: RunPaths) -> list[GenerationRecord]:
    """The first record of each generation, as far as it can be understood.

    Of each a line is read, however long the run is. Raises `StorageError`.
    """
    found = []
    for number in paths.generations():
        with storage_errors("read", paths.generation(number)):
            with open_file(paths.generation(number), inside=paths.root) as file:
                content = decode(file.readline(LONGEST_LINE))
        with contextlib.suppress(ValueError):
            record = None if content is None else parse(content, number)
            if isinstance(record, GenerationRecord):
                found.append(record)
    return found


def committed_at(paths: RunPaths) -> str | None:
    """Where the run's folder lay by the newest generation with an absolute path in it.

    Earlier versions have written such paths; None where there is none. Raises `StorageError` and
    `JournalDamaged`.
    """
    for number in reversed(paths.generations()):
        with storage_errors("read", paths.generation(number)):
            _check_lengths(paths, number)
            with open_file(paths.generation(number), inside=paths.root) as file:
                for line in file:
                    checkpoint = (decode(line) or {}).get("checkpoint")
                    place = folder_of(checkpoint) if isinstance(checkpoint, str) else None
                    if place is not None:
                        return place
    return None


def _no_run(paths: RunPaths) -> str:
    """What to say of a folder without a journal."""
    if not is_folder(paths.root):
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
    length = expected = 0
    lines = content.splitlines(keepends=True)
    for index, line in enumerate(lines, start=1):
        try:
            content_of_line = _content(line)
            if content_of_line is None:
                if index == len(lines) or _is_torn(lines[index:], expected):
                    break
                raise ValueError("its checksum is wrong, and records follow it")
            content_of_line.pop(WRITE, None)
            if not records:
                _check_format(paths, content_of_line)
            record = checkpoints.read(parse(content_of_line, number))
            if not records and not isinstance(record, GenerationRecord):
                raise ValueError("it is not a 'generation' record, with which a file begins")
            if record.seq != expected and records:
                raise ValueError(f"its seq is {record.seq}: it must be {expected}")
        except ValueError as error:
            raise _damaged(paths, number, index, str(error)) from None
        records.append(record)
        expected = record.seq + 1
        length += len(line)
    first = records[0] if records else None
    if isinstance(first, GenerationRecord) and first.folder is None:
        records[0] = replace(first, folder=checkpoints.place)
    return records, length


def _is_torn(behind: list[bytes], expected: int) -> bool:
    """Whether what follows a damaged line, where record `expected` should be, is of its write.

    A crash may leave any pages of a write that was not synced, and nothing has followed from it.
    """
    contents = [content for content in map(decode, behind) if content is not None]
    writes = {content.get(WRITE) for content in contents}
    (first,) = writes if len(writes) == 1 else (None,)
    return isinstance(first, int) and first <= expected


def _check_lengths(paths: RunPaths, number: int) -> None:
    """Refuse a line of any length before it is in memory."""
    line, length = 1, 0
    with open_file(paths.generation(number), inside=paths.root) as file:
        if os.fstat(file.fileno()).st_size <= LONGEST_LINE:
            return
        while chunk := file.read(2**20):
            first, *others = chunk.split(b"\n")
            length += len(first)
            if length > LONGEST_LINE:
                what = f"it is longer than {LONGEST_LINE} bytes, which no record is"
                raise _damaged(paths, number, line, what)
            if others:
                line, length = line + len(others), len(others[-1])


def _damaged(paths: RunPaths, number: int, line: int, what: str) -> JournalDamaged:
    return JournalDamaged(
        f"{paths.generation(number)}, line {line}: {what}: restore the file from a copy; it must "
        "not be edited"
    )


@contextlib.contextmanager
def naming_the_line(paths: RunPaths) -> Iterator[None]:
    """Raise `JournalDamaged`, with file and line, for a record that does not fit those before."""
    try:
        yield
    except DoesNotFit as error:
        for number in reversed(paths.generations()):
            content = read_bytes(paths.generation(number), inside=paths.root)
            for index, line in enumerate(content.splitlines(True), 1):
                if (decode(line) or {}).get("seq") == error.seq:
                    raise _damaged(paths, number, index, str(error)) from None
        raise JournalDamaged(f"{paths.journal}, record {error.seq}: {error}") from None


def _cut(
    paths: RunPaths, number: int, files: dict[int, list[Record]], first: Record
) -> dict[int, list[Record]]:
    """Records of each file without those that the next generation does not recognise."""
    before = first.predecessor if isinstance(first, GenerationRecord) else None
    if before is None:
        raise _damaged(paths, number, 1, "its generation does not name the one before it")
    last, length, sha256, _ = before
    if last >= number:
        raise _damaged(paths, number, 1, f"its predecessor is generation {last}, not one before")
    path = paths.generation(last)
    content = read_bytes(path, inside=paths.root) if path.exists() else b""
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
        """The record that this driver started with."""
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
        together = {WRITE: first} if len(records) > 1 else {}
        return [
            encode({**record.to_json(), "seq": seq, **together})
            for seq, record in enumerate(written, first)
        ]

    def _probe(self, length: int) -> None:
        """See whether storage takes as much again: a claim that holds nothing is for good."""
        path = temporary_beside(self._paths.generation(self.generation))
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open_file(path, flags, inside=self._paths.root) as file:
                file.write(bytes(length + PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _create(self, number: int) -> int:
        path = self._paths.generation(number)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            return open_descriptor(path, flags, inside=self._paths.root)
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
