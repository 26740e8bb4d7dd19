"""The benchmark of search procedures: a short run of it, and what its parts do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from patience import PATIENCE

from cerebro.hopper import events as ev
from cerebro.hopper.holdings import FixedHoldings, SharedHoldings
from cerebro.hopper.placement.registry import POLICIES
from cerebro.hopper.units import Failure, ModelState
from cerebro.search import ASHA, Decision, GridSearch, PopulationBasedTraining, Uniform
from testbed import hand_worked
from testbed.optimization import FUNCTIONS
from testbed.simulated_search import SimulatedSearch, WrongDecision

COMMAND = Path(__file__).parents[2] / "benchmarks" / "search.py"


@pytest.mark.slow
def test_a_quick_run():
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--quick"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    for words in (["Branin", "TPE"], ["Hartmann-6", "TPE"], ["matrix", "64"], ["shared", "64"]):
        assert [row for row in rows if all(word in row for word in words)], words
    assert "proves nothing" in done.stdout


def test_another_answer_than_that_worked_by_hand_is_found(monkeypatch):
    assert hand_worked.check_asha() == (len(hand_worked.ASHA_STEPS), [])
    steps = [replace_step(n, step) for n, step in enumerate(hand_worked.ASHA_STEPS)]
    monkeypatch.setattr(hand_worked, "ASHA_STEPS", steps)
    _, (wrong,) = hand_worked.check_asha()
    assert "promoted [2], begun 0" in wrong


def replace_step(number, step):
    return step._replace(promoted=[0]) if step.promoted == [2] else step


def test_the_functions_have_their_minima_where_they_are_known_to_be():
    branin, hartmann = FUNCTIONS
    for x, y in ((-3.14159265, 12.275), (3.14159265, 2.275), (9.42477796, 2.475)):
        assert branin.value({"x": x, "y": y}) == pytest.approx(branin.minimum, abs=1e-5)
    at = (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)
    config = {f"x{i}": position for i, position in enumerate(at)}
    assert hartmann.value(config) == pytest.approx(hartmann.minimum, abs=1e-5)


def simulated(procedure, **options):
    return SimulatedSearch(
        procedure,
        FixedHoldings([[1, 0], [0, 1]]),
        FixedHoldings([[1, 0], [0, 1]]),
        POLICIES["critical"](0),
        curve=lambda config, epochs: config["rate"] / epochs,
        run_seconds=lambda config, attempt: 1.0,
        **options,
    )


def test_a_simulated_grid_is_trained_as_wanted():
    search = simulated(GridSearch({"rate": [0.1, 0.2, 0.3]}, 2))
    search.run(2)
    assert [trial.values for trial in search.trials.values()] == [
        (r, r / 2) for r in (0.1, 0.2, 0.3)
    ]
    assert {trial.state for trial in search.trials.values()} == {ModelState.COMPLETED}
    assert len(search.visits) == 3 * 2 * 4
    assert search.bound() == 3 * 2 * 2
    assert search.busy(search.seconds) * search.seconds * 2 == pytest.approx(24)


def test_the_bound_counts_what_several_workers_hold_for_none_of_them():
    search = replace(
        simulated(GridSearch({"rate": [0.1]}, 3)), train=SharedHoldings(2), valid=SharedHoldings(1)
    )
    search.run(2)
    assert search.bound() == 3 * (2 + 1)  # the chain: two train units, and a valid unit


def test_copies_inherit_and_failures_make_room():
    space = {"rate": Uniform(0.1, 0.9)}
    search = simulated(PopulationBasedTraining(space, population=4, epochs=3, fraction=0.5))
    search.run(2)
    copies = [trial for trial in search.trials.values() if trial.inherited]
    assert copies
    assert all(trial.epochs > trial.inherited for trial in copies)

    def first_fails(attempt, event):
        return ev.UnitFailed(attempt.number, Failure.USER) if attempt.unit.model == 0 else event

    search = simulated(ASHA(space, 3, n=5, in_flight=1), outcome=first_fails)
    search.run(2)
    assert search.trials[0].state is ModelState.FAILED
    assert len(search.trials) == 5


def test_a_decision_that_a_run_would_refuse_is_refused():
    class Forward(GridSearch):
        def decide(self, trials):
            return Decision(go_on=[7]) if len(trials) else super().decide(trials)

    with pytest.raises(WrongDecision, match="these wait"):
        simulated(Forward({"rate": [0.1]}, 2)).run(2)


def test_a_procedure_that_forgets_its_models_is_found():
    class Forgetful(GridSearch):
        def decide(self, trials):
            return Decision() if len(trials) else super().decide(trials)

    with pytest.raises(RuntimeError, match=r"still run: \[0\]"):
        simulated(Forgetful({"rate": [0.1]}, 2)).run(2)
