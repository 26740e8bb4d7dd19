"""The journal: what happened, in order, and the claim to say so.

`journal/<generation>.jsonl` holds one record a line: the CRC-32 of the JSON text as eight
hexadecimal digits, a space, the text. Every record has a sequence number `seq`, its `kind`, and
`t`, seconds since the run began by the driver's clock. Creating a generation's file, which only
one process can do, is the claim to drive the run. Its first record says how much of the
generation before it counts (length in bytes and SHA-256); what a driver that was replaced adds
later is void.

Records are durable before what they say takes effect. After a write or sync that failed nobody
knows what the file holds, so it is left as it is, up to what was durable before, and a new
generation goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cerebro.errors import JournalDamaged, NotARun, RunHeld, StorageError
from cerebro.run.paths import RunPaths
from cerebro.storage import sync_folder

Record = dict[str, Any]

REOPENINGS = 5
"""New generations in a row that are tried for the same records before giving up."""


def encode(record: Record) -> bytes:
    """One line."""
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decode(line: bytes) -> Record | None:
    """A line's record; None if it is damaged or cut short."""
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if not line.endswith(b"\n") or int(crc, 16) != zlib.crc32(text):
            return None
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@dataclass(frozen=True)
class Tail:
    """Where a journal ends: the last generation, how much of it counts, and the last number."""

    generation: int
    length: int
    sha256: str
    seq: int


def read_journal(paths: RunPaths) -> tuple[list[Record], Tail]:
    """All records that count, in order, and where they end.

    There are none, or no plan among them, where a driver died before the run began. A last line
    that was cut short is left out. Raises `NotARun` for a folder without a journal and
    `JournalDamaged` for damage anywhere else.
    """
    generations = paths.generations()
    if not generations:
        raise NotARun(_no_run(paths))
    records: list[Record] = []
    tail = Tail(0, 0, hashlib.sha256().hexdigest(), 0)
    content = b""
    for number in generations:
        before, content = content, paths.generation(number).read_bytes()
        own, length = _parse(paths, number, content)
        if not own:
            # The claim of a driver that died before it could write: it says nothing.
            content = before
            continue
        predecessor = own[0].get("predecessor")
        if records:
            records = _cut(paths, records, tail, before, predecessor)
        records.extend(own)
        digest = hashlib.sha256(content[:length]).hexdigest()
        tail = Tail(number, length, digest, own[-1]["seq"])
    return records, Tail(generations[-1], tail.length, tail.sha256, tail.seq)


def has_begun(paths: RunPaths) -> bool:
    """Whether a driver came as far as writing what the run is to do, its second record."""
    for number in paths.generations():
        with open(paths.generation(number), "rb") as file:
            records = [decode(line) for line in itertools.islice(file, 2)]
        if any(record is not None and record["kind"] == "plan" for record in records):
            return True
    return False


def _no_run(paths: RunPaths) -> str:
    """What to say of a folder without a journal."""
    if not paths.root.is_dir():
        return f"{paths.root} is no folder: name the folder of a run"
    runs = sorted(p.name for p in paths.root.iterdir() if (p / paths.journal.name).is_dir())
    if runs:
        return f"{paths.root} holds runs and is none itself: name one of {', '.join(runs[:5])}"
    return f"{paths.root} holds no run: there is no journal in {paths.journal}"


def _parse(paths: RunPaths, number: int, content: bytes) -> tuple[list[Record], int]:
    """A generation's records and the bytes they take up."""
    records: list[Record] = []
    length = 0
    lines = content.splitlines(keepends=True)
    for index, line in enumerate(lines, start=1):
        record = decode(line)
        if record is None:
            if index == len(lines):
                break
            raise JournalDamaged(
                f"{paths.generation(number)}, line {index}: the record's checksum is wrong, and "
                "records follow it: restore the file from a copy; it must not be edited"
            )
        records.append({**record, "generation": number})
        length += len(line)
    return records, length


def _cut(
    paths: RunPaths, records: list[Record], tail: Tail, before: bytes, predecessor: Any
) -> list[Record]:
    """Records without those that the next generation does not recognise."""
    if not isinstance(predecessor, dict):
        raise JournalDamaged(f"{paths.journal}: a generation does not name the one before it")
    length = predecessor["length"]
    if hashlib.sha256(before[:length]).hexdigest() != predecessor["sha256"]:
        raise JournalDamaged(
            f"{paths.generation(tail.generation)}: its first {length} bytes are not those that "
            "the next generation was built on: restore the file from a copy"
        )
    return [
        r
        for r in records
        if r["generation"] != predecessor["generation"] or r["seq"] <= predecessor["seq"]
    ]


class Journal:
    """The journal of a run that this process drives.

    Opening it claims the generation after `tail` (None: the first). Raises `RunHeld` if another
    process was faster.
    """

    def __init__(self, paths: RunPaths, tail: Tail | None, first: Record) -> None:
        self._paths = paths
        self._first = first
        self._tail = tail or Tail(0, 0, hashlib.sha256().hexdigest(), 0)
        self._source = self._tail.generation if tail else 0
        self._descriptor = -1
        self._hash = hashlib.sha256()
        self._claim()

    @property
    def generation(self) -> int:
        """The generation that is being written."""
        return self._tail.generation

    @property
    def opening(self) -> Record:
        """The record that this driver began with."""
        return {**self._first, "kind": "generation", "generation": self.generation}

    def append(self, records: Iterable[Record]) -> None:
        """Make records durable, in one write. Raises `StorageError` if storage stays broken."""
        new = list(records)
        if not new:
            return
        for _ in range(REOPENINGS):
            first = self._tail.seq + 1
            lines = [encode({**record, "seq": seq}) for seq, record in enumerate(new, first)]
            try:
                self._write(b"".join(lines), self._tail.seq + len(new))
                return
            except OSError as error:
                cause = error
                self._reopen()
        raise StorageError(
            f"cannot write {self._paths.generation(self.generation)}: {cause.strerror}: the run "
            "stops here and can be resumed when the storage works again"
        )

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _claim(self) -> None:
        number = self._tail.generation + 1
        path = self._paths.generation(number)
        predecessor = {
            "generation": self._source,
            "length": self._tail.length,
            "sha256": self._tail.sha256,
            "seq": self._tail.seq,
        }
        first = {**self._first, "kind": "generation", "seq": self._tail.seq + 1}
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        except FileExistsError:
            raise RunHeld(
                f"another driver has just taken up the run in {self._paths.root}"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot create {path}: {error.strerror}") from error
        self._hash = hashlib.sha256()
        self._tail = Tail(number, 0, self._hash.hexdigest(), self._tail.seq)
        try:
            content = encode({**first, "predecessor": predecessor if self._source else None})
            self._write(content, first["seq"])
            sync_folder(self._paths.journal)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        self._source = number

    def _write(self, content: bytes, seq: int) -> None:
        rest = content
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)
        self._hash.update(content)
        length = self._tail.length + len(content)
        self._tail = Tail(self._tail.generation, length, self._hash.hexdigest(), seq)

    def _reopen(self) -> None:
        """Leave a file whose end is unknown and go on in a new one."""
        self.close()
        self._claim()
