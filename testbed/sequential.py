"""A run's models trained again, one unit after another, in one process: what they should be.

`python -m testbed.sequential SETTINGS RUN_DIR...` takes from the first run the order in which each
model visited the partitions, trains along it with nothing in between (no workers, no network, no
files, no faults), and compares every run with that: all metrics of all epochs, and the last weights
bit for bit. For each run it prints a line of JSON, a list of differences.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cerebro
from cerebro.backends import handler_class
from cerebro.backends.base import Handler, Options, UnitTask, UserFunctions
from cerebro.hopper.metrics import epoch_mean
from testbed.chaos_driver import Settings
from testbed.chaos_search import CONFIGS, METRICS, functions

if TYPE_CHECKING:
    import pandas


class Trainer:
    """Trains models one unit at a time."""

    def __init__(self, settings: Settings) -> None:
        options = Options(threads=1)
        kind = handler_class(settings.backend)
        kind.prepare_process(options)
        fns = functions(settings.backend, settings.stop_file)
        user = UserFunctions(fns.input_fn, fns.model_fn, fns.train_fn)
        self.handler: Handler = kind(user, options)
        self._seed = settings.seed
        self._paths = {"train": settings.train, "valid": settings.valid}
        self._data: dict[str, Any] = {}

    def train(self, model: int, visits: pandas.DataFrame) -> tuple[Any, list[dict[str, float]]]:
        """(state, metrics of each epoch) of a model after its visits, in their order."""
        state, epochs = None, []
        for epoch, of_epoch in visits.groupby("epoch"):
            metrics: dict[str, float] = {}
            for split in ("train", "valid"):
                loss: dict[int, float] = {}
                error: dict[int, float] = {}
                examples: dict[int, float | None] = {}
                for partition in of_epoch["partition"][of_epoch["split"] == split]:
                    run = self._unit(model, int(epoch), split, int(partition), state)
                    state = run.state if split == "train" else state
                    loss[partition], error[partition] = run.loss, run.error
                    examples[partition] = run.examples
                metrics[f"{split}_loss"] = epoch_mean(loss, examples)
                metrics[f"{split}_error"] = epoch_mean(error, examples)
            epochs.append(metrics)
        self.handler.forget(model)
        return state, epochs

    def _unit(self, model: int, epoch: int, split: str, partition: int, state: Any) -> Any:
        path = self._paths[split][partition]
        if path not in self._data:
            self._data[path] = self.handler.load(path, self._seed)
        config = CONFIGS[model]
        task = UnitTask(model, epoch, split == "train", partition, path, config, self._seed)
        return self.handler.run(task, self._data[path], state)


def contents(state: Any) -> dict[str, bytes]:
    """A state's values by name, as bytes to compare (numbers in JSON keep every bit)."""
    if isinstance(state, bytes):
        model = pickle.loads(state)
        return {name: json.dumps(value).encode() for name, value in model.items()}
    arrays = getattr(state, "arrays", state)
    return {name: f"{a.dtype}{a.shape}".encode() + a.tobytes() for name, a in arrays.items()}


def compare(
    expected: tuple[Any, list[dict[str, float]]], history: pandas.DataFrame, state: Any
) -> list[str]:
    """Where a model's history and last state are not what they should be."""
    should, epochs = expected
    found = []
    if len(epochs) != len(history):
        found.append(f"{len(history)} epochs instead of {len(epochs)}")
    for epoch, (metrics, row) in enumerate(zip(epochs, history.to_dict("records"), strict=False)):
        found += [
            f"epoch {epoch}: {name} is {row[name]!r} instead of {metrics[name]!r}"
            for name in METRICS
            if row[name] != metrics[name]
        ]
    old, new = contents(should), contents(state)
    found += [
        f"last weights: {name}" for name in sorted(old | new) if old.get(name) != new.get(name)
    ]
    return found


def main() -> int:
    """Compare every model of every run."""
    settings = Settings.load(Path(sys.argv[1]))
    results = [cerebro.load(run_dir) for run_dir in sys.argv[2:]]
    found: list[list[str]] = [[] for _ in results]
    trainer = Trainer(settings)
    # A model's training units follow one another, and so do their attempts' numbers.
    units = results[0].units
    units = units[units["outcome"] == "committed"].sort_values("attempt")
    for model in results[0].models["model_id"]:
        expected = trainer.train(model, units[units["model_id"] == model])
        for result, differing in zip(results, found, strict=True):
            history = result.history[result.history["model_id"] == model]
            checkpoint = result.models.set_index("model_id")["checkpoint"][model]
            state = trainer.handler.read(checkpoint)
            differing += [f"model {model}: {text}" for text in compare(expected, history, state)]
    for differing in found:
        print(json.dumps(differing))
    return 0


if __name__ == "__main__":
    sys.exit(main())
