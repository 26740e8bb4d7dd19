"""What every procedure promises, over random results, orders, failures and interruptions."""

from __future__ import annotations

import dataclasses
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from played_search import PlayedSearch, by_seed

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
    Uniform,
)

SPACE = {
    "rate": LogUniform(1e-4, 1e-1),
    "dropout": Uniform(0, 0.5),
    "units": Integer(8, 128, log=True),
    "kernel": Choice([(3, 3), (5, 5)]),
    "optimizer": ["adam", "sgd"],
    "batch_size": 256,
}

bounds = st.none() | st.integers(1, 6)
seeds = st.integers(0, 99)

grids = st.builds(
    lambda a, b, epochs, flight: GridSearch(
        {"a": list(range(a)), "b": list(range(b))}, epochs, in_flight=flight
    ),
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), bounds,
)  # fmt: skip
randoms = st.builds(
    lambda n, epochs, seed, flight: RandomSearch(SPACE, n, epochs, seed, in_flight=flight),
    st.integers(1, 10), st.integers(1, 4), seeds, bounds,
)  # fmt: skip
estimators = st.builds(
    lambda n, epochs, seed, flight: TPE(SPACE, n, epochs, startup=2, seed=seed, in_flight=flight),
    st.integers(1, 12), st.integers(1, 3), seeds, bounds,
)  # fmt: skip
halvings = st.builds(
    lambda n, most, eta, seed, flight: SuccessiveHalving(
        SPACE, n + eta**3, most, eta, seed=seed, in_flight=flight
    ),
    st.integers(0, 5), st.integers(1, 10), st.integers(2, 3), seeds, bounds,
)  # fmt: skip
hyperbands = st.builds(
    lambda most, eta, seed, flight: Hyperband(SPACE, most, eta, seed, in_flight=flight),
    st.integers(1, 10), st.integers(2, 4), seeds, bounds,
)  # fmt: skip
ashas = st.builds(
    lambda n, most, eta, seed, flight: ASHA(
        SPACE, most, eta, n=n + eta**3, seed=seed, in_flight=flight
    ),
    st.integers(0, 8), st.integers(1, 10), st.integers(2, 3), seeds, bounds,
)  # fmt: skip
bounded_ashas = st.builds(
    lambda most, units, seconds, seed, flight: ASHA(
        SPACE, most, max_units=units, max_seconds=seconds, seed=seed, in_flight=flight
    ),
    st.integers(1, 10), st.integers(3, 200), st.none() | st.integers(1, 60), seeds, bounds,
)  # fmt: skip
populations = st.builds(
    lambda size, epochs, interval, fraction, seed: PopulationBasedTraining(
        SPACE, size, epochs, interval, fraction=fraction, seed=seed,
        perturb=["rate", "dropout", "units", "kernel"],
    ),
    st.integers(2, 6), st.integers(1, 6), st.integers(1, 3), st.sampled_from([0.2, 0.5]), seeds,
)  # fmt: skip
plain = st.one_of(
    grids, randoms, estimators, halvings, hyperbands, ashas, bounded_ashas, populations
)
procedures = plain | st.builds(MedianStopping, plain, st.integers(1, 2), st.integers(1, 3))

troubles = st.sampled_from([(0.0, 0.0), (0.1, 0.0), (0.0, 0.2), (0.1, 0.2), (0.4, 0.3)])

SETTINGS = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


def longest(procedure):
    """How many epochs a procedure trains any model for."""
    inner = getattr(procedure, "procedure", procedure)
    return getattr(inner, "max_epochs", None) or inner.epochs


def expected(procedure):
    """How many configurations a procedure begins, None where it depends on results."""
    inner = getattr(procedure, "procedure", procedure)
    if isinstance(inner, Hyperband):
        return sum(bracket[0].n for bracket in inner.brackets())
    if isinstance(inner, GridSearch):
        return inner.number()
    return getattr(inner, "n", None)


def play(procedure, seed, trouble, order, steps=None):
    search = PlayedSearch(procedure, by_seed(seed, fails=trouble[0], nan=trouble[1]), units=3)
    return search.start().run(random.Random(order), steps)


@SETTINGS
@given(procedures, seeds, troubles, seeds)
def test_every_configuration_begins_once_and_ends(procedure, seed, trouble, order):
    search = play(procedure, seed, trouble, order)
    assert search.over
    trials = list(search.trials.values())
    if expected(procedure) is not None:
        assert len(trials) == expected(procedure), "a configuration lost, or begun twice"
    for trial in trials:
        assert trial.epochs <= longest(procedure)
        if trial.state is ModelState.COMPLETED:
            assert trial.epochs == longest(procedure)
        assert set(trial.config) == set(trials[0].config)


@SETTINGS
@given(procedures, seeds, troubles, seeds)
def test_no_more_are_in_flight_than_may_be(procedure, seed, trouble, order):
    search = play(procedure, seed, trouble, order)
    if procedure.in_flight is not None:
        assert search.most_in_flight <= procedure.in_flight


@SETTINGS
@given(procedures, seeds, troubles, seeds, st.data())
def test_a_search_gone_on_with_ends_like_one_that_never_stopped(
    procedure, seed, trouble, order, data
):
    whole = play(procedure, seed, trouble, order)
    steps = sum("model" in record for record in whole.records)
    cut = data.draw(st.integers(0, steps))
    rng = random.Random(order)
    first = PlayedSearch(procedure, by_seed(seed, fails=trouble[0], nan=trouble[1]), units=3)
    first.start().run(rng, cut)
    if first.in_flight() and data.draw(st.booleans()):
        # The driver dies before it is asked, and the next one is.
        first.end_epoch(rng.choice(first.in_flight()))
        again = first.resumed(dataclasses.replace(procedure))
        again.decide()
    else:
        again = first.resumed(dataclasses.replace(procedure))
    again.run(rng)
    assert again.outcome() == whole.outcome()
    assert again.records == whole.records or "nan" in repr(whole.records)


@SETTINGS
@given(procedures, seeds, st.sampled_from([(0.0, 0.3), (0.2, 0.3)]), seeds)
def test_what_is_no_number_never_wins(procedure, seed, trouble, order):
    """Where others have one, a model without is not the one that is trained longest."""
    inner = getattr(procedure, "procedure", procedure)
    search = play(procedure, seed, trouble, order)
    if not isinstance(inner, (ASHA, SuccessiveHalving, Hyperband)):
        return
    if isinstance(inner, ASHA):
        ends = {*inner.rungs()}
    elif isinstance(inner, SuccessiveHalving):
        ends = {rung.epochs for rung in inner.bracket()}
    else:
        return
    for trial in search.trials.values():
        for end in ends:
            if end < trial.epochs:
                assert trial.values[end - 1] == trial.values[end - 1]


@SETTINGS
@given(procedures, seeds, seeds)
def test_where_everything_fails_the_search_ends(procedure, seed, order):
    inner = getattr(procedure, "procedure", procedure)
    if isinstance(inner, ASHA) and inner.max_units is None and inner.n is None:
        return
    search = play(procedure, seed, (1.0, 0.0), order)
    assert all(trial.state is ModelState.FAILED for trial in search.trials.values())


@SETTINGS
@given(bounded_ashas, seeds, troubles, seeds)
def test_a_budget_of_units_is_kept(procedure, seed, trouble, order):
    search = play(procedure, seed, trouble, order)
    epochs = sum("model" in record for record in search.records)
    assert epochs * search.units <= procedure.max_units


@SETTINGS
@given(ashas, seeds, seeds)
def test_what_stops_early_could_never_have_been_promoted(procedure, seed, order):
    """To stop a hopeless model changes nothing but when it stops."""

    class Patient(ASHA):
        def _hopeless(self, trials):
            return set()

    fields = [field.name for field in dataclasses.fields(procedure) if field.init]
    patient = Patient(**{name: getattr(procedure, name) for name in fields})
    early, late = (play(p, seed, (0.0, 0.1), order) for p in (procedure, patient))
    assert early.outcome() == late.outcome()
