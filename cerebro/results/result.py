"""What a search gives: tables, the best model, and where everything is."""

from __future__ import annotations

import functools
import html
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerebro.errors import InputError, NotARun, RunError, StorageError, UnsafePath
from cerebro.formatting import count, one_line, printable
from cerebro.journal.best import best_epoch, best_of, best_so_far, kept_epochs, score
from cerebro.journal.journal import naming_the_line, read_journal
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths
from cerebro.journal.run_plan import hyperparameters
from cerebro.metrics.direction import MODES, known_direction, unknown_direction
from cerebro.report.page import MARK, page
from cerebro.results import report_contents, tables
from cerebro.results.csv_text import csv_text
from cerebro.results.model_export import chosen_epoch, write_export
from cerebro.results.tensorboard import write_events
from cerebro.results.worker_timeline import WorkerTimeline
from cerebro.storage import is_folder, make_folder, open_file, storage_errors, write_file
from cerebro.users import expanded
from cerebro.validation import choice

if TYPE_CHECKING:
    import pandas

_NOT_TYPESET = "tex2jax_ignore mathjax_ignore"
"""Classes of what MathJax leaves as it is, in its versions 2 and 3."""


@dataclass(frozen=True)
class Best:
    """One model at one epoch: `metrics`, by name, are those of the weights in `checkpoint`.

    `config` has the hyperparameters, and `epoch` counts from 0. `checkpoint` is what the backend
    reads: for TensorFlow V1 the prefix that `tf.train.load_checkpoint` and `Saver.restore` take,
    for Keras the file that `model.load_weights` takes, for plain Python the one that
    `cerebro.load_model` takes.
    """

    model_id: int
    config: dict[str, Any]
    epoch: int
    metrics: dict[str, float]
    checkpoint: str | None


class Result:
    """A run's results, as far as its journal goes.

    `history`, `units` and `models` are pandas DataFrames; `run_dir` is the run's folder. They
    show what the journal held when this was made: call `load` again for more.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = str(run_dir)
        self._paths = RunPaths(run_dir)
        records, _ = read_journal(self._paths)
        self._timeline = WorkerTimeline()
        with naming_the_line(self._paths):
            self._ledger = Ledger.from_records(
                records, keep_attempts=True, listeners=[self._timeline]
            )
        if self._ledger.plan is None:
            raise NotARun(f"{run_dir} holds a run that never began: its journal has no plan")

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_presence" in state:  # the timeline, in pickles that older versions made
            state["_timeline"] = state.pop("_presence")
        self.__dict__.update(state)

    @functools.cached_property
    def history(self) -> pandas.DataFrame:
        """One row per (model, epoch): configuration, metrics, seconds inside `train_fn`."""
        return tables.history(self._ledger)

    @functools.cached_property
    def units(self) -> pandas.DataFrame:
        """One row per attempt to run a unit: where, when, its outcome, seconds by phase.

        `start`, `ran` and `end` are in seconds since the run started.
        """
        return tables.units(self._ledger)

    @functools.cached_property
    def models(self) -> pandas.DataFrame:
        """One row per model: configuration, state, last and best metrics, checkpoints."""
        return tables.models(self._ledger)

    @property
    def complete(self) -> bool:
        """Whether the run has ended: no model is running any more."""
        return self._ledger.ended

    def best(self, metric: str | None = None, mode: str | None = None) -> Best:
        """Return the model and epoch with the best value of a metric.

        `metric` is a metric's column in `history`; `mode` says whether its lowest value is best
        ("min") or its highest ("max"), and may be left out where that is known of the metric.
        Without arguments it is what the search compares models by: `valid_error`, unless a search
        procedure was given another metric. NaN never is best, nor is an epoch that is `ruined` in
        `history`: its training loss or weights are not finite. Of equal values the model with the
        lowest id counts, and of its epochs the first.

        For the search's own metric every epoch counts, because the weights of each model's best one
        are kept. For other metrics only epochs whose weights are still kept do (each model's last
        and best), so that weights and metrics always belong together.

        Raises `InputError` for an unknown metric or mode, and where a metric's mode is not known,
        and `RunError` if no epoch has ended with a number.
        """
        names = tables.metric_names(self._ledger)
        plan = self._ledger.the_plan
        if metric is None:
            metric, mode = plan.metric, mode or plan.mode
        if metric not in names:
            raise InputError(f"metric={metric!r}: choose one of {', '.join(names)}")
        mode = self._mode(metric, mode)
        found = best_of(kept_epochs(self._ledger.models.values()), metric, mode)
        if found is None:
            ruined = [m for m, e in self._ledger.flawed_models() if e.ruined]
            why = f"; {report_contents.ruined_models(ruined)}" if ruined else ""
            failed = [m for m in self._ledger.models.values() if m.failure is not None]
            if failed:
                why += f"; {count(len(failed), 'model')} FAILED: see `.models['failure']`"
            raise RunError(f"no model in {self.run_dir} has a {metric} with weights yet{why}")
        model, epoch = found
        return Best(
            model.id,
            hyperparameters(model.mst),
            epoch.epoch,
            {name: epoch.metric(name) for name in names},
            model.checkpoint(epoch.version),
        )

    def _mode(self, metric: str, mode: str | None) -> str:
        """The mode of a metric: the one that is given, or what is known of the metric."""
        if mode is not None:
            return choice("mode", mode, MODES)
        plan = self._ledger.the_plan
        if metric == plan.metric:
            return plan.mode
        known = known_direction(metric, self._ledger.metric_kinds)
        if known is None:
            raise InputError(unknown_direction(metric))
        return known

    def export(self, model_id: int, path: str | Path, epoch: int | None = None) -> str:
        """Copy a model's weights into a new folder `path`, with `export.json`: its configuration,
        metrics, run and versions.

        The weights are those after `epoch` (from 0), by default after the model's best epoch (the
        newest one, if none has a number). Each model's newest and best epoch are kept. The folder
        appears with all it holds, or not at all.

        Returns the folder's absolute path, which `init_ckpt_path` takes. Raises `InputError` for a
        model or epoch that does not exist and for a `path` that does, `RunError` for a model
        without weights, and `StorageError`.
        """
        ledger, paths = self._ledger, self._paths
        chosen = chosen_epoch(ledger, paths, model_id, epoch)
        target = Path(expanded(path)).absolute()
        write_export(ledger, paths, model_id, chosen, target)
        return str(target)

    def tensorboard(self, path: str | Path | None = None) -> str:
        """Write event files for TensorBoard into `path`, by default `<run_dir>/tensorboard`.

        Each model is a run there: its metrics by epoch and its hyperparameters. Called again, with
        a result that was loaded again, it adds the epochs that are new. Needs TensorFlow.

        Returns the folder's absolute path. Raises `InputError` if the folder holds event files of
        another run, or damaged ones, and `StorageError`.
        """
        if path is None:
            with storage_errors("write event files to", self._paths.tensorboard):
                make_folder(self._paths.tensorboard)
        folder = self._paths.tensorboard if path is None else Path(expanded(path))
        folder = folder.absolute()
        write_events(self._ledger, folder)
        return str(folder)

    def save_tables(self) -> None:
        """Write `history.csv`, `models.csv` and `units.csv` into the run's folder.

        A text that a spreadsheet could take for a formula has an apostrophe before it there, and
        control characters in texts are escaped; the data frames have the texts as they are.

        Raises `StorageError`.
        """
        for path, frame in (
            (self._paths.history, self.history),
            (self._paths.models_table, self.models),
            (self._paths.units, self.units),
        ):
            write_file(path, csv_text(frame), inside=self._paths.root)

    def report(self, path: str | os.PathLike[str] | None = None, *, methods: bool = False) -> str:
        """Write what the run did as one HTML file `path`, by default `report.html` in the run's
        folder.

        The file needs no other, and no network; docs/report.md says what it shows. With `methods`
        it ends with a paragraph for the methods section of a paper. A report that is there already
        is replaced.

        Returns the file's path. Raises `InputError` for a path where something else is, or whose
        folder does not exist, and `StorageError` if the file cannot be written.
        """
        target = self._paths.report if path is None else Path(path)
        _check_report(target)
        contents = report_contents.contents(
            self._paths, self._ledger, self._timeline, with_methods=methods
        )
        inside = self._paths.root if path is None else None
        try:
            write_file(target, page(contents).encode("utf-8", "backslashreplace"), inside=inside)
        except StorageError as error:
            if path is not None or isinstance(error, UnsafePath):
                raise
            raise StorageError(f"{error}: name another file, with report(path) or --out") from error
        return str(target)

    @property
    def means(self) -> list[str]:
        """The metrics of `history` that are means over partitions, weighted by examples where these
        are known. Any other has the value that one pass over all examples would give.
        """
        return tables.means(self._ledger)

    @property
    def notes(self) -> list[str]:
        """What has to be known before its figures are read, in sentences: that the run has not
        ended, or that models failed. Empty if there is nothing.
        """
        said = report_contents.notes(self._paths, self._ledger, self._timeline)
        return [*map(one_line, said)]

    def __repr__(self) -> str:
        states = self.models["state"].value_counts().to_dict()
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        text = f"<Result of {len(self.models)} models ({counts}) in {self.run_dir}"
        found = best_so_far(self._ledger)
        if found is None:
            return one_line(text + ">")
        (model, epoch), metric = found, self._ledger.the_plan.metric
        value = f"{metric} {epoch.metric(metric):.4f}"
        return one_line(f"{text}; best: model {model.id}, epoch {epoch.epoch}, {value}>")

    def _repr_html_(self) -> str:
        columns = ["model_id", *(c for c in map(str, self.models) if c.startswith("config."))]
        plan = self._ledger.the_plan
        columns += ["state", "epochs", "best_epoch", plan.metric, f"best_{plan.metric}"]
        bests = (best_epoch(model, plan) for model in self._ledger.models.values())
        scores = [math.nan if b is None else score(b, plan.metric, plan.mode) for b in bests]
        ranked = sorted(range(len(scores)), key=lambda n: (math.isnan(scores[n]), scores[n]))
        table = printable(
            self.models.iloc[ranked][columns].to_html(
                index=False, na_rep="", float_format="{:.4g}".format, border=0
            )
        )
        # Notebooks typeset what is between dollar signs, and that may hold links to scripts.
        return f'<div class="{_NOT_TYPESET}"><p>{html.escape(repr(self)[1:-1])}</p>{table}</div>'


def _check_report(path: Path) -> None:
    """Raise `InputError` where a report must not, or cannot, be written."""
    if os.path.islink(path):
        raise InputError(f"{path} is a link: name the file that the report goes to")
    if is_folder(path):
        raise InputError(f"{path} is a folder: name the file that the report goes to")
    if not is_folder(path.parent):
        raise InputError(f"{path}: there is no folder {path.parent}: make it, or name another file")
    if not path.exists():
        return
    with storage_errors("read", path), open_file(path) as file:
        ours = file.read(len(MARK)) == MARK.encode()
    if not ours:
        raise InputError(
            f"{path} exists and is not a report: it is left as it is; name another file"
        )


def load(run_dir: str | Path) -> Result:
    """Load the result of the run in a folder, finished or not, also while it runs.

    Raises `NotARun` for a folder that holds none, `JournalDamaged` for a damaged journal,
    `RunTooNew` for one that a later version wrote, and `StorageError` if it cannot be read.
    """
    return Result(run_dir)
