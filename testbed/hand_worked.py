"""What the papers' rules give, worked by hand, and whether the procedures do the same.

Nothing in the tables comes from the procedures. The rungs are after 1, 3 and 9 epochs, eta is 3.

ASHA's rule (Li et al., MLSys 2020, algorithm 2): whenever somebody is free, look at the rungs from
the top down. Of a rung that so many models have reached, the best third, rounded down, may go on;
the best of these that has not gone on yet does. If there is none in any rung, a new one begins.

Successive halving's (Li et al., JMLR 18, 2018, algorithm 1): when all of a rung have arrived, the
best third goes on, and the others stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from cerebro.hopper.units import ModelState
from cerebro.search import (
    ASHA,
    Decision,
    Hyperband,
    SearchProcedure,
    SuccessiveHalving,
    Trial,
    Trials,
)

ETA = 3
RUNGS = (1, 3, 9)
IN_FLIGHT = 4
SPACE = {"learning_rate": [0.1]}

Checked = tuple[int, list[str]]
"""How many answers were compared, and those that differ."""


# --- Hyperband: table 1 of Li et al., JMLR 18, 2018 ------------------------------------------

R = 81
BRACKETS = [
    [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    [(27, 3), (9, 9), (3, 27), (1, 81)],
    [(9, 9), (3, 27), (1, 81)],
    [(6, 27), (2, 81)],
    [(5, 81)],
]
"""(configurations, epochs) of each rung, for s = 4 to s = 0."""


def check_brackets() -> Checked:
    """Hyperband's brackets against the paper's."""
    ours = [[(rung.n, rung.epochs) for rung in b] for b in Hyperband(SPACE, R, ETA).brackets()]
    wrong = [
        f"s = {len(BRACKETS) - 1 - i}: {our}, the paper has {paper}"
        for i, (our, paper) in enumerate(zip(ours, BRACKETS, strict=True))
        if our != paper
    ]
    return sum(map(len, BRACKETS)), wrong


# --- ASHA and successive halving: learning curves --------------------------------------------

CURVES = (
    #  1     3     9 epochs
    (0.50, 0.40, 0.30),  # 0
    (0.60, 0.55, 0.50),  # 1
    (0.45, 0.44, 0.43),  # 2
    (0.70, 0.30, 0.20),  # 3: slow, and best in the end
    (0.40, 0.35, 0.33),  # 4
    (0.55, 0.50, 0.45),  # 5
    (0.35, 0.33, 0.25),  # 6
    (0.65, 0.60, 0.58),  # 7
    (0.30, 0.29, 0.28),  # 8: fast
    (0.43, 0.41, 0.37),  # 9
    (math.nan, math.nan, math.nan),  # 10
    (0.42, 0.31, 0.22),  # 11
)
"""The error of each model at the rungs."""


class Step(NamedTuple):
    """`arrived`: models that reach a rung at one moment, with its epochs. The answer: whom it lets
    go on to the next rung, the first to go first, and how many begin.
    """

    arrived: Sequence[tuple[int, int]]
    promoted: Sequence[int]
    begun: int
    why: str


ASHA_STEPS = (
    # "1: 2 of 6" is: in the rung of 1 epoch are 6 models, of which the best 2 may go on.
    Step([], [], 4, "four at once"),
    Step([(0, 1)], [], 1, "1: none of 1"),
    Step([(2, 1)], [], 1, "1: none of 2"),
    Step([(1, 1)], [2], 0, "1: 1 of 3, the best is 2 (0.45)"),
    Step([(4, 1)], [4], 0, "1: 1 of 4, the best is 4 (0.40); 2, no longer in the third, is gone"),
    Step([(3, 1)], [], 1, "1: 1 of 5, 4 has gone on"),
    Step([(2, 3)], [], 1, "3: none of 1; 1: as before"),
    Step([(6, 1)], [6], 0, "1: 2 of 6, 6 (0.35) and 4"),
    Step([(5, 1)], [], 1, "1: 2 of 7, 6 and 4 have gone on"),
    Step([(4, 3)], [], 1, "3: none of 2; 1: as before"),
    Step([(6, 3)], [6], 0, "3: 1 of 3, the best is 6 (0.33)"),
    Step([(9, 1)], [], 1, "1: 2 of 8, 6 and 4 have gone on; 9 (0.43) is the third"),
    Step([(7, 1)], [9], 0, "1: 3 of 9, 6, 4 and 9, for which the rung was too small before"),
    Step([(10, 1)], [], 1, "1: 3 of 10, all gone on; a model without a number counts as there"),
    Step([(8, 1)], [8], 0, "1: 3 of 11, 8 (0.30), 6 and 4"),
    Step(
        [(11, 1), (8, 3)],
        [8, 11],
        0,
        "from the top: 3: 1 of 4, the best is 8 (0.29); 1: 4 of 12, 8, 6, 4 and 11 (0.42)",
    ),
    Step([(11, 3)], [], 0, "3: 1 of 5, 8 has gone on; 1: all gone on; all twelve have begun"),
    Step([(9, 3)], [11], 0, "3: 2 of 6, 8 and 11 (0.31)"),
    Step([(6, 9)], [], 0, "at the end"),
    Step([(8, 9)], [], 0, "at the end"),
    Step([(11, 9)], [], 0, "at the end; 3 was never among the best third of 1"),
)

HALVING_STEPS = (
    Step([], [], 12, "all at once: 12, then 4, then 1"),
    *(Step([(model, 1)], [], 0, "not all are there") for model in (3, 0, 11, 1, 2, 4)),
    *(Step([(model, 1)], [], 0, "not all are there") for model in (5, 6, 7, 8, 10)),
    Step([(9, 1)], [8, 6, 4, 11], 0, "the best 4 of 12: 0.30, 0.35, 0.40, 0.42; 9 has 0.43"),
    Step([(8, 3)], [], 0, "not all are there"),
    Step([(6, 3)], [], 0, "not all are there"),
    Step([(11, 3)], [], 0, "not all are there"),
    Step([(4, 3)], [8], 0, "the best 1 of 4: 0.29; 11 has 0.31, and would be better in the end"),
    Step([(8, 9)], [], 0, "at the end"),
)


def check_asha() -> Checked:
    """ASHA's answers, in the order in which it gives them."""
    procedure = ASHA(SPACE, RUNGS[-1], ETA, n=len(CURVES), in_flight=IN_FLIGHT)
    return _check(procedure, ASHA_STEPS, in_order=True)


def check_halving() -> Checked:
    """Successive halving's answers; those that go on do so at once, and so in no order."""
    procedure = SuccessiveHalving(SPACE, len(CURVES), RUNGS[-1], ETA)
    return _check(procedure, HALVING_STEPS, in_order=False)


def _check(procedure: SearchProcedure, steps: Iterable[Step], *, in_order: bool) -> Checked:
    wrong: list[str] = []
    trials: dict[int, Trial] = {}
    number = 0
    for number, step in enumerate(steps, 1):
        where = f"step {number} ({step.why})"
        for model, rung in step.arrived:
            if model not in trials or not trials[model].in_flight:
                return number, [*wrong, f"{where}: model {model} is not on its way"]
            for _ in range(trials[model].epochs + 1, rung):
                # Between two rungs it has to go on, and nothing else happens.
                _end_epoch(trials, model, rung)
                if _ask(procedure, trials) != Decision(go_on=[model]):
                    return number, [*wrong, f"{where}: model {model} does not go on to {rung}"]
        for model, rung in step.arrived:
            _end_epoch(trials, model, rung)
        decision = _ask(procedure, trials)
        promoted, begun = decision.go_on, len(decision.begin)
        if not in_order:
            promoted = sorted(promoted, key=lambda model: trials[model].rank())
        if (promoted, begun) != (list(step.promoted), step.begun):
            wrong.append(f"{where}: promoted {decision.go_on}, begun {begun}")
    if any(trial.runs for trial in trials.values()):
        wrong.append("models still run at the end")
    return number, wrong


def _end_epoch(trials: dict[int, Trial], model: int, rung: int) -> None:
    """One more epoch on the way to a rung, with the value there."""
    trial, value = trials[model], CURVES[model][RUNGS.index(rung)]
    trials[model] = replace(trial, values=(*trial.values, value), waits=True)


def _ask(procedure: SearchProcedure, trials: dict[int, Trial]) -> Decision:
    """Ask the procedure, and carry its answer out."""
    decision = procedure.decide(Trials(dict(trials)))
    for model in decision.go_on:
        trials[model] = replace(trials[model], waits=False)
    for models, state in (
        (decision.complete, ModelState.COMPLETED),
        (decision.stop, ModelState.STOPPED),
    ):
        for model in models:
            trials[model] = replace(trials[model], state=state, waits=False)
    for new in decision.begin:
        trials[len(trials)] = Trial(len(trials), new.config)
    return decision
