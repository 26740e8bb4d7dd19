"""What an integer argument is: one answer, whichever function it is passed to."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cerebro
from cerebro import validation
from cerebro.data import Catalog, partition_arrays, shuffled
from cerebro.driver.argument_checks import check_config
from cerebro.driver.request import Arguments, checked
from cerebro.errors import ConfigurationError, InputError
from cerebro.search import (
    ASHA,
    TPE,
    GridSearch,
    Hyperband,
    Integer,
    LogUniform,
    MedianStopping,
    PopulationBasedTraining,
    RandomSearch,
    SuccessiveHalving,
)

SPACE = {"rate": [0.1, 0.2]}
ARRAY = np.arange(40)
HUGE = 2**70


@pytest.fixture
def place(tmp_path):
    return tmp_path


def read_nothing(path):
    return path


def scheduled(place, **changed):
    """The request that `schedule` makes of its arguments before it looks for workers."""
    secret = place / "secret"
    secret.write_text("a secret that is long enough for us")
    secret.chmod(0o600)
    given = {
        "worker_ips": ["http://a:7777"],
        "train_partitions": ["p"],
        "valid_partitions": ["q"],
        "train_availability": None,
        "valid_availability": None,
        "input_fn": read_nothing,
        "model_fn": read_nothing,
        "train_fn": read_nothing,
        "initial_msts": [{"rate": 1}],
        "mst_eval_fn": read_nothing,
        "ckpt_root": str(place),
        "preload_data_to_mem": True,
        "backend": "python",
        "search": None,
        "run_name": None,
        "resume": False,
        "allow_changed": (),
        "retry_failed": False,
        "trust_folder": False,
        "replay": None,
        "seed": 0,
        "deterministic": True,
        "secret_file": str(secret),
        "heartbeat": 30.0,
        "unit_timeout": None,
        "takeover_wait": 0,
        "placement": None,
        "error_metric": None,
        "progress": False,
    }
    return checked(Arguments(**{**given, **changed}))


def partitioned(place, name, value):
    options = {"train": 2, "valid": 1, "seed": 0, name: value}
    return partition_arrays(place / "out", ARRAY, **options).options[name]


def registered(place, value):
    catalog = Catalog()
    catalog.register_dataset("d", value)
    return catalog._datasets["d"].sizes["train"]


RANGE = {"rate": LogUniform(0.1, 1)}
CALLERS = {
    "schedule(seed=)": lambda place, v: scheduled(place, seed=v).plan.seed,
    "config['seed']": lambda place, v: scheduled(place, initial_msts=[{"seed": v}]).plan.configs[0][
        "seed"
    ],
    "new config['seed']": lambda place, v: check_config({"seed": v}, "config")["seed"],
    "LocalCluster()": lambda place, v: cerebro.LocalCluster(v)._count,
    "LocalCluster(threads=)": lambda place, v: cerebro.LocalCluster(1, threads=v)._threads,
    "GridSearch(epochs=)": lambda place, v: GridSearch(SPACE, epochs=v).epochs,
    "GridSearch(in_flight=)": lambda place, v: GridSearch(SPACE, 1, in_flight=v).in_flight,
    "RandomSearch(n=)": lambda place, v: RandomSearch(SPACE, n=v, epochs=1).n,
    "RandomSearch(seed=)": lambda place, v: RandomSearch(SPACE, 1, 1, seed=v).seed,
    "SuccessiveHalving(n=)": lambda place, v: SuccessiveHalving(SPACE, n=v, max_epochs=1).n,
    "Hyperband(max_epochs=)": lambda place, v: Hyperband(SPACE, max_epochs=v).max_epochs,
    "ASHA(max_epochs=)": lambda place, v: ASHA(SPACE, max_epochs=v, max_units=1).max_epochs,
    "ASHA(n=)": lambda place, v: ASHA(SPACE, max_epochs=1, n=v).n,
    "ASHA(max_units=)": lambda place, v: ASHA(SPACE, max_epochs=1, max_units=v).max_units,
    "PopulationBasedTraining(population=)": lambda place, v: (
        PopulationBasedTraining(RANGE, population=v, epochs=1).population
    ),
    "MedianStopping(min_models=)": lambda place, v: (
        MedianStopping(GridSearch(SPACE, 1), min_models=v).min_models
    ),
    "TPE(candidates=)": lambda place, v: TPE(SPACE, 1, 1, candidates=v).candidates,
    "Integer(high)": lambda place, v: Integer(1, v).high,
    "partition_arrays(train=)": lambda place, v: partitioned(place, "train", v),
    "partition_arrays(valid=)": lambda place, v: partitioned(place, "valid", v),
    "partition_arrays(seed=)": lambda place, v: partitioned(place, "seed", v),
    "Catalog.register_dataset()": registered,
    "shuffled(seed=)": lambda place, v: shuffled([ARRAY], seed=v) and int(v),
}
UNBOUNDED = [
    name for name in CALLERS if "seed" in name or name in ("RandomSearch(n=)", "Integer(high)")
]


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)], ids=repr)
@pytest.mark.parametrize("caller", CALLERS)
def test_what_is_an_integer_becomes_a_plain_one(place, caller, value):
    taken = CALLERS[caller](place, value)
    assert type(taken) is int
    assert json.dumps(taken) == "3"


@pytest.mark.parametrize(
    "value", [True, False, np.True_, 3.0, np.float64(3), "3", b"3", [3], np.array([3, 4])], ids=repr
)
@pytest.mark.parametrize("caller", CALLERS)
def test_what_is_no_integer_is_refused_in_one_sentence(place, caller, value):
    with pytest.raises(InputError, match=r"must be an integer|JSON cannot hold") as caught:
        CALLERS[caller](place, value)
    assert "\n" not in str(caught.value)
    shown = value.item() if "config" in caller and isinstance(value, np.generic) else value
    assert repr(shown) in str(caught.value)


MAY_BE_NONE = {
    "LocalCluster(threads=)",
    "GridSearch(in_flight=)",
    "ASHA(n=)",
    "ASHA(max_units=)",
    "shuffled(seed=)",
}


@pytest.mark.parametrize("caller", [caller for caller in CALLERS if caller not in MAY_BE_NONE])
def test_none_is_no_integer_unless_it_stands_for_something(place, caller):
    with pytest.raises(InputError, match="=None must be an integer"):
        CALLERS[caller](place, None)


@pytest.mark.parametrize("caller", UNBOUNDED)
def test_a_huge_integer_is_one(place, caller):
    assert CALLERS[caller](place, HUGE) == HUGE


def test_errors_are_of_the_callers_class(place):
    for caller, kind in (
        ("config['seed']", ConfigurationError),
        ("RandomSearch(n=)", ConfigurationError),
        ("Integer(high)", ConfigurationError),
        ("schedule(seed=)", InputError),
        ("LocalCluster()", InputError),
    ):
        with pytest.raises(InputError) as caught:
            CALLERS[caller](place, True)
        assert caught.type is kind


def test_a_procedure_with_numbers_of_numpy_is_the_one_with_plain_ones():
    """It has the same description and the same fingerprint, so a run can be resumed with either."""
    plain = RandomSearch(SPACE, n=3, epochs=2)
    numpy = RandomSearch(SPACE, n=np.int64(3), epochs=np.int32(2))
    assert numpy == plain
    assert numpy.described() == plain.described()
    fingerprint = cerebro.shipping.fingerprint
    assert fingerprint(numpy, 2) == fingerprint(plain, 2)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)], ids=repr)
def test_seconds_are_any_real_number(place, value):
    request = scheduled(place, heartbeat=value, unit_timeout=value, takeover_wait=value)
    assert type(request.heartbeat) is float
    assert request.heartbeat == request.unit_timeout == request.takeover_wait == 2.0


@pytest.mark.parametrize("value", [True, None, "600", -1, float("nan"), float("inf")], ids=str)
def test_a_takeover_wait_is_seconds_or_none_at_all(place, value):
    assert scheduled(place).takeover_wait == 0
    with pytest.raises(
        InputError, match=r"takeover_wait=.* must be a number of seconds, 0 or more"
    ):
        scheduled(place, takeover_wait=value)


@pytest.mark.parametrize(
    "value", [True, np.True_, "2", 0.5, -1, float("nan"), float("inf"), 10**400, [2]], ids=str
)
def test_seconds_that_cannot_be(place, value):
    with pytest.raises(InputError, match=r"heartbeat=.* must be a number of seconds, 1 or more"):
        scheduled(place, heartbeat=value)


@pytest.mark.parametrize("value", [True, "0.2", 1, -0.1, float("nan"), None], ids=repr)
def test_fractions_that_cannot_be(place, value):
    with pytest.raises(InputError, match=r"valid_fraction=.* must be 0 or more and below 1"):
        partitioned(place, "valid_fraction", value)
    with pytest.raises(ConfigurationError, match=r"fraction=.* above 0|resample"):
        PopulationBasedTraining(RANGE, 4, 1, fraction=value, resample=2)


def test_a_choice_is_a_name_among_others():
    assert validation.choice("mode", "min", ("min", "max")) == "min"
    for value in ("best", 3, None, ["min"]):
        with pytest.raises(InputError, match=r"mode=.*: choose one of 'min', 'max'"):
            validation.choice("mode", value, ("min", "max"))


def test_what_cannot_even_be_shown_is_refused():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(InputError, match="n=<Odd whose repr raised RuntimeError> must be"):
        validation.integer("n", Odd())
