"""Runs with faults give, on every backend, the bits of runs without."""

from __future__ import annotations

import glob
import os

import pytest
from backend_toys import PARTITIONS, ROWS, TOYS, contents, visits, write_partitions

import cerebro

pytestmark = [pytest.mark.slow]

EPOCHS = 2
TRAIN = 3
NAMES = [pytest.param(n, marks=() if n == "python" else pytest.mark.tf) for n in TOYS]


def deadly(model_fn, folder, takes_data):
    """`model_fn`, whose second and third calls on all workers together kill their process."""

    def count():
        import itertools
        import os
        import signal

        for number in itertools.count(1):
            try:
                os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                continue
        if number in (2, 3):
            os.kill(os.getpid(), signal.SIGKILL)

    def with_data(data, config):
        count()
        return model_fn(data, config)

    def without(config):
        count()
        return model_fn(config)

    return with_data if takes_data else without


def damage(checkpoint):
    """Flip a bit in the middle of a version's largest file."""
    path = max(glob.glob(f"{checkpoint}*"), key=os.path.getsize)
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("name", NAMES)
def test_deaths_and_damage_change_no_bit(cluster, one_worker, tmp_path, name):
    toy = TOYS[name]()
    train = write_partitions(tmp_path / "train", TRAIN)
    valid = write_partitions(tmp_path / "valid", 1)
    (tmp_path / "calls").mkdir()
    model_fn = deadly(toy.model_fn, str(tmp_path / "calls"), toy.backend != "keras")
    damaged = []

    def eval_fn(state):
        if not damaged:
            damaged.append(state[0]["ckpt_path"])
            damage(damaged[0])
        return [i for i, model in state.items() if model["epoch"] >= EPOCHS - 1], []

    def search(cluster, **options):
        return cerebro.schedule(
            cluster, train, valid, None, None, toy.input_fn, model_fn, toy.train_fn,
            [{"rate": 0.05}, {"rate": 0.01}], eval_fn, str(tmp_path / "runs"),
            backend=toy.backend, error_metric=toy.error_metric, seed=3, **options,
        )  # fmt: skip

    disturbed = search(cluster)
    undisturbed = search(one_worker, replay=disturbed.run_dir)
    outcomes = set(disturbed.units["outcome"])
    assert {"committed", "executor", "void"} <= outcomes
    assert set(undisturbed.units["outcome"]) == {"committed"}
    seconds = ["train_seconds", "valid_seconds"]
    assert disturbed.history.drop(columns=seconds).equals(undisturbed.history.drop(columns=seconds))
    tool = toy.handler()
    for result in (disturbed, undisturbed):
        counted = result.units[result.units["outcome"] == "committed"]
        assert not counted.duplicated(["model_id", "epoch", "split", "partition"]).any()
        assert len(counted) == 2 * EPOCHS * (TRAIN + 1)
    for first, second in zip(
        disturbed.models["checkpoint"], undisturbed.models["checkpoint"], strict=True
    ):
        state = tool.read(first)
        assert contents(state) == contents(tool.read(second))
        assert visits(state) == [EPOCHS * ROWS] * TRAIN + [0] * (PARTITIONS - TRAIN)
    tool.close()
