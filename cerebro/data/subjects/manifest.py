"""Partitions of subjects, and how the manifest beside their definition files describes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cerebro.data.catalog import CatalogDataset
from cerebro.data.manifest_file import ARRAYS, NAME, check_files, read_manifest, write_manifest
from cerebro.errors import AvailabilityError, InputError
from cerebro.formatting import count


@dataclass(frozen=True)
class Partition:
    """A definition file, the subjects that it lists, and their usable windows of each class.

    `file` counts from the manifest's folder.
    """

    file: str
    subjects: list[str]
    sitting: int
    not_sitting: int

    @property
    def windows(self) -> int:
        """All usable windows."""
        return self.sitting + self.not_sitting


@dataclass(frozen=True)
class Side:
    """The partitions of one side. `availability[w][p]` is 1 where worker w is to hold partition p,
    else 0."""

    partitions: list[Partition]
    availability: list[list[int]]

    @property
    def windows(self) -> int:
        """All usable windows."""
        return sum(partition.windows for partition in self.partitions)

    @property
    def unevenness(self) -> float:
        """The heaviest partition's windows over the mean of all; 1 if there are none."""
        if not self.partitions:
            return 1.0
        heaviest = max(partition.windows for partition in self.partitions)
        return heaviest * len(self.partitions) / self.windows


@dataclass(frozen=True)
class Fold:
    """What a search trains on, and what it validates on."""

    train: Side
    valid: Side


@dataclass(frozen=True)
class Partitioning:
    """Partitions of a data set, as they lie in `folder`.

    There is one fold unless more were asked for. `test` is one partition, kept from all folds, or
    None. `options` is what was asked for; `skipped` says of each subject that was left out why,
    and `notes` where what was asked for could not be met.
    """

    folder: str
    source: str
    version: str
    options: dict[str, Any]
    folds: list[Fold]
    test: Partition | None
    skipped: dict[str, str]
    notes: list[str]

    def path(self, partition: Partition) -> str:
        """Return the absolute path of a definition file."""
        return os.path.join(self.folder, partition.file)

    def train_paths(self, fold: int = 0) -> list[str]:
        """Return the definition files of a fold's training partitions."""
        return [self.path(partition) for partition in self._fold(fold).train.partitions]

    def valid_paths(self, fold: int = 0) -> list[str]:
        """Return the definition files of a fold's validation partitions."""
        return [self.path(partition) for partition in self._fold(fold).valid.partitions]

    def dataset(self, worker_ips: Sequence[str], fold: int = 0) -> CatalogDataset:
        """Return the first five arguments of `cerebro.schedule`, where each worker holds its row.

        `worker_ips` are the workers' URLs, as many as the matrices have rows (`partitions` of the
        options). Raises `AvailabilityError` for another number of them.
        """
        chosen = self._fold(fold)
        rows = len(chosen.train.availability)
        if len(worker_ips) != rows:
            raise AvailabilityError(
                f"{count(len(worker_ips), 'worker')} given, while the availability matrix in "
                f"{self.folder} has a row for each of {rows}: name so many, or pass the paths and "
                "None for availability where every worker may read every partition"
            )
        return CatalogDataset(
            list(worker_ips),
            self.train_paths(fold),
            self.valid_paths(fold),
            chosen.train.availability,
            chosen.valid.availability,
        )

    def all_partitions(self) -> list[Partition]:
        """Return those of all sides and folds, and the test partition."""
        sides = [side for fold in self.folds for side in (fold.train, fold.valid)]
        found = [partition for side in sides for partition in side.partitions]
        return found if self.test is None else [*found, self.test]

    def _fold(self, fold: int) -> Fold:
        if not 0 <= fold < len(self.folds):
            raise InputError(
                f"fold is {fold}; {self.folder} has {count(len(self.folds), 'fold')}, numbered "
                "from 0"
            )
        return self.folds[fold]


def to_json(partitioning: Partitioning, digests: dict[str, str]) -> bytes:
    """Return the manifest's content; `digests` are those of the definition files by name."""
    content = asdict(partitioning)
    del content["folder"]  # the manifest lies in it, wherever that is moved to
    return write_manifest(content, digests)


def load_partitioning(folder: str | os.PathLike[str]) -> Partitioning:
    """Read what `partition_subjects` has written into `folder`.

    Raises `InputError` if there is no manifest, or one of a newer version, and `PartitionError` if
    a definition file is gone or is another than was written, so that the counts do not hold.
    """
    folder = os.path.abspath(os.fspath(folder))
    content = read_manifest(folder)
    if content.get("kind") == ARRAYS:
        raise InputError(
            f"the partitions in {folder} are of arrays, not of subjects: use "
            "load_array_partitioning"
        )
    check_files(folder, content["files"])
    try:
        test = content["test"]
        return Partitioning(
            folder=folder,
            source=content["source"],
            version=content["version"],
            options=content["options"],
            folds=[Fold(_side(fold["train"]), _side(fold["valid"])) for fold in content["folds"]],
            test=None if test is None else Partition(**test),
            skipped=content["skipped"],
            notes=content["notes"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{os.path.join(folder, NAME)} has been changed ({error!r}): make the partitions again"
        ) from error


def _side(content: dict[str, Any]) -> Side:
    partitions = [Partition(**partition) for partition in content["partitions"]]
    return Side(partitions, content["availability"])
