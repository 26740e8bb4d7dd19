"""Model selection procedures: what to train next, and what to stop.

    from cerebro.search import ASHA, LogUniform

    cerebro.schedule(..., search=ASHA({"lr": LogUniform(1e-4, 1e-1)}, max_epochs=27, n=64))

One file a procedure. `procedure` is what each of them is asked and answers, and how to write one;
`space` is where configurations come from. Nothing here reads a clock or a file, or keeps a state.
"""

from cerebro.search.asha import ASHA
from cerebro.search.grid import GridSearch
from cerebro.search.hyperband import Hyperband
from cerebro.search.median_stopping import MedianStopping
from cerebro.search.population import PopulationBasedTraining
from cerebro.search.procedure import Decision, NewModel, SearchProcedure
from cerebro.search.random_search import RandomSearch
from cerebro.search.space import Choice, Integer, LogUniform, Uniform
from cerebro.search.successive_halving import SuccessiveHalving
from cerebro.search.tpe import TPE
from cerebro.search.trials import Trial, Trials

__all__ = [
    "ASHA",
    "TPE",
    "Choice",
    "Decision",
    "GridSearch",
    "Hyperband",
    "Integer",
    "LogUniform",
    "MedianStopping",
    "NewModel",
    "PopulationBasedTraining",
    "RandomSearch",
    "SearchProcedure",
    "SuccessiveHalving",
    "Trial",
    "Trials",
    "Uniform",
]
