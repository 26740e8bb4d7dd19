"""Show the status of a run, during the run or after its driver has ended, been killed or crashed:
who drives it, how far it has come and how fast, the best model so far, what each worker is doing,
which models have failed and why, what is being waited for, and what to do next. Reads the run's
journal and driver.json, and changes nothing.
"""

from __future__ import annotations

import argparse
import os
import time

from cerebro.cli import text_table
from cerebro.formatting import count, duration, first_line
from cerebro.hopper.units import ModelState
from cerebro.journal.ledger import AttemptRecord
from cerebro.journal.log_files import mst_identifier
from cerebro.journal.run_plan import hyperparameters
from cerebro.journal.worker_states import PRESENT, WorkerState
from cerebro.results.status import Progress, Standing, WorkerStanding, standing

SUMMARY = "show the status of a run"

FAILURES_SHOWN = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the run's folder, below ckpt_root")


def run(arguments: argparse.Namespace) -> int:
    """Print the status of a run."""
    print(render(standing(arguments.run_dir), text_table.width()))
    return 0


def render(stands: Standing, columns: int) -> str:
    """Format a run's status in lines of at most `columns` columns (except for long names)."""
    facts = [
        ["run", _run(stands)],
        ["driver", _driver(stands)],
        ["epochs", _epochs(stands)],
        ["pace", _pace(stands)],
        ["best", _best(stands)],
        *(["waits", f"for {wait}"] for wait in stands.waits),
        *(["failed", failure] for failure in _failures(stands)),
        ["next", _next(stands)],
    ]
    parts = [text_table.table([row for row in facts if row[1]], columns)]
    if not stands.ledger.ended:
        rows = [["WORKER", "URL", "STATE" if stands.driver.alive else "STATE WHEN LAST SEEN"]]
        rows += [
            [str(number), worker.url, _worker(stands, worker)]
            for number, worker in stands.workers.items()
        ]
        parts.append(text_table.table(rows, columns))
    return "\n\n".join(parts)


def _run(stands: Standing) -> str:
    plan = stands.ledger.the_plan
    states = [model.state for model in stands.ledger.models.values()]
    counts = ", ".join(f"{states.count(s)} {s.value}" for s in ModelState if s in states)
    started = time.strftime("%a %Y-%m-%d %H:%M:%S", time.localtime(stands.ledger.base_time))
    return (
        f"{stands.paths.root}, started {started}\n"
        f"{count(len(states), 'model')} ({counts}), {len(plan.train_partitions)} train and "
        f"{len(plan.valid_partitions)} valid partitions"
    )


def _driver(stands: Standing) -> str:
    if stands.ledger.ended:
        return f"none, the run has ended, after {duration(stands.now)}"
    driver = stands.driver
    since = _moment(stands, stands.ledger.generations[-1].t)
    said = f"{driver.who} {driver.how}; it took over the run at {since}"
    if stands.interrupted:
        said += f", and stopped: {first_line(stands.interrupted)}"
    return said


def _epochs(stands: Standing) -> str:
    models = stands.ledger.models.values()
    ended = sum(not epoch.inherited for model in models for epoch in model.epochs)
    said = f"{count(ended, 'epoch')} of models ended"
    progress = stands.progress
    if progress is None:
        return said
    share = f" ({100 * progress.done // progress.units} %)" if progress.units else ""
    return (
        f"{said}; {_current(progress)} in progress, {progress.done} of "
        f"{count(progress.units, 'unit')} done{share}"
    )


def _current(progress: Progress) -> str:
    first, last = progress.epochs
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"


def _pace(stands: Standing) -> str:
    progress = stands.progress
    if progress is None or stands.driver.alive is not True:
        return ""
    if not progress.rate:
        return "no unit of this driver is committed yet"
    said = f"{60 * progress.rate:.3g} units per minute"
    if progress.done == progress.units:
        return said
    if progress.seconds_left is None:
        return f"{said}; no estimate before a unit of each split has run"
    return f"{said}; {_current(progress)} done in about {duration(progress.seconds_left)}"


def _best(stands: Standing) -> str:
    found = stands.best()
    if found is None:
        return "no model has ended an epoch with a number yet"
    model, epoch = found
    config = mst_identifier(hyperparameters(model.mst))
    return f"model {model.id}, epoch {epoch.epoch}: valid error {epoch.valid_error:.4g} ({config})"


def _failures(stands: Standing) -> list[str]:
    failed = [model for model in stands.ledger.models.values() if model.failure is not None]
    said = [
        f"model {model.id}: {first_line(model.failure.message)} "
        f"(see {os.path.join('logs', stands.paths.model_log(model.id).name)})"
        for model in failed[:FAILURES_SHOWN]
        if model.failure is not None
    ]
    if len(failed) > FAILURES_SHOWN:
        said.append(f"and {len(failed) - FAILURES_SHOWN} more: see models.csv or cerebro.load")
    return said


def _next(stands: Standing) -> str:
    root = stands.paths.root.absolute()
    call = f"ckpt_root={str(root.parent)!r}, run_name={root.name!r}, resume=True"
    failed = any(model.failure is not None for model in stands.ledger.models.values())
    if stands.ledger.ended:
        results = f"cerebro.load({str(root)!r}) gives the results"
        retry = f"; schedule(..., {call}, retry_failed=True) resumes failed models"
        return results + retry if failed else results
    if stands.driver.alive:
        return ""
    again = "; with retry_failed=True failed models are resumed as well" if failed else ""
    return f"schedule(..., {call}); what is committed is not trained again{again}"


def _worker(stands: Standing, worker: WorkerStanding) -> str:
    said = []
    if worker.state in PRESENT:
        said += [_unit(stands, attempt) for attempt in reversed(worker.units[-1:])]
        said += [f"saving {a.unit}" for a in worker.units[:-1]]
    if worker.state is None:
        said.append("has not joined")
    elif worker.state is WorkerState.ADDED:
        said.append("listed in workers.json, has not joined")
    elif worker.state is WorkerState.JOINED and not said:
        said.append(f"loading its partitions since {_moment(stands, worker.since)}")
    elif worker.state is WorkerState.READY and not said:
        said.append("has no unit")
    elif worker.state is WorkerState.DRAINING:
        said.append(f"draining since {_moment(stands, worker.since)}, then leaves")
    elif worker.state in (WorkerState.LOST, WorkerState.LEFT):
        said.append(f"{worker.state.value} at {_moment(stands, worker.since)}: {worker.reason}")
    return "\n".join([*said, *worker.notes])


def _unit(stands: Standing, attempt: AttemptRecord) -> str:
    since = f"since {_moment(stands, attempt.start)}"
    if stands.driver.alive:
        since += f" ({duration(stands.now - attempt.start)})"
    return f"{attempt.unit}, {since}"


def _moment(stands: Standing, t: float) -> str:
    """Format the time of day, with the date unless it is today."""
    moment = time.localtime(stands.unix_time(t))
    today = time.strftime("%F") == time.strftime("%F", moment)
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", moment)
