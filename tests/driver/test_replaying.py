"""Replaying a run: the same visit orders and decisions give the same weights and metrics."""

from __future__ import annotations

import pickle
import signal

import pytest
from exact import same, weights
from toy import functions, partitions

import cerebro
from cerebro import errors
from cerebro.driver.replay import read_recording
from cerebro.journal.journal import read_journal
from cerebro.journal.paths import RunPaths

CONFIGS = [{"rate": 0.5}, {"rate": 0.1}, {"rate": 0.01}]


def search(cluster, tmp_path, fns, **changed):
    input_fn, model_fn, train_fn, eval_fn = fns
    return cerebro.schedule(
        cluster,
        partitions(tmp_path / "data", 4),
        partitions(tmp_path / "data", 2, "valid"),
        None,
        None,
        input_fn,
        model_fn,
        train_fn,
        changed.pop("configs", CONFIGS),
        eval_fn,
        ckpt_root=str(tmp_path / "ckpt"),
        backend="python",
        **changed,
    )


def halving(seen=None):
    """Stops the worst after every epoch, and begins a child of the best after the first."""

    def eval_fn(state):
        running = [i for i, s in state.items() if s["state"] == "RUNNING"]
        order = sorted(running, key=lambda i: state[i]["valid_error"][-1])
        new = []
        if len(state) == len(CONFIGS):
            best = order[0]
            new = [
                {
                    "rate": 0.2,
                    "init_mst_id": best,
                    "init_ckpt_path": state[best]["ckpt_path"],
                    "init_mst": state[best]["mst"],
                }
            ]
        return order[-1:], new

    return eval_fn


def never(state):
    raise AssertionError("a replay asks nobody")


def units_of(result):
    """Train and valid units of each model that count."""
    units = result.units[result.units["outcome"] == "committed"]
    counts = units.groupby(["model_id", "split"]).size()
    return {m: (counts[m]["train"], counts[m]["valid"]) for m in result.models["model_id"]}


def test_a_replay_gives_the_same_weights_and_metrics(cluster, tmp_path, capfd):
    fns = (*functions(3)[:3], halving())
    first = search(cluster, tmp_path, fns, run_name="first")
    assert len(first.models) == 4
    assert first.history["inherited"].any()
    second = search(cluster, tmp_path, (*fns[:3], never), run_name="second", replay=first.run_dir)
    same(first, second)
    counted = units_of(second)
    assert read_recording(first.run_dir).totals() == counted, "so that the end is known"
    assert weights(first)[0]["seen"] == weights(second)[0]["seen"], "the visit order"
    child = second.models.set_index("model_id").loc[3]
    assert "/second/" in child["checkpoint"]
    records, _ = read_journal(RunPaths(second.run_dir))
    (new,) = [new for r in records if r.kind == "decision" for new in r.add]
    assert "/second/" in new.checkpoint
    assert new.mst["init_ckpt_path"] == new.checkpoint
    assert "every metric is that of" in capfd.readouterr().err
    third = search(
        cluster.urls[:1], tmp_path, (*fns[:3], never), replay=second.run_dir,
        secret_file=cluster.secret_file,
    )  # fmt: skip
    same(first, third)


def test_a_replay_without_the_visit_order_would_differ(cluster, tmp_path):
    """What the other tests compare does depend on the order."""
    one = search(cluster, tmp_path, functions(2), run_name="one")
    other = search(cluster.urls[:1], tmp_path, functions(2), secret_file=cluster.secret_file)
    assert weights(one) != weights(other)


def test_models_that_failed_end_where_they_did(cluster, tmp_path):
    input_fn, model_fn, train_fn, eval_fn = functions(3)
    flag = tmp_path / "fail"
    flag.touch()
    path = str(flag)

    def failing(model, data, train=True):
        import os

        late = model["rate"] == 0.1 and len(model["seen"]) == 6
        first = model["rate"] == 0.01
        if (late or first) and os.path.exists(path):
            raise ValueError("as long as the file is there")
        return train_fn(model, data, train)

    fns = (input_fn, model_fn, failing, eval_fn)
    first = search(cluster, tmp_path, fns, run_name="first")
    assert list(first.models["state"]) == ["COMPLETED", "FAILED", "FAILED"]
    flag.unlink()
    second = search(cluster, tmp_path, (*fns[:3], never), replay=first.run_dir)
    assert list(second.models["state"]) == ["COMPLETED", "FAILED", "FAILED"]
    assert "failed in the run that is replayed" in second.models["failure"][1]
    kept = first.models["checkpoint"].notna()
    assert list(kept) == [True, True, False]
    for left, right in zip(
        first.models["checkpoint"][kept], second.models["checkpoint"][kept], strict=True
    ):
        with open(left, "rb") as a, open(right, "rb") as b:
            assert pickle.load(a) == pickle.load(b)


def test_a_model_that_failed_in_the_first_unit_of_an_epoch_ends_its_epoch_before(cluster, tmp_path):
    input_fn, model_fn, train_fn, eval_fn = functions(3)

    def failing(model, data, train=True):
        if model["rate"] == 0.1 and len(model["seen"]) == 4 and train:
            raise ValueError("the second epoch is too much")
        return train_fn(model, data, train)

    fns = (input_fn, model_fn, failing, eval_fn)
    first = search(cluster, tmp_path, fns, run_name="first")
    second = search(cluster, tmp_path, (*fns[:3], never), replay=first.run_dir)
    assert list(second.models["state"]) == ["COMPLETED", "FAILED", "COMPLETED"]
    assert list(second.models["epochs"]) == [3, 1, 3]
    same(first, second)


def test_a_model_that_fails_only_in_the_replay_holds_up_nothing(cluster, tmp_path, capfd):
    input_fn, model_fn, train_fn, eval_fn = functions(2)
    first = search(cluster, tmp_path, (input_fn, model_fn, train_fn, eval_fn), run_name="first")

    def failing(model, data, train=True):
        if model["rate"] == 0.1:
            raise ValueError("not this time")
        return train_fn(model, data, train)

    fns = (input_fn, model_fn, failing, never)
    second = search(cluster, tmp_path, fns, replay=first.run_dir, allow_changed=["train_fn"])
    assert list(second.models["state"]) == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "this is not what" in capfd.readouterr().err


def test_a_child_whose_parent_fails_only_in_the_replay_cannot_begin(cluster, tmp_path):
    input_fn, model_fn, train_fn, _ = functions(3)
    fns = (input_fn, model_fn, train_fn, halving())
    first = search(cluster, tmp_path, fns, run_name="first")
    records, _ = read_journal(RunPaths(first.run_dir))
    (new,) = [new for r in records if r.kind == "decision" for new in r.add]
    rate = CONFIGS[new.parent]["rate"]

    def failing(model, data, train=True):
        if model["rate"] == rate:
            raise ValueError("not this time")
        return train_fn(model, data, train)

    changed = (input_fn, model_fn, failing, never)
    with pytest.raises(errors.ReplayRefused, match=f"began with model {new.parent}"):
        search(cluster, tmp_path, changed, replay=first.run_dir, allow_changed=["train_fn"])


def test_a_replay_that_is_interrupted_goes_on(cluster, tmp_path):
    fns = (*functions(3)[:3], halving())
    first = search(cluster, tmp_path, fns, run_name="first")
    calls = tmp_path / "calls"
    count = str(calls)
    train_fn = fns[2]

    def interrupting(model, data, train=True):
        import os

        with open(count, "a") as file:
            file.write("x")
        if os.path.getsize(count) == 12:
            os.kill(driver, signal_number)
        return train_fn(model, data, train)

    import os

    signal_number = int(signal.SIGINT)
    driver = os.getpid()
    changed = (*fns[:2], interrupting, never)
    with pytest.raises(errors.RunInterrupted):
        search(
            cluster, tmp_path, changed, run_name="again", replay=first.run_dir,
            allow_changed=["train_fn"],
        )  # fmt: skip
    with pytest.raises(errors.ResumeRefused, match="replay="):
        search(cluster, tmp_path, changed, run_name="again", resume=True)
    second = search(
        cluster, tmp_path, changed, run_name="again", replay=first.run_dir, resume=True,
        allow_changed="train_fn",
    )  # fmt: skip
    same(first, second)


def test_what_differs_from_the_recording_is_refused(cluster, tmp_path):
    fns = functions(1)
    first = search(cluster, tmp_path, fns, run_name="first")
    input_fn, model_fn, train_fn, eval_fn = fns

    def other(data, config):
        return {**model_fn(data, config), "weight": 0.0}

    def refused(match, fns=fns, **changed):
        with pytest.raises(errors.ReplayRefused, match=match):
            search(cluster, tmp_path, fns, replay=first.run_dir, **changed)

    refused("other seed", seed=1)
    refused("other configs", configs=CONFIGS[:2])
    refused("has 3 configs, not 2", configs=CONFIGS[:2], allow_changed=["configs"])
    refused("other model_fn", (input_fn, other, train_fn, eval_fn))
    assert [p.name for p in (tmp_path / "ckpt").iterdir()] == ["first"]
    with pytest.raises(errors.NotARun):
        search(cluster, tmp_path, fns, replay=tmp_path / "ckpt" / "nowhere")


def test_a_replay_says_where_its_metrics_differ(cluster, tmp_path, capfd):
    fns = functions(1)
    first = search(cluster, tmp_path, fns, run_name="first")
    input_fn, model_fn, train_fn, eval_fn = fns

    def other(data, config):
        return {**model_fn(data, config), "weight": 0.0}

    search(
        cluster, tmp_path, (input_fn, other, train_fn, eval_fn), replay=first.run_dir,
        allow_changed=["model_fn"],
    )  # fmt: skip
    assert "this is not what" in capfd.readouterr().err


def test_a_run_that_has_not_ended_cannot_be_replayed(cluster, tmp_path):
    fns = functions(1)

    def interrupt(state):
        raise KeyboardInterrupt

    with pytest.raises(errors.RunInterrupted):
        search(cluster, tmp_path, (*fns[:3], interrupt), run_name="first")
    with pytest.raises(errors.ReplayRefused, match="has not ended"):
        search(cluster, tmp_path, fns, replay=tmp_path / "ckpt" / "first")
