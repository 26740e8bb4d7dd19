"""What users pass to `schedule`, checked and made plain. Nothing is started here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cerebro.errors import AvailabilityError, ConfigurationError, InputError, PartitionError
from cerebro.formatting import shorten
from cerebro.hopper.placement.registry import POLICIES
from cerebro.protocol.bounds import Path, Seed, Url
from cerebro.protocol.types import depth, fits, needed
from cerebro.rpc import normalise_url
from cerebro.validation import choice, integer

DEEPEST = 50
"""So deep a configuration may be nested, so that a record of the journal can hold it."""

Matrix = list[list[int]]


def check_workers(workers: Any) -> list[str]:
    """The workers' URLs, normalised; `InputError` for none, or for one that is listed twice."""
    if isinstance(workers, (str, bytes)) or not isinstance(workers, Iterable):
        raise InputError(
            f"the workers are {shorten(workers)}: pass a list of URLs such as "
            "['http://node1:7777'], or a LocalCluster"
        )
    urls: list[str] = []
    for worker in workers:
        if not isinstance(worker, str):
            raise InputError(f"worker {shorten(worker)} is not a URL such as 'http://node1:7777'")
        url = normalise_url(worker)
        if not fits(url, Url):
            raise InputError(f"worker {shorten(url)} must be {needed(url, Url)}")
        if url in urls:
            raise InputError(f"worker {url} is listed twice: name each worker once")
        urls.append(url)
    if not urls:
        raise InputError("the list of workers is empty: name at least one, or use LocalCluster(2)")
    return urls


def check_partitions(name: str, partitions: Any, *, at_least: int) -> list[str]:
    """The paths of a split's partitions as strings; `PartitionError` if they cannot be."""
    if isinstance(partitions, (str, bytes)) or not isinstance(partitions, Iterable):
        raise PartitionError(f"{name} is {shorten(partitions)}: pass a list of paths")
    paths: list[str] = []
    for index, partition in enumerate(partitions):
        if not isinstance(partition, (str, os.PathLike)):
            raise PartitionError(f"{name}[{index}] is {shorten(partition)}: a path is needed")
        path = str(os.fspath(partition))
        if not fits(path, Path):
            raise PartitionError(
                f"{name}[{index}] is {shorten(path)}: it must be {needed(path, Path)}"
            )
        if path in paths:
            raise PartitionError(
                f"{name}[{index}]: {path} is partition {paths.index(path)} already; "
                "every partition must be named once"
            )
        paths.append(path)
    if len(paths) < at_least:
        raise PartitionError(f"{name} is empty: name at least {at_least} partition")
    return paths


def check_availability(
    name: str, matrix: Any, workers: Sequence[str], partitions: Sequence[str]
) -> Matrix | None:
    """A matrix of 0 and 1, a row a worker, a column a partition; or None for shared storage."""
    if matrix is None:
        return None
    shape = f"{len(workers)} rows (workers) of {len(partitions)} values (partitions)"
    try:
        rows = [list(row) for row in matrix]
    except TypeError:
        raise AvailabilityError(f"{name} is {shorten(matrix)}: pass {shape}, or None") from None
    if len(rows) != len(workers):
        raise AvailabilityError(f"{name} has {len(rows)} rows: it must have {shape}")
    for w, row in enumerate(rows):
        if len(row) != len(partitions):
            raise AvailabilityError(f"{name}[{w}] has {len(row)} values: it must have {shape}")
        for p, value in enumerate(row):
            if value not in (0, 1):
                raise AvailabilityError(
                    f"{name}[{w}][{p}] is {shorten(value)}: 1 where the worker may read the "
                    "partition, else 0"
                )
    plain = [[int(value) for value in row] for row in rows]
    for p, path in enumerate(partitions):
        if not any(row[p] for row in plain):
            raise AvailabilityError(
                f"no worker may read partition {p} ({path}): column {p} of {name} has no 1"
            )
    return plain


def check_held(
    name: str,
    matrix: Matrix | None,
    partitions: Sequence[str],
    absent: Mapping[int, str],
    urls: list[str],
) -> None:
    """`AvailabilityError` for a partition that only absent workers may read.

    `absent` has why they are, by their numbers.
    """
    if matrix is None:
        return
    for p, path in enumerate(partitions):
        holders = [w for w, row in enumerate(matrix) if row[p]]
        if all(w in absent for w in holders):
            raise AvailabilityError(
                f"partition {p} ({path}) can be read by {', '.join(urls[w] for w in holders)} "
                f"only, by {name}, and none of them is there "
                f"({'; '.join(absent[w] for w in holders)}): start it, or give another worker the "
                "partition"
            )


def check_configs(configs: Any, what: str = "initial_msts") -> list[dict[str, Any]]:
    """Configurations as plain dictionaries; `ConfigurationError` if they cannot be."""
    if isinstance(configs, (str, bytes, Mapping)) or not isinstance(configs, Iterable):
        raise ConfigurationError(f"{what} is {shorten(configs)}: pass a list of dictionaries")
    return [check_config(config, f"{what}[{n}]") for n, config in enumerate(configs)]


def check_config(config: Any, where: str) -> dict[str, Any]:
    """One configuration with values that JSON can hold; NumPy scalars become numbers."""
    if not isinstance(config, Mapping):
        raise ConfigurationError(
            f"{where} is {shorten(config)}: a configuration is a dictionary of hyperparameters"
        )
    try:
        plain: dict[str, Any] = _plain(config, where)
        deep = depth(plain) > DEEPEST
    except RecursionError:
        deep = True
    if deep:
        raise ConfigurationError(
            f"{where} is nested deeper than {DEEPEST} levels, or holds itself: use fewer"
        )
    if "seed" in plain:
        plain["seed"] = integer(f"{where}['seed']", plain["seed"], refusal=ConfigurationError)
    return plain


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigurationError(f"{where} has the key {shorten(key)}: keys are strings")
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{n}]") for n, item in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return _plain(value.item(), where)
    if type(value) is int and not fits(value, Seed):
        raise ConfigurationError(
            f"{where} is an integer of {value.bit_length()} bits: it must be one that a float can "
            "come near to; use a string for digits"
        )
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    hint = ": use .tolist()" if hasattr(value, "tolist") else ": use numbers, strings and lists"
    raise ConfigurationError(f"{where} is {shorten(value)}, which JSON cannot hold{hint}")


def check_seed(value: Any) -> int:
    """The seed of a run: an integer that the journal can hold."""
    seed = integer("seed", value)
    if not fits(seed, Seed):
        raise InputError(f"seed={shorten(seed)} must be {needed(seed, Seed)}")
    return seed


def check_functions(functions: Mapping[str, Any], optional: Sequence[str] = ()) -> None:
    """`InputError` for a function that cannot be called; one that is `optional` may be None."""
    for name, function in functions.items():
        if not callable(function) and not (function is None and name in optional):
            raise InputError(f"{name} is {shorten(function)}: pass a function")


def check_run_name(name: Any) -> str | None:
    """The name of a run's folder, a single name; None lets it be chosen."""
    if name is None:
        return None
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w .+=,@()-]*", name):
        raise InputError(
            f"run_name={shorten(name)}: the name of one folder below ckpt_root is needed, of "
            "letters, digits, blanks, and -_.+=,@(), such as 'grid-1': a folder of another name is "
            "renamed before it is resumed"
        )
    return name


def check_names(name: str, value: Any) -> tuple[str, ...]:
    """A list of strings; one string stands for itself."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Iterable) or not all(isinstance(item, str) for item in names):
        raise InputError(f"{name}={shorten(value)} must be a list of strings")
    return tuple(names)


def check_placement(name: Any) -> str:
    """The name of a placement policy."""
    return choice("placement", name, POLICIES)
