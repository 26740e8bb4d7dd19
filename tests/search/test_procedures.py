"""The decision rules, each on curves whose outcome was worked out by hand from its paper."""

from __future__ import annotations

import statistics
from collections import Counter

import pytest
from played_search import NAN, PlayedSearch

from cerebro.errors import ConfigurationError, InputError
from cerebro.hopper.units import ModelState
from cerebro.search import (
    ASHA,
    TPE,
    Choice,
    GridSearch,
    Hyperband,
    Integer,
    LogUniform,
    MedianStopping,
    PopulationBasedTraining,
    RandomSearch,
    SuccessiveHalving,
    Trial,
    Trials,
    Uniform,
)
from cerebro.search.tpe import _Choices

SPACE = {"rate": Uniform(0, 1)}


def recorded(curves):
    """Values of recorded learning curves; the last one stays."""
    return lambda config, model, epoch: curves[model][min(epoch, len(curves[model]) - 1)]


def played(procedure, curves, **cluster):
    return PlayedSearch(procedure, recorded(curves), **cluster).start()


def states(search):
    return {trial.model: (trial.state.value, trial.epochs) for trial in search.trials.values()}


# --- grid and random search ------------------------------------------------------------------


def test_a_grid_is_every_combination_the_last_hyperparameter_changes_fastest():
    search = PlayedSearch(
        GridSearch({"a": [1, 2], "b": "same", "c": [3, 4]}, epochs=2), by_model
    ).start()
    assert [trial.config for trial in search.trials.values()] == [
        {"a": 1, "b": "same", "c": 3},
        {"a": 1, "b": "same", "c": 4},
        {"a": 2, "b": "same", "c": 3},
        {"a": 2, "b": "same", "c": 4},
    ]


def by_model(config, model, epoch):
    return model + epoch / 100


def test_no_model_of_a_grid_waits_for_another_ones_epoch():
    search = PlayedSearch(GridSearch({"a": [1, 2]}, epochs=3), by_model).start()
    for _ in range(3):
        search.step(1)
    assert states(search) == {0: ("RUNNING", 0), 1: ("COMPLETED", 3)}


def test_the_next_configuration_begins_when_there_is_room():
    search = PlayedSearch(RandomSearch(SPACE, n=3, epochs=1, in_flight=2), by_model).start()
    assert search.in_flight() == [0, 1]
    search.step(1)
    assert search.in_flight() == [0, 2]


def test_the_same_seed_draws_the_same_configurations():
    def drawn(seed):
        search = PlayedSearch(RandomSearch(SPACE, 5, 1, seed), by_model).start()
        return [trial.config["rate"] for trial in search.trials.values()]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 5


# --- successive halving, Hyperband -----------------------------------------------------------

NINE = {
    0: [0.90], 1: [0.80, 0.75, 0.70], 2: [0.70, 0.69, 0.68], 3: [0.60, 0.55, 0.50],
    4: [0.75], 5: [0.85], 6: [0.40, 0.38, 0.36] + [0.3] * 6, 7: [0.95], 8: [0.55, 0.50, 0.45],
}  # fmt: skip
"""Nine curves. After epoch 1 the order is 6, 8, 3, 2, 4, 1, 5, 0, 7; after epoch 3: 6, 8, 3."""


def test_successive_halving_on_recorded_curves():
    """Rungs of 9, 3 and 1: 6, 8 and 3 go on from the first, 6 from the second."""
    search = played(SuccessiveHalving(SPACE, n=9, max_epochs=9), NINE)
    for model in range(8):
        search.step(model)
        assert search.trials[model].waits, "nobody goes on before all have come"
    search.step(8)
    assert search.in_flight() == [3, 6, 8]
    for model in (3, 3, 8, 8, 6):
        search.step(model)
    assert search.in_flight() == [6]
    search.step(6)
    assert search.in_flight() == [6]
    for _ in range(6):
        search.step(6)
    assert states(search) == {
        **dict.fromkeys((0, 1, 2, 4, 5, 7), ("STOPPED", 1)),
        3: ("STOPPED", 3), 8: ("STOPPED", 3), 6: ("COMPLETED", 9),
    }  # fmt: skip


def test_of_a_rung_those_that_failed_or_have_no_number_do_not_go_on():
    curves = {**NINE, 6: [NAN], 8: [None], 3: [NAN], 2: [None]}
    search = played(SuccessiveHalving(SPACE, n=9, max_epochs=9), curves)
    for model in range(9):
        search.step(model)
    assert search.in_flight() == [1, 4, 5]


def test_hyperbands_brackets_are_the_papers_table_1():
    brackets = Hyperband(SPACE, max_epochs=81, eta=3).brackets()
    assert [[(rung.n, rung.epochs) for rung in bracket] for bracket in brackets] == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(27, 3), (9, 9), (3, 27), (1, 81)],
        [(9, 9), (3, 27), (1, 81)],
        [(6, 27), (2, 81)],
        [(5, 81)],
    ]


@pytest.mark.parametrize(
    ("most", "eta", "first"),
    [(243, 3, (243, 1)), (1000, 10, (1000, 1)), (80, 3, (27, 2)), (1, 3, (1, 1)), (5, 2, (4, 1))],
)
def test_the_first_rung_of_hyperband(most, eta, first):
    rung = Hyperband(SPACE, max_epochs=most, eta=eta).brackets()[0][0]
    assert (rung.n, rung.epochs) == first


def test_the_brackets_of_hyperband_do_not_wait_for_each_other():
    """max_epochs=3, eta=3: brackets of 3 models from 1 epoch, and of 2 with 3 epochs."""
    curves = {0: [0.3], 1: [0.2], 2: [0.1], 3: [0.5], 4: [0.4]}
    search = played(Hyperband(SPACE, max_epochs=3), curves)
    for model in (0, 1, 2):
        search.step(model)
    assert search.in_flight() == [2, 3, 4]
    assert states(search)[0] == ("STOPPED", 1)


# --- ASHA ------------------------------------------------------------------------------------


def test_asha_on_recorded_curves():
    """One model in flight, rungs at 1, 3 and 9 epochs.

    | arrives (epochs, value) | rung, best floor(size / 3) | what is next |
    |---|---|---|
    | 0 (1, 0.90) | 0: none of 1 | begin 1 |
    | 1 (1, 0.80) | 0: none of 2 | begin 2 |
    | 2 (1, 0.70) | 0: {2} of 3 | promote 2 |
    | 2 (3, 0.68) | 1: none of 1; 0: {2}, promoted | begin 3 |
    | 3 (1, 0.60) | 0: {3} of 4 | promote 3 |
    | 3 (3, 0.50) | 1: none of 2; 0: {3}, promoted | begin 4 |
    | 4 (1, 0.75) | 0: {3} of 5 | begin 5 |
    | 5 (1, 0.85) | 0: {3, 2} of 6 | begin 6 |
    | 6 (1, 0.40) | 0: {6, 3} of 7 | promote 6 |
    | 6 (3, 0.36) | 1: {6} of 3 | promote 6 |
    | 6 (9, 0.30) | the end of 6; 1: {6}; 0: {6, 3} | begin 7 |
    | 7 (1, 0.95) | 0: {6, 3} of 8 | begin 8 |
    | 8 (1, 0.55) | 0: {6, 8, 3} of 9 | promote 8 |
    | 8 (3, 0.45) | 1: {6} of 4; 0: all promoted | nothing is left |
    """
    search = played(ASHA(SPACE, max_epochs=9, n=9, in_flight=1), NINE)
    order = []
    while not search.over:
        (model,) = search.in_flight()
        order.append(model)
        search.step(model)
    assert order == [0, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, *[6] * 8, 7, 8, 8, 8]
    assert states(search) == {
        **dict.fromkeys((0, 1, 4, 5, 7), ("STOPPED", 1)),
        **dict.fromkeys((2, 3, 8), ("STOPPED", 3)),
        6: ("COMPLETED", 9),
    }


def test_asha_promotes_the_highest_rung_first():
    """Models 0 to 8 wait at 1 epoch, 9 to 11 at 3: both rungs could promote one."""
    trials = {n: Trial(n, {}, (0.1 * n + 0.1,), waits=True) for n in range(9)}
    trials |= {n: Trial(n, {}, (0.01, 0.01, 0.01 * n), waits=True) for n in (9, 10, 11)}
    decision = ASHA(SPACE, max_epochs=9, n=99, in_flight=2).decide(Trials(trials))
    assert decision.go_on == [9, 0]
    assert decision.begin == []


def test_asha_stops_what_can_never_be_promoted():
    """Of 9 the best 3 go on: with three better ones before it, a model is out."""
    search = played(ASHA(SPACE, max_epochs=3, n=9, in_flight=9), NINE)
    for model in (6, 8, 3):
        search.step(model)
    search.step(0)
    assert states(search)[0] == ("STOPPED", 1)


def test_asha_ends_epochs_in_flight_when_its_time_is_over():
    asha = ASHA(SPACE, max_epochs=9, max_seconds=5, in_flight=3)
    search = PlayedSearch(asha, by_model, second=1.0).start()
    for _ in range(5):
        search.step(search.in_flight()[0])
    left = search.in_flight()
    assert len(left) == 2
    for model in left:
        search.step(model)
    assert search.over


def test_asha_uses_its_units_to_the_last_epoch_that_fits():
    asha = ASHA(SPACE, max_epochs=9, max_units=20, in_flight=1)
    search = PlayedSearch(asha, by_model, units=3).start()
    while not search.over:
        search.step(search.in_flight()[0])
    assert sum(trial.epochs for trial in search.trials.values()) == 6


# --- median stopping -------------------------------------------------------------------------


def test_the_median_rule_on_recorded_curves():
    """At epoch 2 the means of 0, 1 and 2 are 0.45, 0.35 and 0.25, their median 0.35.

    3, whose best is 0.36, is worse, and stops; 4, whose best is 0.35, is not.
    """
    curves = {0: [0.5, 0.4], 1: [0.4, 0.3], 2: [0.3, 0.2], 3: [0.36, 0.9], 4: [0.9, 0.35]}
    rule = MedianStopping(GridSearch({"a": list(range(5))}, epochs=3), grace_epochs=2)
    search = played(rule, curves)
    for model in (0, 1, 2):
        search.step(model)
        search.step(model)
    for model in (3, 4):
        others = {t.model for t in search.trials.values() if t.epochs >= 2}
        search.step(model)
        search.step(model)
        assert others >= {0, 1, 2}
        if model == 3:
            assert states(search)[3] == ("STOPPED", 2)
    # 4 sees the means 0.25, 0.35, 0.45 and 0.63 of 3, whose median is 0.40.
    assert states(search)[4] == ("RUNNING", 2)


def test_a_model_with_no_number_is_behind():
    rule = MedianStopping(GridSearch({"a": list(range(4))}, epochs=3))
    search = played(rule, {0: [0.5], 1: [0.5], 2: [0.5], 3: [NAN]})
    for model in range(4):
        search.step(model)
    assert states(search)[3] == ("STOPPED", 1)


def test_median_stopping_goes_on_as_its_procedure_does():
    rule = MedianStopping(GridSearch({"a": [1]}, epochs=2, in_flight=1, metric="train_loss"))
    assert (rule.in_flight, rule.metric, rule.per_model) == (1, "train_loss", True)
    assert rule.epochs_planned() == [2]
    assert MedianStopping(PopulationBasedTraining(SPACE, 4, 4)).copies


# --- population based training ---------------------------------------------------------------


def test_the_worst_goes_on_as_a_copy_of_the_best():
    pbt = PopulationBasedTraining(SPACE, population=4, epochs=3, resample=0.0)
    search = played(pbt, {0: [0.4], 1: [0.3], 2: [0.2], 3: [0.9], 4: [0.1]})
    for model in range(4):
        search.step(model)
    child = search.trials[4]
    assert states(search)[3] == ("STOPPED", 1)
    assert (child.inherited, child.values) == (1, (0.2,))
    parent = search.trials[2].config["rate"]
    assert child.config["rate"] in (pytest.approx(0.8 * parent), pytest.approx(1.2 * parent))
    for _ in range(2):
        search.step(4)
    assert states(search)[4] == ("COMPLETED", 3)


def test_between_intervals_nobody_is_replaced():
    pbt = PopulationBasedTraining(SPACE, population=2, epochs=4, interval=2)
    search = played(pbt, {0: [0.1], 1: [0.9], 2: [0.5]})
    for model in (0, 1, 0):
        search.step(model)
    assert len(search.trials) == 2
    search.step(1)
    assert len(search.trials) == 3


def test_what_failed_or_has_no_number_is_no_source():
    pbt = PopulationBasedTraining(SPACE, population=4, epochs=3)
    search = played(pbt, {0: [NAN], 1: [None], 2: [NAN], 3: [NAN]})
    for model in range(4):
        search.step(model)
    assert len(search.trials) == 4
    assert search.in_flight() == [0, 2, 3]


def test_only_what_is_named_is_perturbed():
    space = {"rate": LogUniform(1e-3, 1e-1), "units": Integer(1, 100), "kind": ["a", "b", "c"]}
    curves = {0: [0.1], 1: [0.9]} | {n: [0.9] for n in range(2, 40)}
    pbt = PopulationBasedTraining(space, 2, epochs=30, perturb=["kind"], resample=0.0)
    search = played(pbt, curves)
    for _ in range(10):
        for model in search.in_flight():
            search.step(model)
    first = search.trials[0].config
    copies = [trial.config for trial in search.trials.values() if trial.inherited]
    assert copies
    assert all((c["rate"], c["units"]) == (first["rate"], first["units"]) for c in copies)


# --- TPE -------------------------------------------------------------------------------------


def found(procedure, evaluate):
    """The best of all values, one configuration after another."""
    search = PlayedSearch(procedure, lambda config, *_: evaluate(config), workers=1).start()
    while not search.over:
        search.step(search.in_flight()[0])
    return min(trial.values[0] for trial in search.trials.values())


def bowl(config):
    return abs(config["x"] - 0.3) + abs(config["y"] - 7) / 10 + (config["kind"] != "b")


def test_tpe_finds_better_configurations_than_chance():
    space = {"x": Uniform(0, 1), "y": Integer(1, 10), "kind": ["a", "b", "c", "d"]}
    tpe = [found(TPE(space, 40, 1, seed=s, in_flight=1), bowl) for s in range(10)]
    chance = [found(RandomSearch(space, 40, 1, s, in_flight=1), bowl) for s in range(10)]
    assert statistics.median(tpe) < 0.7 * statistics.median(chance)


def test_tpe_draws_most_where_good_ones_are():
    space = {"kind": ["a", "b", "c"]}
    procedure = TPE(space, 40, 1, in_flight=1)
    search = PlayedSearch(procedure, lambda config, *_: float(config["kind"] != "b")).start()
    while not search.over:
        search.step(search.in_flight()[0])
    late = [t.config["kind"] for t in search.trials.values() if t.model >= procedure.startup]
    assert Counter(late)["b"] > len(late) / 2


def test_tpe_goes_on_when_nothing_has_a_number():
    search = PlayedSearch(TPE(SPACE, 15, 1, startup=2, in_flight=2), lambda *_: NAN).start()
    while not search.over:
        search.step(search.in_flight()[0])
    assert len(search.trials) == 15


def test_nan_may_be_a_choice_also_once_it_has_come_back_from_the_journal():
    """It is another NaN then."""
    counts = _Choices(Choice([NAN, 1, True]), [float("nan"), float("nan"), True])
    assert counts._weights.tolist() == [0.5, 1 / 6, 1 / 3]
    space = {"kind": Choice([NAN, "b"])}
    pbt = PopulationBasedTraining(space, 2, epochs=30, perturb=["kind"], resample=0.0)
    source = Trial(0, {"kind": float("nan")}, (1.0,))
    kinds = {str(pbt._explore(source, Trial(model, {}, (1.0,)))["kind"]) for model in range(9)}
    assert kinds == {"nan", "b"}


# --- what cannot be --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GridSearch({"a": Uniform(0, 1)}, 1), r"a is Uniform\(.*no grid: list the values"),
        (lambda: GridSearch({"a": []}, 1), "a: a hyperparameter has no value to choose"),
        (lambda: GridSearch([0.1], 1), r"the space is \[0.1\]: pass a dictionary"),
        (lambda: GridSearch({"a": {1, 2}}, 1), r"a is \{1, 2\}: pass a list of values"),
        (lambda: GridSearch({1: [2]}, 1), "has the key 1: keys are strings"),
        (lambda: GridSearch({"a": [1]}, epochs=0), "epochs=0 must be an integer of 1 or more"),
        (lambda: GridSearch({"a": [1]}, 1, in_flight=0), "in_flight=0 must be an integer"),
        (
            lambda: GridSearch({"a": [1]}, 1, metric="accuracy"),
            "metric='accuracy': a column of the history is needed, 'valid_error', 'valid_loss'",
        ),
        (lambda: GridSearch({"a": [1]}, 1, mode="best"), "mode='best': choose one of 'min', 'max'"),
        (lambda: RandomSearch(SPACE, 1.5, 1), r"n=1.5 must be an integer"),
        (lambda: RandomSearch(SPACE, 1, 1, seed="x"), "seed='x' must be an integer"),
        (lambda: Uniform(1, 0), "low must be below high"),
        (lambda: Uniform(0, float("inf")), "high is inf: both ends must be finite"),
        (lambda: Uniform("0", 1), "low is '0': pass a number"),
        (lambda: LogUniform(0, 1), "low must be above 0 on a logarithmic scale"),
        (lambda: Integer(1.0, 2), "low=1.0 must be an integer"),
        (lambda: SuccessiveHalving(SPACE, 8, 9), "n=8: .* fewer than 9 .* give n=9 or more"),
        (lambda: SuccessiveHalving(SPACE, 9, 9, eta=1), "eta=1 must be an integer of 2 or more"),
        (lambda: SuccessiveHalving(SPACE, 9, 2, min_epochs=3), "max_epochs=2: .* min_epochs=3"),
        (lambda: ASHA(SPACE, 27, n=26), "n=26: .* fewer than 27 .* max_epochs=27"),
        (lambda: ASHA(SPACE, 9), "nothing would end the search: give n"),
        (lambda: ASHA(SPACE, 9, max_units=0), "max_units=0 must be an integer of 1 or more"),
        (lambda: ASHA(SPACE, 9, max_seconds=-1), "max_seconds=-1 must be a number above 0"),
        (lambda: Hyperband(SPACE, 0), "max_epochs=0 must be an integer of 1 or more"),
        (lambda: MedianStopping(GridSearch), "MedianStopping stops models of another procedure"),
        (lambda: PopulationBasedTraining(SPACE, 1, 3), "population=1 must be an integer of 2"),
        (lambda: PopulationBasedTraining(SPACE, 4, 3, fraction=0.6), "fraction=0.6: .* at most"),
        (lambda: PopulationBasedTraining(SPACE, 4, 3, resample=2), "resample=2: a probability"),
        (lambda: PopulationBasedTraining({"a": [1, 2]}, 4, 3), "no hyperparameter would change"),
        (lambda: PopulationBasedTraining(SPACE, 4, 3, perturb=["x"]), r"perturb=\['x'\]: .*'rate'"),
        (lambda: TPE(SPACE, 9, 1, candidates=0), "candidates=0 must be an integer of 1 or more"),
    ],
)  # fmt: skip
def test_a_parameter_that_cannot_be_is_named_with_what_is_needed(make, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        make()
    assert isinstance(caught.value, InputError)


def test_a_search_that_ends_models_has_them_reopened():
    ended = {state: Trial(0, {}, (0.1,), state) for state in ModelState}
    assert GridSearch({"a": [1]}, 1).reopens(ended[ModelState.COMPLETED])
    assert not GridSearch({"a": [1]}, 1).reopens(ended[ModelState.STOPPED])
    assert ASHA(SPACE, 3, n=3).reopens(ended[ModelState.STOPPED])
    assert not ASHA(SPACE, 3, n=3).reopens(ended[ModelState.FAILED])


def test_a_procedure_is_described_by_what_is_not_its_default():
    asha = ASHA({"a": [1, 2]}, 9, n=9, in_flight=4)
    assert asha.described() == "ASHA(space={'a': [1, 2]}, max_epochs=9, n=9, in_flight=4)"
    stopping = MedianStopping(GridSearch({"a": [1]}, 2), grace_epochs=3)
    assert stopping.described() == (
        "MedianStopping(procedure=GridSearch(space={'a': [1]}, epochs=2), grace_epochs=3)"
    )


# --- searches that are gone on with by other parameters ---------------------------------------


def test_what_is_reopened_keeps_to_the_bound_of_models_in_flight():
    ended = {n: Trial(n, {"a": n}, (0.1,), waits=True) for n in range(5)}
    decision = GridSearch({"a": list(range(5))}, epochs=3, in_flight=2).decide(Trials(ended))
    assert decision.go_on == [0, 1]


def test_asha_goes_on_with_no_more_than_its_units_allow():
    """Five models between the rungs of a longer search: 3 epochs are left of 53, each needs 20."""
    trials = {n: Trial(n, {}, (0.1 * n,) * 10, waits=True) for n in range(5)}
    asha = ASHA(SPACE, max_epochs=30, max_units=53, in_flight=4)
    decision = asha.decide(Trials(trials, workers=2))
    assert decision.go_on == []
    asha = ASHA(SPACE, max_epochs=30, max_units=95, in_flight=1)
    assert asha.decide(Trials(trials, workers=2)).go_on == [0]


def test_models_of_a_larger_halving_stop():
    trials = {n: Trial(n, {}, (0.1,), waits=True) for n in range(6)}
    decision = SuccessiveHalving(SPACE, n=4, max_epochs=2, eta=2).decide(Trials(trials))
    assert (decision.go_on, decision.stop) == ([0, 1], [2, 3, 4, 5])


def test_a_larger_population_is_drawn():
    trials = {n: Trial(n, {"rate": 0.5}, (0.1,), inherited=n // 4) for n in range(5)}
    decision = PopulationBasedTraining(SPACE, 6, epochs=3).decide(Trials(trials))
    assert len(decision.begin) == 2


def test_a_model_that_has_its_epochs_is_complete_whatever_the_median_is():
    trials = {n: Trial(n, {}, (0.1, 0.1), ModelState.COMPLETED) for n in range(4)}
    trials[4] = Trial(4, {}, (0.9, 0.9), waits=True)
    rule = MedianStopping(GridSearch({"a": list(range(5))}, epochs=2), grace_epochs=2)
    assert rule.decide(Trials(trials)).complete == [4]


def test_choices_are_found_again_as_the_journal_has_them():
    space = {"net": [{"kernel": (3, 3)}, {"kernel": (5, 5)}], "init_ckpt_path": "elsewhere"}
    trials = {
        n: Trial(n, {"net": {"kernel": [3, 3]}}, (0.1 * n,), ModelState.COMPLETED)
        for n in range(12)
    }
    (new, *_) = TPE(space, 20, 1, startup=2).decide(Trials(trials)).begin
    assert new.config["net"] in ({"kernel": [3, 3]}, {"kernel": [5, 5]})


def test_a_grid_of_other_values_is_refused_and_a_longer_one_is_not():
    """By their numbers some combinations would be trained twice, and others never."""
    begun = {n: Trial(n, {"a": a, "b": [1, 2]}, (0.1,), waits=True) for n, a in enumerate((1, 2))}
    longer = GridSearch({"a": [1, 2, 3], "b": [(1, 2)]}, epochs=2)
    assert len(longer.decide(Trials(begun)).begin) == 1
    other = GridSearch({"a": [0, 1, 2], "b": [(1, 2)]}, epochs=2)
    with pytest.raises(
        ConfigurationError, match=r"model 0 was started with \{'a': 1.* is \{'a': 0"
    ):
        other.decide(Trials(begun))
