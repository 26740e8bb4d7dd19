"""The catalog yields what `schedule` takes, and refuses what contradicts itself."""

from __future__ import annotations

import pytest

from cerebro.data import Catalog
from cerebro.errors import AvailabilityError, InputError, PartitionError


@pytest.fixture
def catalog() -> Catalog:
    """Three workers and a data set of two training partitions and one evaluation partition."""
    catalog = Catalog()
    for number in range(3):
        catalog.register_worker(number, f"10.0.0.{number}")
    catalog.register_dataset("activity", 2, num_eval_partitions=1)
    return catalog


def test_partitions_by_id_and_matrices_by_worker(catalog):
    catalog.register_partition("activity", "train", 1, 0, "/t1")
    catalog.register_partition("activity", "train", 0, 2, "/t0")
    catalog.register_partition("activity", "train", 1, 2, "/t1")
    catalog.register_partition("activity", "eval", 0, 1, "/v0")
    dataset = catalog.dataset("activity")
    urls = ["http://10.0.0.0:7777", "http://10.0.0.1:7777", "http://10.0.0.2:7777"]
    assert catalog.workers == urls
    assert tuple(dataset) == (
        urls,
        ["/t0", "/t1"],
        ["/v0"],
        [[0, 1], [0, 0], [1, 1]],
        [[0], [1], [0]],
    )
    assert dataset._fields == (
        "worker_ips",
        "train_partitions",
        "valid_partitions",
        "train_availability",
        "valid_availability",
    )


def test_as_many_evaluation_partitions_as_training_partitions_unless_told():
    catalog = Catalog()
    catalog.register_worker("a", "host")
    catalog.register_dataset("d", 2)
    for partition in range(2):
        catalog.register_partition("d", "train", partition, "a", f"/t{partition}")
        catalog.register_partition("d", "eval", partition, "a", f"/v{partition}")
    assert catalog.dataset("d").valid_partitions == ["/v0", "/v1"]


def test_what_it_gives_is_a_copy(catalog):
    catalog.workers.append("http://x:1")
    assert len(catalog.workers) == 3


@pytest.mark.parametrize(
    ("ip", "url"),
    [
        ("node1", "http://node1:7777"),
        (" node1:8000 ", "http://node1:8000"),
        ("10.0.0.1", "http://10.0.0.1:7777"),
        ("http://node1", "http://node1:7777"),
        ("http://node1:80/", "http://node1:80"),
        ("http://Node1:80", "http://node1:80"),
        ("::1", "http://[::1]:7777"),
        ("[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_a_worker_by_host_port_or_url(ip, url):
    catalog = Catalog()
    catalog.register_worker(0, ip)
    assert catalog.workers == [url]


@pytest.mark.parametrize(
    "ip",
    ["", "  ", None, 7777, "https://node1", "node1:http", "node1:70000", "node1:0", "node1/x",
     "u@node1", "two words", "http://"],
)  # fmt: skip
def test_a_worker_that_is_none_of_these(ip):
    with pytest.raises(InputError, match=r"http://|host:port"):
        Catalog().register_worker(0, ip)


def test_a_worker_id_twice(catalog):
    with pytest.raises(InputError, match=r"worker 1 is already registered, at http://10\.0\.0\.1"):
        catalog.register_worker(1, "10.0.0.9")


def test_a_worker_url_twice(catalog):
    with pytest.raises(InputError, match="already registered as worker 1"):
        catalog.register_worker(7, "http://10.0.0.1:7777")


def test_a_data_set_twice(catalog):
    with pytest.raises(InputError, match="'activity' is already registered"):
        catalog.register_dataset("activity", 2)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", None])
def test_a_number_of_partitions_that_is_none(count):
    with pytest.raises(InputError, match=r"num_partitions=.* must be an integer of 1 or more"):
        Catalog().register_dataset("d", count)


def test_unknown_names(catalog):
    with pytest.raises(InputError, match=r"'other' is not registered.*'activity'"):
        catalog.register_partition("other", "train", 0, 0, "/t0")
    with pytest.raises(InputError, match=r"'other' is not registered.*'activity'"):
        catalog.dataset("other")
    with pytest.raises(InputError, match=r"worker 9 is not registered.*0, 1, 2"):
        catalog.register_partition("activity", "train", 0, 9, "/t0")
    with pytest.raises(InputError, match='"train" or "eval"'):
        catalog.register_partition("activity", "valid", 0, 0, "/t0")


@pytest.mark.parametrize(("data_type", "partition"), [("train", 2), ("train", -1), ("eval", 1)])
def test_a_partition_out_of_range(catalog, data_type, partition):
    with pytest.raises(PartitionError, match=f"partition_id is {partition}; .*numbered 0 to"):
        catalog.register_partition("activity", data_type, partition, 0, "/x")


def test_a_partition_has_one_path(catalog):
    catalog.register_partition("activity", "train", 0, 0, "/t0")
    catalog.register_partition("activity", "train", 0, 0, "/t0")
    with pytest.raises(PartitionError, match="registered as /t0 and now as /other"):
        catalog.register_partition("activity", "train", 0, 1, "/other")


def test_a_partition_that_no_worker_holds(catalog):
    catalog.register_partition("activity", "train", 1, 0, "/t1")
    with pytest.raises(AvailabilityError, match="no worker holds train partition 0"):
        catalog.dataset("activity")
    catalog.register_partition("activity", "train", 0, 0, "/t0")
    with pytest.raises(AvailabilityError, match="no worker holds eval partition 0"):
        catalog.dataset("activity")
