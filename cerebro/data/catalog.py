"""The catalog: which workers there are, and which of them holds which partition of a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from cerebro.errors import AvailabilityError, InputError, PartitionError
from cerebro.rpc import normalise_url
from cerebro.validation import integer


class CatalogDataset(NamedTuple):
    """Where a data set lies, as the first five positional arguments of `cerebro.schedule`.

    The matrices have one row per worker and one column per partition: `train_availability[w][p]`
    is 1 if worker `w` holds training partition `p`, else 0.
    """

    worker_ips: list[str]
    train_partitions: list[str]
    valid_partitions: list[str]
    train_availability: list[list[int]]
    valid_availability: list[list[int]]


def availability(workers: int, partitions: int, replicas: int) -> list[list[int]]:
    """Place `replicas` of each partition: partition p with worker p and those after it.

    Workers are counted round: after the last comes worker 0. The matrix that is returned has one
    row per worker and one column per partition.
    """
    return [
        [int((worker - partition) % workers < replicas) for partition in range(partitions)]
        for worker in range(workers)
    ]


@dataclass
class _Partition:
    file_path: str
    workers: set[int | str]


@dataclass
class _Dataset:
    sizes: dict[str, int]
    partitions: dict[tuple[str, int], _Partition] = field(default_factory=dict)


class Catalog:
    """Workers, data sets, and who holds which partition.

    The three methods are those of the Cerebro technical report (TR 2020, appendix A)::

        catalog = cerebro.Catalog()
        catalog.register_worker(0, "10.0.0.1")
        catalog.register_worker(1, "10.0.0.2:7777")
        catalog.register_dataset("activity", num_partitions=2)
        catalog.register_partition("activity", "train", 0, 0, "/data/train_0.txt")
        catalog.register_partition("activity", "train", 1, 1, "/data/train_1.txt")
        for worker in (0, 1):  # both hold a replica of each
            catalog.register_partition("activity", "eval", 0, worker, "/data/valid_0.txt")
            catalog.register_partition("activity", "eval", 1, worker, "/data/valid_1.txt")

        result = cerebro.schedule(
            *catalog.dataset("activity"), input_fn, model_fn, train_fn, configs, eval_fn
        )
    """

    def __init__(self) -> None:
        self._workers: dict[int | str, str] = {}
        self._datasets: dict[str, _Dataset] = {}

    @property
    def workers(self) -> list[str]:
        """The workers' URLs, in the order of their registration."""
        return list(self._workers.values())

    def register_worker(self, worker_id: int | str, ip: str) -> None:
        """Add a worker under an id of your choice.

        `ip` is a host name or address, with or without a port (7777 if it has none), or a URL
        (`http://host:port`). Raises `InputError` if it is none of these, or if the id or the URL
        is registered already.
        """
        url = _worker_url(ip)
        if worker_id in self._workers:
            raise InputError(
                f"worker {worker_id!r} is already registered, at {self._workers[worker_id]}; "
                "give each worker an id of its own"
            )
        for other, other_url in self._workers.items():
            if other_url == url:
                raise InputError(
                    f"worker {worker_id!r}: {url} is already registered as worker {other!r}; "
                    "register each worker once"
                )
        self._workers[worker_id] = url

    def register_dataset(
        self, name: str, num_partitions: int, *, num_eval_partitions: int | None = None
    ) -> None:
        """Add a data set of `num_partitions` training and as many evaluation partitions.

        `num_eval_partitions` is for a data set with another number of evaluation partitions.
        Raises `InputError` if the name is taken or a number is not an integer of 1 or more.
        """
        if name in self._datasets:
            raise InputError(
                f"data set {name!r} is already registered; give each data set a name of its own"
            )
        train = integer("num_partitions", num_partitions, at_least=1)
        if num_eval_partitions is None:
            self._datasets[name] = _Dataset({"train": train, "eval": train})
        else:
            valid = integer("num_eval_partitions", num_eval_partitions, at_least=1)
            self._datasets[name] = _Dataset({"train": train, "eval": valid})

    def register_partition(
        self,
        dataset_name: str,
        data_type: str,
        partition_id: int,
        worker: int | str,
        file_path: str,
    ) -> None:
        """Register that `worker` (its id) holds a partition, readable there as `file_path`.

        `data_type` is `"train"` or `"eval"`; `partition_id` counts from 0. A partition may be
        registered on several workers, which then hold a replica each; its path must be the same
        on all of them, because that path is what every worker passes to `input_fn`. Saying the
        same thing twice is harmless.

        Raises `InputError` for an unknown data set, data type or worker, and `PartitionError`
        for an id out of range or another path than registered before.
        """
        dataset = self._known_dataset(dataset_name)
        if data_type not in dataset.sizes:
            raise InputError(f'data_type is {data_type!r}; it must be "train" or "eval"')
        if worker not in self._workers:
            known = ", ".join(map(repr, self._workers)) or "none"
            raise InputError(
                f"worker {worker!r} is not registered (registered: {known}); "
                "call register_worker first"
            )
        number = integer("partition_id", partition_id)
        size = dataset.sizes[data_type]
        if not 0 <= number < size:
            raise PartitionError(
                f"partition_id is {number}; data set {dataset_name!r} has {size} {data_type} "
                f"partitions, numbered 0 to {size - 1}"
            )
        if not isinstance(file_path, str) or not file_path:
            raise PartitionError(f"file_path is {file_path!r}; it must be a path, as a string")
        partition = dataset.partitions.setdefault((data_type, number), _Partition(file_path, set()))
        if partition.file_path != file_path:
            raise PartitionError(
                f"{data_type} partition {number} of data set {dataset_name!r} is registered as "
                f"{partition.file_path} and now as {file_path}; a partition has one path, the "
                "same on every worker that holds it (a link on that worker can make it so)"
            )
        partition.workers.add(worker)

    def dataset(self, name: str) -> CatalogDataset:
        """Return the data set's partitions and availability matrices, over the workers known now.

        Raises `InputError` for an unknown name and `AvailabilityError` if a partition is
        registered on no worker.
        """
        dataset = self._known_dataset(name)
        paths: dict[str, list[str]] = {}
        matrices: dict[str, list[list[int]]] = {}
        for data_type, size in dataset.sizes.items():
            missing = [p for p in range(size) if (data_type, p) not in dataset.partitions]
            if missing:
                raise AvailabilityError(
                    f"data set {name!r}: no worker holds {data_type} partition "
                    f"{', '.join(map(str, missing))}; call register_partition for each of its "
                    f"{size} {data_type} partitions"
                )
            partitions = [dataset.partitions[data_type, p] for p in range(size)]
            paths[data_type] = [partition.file_path for partition in partitions]
            matrices[data_type] = [
                [int(worker in partition.workers) for partition in partitions]
                for worker in self._workers
            ]
        return CatalogDataset(
            self.workers, paths["train"], paths["eval"], matrices["train"], matrices["eval"]
        )

    def _known_dataset(self, name: str) -> _Dataset:
        if name not in self._datasets:
            known = ", ".join(map(repr, self._datasets)) or "none"
            raise InputError(
                f"data set {name!r} is not registered (registered: {known}); "
                "call register_dataset first"
            )
        return self._datasets[name]


def _worker_url(ip: str) -> str:
    """`http://host:port` for a host, `host:port` or URL."""
    if not isinstance(ip, str) or not ip.strip():
        raise InputError(f"the worker's ip is {ip!r}; it must be a host, host:port or URL")
    text = ip.strip()
    if "://" not in text:
        # A bare IPv6 address has colons that are no port's.
        bare_ipv6 = text.count(":") > 1 and not text.startswith("[")
        text = f"http://[{text}]" if bare_ipv6 else f"http://{text}"
    return normalise_url(text)
