"""A search over real processes with the plain backend, from arguments to the best model."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from toy import functions, partitions

import cerebro
from cerebro import errors
from cerebro.standalone import standalone_schedule

RATES = [{"rate": 0.5}, {"rate": 0.1}, {"rate": 0.01}]


def search(cluster, tmp_path, *, n_train=3, n_valid=2, configs=RATES, fns=None, **kwargs):
    input_fn, model_fn, train_fn, eval_fn = fns or functions()
    return cerebro.schedule(
        cluster,
        partitions(tmp_path / "data", n_train),
        partitions(tmp_path / "data", n_valid, "valid"),
        kwargs.pop("train_availability", None),
        kwargs.pop("valid_availability", None),
        input_fn,
        model_fn,
        train_fn,
        configs,
        eval_fn,
        ckpt_root=str(tmp_path / "ckpt"),
        backend="python",
        **kwargs,
    )


def load_model(checkpoint):
    with open(checkpoint, "rb") as file:
        return pickle.load(file)


def test_every_model_trains_on_every_partition_once_an_epoch(cluster, tmp_path):
    result = search(cluster, tmp_path)
    assert list(result.models["state"]) == ["COMPLETED"] * 3
    assert list(result.models["epochs"]) == [2] * 3
    for checkpoint in result.models["checkpoint"]:
        model = load_model(checkpoint)
        assert sorted(model["seen"]) == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
        assert model["steps"] == 3 * 3 * 2
    units = result.units
    train = units[units["split"] == "train"]
    assert len(train) == 3 * 3 * 2
    assert not train.duplicated(["model_id", "epoch", "partition"]).any()
    valid = units[units["split"] == "valid"]
    assert len(valid) == 3 * 2 * 2
    assert set(units["outcome"]) == {"committed"}
    assert set(units["worker"]) == {0, 1}


def test_the_result_object(cluster, tmp_path):
    result = search(cluster, tmp_path)
    history = result.history
    assert len(history) == 6
    assert list(history["epoch"]) == [0, 1] * 3
    best = result.best()
    row = history.sort_values("valid_error").iloc[0]
    assert best.model_id == row["model_id"]
    assert best.epoch == row["epoch"]
    assert best.metrics["valid_error"] == row["valid_error"]
    assert best.config == {"rate": row["config.rate"]}
    assert os.path.isfile(best.checkpoint)
    for name in ("history.csv", "models.csv", "units.csv", "provenance.json", "driver.json"):
        assert (Path(result.run_dir) / name).is_file()
    assert "config.rate" in result._repr_html_()
    again = cerebro.load(result.run_dir)
    assert again.history.equals(history)
    assert again.complete
    with pytest.raises(errors.InputError, match="choose one of"):
        result.best("accuracy")


def test_epoch_metrics_are_means_over_partitions_weighted_by_examples(cluster, tmp_path):
    def input_fn(path):
        return int(path[-5])

    def train_fn(model, data, train=True):
        return float(data), float(data) / 10, data + 1

    fns = (input_fn, lambda data, config: {}, train_fn, functions(1)[3])
    result = search(cluster, tmp_path, fns=fns, configs=[{}], n_train=3, n_valid=2)
    row = result.history.iloc[0]
    assert row["train_loss"] == pytest.approx((0 * 1 + 1 * 2 + 2 * 3) / 6)
    assert row["valid_error"] == pytest.approx((0 * 1 + 0.1 * 2) / 3)


def test_workers_train_what_their_rows_allow(cluster, tmp_path):
    train = [[1, 0, 1], [0, 1, 1]]
    valid = [[1, 0], [0, 1]]
    result = search(cluster, tmp_path, train_availability=train, valid_availability=valid)
    units = result.units
    for _, unit in units.iterrows():
        matrix = train if unit["split"] == "train" else valid
        assert matrix[unit["worker"]][unit["partition"]] == 1
    assert len(units) == 3 * 2 * (3 + 2)


def test_the_journal_order_replayed_in_a_plain_loop_gives_the_same_bytes(cluster, tmp_path):
    """Hopping is sequential SGD: what trains on one machine in that order is bit-identical."""
    import random

    import numpy

    from cerebro.seeding import derive

    result = search(cluster, tmp_path, seed=7)
    input_fn, model_fn, train_fn, _ = functions()
    units = result.units[result.units["split"] == "train"].sort_values("start")
    for model_id, mst in enumerate(RATES):
        model = None
        for _, unit in units[units["model_id"] == model_id].iterrows():
            data = input_fn(str(tmp_path / "data" / f"train_{unit['partition']}.txt"))
            if model is None:
                random.seed(derive(7, "init", model_id))
                numpy.random.seed(derive(7, "init", model_id))
                model = model_fn(data, mst)
            epoch, partition = int(unit["epoch"]), int(unit["partition"])
            random.seed(derive(7, "unit", model_id, epoch, "train", partition))
            loss, _, _ = train_fn(model, data)
            assert loss == unit["loss"]
        assert model == load_model(result.models["checkpoint"][model_id])


def test_the_state_for_eval_fn_is_the_originals(cluster, tmp_path):
    seen = []

    def eval_fn(state):
        seen.append(state)
        return [i for i in state if state[i]["epoch"] == 1], []

    search(cluster, tmp_path, fns=(*functions()[:3], eval_fn))
    assert [state[0]["epoch"] for state in seen] == [0, 1]
    first = seen[0][1]
    assert set(first) == {
        "state", "epoch", "train_loss", "train_error", "valid_loss", "valid_error", "ckpt_path",
        "mst",
    }  # fmt: skip
    assert first["state"] == "RUNNING"
    assert first["mst"] == {"rate": 0.1}
    assert len(first["valid_error"]) == 1
    assert load_model(first["ckpt_path"] if os.path.exists(first["ckpt_path"]) else
                      seen[1][1]["ckpt_path"])  # fmt: skip


def test_stopping_an_ended_model_and_adding_configurations(cluster, tmp_path):
    def eval_fn(state):
        if len(state) == 3:
            return [0, 1], [{"rate": 0.3}]
        return [0, 1, 2, 3], []

    result = search(cluster, tmp_path, fns=(*functions()[:3], eval_fn))
    assert list(result.models["epochs"]) == [1, 1, 2, 1]
    assert list(result.models["state"]) == ["COMPLETED"] * 4


def test_a_warm_start_copies_weights_and_history(cluster, tmp_path):
    def eval_fn(state):
        if len(state) == 1:
            child = {"rate": 0.3, "init_mst_id": 0, "init_ckpt_path": state[0]["ckpt_path"],
                     "init_mst": state[0]["mst"]}  # fmt: skip
            return [0], [child, {"rate": 0.3, "init_ckpt_path": state[0]["ckpt_path"]}]
        return list(state), []

    fns = (*functions()[:3], eval_fn)
    result = search(cluster, tmp_path, fns=fns, configs=[{"rate": 0.5}])
    parent, child, other = (load_model(c) for c in result.models["checkpoint"])
    assert len(parent["seen"]) == 3
    for model in (child, other):
        assert model["seen"][:3] == parent["seen"]
        assert model["steps"] == 2 * parent["steps"]
    history = result.history
    of_child = history[history["model_id"] == 1]
    assert list(of_child["epoch"]) == [0, 1]
    assert list(of_child["inherited"]) == [True, False]
    assert of_child["valid_loss"].iloc[0] == history["valid_loss"].iloc[0]
    assert list(history[history["model_id"] == 2]["epoch"]) == [0]
    assert "init_mst_id" not in str(result.models.columns)


def test_an_initial_configuration_may_begin_with_a_checkpoint_of_another_run(cluster, tmp_path):
    first = search(cluster, tmp_path, configs=[{"rate": 0.5}])
    source = first.models["checkpoint"][0]
    configs = [{"rate": 0.5, "init_ckpt_path": source}]
    second = search(cluster, tmp_path, configs=configs, fns=functions(1))
    before, after = load_model(source), load_model(second.models["checkpoint"][0])
    assert after["seen"][: len(before["seen"])] == before["seen"]
    with pytest.raises(errors.InputError, match="does not exist"):
        search(cluster, tmp_path, configs=[{"init_ckpt_path": str(tmp_path / "nothing")}])


def test_logs_have_the_originals_lines(cluster, tmp_path):
    import re

    result = search(cluster, tmp_path, configs=[{"rate": 0.5, "name": "a b"}], fns=functions(1))
    lines = (Path(result.run_dir) / "logs" / "scheduler.log").read_text().splitlines()
    pattern = re.compile(
        r"TIME: \d+, EVENT: (TRAIN|VALID)_(LAUNCHED|COMPLETED), ITERATION: 0, WORKER: [01], "
        r"MST: 0, PARTITIONS: [0-2], EPOCH: 0, name:a_b-rate:0\.5"
    )
    units = [line for line in lines if "PRELOAD" not in line]
    assert all(pattern.fullmatch(line) for line in units)
    assert len(units) == 2 * (3 + 2)
    assert sum("EVENT: PRELOAD_COMPLETED, WORKER:" in line for line in lines) == 2
    log = (Path(result.run_dir) / "logs" / "0.log").read_text()
    number = r"\d+\.\d{6}"
    lines = re.findall(
        rf"EPOCH: 0, PARTITION: \d, (TRAIN|VALID) LOSS: {number}, ERROR: {number}, Time: {number}",
        log,
    )
    assert sorted(lines) == ["TRAIN"] * 3 + ["VALID"] * 2
    assert "MST: name:a_b-rate:0.5" in log


def test_prints_go_to_the_models_log(cluster, tmp_path):
    def train_fn(model, data, train=True):
        print("a line from the user")
        return 1.0, 1.0

    input_fn, model_fn, _, eval_fn = functions(1)
    result = search(cluster, tmp_path, fns=(input_fn, model_fn, train_fn, eval_fn))
    assert "    a line from the user" in (Path(result.run_dir) / "logs" / "1.log").read_text()


def test_superseded_versions_are_gone(cluster, tmp_path):
    result = search(cluster, tmp_path, fns=functions(3))
    for model_id in range(3):
        folder = Path(result.run_dir) / "models" / str(model_id)
        versions = sorted(int(path.name[1:7]) for path in folder.iterdir())
        best = result.models["best_epoch"][model_id]
        assert versions == sorted({(best + 1) * 3, 8, 9})
        assert not list(folder.glob(".tmp*"))


def test_without_validation_partitions(cluster, tmp_path):
    result = search(cluster, tmp_path, n_valid=0)
    assert list(result.models["epochs"]) == [2] * 3
    assert result.history["valid_error"].isna().all()
    assert result.best("train_loss").checkpoint


def test_standalone_schedule_takes_the_originals_positional_arguments(cluster, tmp_path):
    data = partitions(tmp_path / "data", 2)
    availability = [[1, 0], [0, 1]]
    input_fn, model_fn, train_fn, eval_fn = functions(1)
    os.environ["CEREBRO_SECRET_FILE"] = cluster.secret_file
    try:
        result = standalone_schedule(
            cluster.urls, data, data, availability, availability, input_fn, model_fn, train_fn,
            [{"rate": 1.0}], eval_fn, str(tmp_path / "ckpt"), True, "python",
        )  # fmt: skip
    finally:
        del os.environ["CEREBRO_SECRET_FILE"]
    assert len(result.history) == 1


def test_data_is_loaded_again_for_each_unit_if_it_is_not_to_stay_in_memory(cluster, tmp_path):
    def input_fn(path):
        with open(path + ".loads", "a") as file:
            file.write("x")
        with open(path) as file:
            return [float(line) for line in file]

    fns = (input_fn, *functions(2)[1:])
    search(cluster, tmp_path, fns=fns, preload_data_to_mem=False)
    assert (tmp_path / "data" / "train_0.txt.loads").read_text() == "x" * 6
    (tmp_path / "data" / "train_0.txt.loads").unlink()
    search(cluster, tmp_path, fns=fns, preload_data_to_mem=True)
    assert (tmp_path / "data" / "train_0.txt.loads").read_text() == "x"


def test_a_run_is_resumed_where_it_stopped(cluster, tmp_path):
    input_fn, model_fn, train_fn, good = functions(3)
    calls = []

    def bad(state):
        calls.append(state[0]["epoch"])
        if len(calls) == 2:
            raise RuntimeError("no idea")
        return good(state)

    with pytest.raises(errors.UserFunctionError, match=r"no idea.*resume=True"):
        search(cluster, tmp_path, fns=(input_fn, model_fn, train_fn, bad), run_name="r")
    part = cerebro.load(tmp_path / "ckpt" / "r")
    assert list(part.models["state"]) == ["RUNNING"] * 3
    assert list(part.models["epochs"]) == [2] * 3
    calls.clear()

    def later(state):
        calls.append(state[0]["epoch"])
        return good(state)

    fns = (input_fn, model_fn, train_fn, later)
    result = search(cluster, tmp_path, fns=fns, run_name="r", resume="auto")
    assert calls == [1, 2]
    assert list(result.models["epochs"]) == [3] * 3
    straight = search(cluster, tmp_path, fns=functions(3), run_name="straight")
    assert len(result.units) == len(straight.units)
    assert load_model(result.models["checkpoint"][0])["steps"] == 27
    again = search(cluster, tmp_path, fns=fns, run_name="r", resume=True)
    assert again.history.equals(result.history)


def test_resume_refuses_what_has_changed(cluster, tmp_path):
    search(cluster, tmp_path, fns=functions(1), run_name="r")
    with pytest.raises(errors.RunError, match="resume=True"):
        search(cluster, tmp_path, fns=functions(1), run_name="r")
    with pytest.raises(errors.ResumeRefused, match="configs"):
        search(cluster, tmp_path, configs=[{"rate": 3}], run_name="r", resume=True)
    with pytest.raises(errors.ResumeRefused, match="seed"):
        search(cluster, tmp_path, seed=3, run_name="r", resume=True)
    changed = (lambda path: [1.0], *functions(1)[1:])
    with pytest.raises(errors.ResumeRefused, match="input_fn"):
        search(cluster, tmp_path, fns=changed, run_name="r", resume=True)
    with pytest.raises(errors.NotARun):
        search(cluster, tmp_path, run_name="other", resume=True)
    with pytest.raises(errors.InputError, match="run_name"):
        search(cluster, tmp_path, resume=True)


def test_provenance_says_where_results_come_from(cluster, tmp_path):
    result = search(cluster, tmp_path, seed=5)
    content = json.loads((Path(result.run_dir) / "provenance.json").read_text())
    assert content["seed"] == 5
    assert content["versions"]["cerebro"] == cerebro.__version__
    assert content["workers"]["0"]["devices"] == ["CPU"]
    assert content["faults"] == {}
    (driver,) = content["drivers"]
    assert driver["pid"] == os.getpid()
    assert content["git_commit"] == driver["git_commit"]


def test_a_folder_that_is_no_run_says_what_it_is(cluster, tmp_path):
    search(cluster, tmp_path, fns=functions(1), run_name="mine")
    with pytest.raises(errors.NotARun, match=r"holds runs.*mine"):
        cerebro.load(tmp_path / "ckpt")
    with pytest.raises(errors.NotARun, match="is not a folder"):
        cerebro.load(tmp_path / "nowhere")
    with pytest.raises(errors.NotARun, match="no journal"):
        cerebro.load(tmp_path / "data")
