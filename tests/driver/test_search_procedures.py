"""Search procedures in real runs: what they do to models, to resumed runs, and to bad answers."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path

import pytest
from exact import same, weights
from played_run import PlayedRun
from toy import functions, partitions

import cerebro
from cerebro import errors
from cerebro.driver import search_decisions as run_search
from cerebro.journal.journal import read_journal
from cerebro.journal.paths import RunPaths
from cerebro.search import (
    ASHA,
    TPE,
    Decision,
    GridSearch,
    Hyperband,
    LogUniform,
    MedianStopping,
    NewModel,
    PopulationBasedTraining,
    RandomSearch,
    SearchProcedure,
    SuccessiveHalving,
)

SPACE = {"rate": LogUniform(1e-3, 0.9)}
PROCEDURES = {
    "grid": GridSearch({"rate": [0.5, 0.1, 0.01]}, epochs=2),
    "random": RandomSearch(SPACE, n=3, epochs=2, in_flight=2),
    "halving": SuccessiveHalving(SPACE, n=4, max_epochs=3, eta=2),
    "hyperband": Hyperband(SPACE, max_epochs=3),
    "asha": ASHA(SPACE, max_epochs=3, n=5),
    "population": PopulationBasedTraining(SPACE, population=4, epochs=4, fraction=0.5),
    "median": MedianStopping(RandomSearch(SPACE, n=5, epochs=3)),
    "tpe": TPE(SPACE, n=5, epochs=1, startup=2, in_flight=2),
}


def run(cluster, tmp_path, procedure, *, fns=None, n_train=3, valid=2, **changed):
    input_fn, model_fn, train_fn, _ = fns or functions()
    arguments = {"search": procedure, "backend": "python", "progress": False, **changed}
    return cerebro.schedule(
        cluster,
        partitions(tmp_path / "data", n_train),
        partitions(tmp_path / "data", valid, "valid"),
        None,
        None,
        input_fn,
        model_fn,
        train_fn,
        ckpt_root=str(tmp_path / "ckpt"),
        **arguments,
    )


@pytest.mark.parametrize("name", PROCEDURES)
def test_each_unit_counts_once_and_a_replay_gives_the_same_bits(cluster, tmp_path, name):
    procedure = PROCEDURES[name]
    result = run(cluster, tmp_path, procedure)
    assert set(result.models["state"]) <= {"COMPLETED", "STOPPED"}
    units = result.units
    assert not units.duplicated(["model_id", "epoch", "split", "partition"]).any()
    own = result.history[~result.history["inherited"]]
    assert len(units) == len(own) * (3 + 2)
    same(result, run(cluster, tmp_path, procedure, replay=result.run_dir))


@pytest.mark.parametrize("name", ["grid", "random", "halving", "hyperband"])
@pytest.mark.parametrize("asked", [2, 3])
def test_an_interrupted_search_ends_like_one_that_was_not(
    cluster, tmp_path, monkeypatch, name, asked
):
    """These do not depend on the order in which models end their epochs."""
    procedure = PROCEDURES[name]
    whole = run(cluster, tmp_path, procedure, n_train=1)
    interrupt(monkeypatch, asked)
    with pytest.raises(cerebro.errors.RunInterrupted):
        run(cluster, tmp_path, procedure, n_train=1, run_name="cut")
    monkeypatch.undo()
    again = run(
        cluster, tmp_path, dataclasses.replace(procedure), n_train=1, run_name="cut", resume=True
    )
    same(whole, again)


@pytest.mark.parametrize("name", ["asha", "population", "median", "tpe"])
def test_an_interrupted_search_is_replayed_as_one(cluster, tmp_path, monkeypatch, name):
    procedure = PROCEDURES[name]
    interrupt(monkeypatch, 4)
    with pytest.raises(cerebro.errors.RunInterrupted):
        run(cluster, tmp_path, procedure, run_name="cut")
    monkeypatch.undo()
    again = run(cluster, tmp_path, procedure, run_name="cut", resume="auto")
    assert again.complete
    assert (
        not again.units.query("outcome == 'committed'")
        .duplicated(["model_id", "epoch", "split", "partition"])
        .any()
    )
    same(again, run(cluster, tmp_path, procedure, replay=again.run_dir))


def interrupt(monkeypatch, asked):
    """Ctrl-C while the procedure is asked for this time."""
    real, left = run_search.Search.ask, [asked]

    def ask(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(run_search.Search, "ask", ask)


def test_copies_begin_with_the_weights_and_history_of_their_source(cluster, tmp_path):
    result = run(cluster, tmp_path, PROCEDURES["population"], n_train=4)
    inherited = result.history[result.history["inherited"]]
    assert len(inherited), "nobody was replaced"
    metrics = ["train_loss", "valid_error"]
    added = [
        new
        for record in read_journal(RunPaths(result.run_dir))[0]
        if record.kind == "decision"
        for new in record.add
        if new.parent is not None
    ]
    history = result.history
    for new in added:
        child, parent = (history[history["model_id"] == n] for n in (new.model, new.parent))
        taken = child[child["inherited"]]
        assert list(taken["epoch"]) == list(range(new.epoch))
        before = parent[parent["epoch"] < new.epoch]
        assert taken[metrics].to_numpy().tolist() == before[metrics].to_numpy().tolist()
    models = weights(result)
    for new in added:
        steps = models[new.model]["steps"]
        epochs = result.models.set_index("model_id")["epochs"][new.model]
        assert steps == 3 * 4 * epochs, "its weights have seen what its history says"


def test_what_is_said_of_a_search(cluster, tmp_path, capsys):
    result = run(
        cluster, tmp_path, ASHA({"rate": [0.5, 0.1]}, 3, n=4, in_flight=2), progress="plain"
    )
    said = capsys.readouterr().err
    assert (
        "starts: ASHA(space={'rate': [0.5, 0.1]}, max_epochs=3, n=4, in_flight=2), 3 train" in said
    )
    assert "models 0 to 1 begin" in said or "models 0, 1 begin" in said
    assert len(re.findall(r"epoch \d ended for model \d, valid error 0\.\d{4}", said)) == len(
        result.history
    )
    assert len(re.findall(r"model \d COMPLETED", said)) == 1
    assert "STOPPED" in said
    report = Path(result.report(methods=True)).read_text()
    assert "by the search procedure ASHA(space=" in report


# --- other parameters -------------------------------------------------------------------------


def test_a_search_goes_on_with_more_epochs_once_it_has_ended(cluster, tmp_path):
    grid = {"rate": [0.5, 0.1]}
    run(cluster, tmp_path, GridSearch(grid, epochs=1), run_name="grid")
    with pytest.raises(errors.ResumeRefused, match=r"other search: .*allow_changed=\['search'\]"):
        run(cluster, tmp_path, GridSearch(grid, epochs=2), run_name="grid", resume=True)
    result = run(
        cluster, tmp_path, GridSearch(grid, epochs=2), run_name="grid", resume=True,
        allow_changed=["search"],
    )  # fmt: skip
    whole = run(cluster, tmp_path, GridSearch(grid, epochs=2))
    assert list(result.models["epochs"]) == [2, 2]
    assert len(result.units) == len(whole.units)
    same(result, run(cluster, tmp_path, GridSearch(grid, 2), replay=result.run_dir))


def test_models_that_had_ended_go_on_in_a_search_that_was_interrupted(
    cluster, tmp_path, monkeypatch
):
    grid = {"rate": [0.5, 0.1]}
    interrupt(monkeypatch, 3)
    with pytest.raises(errors.RunInterrupted):
        run(cluster, tmp_path, GridSearch(grid, 1, in_flight=1), run_name="grid")
    monkeypatch.undo()
    result = run(
        cluster, tmp_path, GridSearch(grid, 2, in_flight=1), run_name="grid", resume=True,
        allow_changed=["search"],
    )  # fmt: skip
    assert list(result.models["epochs"]) == [2, 2]


def test_where_the_last_one_in_flight_fails_those_held_back_are_decided_about(cluster, tmp_path):
    class Hold(SearchProcedure):
        per_model = False

        def decide(self, trials):
            decision = Decision()
            if not len(trials):
                decision.begin = [NewModel({"rate": 0.1}), NewModel({"rate": 0.2})]
                return decision
            for trial in trials.waiting():
                if trial.model == 0 and trials[1].runs:
                    continue
                ends = trial.epochs >= 2
                (decision.complete if ends else decision.go_on).append(trial.model)
            return decision

    input_fn, model_fn, plain, _ = functions()

    def train_fn(model, data, train=True):
        if model["rate"] == 0.2 and model["steps"] >= 9:
            raise ValueError("enough")
        return plain(model, data, train)

    result = run(cluster, tmp_path, Hold(), fns=(input_fn, model_fn, train_fn, None))
    assert list(result.models["state"]) == ["COMPLETED", "FAILED"]


def test_a_search_goes_on_with_more_configurations(cluster, tmp_path):
    run(cluster, tmp_path, RandomSearch(SPACE, 2, 1), run_name="random")
    result = run(
        cluster, tmp_path, RandomSearch(SPACE, 4, 1), run_name="random", resume=True,
        allow_changed=["search"],
    )  # fmt: skip
    whole = run(cluster, tmp_path, RandomSearch(SPACE, 4, 1))
    assert list(result.models["config.rate"]) == list(whole.models["config.rate"])
    assert list(result.models["epochs"]) == [1] * 4


def test_asha_takes_up_what_had_stopped_when_it_has_more_time(cluster, tmp_path):
    first = run(cluster, tmp_path, ASHA(SPACE, 3, max_units=25), run_name="asha")
    assert set(first.models["epochs"]) == {1}
    more = run(
        cluster, tmp_path, ASHA(SPACE, 3, max_units=60), run_name="asha", resume=True,
        allow_changed=["search"],
    )  # fmt: skip
    assert len(more.units) <= 60
    assert more.models["epochs"][: len(first.models)].max() == 3
    assert "COMPLETED" in set(more.models["state"])


def test_a_run_is_either_a_search_or_has_configurations(cluster, tmp_path):
    fns = functions()
    run(cluster, tmp_path, None, run_name="plain", initial_msts=[{"rate": 0.1}], mst_eval_fn=fns[3])
    with pytest.raises(errors.ResumeRefused, match="started with configurations and mst_eval_fn"):
        run(
            cluster, tmp_path, PROCEDURES["grid"], run_name="plain", resume=True,
            allow_changed=["search", "configs"],
        )  # fmt: skip


# --- models that fail -------------------------------------------------------------------------


def failing(fails):
    """Functions whose models fail if `fails(rate)`."""
    input_fn, _, train_fn, eval_fn = functions()

    def model_fn(data, config):
        if fails(config["rate"]):
            raise ValueError(f"rate {config['rate']} is too high")
        return {"weight": 0.5, "rate": config["rate"], "seen": [], "steps": 0}

    return input_fn, model_fn, train_fn, eval_fn


def test_a_model_that_fails_makes_room_for_the_next(cluster, tmp_path):
    """Also when it was the only one, and nobody is left to end an epoch."""
    procedure = GridSearch({"rate": [0.9, 0.8, 0.1, 0.7, 0.2]}, epochs=2, in_flight=1)
    result = run(cluster, tmp_path, procedure, fns=failing(lambda rate: rate > 0.5))
    assert list(result.models["state"]) == [
        "FAILED", "FAILED", "COMPLETED", "FAILED", "COMPLETED",
    ]  # fmt: skip
    again = run(
        cluster, tmp_path, procedure, fns=failing(lambda rate: rate > 0.5), replay=result.run_dir
    )
    assert list(again.models["state"]) == list(result.models["state"])
    assert again.history["valid_error"].equals(result.history["valid_error"])


def test_a_model_of_a_grid_that_fails_is_not_waited_for(cluster, tmp_path):
    procedure = GridSearch({"rate": [0.9, 0.1, 0.2]}, epochs=2)
    result = run(cluster, tmp_path, procedure, fns=failing(lambda rate: rate > 0.5))
    assert list(result.models["state"]) == ["FAILED", "COMPLETED", "COMPLETED"]


def test_a_failed_model_is_no_hindrance_to_halving(cluster, tmp_path):
    result = run(
        cluster, tmp_path, SuccessiveHalving({"rate": [0.1, 0.9]}, n=4, max_epochs=2, eta=2),
        fns=failing(lambda rate: rate > 0.5),
    )  # fmt: skip
    assert "FAILED" in set(result.models["state"])
    assert list(result.models["state"]).count("COMPLETED") >= 1


def test_a_search_whose_models_all_fail_at_first_draws_no_more(cluster, tmp_path):
    with pytest.raises(errors.RunFailed, match=r"every model failed.*is too high"):
        run(
            cluster, tmp_path, ASHA(SPACE, 3, max_seconds=3600), run_name="bad",
            fns=failing(lambda rate: True),
        )  # fmt: skip
    models = cerebro.load(tmp_path / "ckpt" / "bad").models
    assert run_search.FAILURES_AT_FIRST <= len(models) <= run_search.FAILURES_AT_FIRST + 4


# --- bad input, and bad answers ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"search": GridSearch}, "search=<class .*GridSearch.*: pass a procedure such as"),
        (
            {"search": ASHA(SPACE, 3, n=3, metric="valid_auc", mode="max")},
            "compares models by 'valid_auc': without backend='keras'",
        ),
        ({"search": "asha"}, "search='asha': pass a procedure such as"),
        ({"initial_msts": [{"rate": 1}]}, "leave initial_msts and mst_eval_fn out"),
        ({"mst_eval_fn": lambda state: ([], [])}, "leave initial_msts and mst_eval_fn out"),
        (
            {"search": ASHA(SPACE, 3, n=3), "valid": 0},
            "compares models by 'valid_error', and there is no validation partition",
        ),
        ({"search": None}, "initial_msts is None: pass a list of dictionaries"),
        ({"search": None, "initial_msts": [{"rate": 1}]}, "mst_eval_fn is None: pass a function"),
    ],
)
def test_what_decides_is_given_once(cluster, tmp_path, changed, says):
    with pytest.raises(errors.InputError, match=says):
        run(cluster, tmp_path, PROCEDURES["grid"], **changed)
    assert not (tmp_path / "ckpt").exists()


@dataclasses.dataclass(frozen=True)
class Answering(SearchProcedure):
    """Begins one model, then gives an answer that was made up."""

    answer: object = None

    def decide(self, trials):
        if not len(trials):
            return Decision(begin=[NewModel({"rate": 0.1})])
        if not trials.waiting():
            return Decision()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (None, errors.DecisionError, r"Answering.decide returned None: expected a cerebro.search"),
        (Decision(go_on=[7]), errors.DecisionError, r"named model 7: each model that waits \(\[0"),
        (Decision(go_on=[0], stop=[0]), errors.DecisionError, "named model 0: .* named once"),
        (
            Decision(stop=[0], begin=[NewModel({"rate": {1}})]),
            errors.DecisionError,
            r"Answering's new configuration\['rate'\] is \{1\}, which JSON cannot hold",
        ),
        (Decision(begin=[{"rate": 1}]), errors.DecisionError, "expected a cerebro.search.NewModel"),
        (
            Decision(go_on=[0], begin=[NewModel({"rate": 1}, copies=5)]),
            errors.DecisionError,
            "copies model 5, of which no version is kept",
        ),
        (Decision(), errors.DecisionError, r"leaves models \[0\] waiting, and none is in flight"),
        (
            Decision(complete=[False]),
            errors.DecisionError,
            "named model False: a model's id must be an integer",
        ),
        (ValueError("oh"), errors.UserFunctionError, "Answering.decide raised ValueError: oh"),
    ],
)
def test_a_bad_answer_stops_the_run_which_can_go_on(cluster, tmp_path, answer, error, says):
    with pytest.raises(error, match=says) as caught:
        run(cluster, tmp_path, Answering(answer=answer), run_name="bad")
    assert "resume it with run_name='bad', resume=True" in str(caught.value)
    result = run(
        cluster, tmp_path, Answering(answer=Decision(complete=[0])), run_name="bad", resume=True,
        allow_changed=["search"],
    )  # fmt: skip
    assert list(result.models["state"]) == ["COMPLETED"]
    assert len(result.units) == 3 + 2


def test_a_procedure_may_wait_for_all_models_to_end_the_epoch(cluster, tmp_path):
    asked = []

    class Together(SearchProcedure):
        per_model = False

        def decide(self, trials):
            asked.append([(t.model, t.epochs, t.waits) for t in trials])
            if not len(trials):
                return Decision(begin=[NewModel({"rate": r}) for r in (0.1, 0.2, 0.3)])
            waiting = [t.model for t in trials.waiting()]
            if len(asked) < 3:
                return Decision(go_on=waiting)
            return Decision(complete=waiting)

    result = run(cluster, tmp_path, Together())
    assert asked[1:3] == [[(m, e, True) for m in range(3)] for e in (1, 2)]
    assert list(result.models["epochs"]) == [2, 2, 2]


def test_a_metric_that_is_best_when_highest(cluster, tmp_path):
    """The toy's losses differ between models; the one that goes on has the highest."""
    procedure = SuccessiveHalving(SPACE, n=2, max_epochs=2, eta=2, metric="valid_loss", mode="max")
    result = run(cluster, tmp_path, procedure)
    first = result.history[result.history["epoch"] == 0].set_index("model_id")["valid_loss"]
    states = result.models.set_index("model_id")["state"]
    assert states[first.idxmax()] == "COMPLETED"
    assert states[first.idxmin()] == "STOPPED"


def test_a_procedure_that_begins_nothing_is_told_so(cluster, tmp_path):
    class Idle(SearchProcedure):
        def decide(self, trials):
            return Decision()

    with pytest.raises(errors.DecisionError, match=r"Idle\.decide begins no model"):
        run(cluster, tmp_path, Idle())


def scripted():
    """Functions of models whose losses and errors are written down: each best where the other is
    not. A model counts its epochs.
    """
    losses = {"low": [0.1, 0.5, 0.6, 0.7], "high": [0.4, 0.3, 0.3, 0.9]}
    wrong = {"low": [0.9, 0.8, 0.9, 0.8], "high": [0.5, 0.1, 0.2, 0.1]}

    def model_fn(data, config):
        return {"kind": config["kind"], "epoch": -1}

    def train_fn(model, data, train=True):
        if train:
            model["epoch"] += 1
        at = model["epoch"]
        return losses[model["kind"]][at], wrong[model["kind"]][at]

    return lambda path: 0, model_fn, train_fn, None


KINDS = {"kind": ["low", "high"]}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"metric": "valid_loss"}, (0, 0, "valid_loss", 0.1)),
        ({"metric": "valid_loss", "mode": "max"}, (0, 2, "valid_loss", 0.6)),
        ({"metric": "train_error", "mode": "max"}, (0, 0, "train_error", 0.9)),
        ({}, (1, 1, "valid_error", 0.1)),
    ],
)
def test_the_best_by_the_searchs_own_metric_is_kept_and_named(cluster, tmp_path, how, expected):
    """Of equal values the first epoch is the best."""
    options = {"fns": scripted(), "n_train": 1, "run_name": "one"}
    result = run(cluster, tmp_path, GridSearch(KINDS, 3, **how), **options)
    best = result.best()
    assert (best.model_id, best.epoch, expected[2], best.metrics[expected[2]]) == expected
    with open(best.checkpoint, "rb") as file:
        assert pickle.load(file)["epoch"] == best.epoch
    plan = read_journal(RunPaths(result.run_dir))[0][1].plan
    assert (plan.metric, plan.mode) == (expected[2], how.get("mode", "min"))
    exported = json.loads(Path(result.export(0, tmp_path / "out"), "export.json").read_text())
    assert exported["epoch"] == result.models["best_epoch"][0]

    # The same search needs no permission to continue; another metric does, and is followed then.
    again = run(cluster, tmp_path, GridSearch(KINDS, 3, **how), resume=True, **options)
    assert again.best() == best
    other = GridSearch(KINDS, 4, metric="train_loss")
    changed = {"resume": True, "allow_changed": ["search"]}
    later = run(cluster, tmp_path, other, **changed, **options)
    lowest = later.best()
    assert Path(lowest.checkpoint).exists()
    kept = {v for m in later._ledger.models.values() for v in m.checkpoints.values()}
    rows = [
        (epoch.train_loss, model.id, epoch.epoch)
        for model in later._ledger.models.values()
        for epoch in model.epochs
        if model.checkpoint(epoch.version) in kept
    ]
    assert (lowest.metrics["train_loss"], lowest.model_id, lowest.epoch) == min(rows)


def test_a_metric_that_is_not_what_its_name_says_stops_the_search(tmp_path):
    """A worker has reported its kind; who passes a mode means it."""
    ledger = PlayedRun(models=2).ledger
    ledger.metric_kinds["accuracy"] = "MeanSquaredError"
    for how, refused in (({}, True), ({"mode": "max"}, False), ({"mode": "min"}, False)):
        procedure = ASHA(SPACE, 3, n=3, metric="valid_accuracy", **how)
        search = run_search.Search(procedure, ledger, "the run stops")
        if refused:
            with pytest.raises(errors.DecisionError, match=r"MeanSquaredError: pass mode='min'"):
                search.ask(ledger, ())
        else:
            search.ask(ledger, ())


def test_a_metric_without_a_known_direction_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(errors.ConfigurationError, match=r"valid_score.*mode="):
        GridSearch(KINDS, 3, metric="valid_score")
