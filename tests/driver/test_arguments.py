"""Bad arguments: each has an error that names the value, the constraint and the remedy."""

from __future__ import annotations

import numpy as np
import pytest

from cerebro.driver import argument_checks
from cerebro.errors import AvailabilityError, ConfigurationError, InputError, PartitionError

URLS = ["http://a:7777", "http://b:7777"]


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ([], "empty"),
        ("http://a:7777", "list of URLs"),
        ([7777], "not a URL"),
        (["http://a:7777", "http://a:7777/"], "twice"),
        (["https://a:7777"], "https"),
    ],
)
def test_workers_that_cannot_be(workers, message):
    with pytest.raises(InputError, match=message):
        argument_checks.check_workers(workers)


def test_workers_are_normalised():
    assert argument_checks.check_workers(["http://a", "http://b:1/"]) == [
        "http://a:7777",
        "http://b:1",
    ]


@pytest.mark.parametrize(
    ("partitions", "message"),
    [([], "empty"), ("p.txt", "list of paths"), ([3], "path"), (["a", "a"], "already")],
)
def test_partitions_that_cannot_be(partitions, message):
    with pytest.raises(PartitionError, match=message):
        argument_checks.check_partitions("train_partitions", partitions, at_least=1)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (3, "2 rows"),
        ([[1, 1, 1]], "has 1 rows"),
        ([[1, 1], [1, 1, 1]], "has 2 values"),
        ([[1, 1, 2], [1, 1, 1]], "is 2"),
        ([[1, 0, 1], [1, 0, 0]], r"partition 1 \(q\)"),
    ],
)
def test_matrices_that_cannot_be(matrix, message):
    with pytest.raises(AvailabilityError, match=message):
        argument_checks.check_availability("train_availability", matrix, URLS, ["p", "q", "r"])


def test_matrices_of_numpy_and_booleans_are_taken():
    matrix = np.array([[True, False], [True, True]])
    assert argument_checks.check_availability("m", matrix, URLS, ["p", "q"]) == [[1, 0], [1, 1]]


def test_a_partition_that_only_absent_workers_hold_is_named():
    with pytest.raises(AvailabilityError, match=r"partition 1 \(q\).*http://b:7777"):
        argument_checks.check_held("m", [[1, 0], [0, 1]], ["p", "q"], {1: "it is off"}, URLS)


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ({"a": 1}, "list of dictionaries"),
        ([3], r"initial_msts\[0\] is 3"),
        ([{"a": object()}], r"initial_msts\[0\]\['a'\]"),
        ([{"a": [1, {2}]}], r"\['a'\]\[1\]"),
        ([{"a": np.zeros(3)}], "tolist"),
        ([{1: 2}], "keys are strings"),
        ([{"seed": 1.5}], "must be an integer"),
    ],
)
def test_configurations_that_cannot_be(configs, message):
    with pytest.raises(ConfigurationError, match=message):
        argument_checks.check_configs(configs)


def test_numpy_scalars_become_numbers():
    (config,) = argument_checks.check_configs(
        [{"a": np.float32(0.5), "b": np.int64(3), "c": (1, 2)}]
    )
    assert config == {"a": 0.5, "b": 3, "c": [1, 2]}
    assert type(config["a"]) is float
    assert type(config["b"]) is int


def test_what_the_journal_cannot_hold_is_refused():
    """Else a run would end that nobody can read again."""
    itself: dict = {}
    itself["itself"] = itself
    deep: list = []
    for _ in range(60):
        deep = [deep]
    for config in ({"k": deep}, itself):
        with pytest.raises(ConfigurationError, match="nested deeper than 50 levels"):
            argument_checks.check_config(config, "initial_msts[0]")
    with pytest.raises(ConfigurationError, match=r"initial_msts\[0\]\['k'\] is an integer of 1329"):
        argument_checks.check_config({"k": 10**400}, "initial_msts[0]")
    with pytest.raises(InputError, match=r"seed=1000.* must be int between"):
        argument_checks.check_seed(10**400)
    with pytest.raises(
        PartitionError, match=r"train_partitions\[0\] is 'a.x00': it must be a text"
    ):
        argument_checks.check_partitions("train_partitions", ["a\0"], at_least=1)


@pytest.mark.parametrize("name", ["exp (copy)", "exp - Copy (2)", "Kopie von é", "exp.bak"])
def test_a_folder_as_file_managers_name_copies_can_be_resumed(name):
    assert argument_checks.check_run_name(name) == name


def test_a_name_that_is_refused_says_to_rename_the_folder():
    for name in ("../exp", ".exp", "exp\n", "a/b", ""):
        with pytest.raises(InputError, match="renamed before it is resumed"):
            argument_checks.check_run_name(name)
