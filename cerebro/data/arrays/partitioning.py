"""From arrays to partitions: examples are dealt out at random, and written down."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cerebro.data import manifest_file, publishing
from cerebro.data.arrays import files
from cerebro.data.arrays.dealing import Dealt, deal
from cerebro.data.catalog import CatalogDataset, availability
from cerebro.errors import AvailabilityError, InputError
from cerebro.formatting import count, shorten
from cerebro.users import expanded
from cerebro.validation import fraction, integer
from cerebro.version import __version__

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 4096

_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class ArrayForm:
    """What all partitions have of an array: its dtype, and its shape without the first dimension.

    `dtype` is NumPy's own notation, such as `<f4`.
    """

    dtype: str
    shape: list[int]


@dataclass(frozen=True)
class ArrayPartition:
    """A partition's file, which counts from the manifest's folder, and its number of examples."""

    file: str
    examples: int


@dataclass(frozen=True)
class ArrayPartitioning:
    """Partitions of arrays, as they lie in `folder`.

    `arrays` has the form of each by name (`arr_0`, `arr_1`, ... where they have none of their
    own). `options` is what was asked for, the seed among it.
    """

    folder: str
    version: str
    options: dict[str, Any]
    arrays: dict[str, ArrayForm]
    train: list[ArrayPartition]
    valid: list[ArrayPartition]

    def path(self, partition: ArrayPartition) -> str:
        """Return the absolute path of a partition."""
        return os.path.join(self.folder, partition.file)

    def train_paths(self) -> list[str]:
        """Return the paths of the training partitions."""
        return [self.path(partition) for partition in self.train]

    def valid_paths(self) -> list[str]:
        """Return the paths of the validation partitions."""
        return [self.path(partition) for partition in self.valid]

    def dataset(self, worker_ips: Sequence[str], replicas: int = 1) -> CatalogDataset:
        """Return the first five arguments of `cerebro.schedule`, where each worker holds its share.

        `worker_ips` are the workers' URLs. Partition 0 of either side is with the first worker,
        partition 1 with the second, and so on round, each also with the `replicas - 1` workers
        after. Raises `InputError` for a `replicas` below 1, and `AvailabilityError` if there are
        fewer workers than that.
        """
        workers = list(worker_ips)
        replicas = integer("replicas", replicas, at_least=1)
        if replicas > len(workers):
            raise AvailabilityError(
                f"replicas is {replicas}, and there are {count(len(workers), 'worker')}: at most "
                "so many can hold a partition"
            )
        return CatalogDataset(
            workers,
            self.train_paths(),
            self.valid_paths(),
            availability(len(workers), len(self.train), replicas),
            availability(len(workers), len(self.valid), replicas),
        )


def partition_arrays(
    out: str | os.PathLike[str],
    *arrays: Any,
    train: int,
    valid: int,
    valid_fraction: float = 0.2,
    stratify: Any = None,
    seed: int = 0,
    force: bool = False,
) -> ArrayPartitioning:
    """Shuffle the examples of arrays, cut them into partitions, and write these into `out`.

    `arrays` are one or more arrays (n, ...) with an entry for each of n examples: features and
    labels, `partition_arrays(out, x, y, train=8, valid=2)`, and weights if there are any. Or they
    are one dictionary of such arrays, by names. Each partition is a file, `train_0.npz`,
    `valid_0.npz` and so on, that `read_arrays` reads; `manifest.json` is written last.

    - `train`, `valid`: how many partitions each side gets, which differ by one example at most.
      With `valid=0` nothing validates, and `valid_fraction` does not count.
    - `valid_fraction`: the share of the examples that validates, to the example.
    - `stratify`: the class of each example, (n,), or True where the second array (the one called
      `y` in a dictionary) has them. Of each class a side, and each partition of a side, gets the
      share that is due to it, rounded up or down. None: chance decides.
    - `seed`: the same arrays and options give the same files, byte for byte.
    - `force`: replace what was written into `out` before, and has not been changed since.

    Numbers that are not finite are written as they are, with a warning that names array and row.

    Beside the arrays there must be memory for three partitions. Raises `InputError` for bad
    arguments, arrays that do not fit together or hold Python objects, too few examples for so many
    partitions, a class without a member for each, or if something is in the way in `out`;
    `StorageError` if storage refuses. Then nothing has been written over.
    """
    out = os.path.abspath(expanded(out))
    train = integer("train", train, at_least=1)
    valid = integer("valid", valid, at_least=0)
    seed = integer("seed", seed, at_least=0)
    valid_fraction = fraction("valid_fraction", valid_fraction)
    publishing.refuse_early(out, force)
    named = _named(arrays)
    examples = _examples(named)
    _warn_of_odd_numbers(named)
    validating = _validating(examples, train, valid, valid_fraction)
    classes = None if stratify is None or stratify is False else _classes(stratify, named, examples)
    dealt = deal(
        examples, validating, train, valid, None if classes is None else classes.numbers, seed
    )
    if classes is not None:
        _check_classes(classes, dealt)
    files = _Files(named, dealt)
    partitioning = ArrayPartitioning(
        folder=out,
        version=__version__,
        options={
            "train": train,
            "valid": valid,
            "valid_fraction": valid_fraction,
            "stratify": classes is not None,
            "seed": seed,
        },
        arrays={n: ArrayForm(array.dtype.str, list(array.shape[1:])) for n, array in named.items()},
        train=[ArrayPartition(_file("train", p), len(r)) for p, r in enumerate(dealt.train)],
        valid=[ArrayPartition(_file("valid", p), len(r)) for p, r in enumerate(dealt.valid)],
    )
    publishing.publish(out, files, lambda digests: _to_json(partitioning, digests), force=force)
    return partitioning


def load_array_partitioning(folder: str | os.PathLike[str]) -> ArrayPartitioning:
    """Read what `partition_arrays` has written into `folder`, and check every file of it.

    Raises `InputError` if there is no manifest, one of other partitions, or one of a newer version,
    and `PartitionError` if a partition is gone or is another than was written.
    """
    folder = os.path.abspath(os.fspath(folder))
    content = manifest_file.read_manifest(folder)
    if content.get("kind") != manifest_file.ARRAYS:
        raise InputError(
            f"the partitions in {folder} are of subjects, not of arrays: use load_partitioning"
        )
    manifest_file.check_files(folder, content["files"])
    try:
        return ArrayPartitioning(
            folder=folder,
            version=content["version"],
            options=content["options"],
            arrays={name: ArrayForm(**form) for name, form in content["arrays"].items()},
            train=[ArrayPartition(**partition) for partition in content["train"]],
            valid=[ArrayPartition(**partition) for partition in content["valid"]],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{os.path.join(folder, manifest_file.NAME)} has been changed ({error!r}): make the "
            "partitions again"
        ) from error


# --- what is given -------------------------------------------------------------------------------


def _named(given: Sequence[Any]) -> dict[str, np.ndarray]:
    if len(given) == 1 and isinstance(given[0], Mapping):
        for name in given[0]:
            taken = isinstance(name, str) and files.is_by_place(name)
            if taken or not isinstance(name, str) or not _NAME.fullmatch(name):
                raise InputError(
                    f"an array is called {shorten(name)}; a name is made of letters, digits, "
                    "`_`, `-` and `.`, and is not arr_0, arr_1, ..., which stand for arrays "
                    "without one"
                )
        found = dict(given[0])
    else:
        found = dict(zip(files.names_by_place(len(given)), given, strict=True))
    if not found:
        raise InputError(
            "no array was given: pass features and labels, partition_arrays(out, x, y)"
        )
    return {name: _array(_said(name), value) for name, value in found.items()}


def _said(name: str) -> str:
    """How an array is called in messages."""
    place = name.removeprefix("arr_")
    return f"array {place} (from 0)" if files.is_by_place(name) else f"array {name!r}"


def _array(said: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(
            f"{said} cannot be made an array: {error}; entries must have one shape: pad them"
        ) from error
    if array.dtype.hasobject:
        raise InputError(
            f"{said} has the dtype {array.dtype}: Python objects are not written; convert it to "
            "numbers or texts of one length, np.asarray(values, dtype=np.float32) say"
        )
    if array.ndim == 0:
        raise InputError(f"{said} is one value, {shorten(value)}; it must have one row per example")
    return array


def _examples(named: dict[str, np.ndarray]) -> int:
    lengths = {_said(name): len(array) for name, array in named.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InputError(
            f"the arrays have different lengths: {said}; each needs one row per example"
        )
    return next(iter(lengths.values()))


def _warn_of_odd_numbers(named: dict[str, np.ndarray]) -> None:
    """Say which arrays hold NaN or infinity, and where: missing values, or a mistake."""
    for name, array in named.items():
        if array.dtype.kind not in "fc":
            continue
        rows: list[int] = []
        for first in range(0, len(array), ROWS_AT_ONCE):
            sound = np.isfinite(array[first : first + ROWS_AT_ONCE])
            sound = sound.all(axis=tuple(range(1, array.ndim)))
            rows += (first + np.flatnonzero(~sound)).tolist()
        if rows:
            values = array[rows[0]].reshape(-1)
            logger.warning(
                "%s holds numbers that are not finite in %s of %s, first %s in row %s (from 0): a "
                "model that is trained on one may be ruined (NaN weights); leave these rows out, "
                "or replace the numbers",
                _said(name),
                count(len(rows), "row"),
                len(array),
                values[~np.isfinite(values)][0],
                rows[0],
            )


def _validating(examples: int, train: int, valid: int, valid_fraction: float) -> int:
    """How many examples validate."""
    validating = int(examples * valid_fraction + 0.5) if valid else 0
    for name, side, partitions in (
        ("validation", validating, valid),
        ("training", examples - validating, train),
    ):
        if side < partitions:
            share = f", with a valid fraction of {valid_fraction}" if valid else ""
            raise InputError(
                f"of {count(examples, 'example')} {side} are for {name}{share}, and cannot be in "
                f"{count(partitions, f'{name} partition')}: ask for fewer partitions, or another "
                "fraction"
            )
    return validating


# --- classes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Classes:
    """The values of the classes, and for each example the number of its own among them."""

    values: np.ndarray
    numbers: np.ndarray


def _classes(stratify: Any, named: dict[str, np.ndarray], examples: int) -> _Classes:
    if stratify is True:
        name = "y" if "y" in named else "arr_1"
        if name not in named:
            raise InputError(
                "stratify is True, and there is no second array (and none that is called y) to "
                "take the classes from: pass them, as stratify=labels"
            )
        said, labels = _said(name), named[name]
    else:
        said, labels = "stratify", _array("stratify", stratify)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (examples,):
        raise InputError(
            f"{said} has the shape {labels.shape}; to stratify by it it must be ({examples},), "
            "one class per example: pass stratify=y.argmax(axis=1) for classes that are one-hot"
        )
    unknown = np.flatnonzero(labels != labels)  # NaN is not a class, nor is NaT
    if len(unknown):
        raise InputError(
            f"{said} has NaN in {count(len(unknown), 'place')}, first for example {unknown[0]} "
            "(from 0): leave these examples out, or give them a class"
        )
    values, numbers = np.unique(labels, return_inverse=True)
    return _Classes(values, numbers.reshape(-1))


def _check_classes(classes: _Classes, dealt: Dealt) -> None:
    """`InputError` where a partition has no member of a class."""
    for name, partitions in (("training", dealt.train), ("validation", dealt.valid)):
        if not partitions:
            continue
        rows = np.concatenate(partitions)
        members = np.bincount(classes.numbers[rows], minlength=len(classes.values))
        few = np.flatnonzero(members < len(partitions))
        if len(few):
            number = few[np.argmin(members[few])]
            others = f", as others are ({len(few) - 1})" if len(few) > 1 else ""
            raise InputError(
                f"of class {classes.values[number]!s} there are {members[number]} examples for "
                f"{name}, too few to have one in each of "
                f"{count(len(partitions), f'{name} partition')}{others}: ask for fewer partitions "
                "or another fraction, join rare classes, or do without stratify"
            )


# --- what is written -----------------------------------------------------------------------------


def _file(side: str, place: int) -> str:
    return f"{side}_{place}.npz"


class _Files(Mapping[str, bytes]):
    """The partitions' files by name, each made when it is asked for."""

    def __init__(self, arrays: dict[str, np.ndarray], dealt: Dealt) -> None:
        self._arrays = arrays
        self._rows = {
            _file(side, place): rows
            for side, partitions in (("train", dealt.train), ("valid", dealt.valid))
            for place, rows in enumerate(partitions)
        }

    def __getitem__(self, file: str) -> bytes:
        rows = self._rows[file]
        return files.to_bytes(
            {name: np.ascontiguousarray(array[rows]) for name, array in self._arrays.items()}
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _to_json(partitioning: ArrayPartitioning, digests: dict[str, str]) -> bytes:
    content = asdict(partitioning)
    del content["folder"]  # the manifest lies in it, wherever that is moved to
    return manifest_file.write_manifest({"kind": manifest_file.ARRAYS, **content}, digests)
