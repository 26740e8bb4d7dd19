"""What every backend keeps to, whatever it trains with: see `cerebro.backends.base`."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import backend_toys
import numpy as np
import pytest
from backend_toys import TOYS, contents, digest, task, visits, write_partitions
from patience import PATIENCE, SOON

from cerebro.backends import BACKENDS, handler_class
from cerebro.backends.base import Options, UserFunctions
from cerebro.backends.probe import FILE
from cerebro.errors import (
    BadReturn,
    CerebroError,
    StorageError,
    UserFunctionError,
    VersionDamaged,
)
from cerebro.worker.saver import waits_for_storage

UNITS = [(0, 1), (0, 0), (1, 0), (1, 1)]
"""(epoch, partition) of training units, in the order of a visit."""


NEEDS_TF = {name: () if name == "python" else pytest.mark.tf for name in TOYS}


@pytest.fixture(params=[pytest.param(name, marks=NEEDS_TF[name]) for name in TOYS])
def toy(request):
    """One way to train; V1 behaviour only where that is it."""
    made = TOYS[request.param]()
    if made.backend == "python":
        yield made
        return
    pytest.importorskip("tensorflow")
    with behaviour(made.backend):
        yield made


def behaviour(backend):
    """TensorFlow's behaviour as an executor of this backend has it."""
    if backend != "tf":
        return contextlib.nullcontext()
    from cerebro.backends.tf.runtime import v1_behaviour

    return v1_behaviour()


@pytest.fixture
def paths(tmp_path):
    return write_partitions(tmp_path / "data", 2)


def hop(toy, paths, units=UNITS, through=None, **config):
    """The state after training units; by way of disk and a new handler each, if `through`."""
    tool, state = toy.handler(), None
    for number, (epoch, partition) in enumerate(units):
        data = tool.load(paths[partition], 1)
        unit = task(epoch, partition=partition, path=paths[partition], **config)
        state = tool.run(unit, data, state).state
        if through is not None:
            state = by_disk(tool, state, through / str(number))
            tool.close()
            tool = toy.handler()
    tool.close()
    return state


def by_disk(tool, state, folder):
    folder.mkdir(parents=True)
    return tool.read(str(folder / tool.write(state, str(folder))))


def test_every_backend_has_a_toy():
    assert {make().backend for make in TOYS.values()} == set(BACKENDS)


def test_hopping_through_versions_is_training_in_one_process(toy, paths, tmp_path):
    """Also whatever a handler keeps gives the bits of what is built anew."""
    stayed = hop(toy, paths)
    hopped = hop(toy, paths, through=tmp_path)
    assert contents(stayed) == contents(hopped)
    assert visits(stayed)[:2] == [2 * backend_toys.ROWS] * 2


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from backend_toys import TOYS, digest, write_partitions
from cerebro.backends import handler_class
from cerebro.backends.base import Options
handler_class({backend!r}).prepare_process(Options(threads=1))
from test_every_backend import hop
for name, make in TOYS.items():
    if make().backend == {backend!r}:
        print("RESULT", name, digest(hop(make(), {partitions!r})))
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=() if name == "python" else pytest.mark.tf) for name in BACKENDS],
)
def test_another_process_gives_the_same_bits(backend, paths):
    """Prepared as an executor is: with deterministic ops, and one thread."""
    here = Path(__file__).parent
    places = [str(here), str(here.parent / "helpers"), str(here.parent.parent)]
    code = SCRIPT.format(paths=places, backend=backend, partitions=paths)
    made = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )
        for _ in range(2)
    ]  # fmt: skip
    first, second = (
        [line for line in done.stdout.splitlines() if line.startswith("RESULT")] for done in made
    )
    names = [name for name, make in TOYS.items() if make().backend == backend]
    assert [line.split()[1] for line in first] == names, made[0].stderr[-2000:]
    assert first == second
    if backend == "python":
        assert first == [f"RESULT {name} {digest(hop(TOYS[name](), paths))}" for name in names]


def test_a_unit_gives_the_same_whenever_and_however_often_it_runs(toy, paths):
    tool = toy.handler()
    data = [tool.load(path, 1) for path in paths]
    state = tool.run(task(path=paths[0]), data[0], None).state
    visited = [(1, True, 0), (1, False, 1), (2, True, 1)]
    units = [task(epoch, train, p, path=paths[p]) for epoch, train, p in visited]

    def results(order):
        return {
            (unit.epoch, unit.train): (run.loss, run.error, run.state and digest(run.state))
            for unit in order
            for run in [tool.run(unit, data[unit.partition], state)]
        }

    first = results(units)
    assert results(units[::-1]) == first
    assert results(units) == first
    tool.close()


def test_run_leaves_the_state_that_it_starts_from_as_it_is(toy, paths, tmp_path):
    tool = toy.handler()
    data = tool.load(paths[0], 1)
    first = tool.run(task(path=paths[0]), data, None).state
    for state in (first, by_disk(tool, first, tmp_path / "version")):
        before = contents(state)
        trained = tool.run(task(1, path=paths[0]), data, state).state
        tool.run(task(1, train=False, path=paths[0]), data, state)
        tool.run(task(2, path=paths[0]), data, trained)
        assert contents(state) == before
        assert contents(trained) != before
    tool.close()


def test_validation_writes_no_state_and_changes_no_later_unit(toy, paths):
    validated = toy.handler()
    data = validated.load(paths[0], 1)
    state = validated.run(task(path=paths[0]), data, None).state
    for _ in range(2):
        result = validated.run(task(train=False, path=paths[0]), data, state)
    assert result.state is None
    assert result.examples == backend_toys.ROWS
    after = validated.run(task(1, path=paths[0]), data, state).state
    plain = toy.handler()
    assert contents(after) == contents(plain.run(task(1, path=paths[0]), data, state).state)
    validated.close()
    plain.close()


def started(toy, paths, unit):
    """The digest of what a model is before a first unit that changes nothing in it."""
    tool = toy.handler()
    state = tool.run(unit, tool.load(unit.path, 1), None).state
    tool.close()
    return state


def test_models_seeds_and_units_draw_numbers_of_their_own(toy, paths):
    units = [
        task(path=paths[0]),
        task(epoch=1, path=paths[0]),
        task(model=1, path=paths[0]),
        task(seed=2, path=paths[0]),
    ]
    assert len({digest(started(toy, paths, unit)) for unit in units}) == len(units)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=NEEDS_TF[name]) for name in ("python", "tf", "keras-loop")]
)
def test_initial_weights_depend_on_seed_and_model_alone(name, paths):
    toy = TOYS[name]()

    def only(*args, train=True):
        return 0.0, 0.0

    with behaviour(toy.backend):
        idle = backend_toys.Toy(toy.backend, toy.input_fn, toy.model_fn, only)
        units = [task(epoch, partition=p, path=paths[p]) for epoch, p in [(0, 0), (0, 1), (3, 0)]]
        # Random generators that go on are no weights.
        starts = [contents(started(idle, paths, unit)) for unit in units]
        assert starts[0] == starts[1] == starts[2]
        tool = idle.handler()
        data = tool.load(paths[0], 1)
        tool.run(units[0], data, tool.run(units[0], data, None).state)
        assert contents(tool.run(units[0], data, None).state) == starts[0]
        tool.close()


def test_input_fn_draws_by_path_and_seed(toy):
    def input_fn(path):
        return random.random(), float(np.random.rand())

    tool = toy.handler(input_fn=input_fn)
    assert tool.load("a", 1) == tool.load("a", 1)
    assert len({tool.load(path, seed) for path in "ab" for seed in (1, 2)}) == 4
    tool.close()


@pytest.fixture
def version(toy, paths, tmp_path):
    """(handler, checkpoint, state) of a version on disk."""
    tool = toy.handler()
    state = tool.run(task(path=paths[0]), tool.load(paths[0], 1), None).state
    folder = tmp_path / "version"
    folder.mkdir()
    yield tool, str(folder / tool.write(state, str(folder))), state
    tool.close()


def files(checkpoint):
    folder = Path(checkpoint).parent
    return sorted(path for path in folder.iterdir() if path.name.startswith(Path(checkpoint).name))


def test_flipped_bytes_are_found_or_harmless(version):
    tool, checkpoint, state = version
    found = 0
    for path in files(checkpoint):
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 60)):
            damaged = bytearray(whole)
            damaged[place] ^= 0x10
            path.write_bytes(damaged)
            try:
                assert contents(tool.read(checkpoint)) == contents(state)
            except VersionDamaged:
                found += 1
        path.write_bytes(whole)
    assert found > 40
    assert contents(tool.read(checkpoint)) == contents(state)


def test_files_cut_short_or_gone_are_found(version):
    tool, checkpoint, _ = version
    for path in files(checkpoint):
        whole = path.read_bytes()
        for length in (len(whole) - 1, len(whole) - 8, len(whole) // 2, 1, 0):
            path.write_bytes(whole[:length])
            with pytest.raises(VersionDamaged, match=Path(checkpoint).name):
                tool.read(checkpoint)
        path.unlink()
        with pytest.raises(VersionDamaged, match=Path(checkpoint).name):
            tool.read(checkpoint)
        path.write_bytes(whole)
    tool.read(checkpoint)


def test_storage_that_is_not_mounted_is_no_damage(version):
    tool, checkpoint, _ = version
    elsewhere = Path(checkpoint).parents[1] / "not" / "mounted" / "here"
    with pytest.raises(StorageError):
        tool.read(str(elsewhere / Path(checkpoint).name))


def test_a_version_that_cannot_be_written_waits_for_storage(version, tmp_path):
    tool, _, state = version
    (tmp_path / "file").write_text("no folder")
    with pytest.raises((OSError, StorageError)) as caught:
        tool.write(state, str(tmp_path / "file" / "folder"))
    assert waits_for_storage(caught.value)


def test_reading_and_writing_go_on_beside_training(version, toy, paths, tmp_path):
    tool, _, state = version
    data, failures = tool.load(paths[0], 1), []

    def save_and_read():
        try:
            for number in range(10):
                again = by_disk(tool, state, tmp_path / f"beside{number}")
                assert contents(again) == contents(state)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=save_and_read)
    thread.start()
    results = {digest(tool.run(task(1, path=paths[0]), data, state).state) for _ in range(5)}
    thread.join(SOON)
    assert not failures
    assert len(results) == 1


def test_memory_that_was_given_back_is_in_no_other_state(toy, paths):
    tool = toy.handler()
    data = tool.load(paths[0], 1)
    first = tool.run(task(path=paths[0]), data, None).state
    second = tool.run(task(1, path=paths[0]), data, first).state
    before = contents(second)
    tool.recycle(first)
    third = tool.run(task(2, path=paths[0]), data, second).state
    assert contents(second) == before
    assert contents(third) != before
    tool.close()


def test_a_model_that_was_forgotten_goes_on_all_the_same(toy, paths):
    tool = toy.handler()
    data = tool.load(paths[0], 1)
    state = tool.run(task(path=paths[0]), data, None).state
    expected = contents(tool.run(task(1, path=paths[0]), data, state).state)
    tool.forget(0)
    assert contents(tool.run(task(1, path=paths[0]), data, state).state) == expected
    tool.close()


def raising(error):
    def function(*args, **kwargs):
        raise error

    return function


@pytest.mark.parametrize("name", ["input_fn", "model_fn", "train_fn"])
def test_what_a_function_raises_names_it(toy, paths, name):
    tool = toy.handler(**{name: raising(KeyError("oops"))})
    with pytest.raises(UserFunctionError, match=f"{name} raised KeyError: 'oops'") as caught:
        tool.run(task(path=paths[0]), tool.load(paths[0], 1), None)
    assert caught.value.function == name
    assert "in function" in caught.value.remote_traceback
    assert not tool.is_resource_error(caught.value)
    tool.close()


@pytest.mark.parametrize("name", ["input_fn", "model_fn", "train_fn"])
def test_memory_that_gave_out_is_the_machines_fault(toy, paths, name):
    tool = toy.handler(**{name: raising(MemoryError())})
    with pytest.raises(MemoryError) as caught:
        tool.run(task(path=paths[0]), tool.load(paths[0], 1), None)
    assert tool.is_resource_error(caught.value)
    tool.close()


@pytest.mark.parametrize("returned", [None, 1.0, (1.0,), ("a", 1.0), ([1.0, 2.0], 1.0)])
def test_what_train_fn_may_not_return(toy, paths, returned):
    tool = toy.handler(train_fn=lambda *args, train=True: returned, error_metric=None)
    with pytest.raises(BadReturn, match="train_fn returned") as caught:
        tool.run(task(path=paths[0]), tool.load(paths[0], 1), None)
    assert caught.value.function == "train_fn"
    tool.close()


def test_nan_is_a_result(toy, paths):
    nan = lambda *args, train=True: (np.float32("nan"), np.ones(()))  # noqa: E731
    tool = toy.handler(train_fn=nan, error_metric=None)
    result = tool.run(task(path=paths[0]), tool.load(paths[0], 1), None)
    assert np.isnan(result.loss)
    assert result.error == 1.0
    assert result.examples is None
    tool.close()


def test_model_fn_gets_a_config_of_its_own(toy, paths):
    config = {"layers": [1]}

    def model_fn(*args):
        args[-1]["layers"].append(2)
        return toy.model_fn(*args)

    tool = toy.handler(model_fn=by_position(model_fn, toy))
    tool.run(task(path=paths[0], **config), tool.load(paths[0], 1), None)
    assert config == {"layers": [1]}
    tool.close()


def by_position(function, toy):
    """`function` with the parameters that the toy's `model_fn` has."""
    if toy.backend == "keras":
        return lambda config: function(config)
    return lambda data, config: function(data, config)


MODELS = {
    "a V1 triple": lambda *args: ("optimizer", 0.0, 0.0),
    "None": lambda *args: None,
    "a Keras model": lambda *args: keras_model(),
}


def keras_model():
    import keras

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    return model


@pytest.mark.parametrize(
    ("name", "returned", "remedy"),
    [
        ("tf", "a Keras model", "backend='keras'"),
        ("python", "a Keras model", "backend='keras'"),
        ("keras", "a V1 triple", "backend='tf'"),
        ("keras", "None", "compiled keras.Model"),
        ("tf", "None", "optimizer, loss, error"),
    ],
)
@pytest.mark.tf
def test_a_model_of_another_backend_is_told_where_it_belongs(name, returned, remedy, paths):
    pytest.importorskip("tensorflow")
    toy = TOYS[name]()
    with behaviour(toy.backend):
        tool = toy.handler(model_fn=by_position(MODELS[returned], toy))
        with pytest.raises(BadReturn, match=remedy) as caught:
            tool.run(task(path=paths[0]), tool.load(paths[0], 1), None)
        assert caught.value.function == "model_fn"
        tool.close()


def test_a_check_leaves_the_generators_as_they_were(toy, paths):
    if toy.backend == "python":
        pytest.skip("a plain check sets what plain functions draw from")
    functions = UserFunctions(toy.input_fn, toy.model_fn, toy.train_fn, toy.error_metric)
    tool = handler_class(toy.backend).for_check(functions, Options(), steps=2)
    before = random.getstate(), np.random.get_state()[1].tolist()
    data = tool.load(paths[0], 1)
    state = tool.run(task(path=paths[0]), data, None).state
    with contextlib.suppress(CerebroError):
        tool.run(task(path=paths[0]), data, state)
    tool.close()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_devices_are_named(toy):
    tool = toy.handler()
    assert tool.devices()
    assert all(isinstance(name, str) for name in tool.devices())
    tool.close()


def test_nothing_is_written_beside_the_version_but_a_probe(version):
    """Which is no part of the checkpoint's name, and so of no export."""
    _, checkpoint, state = version
    there = set(Path(checkpoint).parent.iterdir())
    probe = Path(checkpoint).parent / FILE
    assert there - {probe} == set(files(checkpoint))
    assert (probe in there) == (getattr(state, "probe", None) is not None)
    assert probe not in files(checkpoint)
    assert os.path.getsize(files(checkpoint)[0]) > 0
