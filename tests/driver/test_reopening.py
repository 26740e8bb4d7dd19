"""Models that had ended and go on: failed ones taken up again, and a run that is extended."""

from __future__ import annotations

import pickle

import pytest
from toy import functions, partitions

import cerebro
from cerebro import errors

CONFIGS = [{"rate": 0.5}, {"rate": 0.1}]


def search(cluster, tmp_path, fns, **changed):
    input_fn, model_fn, train_fn, eval_fn = fns
    return cerebro.schedule(
        cluster,
        partitions(tmp_path / "data", 3),
        partitions(tmp_path / "data", 1, "valid"),
        None,
        None,
        input_fn,
        model_fn,
        train_fn,
        CONFIGS,
        eval_fn,
        ckpt_root=str(tmp_path / "ckpt"),
        backend="python",
        run_name="r",
        **changed,
    )


def steps(result):
    found = []
    for checkpoint in result.models["checkpoint"]:
        with open(checkpoint, "rb") as file:
            found.append(pickle.load(file)["steps"])
    return found


def flaky(fns, flag, after):
    """The functions, where model 1 fails after so many train units while a file is there."""
    input_fn, model_fn, train_fn, eval_fn = fns
    path = str(flag)

    def failing(model, data, train=True):
        import os

        if model["rate"] == 0.1 and len(model["seen"]) >= after and os.path.exists(path):
            raise ValueError("while the file is there")
        return train_fn(model, data, train)

    return input_fn, model_fn, failing, eval_fn


@pytest.mark.parametrize("after", [0, 4, 6])
def test_failed_models_are_taken_up_where_they_stood(cluster, tmp_path, after):
    flag = tmp_path / "flag"
    flag.touch()
    fns = flaky(functions(3), flag, after)
    first = search(cluster, tmp_path, fns)
    assert list(first.models["state"]) == ["COMPLETED", "FAILED"]
    flag.unlink()
    again = search(cluster, tmp_path, fns, resume=True)
    assert list(again.models["state"]) == ["COMPLETED", "FAILED"], "not unless it is asked for"
    result = search(cluster, tmp_path, fns, resume=True, retry_failed=True)
    assert list(result.models["state"]) == ["COMPLETED"] * 2
    assert steps(result) == [27, 27]
    committed = result.units[result.units["outcome"] == "committed"]
    assert not committed.duplicated(["model_id", "epoch", "split", "partition"]).any()
    assert list(cerebro.load(result.run_dir).models["failure"]) == [None, None]


def test_a_run_that_was_taken_up_again_can_be_replayed(cluster, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    fns = flaky(functions(2), flag, 4)
    search(cluster, tmp_path, fns)
    flag.unlink()
    search(cluster, tmp_path, fns, resume=True, retry_failed=True)
    longer = (*fns[:3], functions(3)[3])
    first = search(cluster, tmp_path, longer, resume=True)
    assert steps(first) == [27, 27]
    (tmp_path / "ckpt" / "r").rename(tmp_path / "ckpt" / "first")
    second = search(cluster, tmp_path, fns, replay=tmp_path / "ckpt" / "first")
    assert steps(second) == [27, 27]
    columns = ["model_id", "epoch", "train_loss", "valid_loss", "valid_error"]
    assert first.history[columns].equals(second.history[columns])


def test_a_run_that_has_ended_is_extended_by_another_eval_fn(cluster, tmp_path):
    asked = []
    fns = functions(2)
    search(cluster, tmp_path, fns)

    def ten_more(state):
        asked.append([s["epoch"] for s in state.values()])
        return functions(4)[3](state)

    result = search(cluster, tmp_path, (*fns[:3], ten_more), resume=True)
    assert asked == [[1, 1], [2, 2], [3, 3]], "the last epoch again, none before"
    assert list(result.models["epochs"]) == [4, 4]
    assert steps(result) == [36, 36]
    assert list(result.models["state"]) == ["COMPLETED"] * 2
    asked.clear()
    search(cluster, tmp_path, (*fns[:3], ten_more), resume=True)
    assert not asked, "the same eval_fn has nothing to add"


def test_models_that_were_stopped_early_stay_so(cluster, tmp_path):
    fns = functions(3)

    def early(state):
        return ([0] if state[0]["epoch"] == 0 else []) + fns[3](state)[0], []

    search(cluster, tmp_path, (*fns[:3], early))
    result = search(cluster, tmp_path, (*fns[:3], functions(5)[3]), resume=True)
    assert list(result.models["epochs"]) == [1, 5]


def test_retry_failed_is_for_runs_that_go_on(cluster, tmp_path):
    with pytest.raises(errors.InputError, match="resume=True"):
        search(cluster, tmp_path, functions(1), retry_failed=True)
