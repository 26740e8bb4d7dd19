"""A run that is resumed with more than it had: appended configurations, and searches with more."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from toy import functions, partitions

import cerebro
from cerebro import errors
from cerebro.driver import loop
from cerebro.journal.records import CommittedRecord
from cerebro.search import GridSearch, LogUniform, RandomSearch, Uniform

FIRST = [{"rate": 0.5}, {"rate": 0.1}]
MORE = [*FIRST, {"rate": 0.3}, {"rate": 0.2}, {"rate": 0.4}]


def search(cluster, tmp_path, configs=None, fns=None, *, n_train=2, **options):
    input_fn, model_fn, train_fn, eval_fn = fns or functions(2)
    deciding = {} if "search" in options else {"initial_msts": configs, "mst_eval_fn": eval_fn}
    return cerebro.schedule(
        cluster,
        partitions(tmp_path / "data", n_train),
        partitions(tmp_path / "data", 1, "valid"),
        None,
        None,
        input_fn,
        model_fn,
        train_fn,
        ckpt_root=str(tmp_path / "ckpt"),
        backend="python",
        **{"run_name": "r", "progress": "off", **deciding, **options},
    )


def more(cluster, tmp_path, configs, **options):
    return search(cluster, tmp_path, configs, resume="auto", allow_changed=["configs"], **options)


def interrupt(monkeypatch, committed):
    """Ctrl-C as soon as so many units are committed."""
    real, left = loop.Driver._append, [committed]

    def append(driver, records):
        real(driver, records)
        left[0] -= sum(isinstance(record, CommittedRecord) for record in records)
        if left[0] <= 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Driver, "_append", append)


def rates(result):
    return result.models["config.rate"].tolist()


def journal(tmp_path, run="r"):
    files = sorted((tmp_path / "ckpt" / run / "journal").glob("*.jsonl"))
    return {file.name: file.read_bytes() for file in files}


def each_unit_once(result):
    done = result.units[result.units["outcome"] == "committed"]
    assert not done.duplicated(["model_id", "epoch", "split", "partition"]).any()
    return len(done)


# --- appended configurations ------------------------------------------------------------------


def test_appended_configurations_begin_once_a_run_has_ended(cluster, tmp_path, capsys):
    search(cluster, tmp_path, FIRST)
    with pytest.raises(errors.ResumeRefused, match=r"other configs.*allow_changed=\['configs'\]"):
        search(cluster, tmp_path, MORE, resume=True)
    result = more(cluster, tmp_path, MORE, progress="plain")
    assert "models 2 to 4 begin, with 3 configurations more" in capsys.readouterr().err
    assert rates(result) == [0.5, 0.1, 0.3, 0.2, 0.4]
    assert result.models["epochs"].tolist() == [2] * 5
    assert each_unit_once(result) == 5 * 2 * 3
    assert result.complete

    before = journal(tmp_path)
    again = search(cluster, tmp_path, MORE, resume=True)
    assert journal(tmp_path) == before, "they are the run's own by now"
    assert rates(again) == rates(result)

    (tmp_path / "ckpt" / "r").rename(tmp_path / "ckpt" / "first")
    for name in ("replayed", "replayed again"):
        first = tmp_path / "ckpt" / ("first" if name == "replayed" else "replayed")
        second = search(cluster, tmp_path, MORE, replay=first, run_name=name)
        columns = ["model_id", "epoch", "train_loss", "valid_loss", "valid_error"]
        assert second.history[columns].equals(result.history[columns])
    with pytest.raises(errors.ReplayRefused, match="other configs"):
        search(cluster, tmp_path, FIRST, replay=tmp_path / "ckpt" / "first", run_name="short")
    assert search(
        cluster, tmp_path, MORE, replay=first, run_name="replayed again", resume=True
    ).complete


def test_an_appended_run_is_appended_to_and_extended(cluster, tmp_path):
    """Ids of models go on from those that there are, whoever has added them."""

    def adds(state):
        new = [{"rate": 0.9}] if len(state) == 2 and state[0]["epoch"] == 0 else []
        return [i for i, s in state.items() if s["epoch"] >= 1], new

    fns = (*functions()[:3], adds)
    search(cluster, tmp_path, FIRST, fns=fns)
    more(cluster, tmp_path, MORE[:3], fns=fns)
    result = more(cluster, tmp_path, MORE, fns=fns)
    assert rates(result) == [0.5, 0.1, 0.9, 0.3, 0.2, 0.4]
    longer = more(cluster, tmp_path, [*MORE, {"rate": 0.7}], fns=(*fns[:3], functions(4)[3]))
    assert rates(longer) == [0.5, 0.1, 0.9, 0.3, 0.2, 0.4, 0.7]
    assert longer.models["epochs"].tolist() == [4] * 7
    assert each_unit_once(longer) == 7 * 4 * 3
    again = search(
        cluster, tmp_path, [*MORE, {"rate": 0.7}], fns=(*fns[:3], functions(4)[3]),
        replay=longer.run_dir, run_name="again",
    )  # fmt: skip
    columns = ["model_id", "epoch", "train_loss", "valid_loss"]
    assert again.history[columns].equals(longer.history[columns])


def test_appended_configurations_begin_in_a_run_that_was_interrupted(
    cluster, tmp_path, monkeypatch
):
    for number, after in enumerate((2, 5, 7)):
        interrupt(monkeypatch, after)
        name = f"cut {number}"
        with pytest.raises(errors.RunInterrupted):
            search(cluster, tmp_path, FIRST, run_name=name)
        monkeypatch.undo()
        result = more(cluster, tmp_path, MORE, run_name=name)
        assert rates(result) == [0.5, 0.1, 0.3, 0.2, 0.4]
        assert result.models["epochs"].tolist() == [2] * 5
        assert each_unit_once(result) == 5 * 2 * 3


def test_a_driver_that_dies_while_it_appends_appends_once(cluster, tmp_path):
    """Whichever of its first records the journal still has."""
    search(cluster, tmp_path, FIRST)
    shutil.copytree(tmp_path / "ckpt" / "r", tmp_path / "ended")
    more(cluster, tmp_path, MORE)
    records = journal(tmp_path)["000002.jsonl"].splitlines(keepends=True)
    kinds = [json.loads(line[9:])["kind"] for line in records]
    assert kinds[:4] == ["generation", "plan", "reopened", "decision"]
    for kept in (1, 2, 3, 4, 5):
        shutil.rmtree(tmp_path / "ckpt" / "r")
        shutil.copytree(tmp_path / "ended", tmp_path / "ckpt" / "r")
        torn = tmp_path / "ckpt" / "r" / "journal" / "000002.jsonl"
        torn.write_bytes(b"".join(records[:kept]))
        if kept < 4:
            with pytest.raises(errors.ResumeRefused, match="other configs"):
                search(cluster, tmp_path, MORE, resume=True)
        result = more(cluster, tmp_path, MORE)
        assert rates(result) == [0.5, 0.1, 0.3, 0.2, 0.4]
        assert result.models["epochs"].tolist() == [2] * 5
        assert each_unit_once(result) == 5 * 2 * 3


def test_an_appended_configuration_may_begin_with_a_version_of_the_run(cluster, tmp_path):
    first = search(cluster, tmp_path, FIRST)
    path = first.models["checkpoint"][0]
    configs = [*FIRST, {"rate": 0.3, "init_ckpt_path": path}]
    result = more(cluster, tmp_path, configs)
    assert result.models["state"].tolist() == ["COMPLETED"] * 3
    again = search(cluster, tmp_path, configs, replay=result.run_dir, run_name="again")
    assert again.history["valid_loss"].equals(result.history["valid_loss"])


@pytest.mark.parametrize(
    ("configs", "says"),
    [
        (
            [{"rate": 0.7}, {"rate": 0.8}],
            r"0 is \{'rate': 0.5\}, and .*0.7.*; configuration 1 diff",
        ),
        (
            [*FIRST[::-1], *MORE[2:]],
            r"0 is .*0.5.*, which is given as configuration 1: their order",
        ),
        ([*FIRST[:1]], r"configuration 1 of 2, such as \{'rate': 0.1\}, is not given"),
        ([FIRST[0], {"rate": 0.7}, FIRST[1]], r"1 is .*0.1.*, which is given as configuration 2"),
        ([FIRST[0], {"rate": 0.1, "width": 2}], r"configuration 1 is \{'rate': 0.1\}, and .*width"),
    ],
)
@pytest.mark.parametrize("allowed", [(), ("configs",)])
def test_other_configurations_are_refused_before_anything_is_recorded(
    cluster, tmp_path, configs, says, allowed
):
    search(cluster, tmp_path, FIRST)
    before = journal(tmp_path)
    with pytest.raises(errors.ResumeRefused, match=says) as caught:
        search(cluster, tmp_path, configs, resume="auto", allow_changed=allowed)
    assert "with new ones behind them" in str(caught.value)
    assert journal(tmp_path) == before
    assert cerebro.load(tmp_path / "ckpt" / "r").complete


def test_what_has_changed_and_is_not_used_any_more_is_said(cluster, tmp_path, capsys):
    search(cluster, tmp_path, FIRST)
    other = (*functions()[:2], lambda model, data, train=True: (0.0, 0.0, 1), functions()[3])
    search(
        cluster, tmp_path, FIRST, fns=other, resume=True, allow_changed=["train_fn"],
        progress="plain",
    )  # fmt: skip
    assert "ended already: nothing is trained with the other train_fn" in capsys.readouterr().err


# --- another eval_fn --------------------------------------------------------------------------


def test_a_run_that_is_extended_is_that_with_more_epochs_from_the_start(cluster, tmp_path):
    """Bit for bit: with one partition there is one order to visit it in."""
    longer = (*functions()[:3], functions(4)[3])
    search(cluster, tmp_path, FIRST, n_train=1)
    extended = search(cluster, tmp_path, FIRST, fns=longer, n_train=1, resume=True)
    whole = search(cluster, tmp_path, FIRST, fns=longer, n_train=1, run_name="whole")
    assert extended.models["epochs"].tolist() == [4, 4]
    assert each_unit_once(extended) == each_unit_once(whole) == 2 * 4 * 2
    columns = ["model_id", "epoch", "train_loss", "train_error", "valid_loss", "valid_error"]
    for column in columns:
        assert sorted(extended.history[column]) == sorted(whole.history[column])
    weights = [
        [Path(path).read_bytes() for path in result.models["checkpoint"]]
        for result in (extended, whole)
    ]
    assert weights[0] == weights[1]


def test_a_run_whose_driver_died_before_its_end_was_recorded_is_extended(cluster, tmp_path):
    search(cluster, tmp_path, FIRST)
    file = tmp_path / "ckpt" / "r" / "journal" / "000001.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1][9:])["kind"] == "end"
    file.write_bytes(b"".join(lines[:-1]))
    longer = (*functions()[:3], functions(3)[3])
    result = search(cluster, tmp_path, FIRST, fns=longer, resume=True)
    assert result.models["epochs"].tolist() == [3, 3]


def test_all_go_on_where_the_run_that_was_extended_is_interrupted(cluster, tmp_path, monkeypatch):
    search(cluster, tmp_path, FIRST)
    interrupt(monkeypatch, 4)
    with pytest.raises(errors.RunInterrupted):
        more(cluster, tmp_path, MORE)
    monkeypatch.undo()
    longer = (*functions()[:3], functions(3)[3])
    result = search(cluster, tmp_path, MORE, fns=longer, resume=True)
    assert result.models["epochs"].tolist() == [3] * 5
    assert each_unit_once(result) == 5 * 3 * 3


# --- searches ---------------------------------------------------------------------------------


def asked_for(cluster, tmp_path, procedure, **options):
    return search(
        cluster, tmp_path, search=procedure, resume="auto", allow_changed=["search"], **options
    )


def test_a_grid_with_more_values_trains_those_that_are_new(cluster, tmp_path):
    asked_for(cluster, tmp_path, GridSearch({"rate": [0.5, 0.1], "b": [1, 2]}, 1))
    larger = GridSearch({"rate": [0.5, 0.1, 0.2], "b": [1, 2, 3]}, 1)
    result = asked_for(cluster, tmp_path, larger)
    found = list(zip(rates(result), result.models["config.b"], strict=True))
    assert found[:4] == [(0.5, 1), (0.5, 2), (0.1, 1), (0.1, 2)]
    assert sorted(found) == sorted((rate, b) for rate in (0.5, 0.1, 0.2) for b in (1, 2, 3))
    assert each_unit_once(result) == 9 * 3
    assert search(cluster, tmp_path, search=larger, resume=True).complete


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (
            GridSearch({"rate": [0.5, 0.1]}, 1),
            GridSearch({"rate": [0.7, 0.8, 0.9]}, 1),
            r"model 0 was started with \{'rate': 0.5\}, and in this grid combination 0",
        ),
        (
            GridSearch({"rate": [0.5, 0.1]}, 1),
            GridSearch({"rate": [0.5]}, 1),
            r"model 1 was started with \{'rate': 0.1\}",
        ),
        (
            RandomSearch({"rate": LogUniform(1e-3, 0.9)}, n=2, epochs=1),
            RandomSearch({"rate": Uniform(0.2, 0.3)}, n=2, epochs=1),
            r"has ended, with 2 models, and RandomSearch\(space=.*Uniform.* starts no other .*more",
        ),
        (
            RandomSearch({"rate": LogUniform(1e-3, 0.9)}, n=2, epochs=2),
            RandomSearch({"rate": LogUniform(1e-3, 0.9)}, n=2, epochs=1),
            r"nothing would be trained",
        ),
    ],
)
def test_a_search_that_cannot_continue_is_refused_before_anything_is_recorded(
    cluster, tmp_path, before, after, says
):
    asked_for(cluster, tmp_path, before)
    stands = journal(tmp_path)
    with pytest.raises(errors.ResumeRefused, match=says):
        asked_for(cluster, tmp_path, after)
    assert journal(tmp_path) == stands
    assert cerebro.load(tmp_path / "ckpt" / "r").complete


def test_a_search_under_way_that_draws_no_more_says_so(cluster, tmp_path, monkeypatch, capsys):
    interrupt(monkeypatch, 4)
    with pytest.raises(errors.RunInterrupted):
        asked_for(cluster, tmp_path, RandomSearch({"rate": LogUniform(1e-3, 0.9)}, 2, 1))
    monkeypatch.undo()
    stands = journal(tmp_path)
    with pytest.raises(errors.ResumeRefused, match="model 0 was started with"):
        asked_for(cluster, tmp_path, GridSearch({"rate": [0.7]}, 1))
    assert journal(tmp_path) == stands
    result = asked_for(
        cluster, tmp_path, RandomSearch({"rate": Uniform(0.2, 0.3)}, 2, 1), progress="plain"
    )
    assert "starts no other model than the 2 of the run" in capsys.readouterr().err
    assert result.models["state"].tolist() == ["COMPLETED"] * 2


def test_a_grid_with_a_nan_is_extended(cluster, tmp_path):
    asked_for(cluster, tmp_path, GridSearch({"rate": [0.5], "b": [math.nan, 1]}, 1))
    result = asked_for(cluster, tmp_path, GridSearch({"rate": [0.5], "b": [math.nan, 1, 2]}, 1))
    assert result.models["epochs"].tolist() == [1] * 3
