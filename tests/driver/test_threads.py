"""What a driver starts ends with it."""

from __future__ import annotations

import threading

import pytest
from toy import functions, partitions

import cerebro

RUNS = 20


def search(cluster, tmp_path, name, **changed):
    input_fn, model_fn, train_fn, eval_fn = functions(1)
    arguments = {
        "train_partitions": partitions(tmp_path, 2),
        "valid_partitions": partitions(tmp_path, 1, "valid"),
        "train_availability": None,
        "valid_availability": None,
        "input_fn": input_fn,
        "model_fn": model_fn,
        "train_fn": train_fn,
        "initial_msts": [{"rate": 0.5}],
        "mst_eval_fn": eval_fn,
        "ckpt_root": str(tmp_path),
        "run_name": name,
        "backend": "python",
        "progress": "plain",
        **changed,
    }
    return cerebro.schedule(cluster, **arguments)


def test_no_thread_is_left_when_schedule_returns(cluster, tmp_path):
    before = set(threading.enumerate())
    for number in range(RUNS):
        search(cluster, tmp_path, f"run-{number}")
        assert set(threading.enumerate()) == before


def test_no_thread_is_left_when_schedule_raises(cluster, tmp_path):
    def interrupted(state):
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    for number in range(3):
        with pytest.raises(cerebro.errors.RunInterrupted):
            search(cluster, tmp_path, f"run-{number}", mst_eval_fn=interrupted)
        assert set(threading.enumerate()) == before
