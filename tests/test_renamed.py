"""Old names of modules can be imported, and give the modules that stand for them."""

from __future__ import annotations

import importlib
import pickle
import pickletools
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from patience import PATIENCE

import cerebro
from cerebro import renamed
from cerebro.journal.paths import relative_in_run

OLD_RUNS = Path(__file__).parent / "old_runs"

PUBLIC = {
    "cerebro.data.array_files": ["read_arrays"],
    "cerebro.data.array_partitioning": [
        "ArrayForm", "ArrayPartition", "ArrayPartitioning", "load_array_partitioning",
        "partition_arrays",
    ],
    "cerebro.data.catalog": ["Catalog", "CatalogDataset"],
    "cerebro.data.definitions": ["partition_dirs"],
    "cerebro.data.manifest": ["Fold", "Partition", "Partitioning", "Side", "load_partitioning"],
    "cerebro.data.partitioning": ["partition_subjects"],
    "cerebro.data.shuffling": ["shuffled"],
    "cerebro.errors": ["CerebroError", "InputError", "RunInterrupted"],
    "cerebro.hopper.units": ["ModelState", "Split", "Unit"],
    "cerebro.run.check": ["check"],
    "cerebro.run.ledger": ["AttemptRecord", "EpochRecord", "Ledger", "ModelRecord", "WorkerRecord"],
    "cerebro.run.local_cluster": ["LocalCluster"],
    "cerebro.run.paths": ["RunPaths"],
    "cerebro.run.plan": ["Plan"],
    "cerebro.run.presence": ["Presence"],
    "cerebro.run.result": ["Best", "Result", "load"],
    "cerebro.run.schedule": ["schedule"],
    "cerebro.search.asha": ["ASHA"],
    "cerebro.search.grid": ["GridSearch"],
    "cerebro.search.hyperband": ["Hyperband"],
    "cerebro.search.median_stopping": ["MedianStopping"],
    "cerebro.search.population": ["PopulationBasedTraining"],
    "cerebro.search.procedure": ["Decision", "NewModel", "SearchProcedure"],
    "cerebro.search.random_search": ["RandomSearch"],
    "cerebro.search.space": ["Choice", "Integer", "LogUniform", "Uniform"],
    "cerebro.search.successive_halving": ["SuccessiveHalving"],
    "cerebro.search.tpe": ["TPE"],
    "cerebro.search.trials": ["Trial", "Trials"],
    "cerebro.shipping.rebuild": ["CLASSES", "empty_function", "fill_class", "registered_class"],
    "cerebro.standalone": ["standalone_schedule"],
}  # fmt: skip
"""Modules as they were called when the first release was made, with what pickles, fingerprints and
users name of them."""


@pytest.mark.processes
@pytest.mark.parametrize("module", PUBLIC)
def test_a_name_of_then_is_importable(module):
    done = subprocess.run(
        [sys.executable, "-c", f"from {module} import {', '.join(PUBLIC[module])}"],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = importlib.import_module(module)
    assert found is importlib.import_module(found.__name__), "one object, by both names"
    assert found.__spec__.name == found.__name__
    for name in PUBLIC[module]:
        assert hasattr(found, name)


def test_where_a_thing_moved_its_old_name_is_in_the_table():
    for module in PUBLIC:
        found = importlib.import_module(module)
        assert renamed.old_name(found.__name__) == module


def somewhere(attempts):
    """Attempts whose checkpoints do not say where the run's folder is."""
    found = {}
    for number, attempt in attempts.items():
        done = attempt.committed
        if done is not None and done.checkpoint is not None:
            done = replace(done, checkpoint=relative_in_run(done.checkpoint))
            attempt = replace(attempt, result=done)
        found[number] = attempt
    return found


def test_a_pickled_result_can_be_read(tmp_path, monkeypatch):
    """It was made with `run_dir` given from the top of this repository."""
    content = (OLD_RUNS / "result.pickle").read_bytes()
    texts = {argument for _, argument, _ in pickletools.genops(content)}
    named = {text for text in texts if isinstance(text, str) and text.startswith("cerebro.")}
    assert {"cerebro.run.result", "cerebro.run.ledger", "cerebro.run.paths"} <= named
    assert named <= PUBLIC.keys()
    result, again = pickle.loads(content), cerebro.load(OLD_RUNS / "runs" / "python")
    best, now = result.best(), again.best()
    assert replace(best, checkpoint="") == replace(now, checkpoint="")
    assert relative_in_run(best.checkpoint) == relative_in_run(now.checkpoint)
    assert result.history.equals(again.history)
    assert result.units.equals(again.units)
    ledger, other = result._ledger, again._ledger
    # Such a pickle does not say where the folder was; the journal does, by its checkpoints.
    assert ledger.generations == [replace(g, folder=None) for g in other.generations]
    assert [plan.functions for plan in ledger.plans] == [plan.functions for plan in other.plans]
    assert somewhere(ledger.attempts) == somewhere(other.attempts)
    once_more = pickle.loads(pickle.dumps(result))
    assert somewhere(once_more._ledger.attempts) == somewhere(other.attempts)
    assert result.notes == again.notes
    monkeypatch.chdir(OLD_RUNS.parents[1])
    result.export(best.model_id, tmp_path / "export")


SCRIPT = """
    import importlib, pickle, sys
    import cerebro
    from cerebro import renamed
    renamed.MODULES = {
        "cerebro.old": "cerebro.fresh", "cerebro.old.thing": "cerebro.elsewhere.item",
        "cerebro.search.grid": "cerebro.search.nowhere", "cerebro.seeding": "cerebro.no.where",
    }
    content = b"\\x80\\x04ccerebro.old.thing\\nThing\\n."
    Thing = pickle.loads(content)
    item = sys.modules["cerebro.elsewhere.item"]
    assert Thing is item.Thing and Thing.__module__ == "cerebro.elsewhere.item"
    assert sys.modules["cerebro.old.thing"] is item
    assert (item.__name__, item.__spec__.name) == ("cerebro.elsewhere.item",) * 2
    assert item.__loader__ is item.__spec__.loader and "Source" in type(item.__loader__).__name__
    assert item.__package__ == item.__spec__.parent == "cerebro.elsewhere"
    import cerebro.old.stays, cerebro.fresh.stays
    assert cerebro.old.stays is cerebro.fresh.stays, "it is not loaded twice"
    import cerebro.search.grid, cerebro.seeding
    assert cerebro.search.grid.__name__ == "cerebro.search.grid", "which has not moved"
    for name in ("cerebro.old.missing", "cerebro.missing"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            assert error.name == name
        else:
            raise AssertionError(name)
    renamed.install()
    assert [type(f).__name__ for f in sys.meta_path].count("OldNames") == 1
"""


@pytest.mark.processes
def test_what_has_moved_is_found_by_its_old_name(tmp_path):
    """With modules that a folder adds to the package, as if they had been elsewhere before."""
    for file, text in {
        "fresh/__init__.py": "", "fresh/stays.py": "", "elsewhere/__init__.py": "",
        "elsewhere/item.py": "class Thing:\n    pass\n",
    }.items():  # fmt: skip
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    script = f"import cerebro\ncerebro.__path__.append({str(tmp_path)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", script + textwrap.dedent(SCRIPT)],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
