"""Show the status of a run, during the run or after its driver has ended, been killed or crashed:
who drives it, how far it has come and how fast, the best model so far, what each worker is doing,
which models have failed and why, what is being waited for, and what to do next. Reads the run's
journal and driver.json, and changes nothing.
"""

from __future__ import annotations

import argparse
import os
import time

from cerebro.cli import output, run_folder, text_table
from cerebro.formatting import count, duration, first_line, metric_name, one_line, shown
from cerebro.hopper.units import ModelState
from cerebro.journal.ledger import AttemptRecord
from cerebro.journal.run_plan import hyperparameters
from cerebro.journal.worker_states import PRESENT, WorkerState
from cerebro.results.status import RunStatus, WorkerStatus, run_status

SUMMARY = "show the status of a run"

FAILURES_SHOWN = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help=run_folder.HELP)


def run(arguments: argparse.Namespace) -> int:
    """Print the status of a run."""
    output.say(render(run_status(run_folder.chosen_run(arguments.run_dir)), text_table.width()))
    return 0


def render(status: RunStatus, columns: int) -> str:
    """Format a run's status in lines of at most `columns` columns (except for long names)."""
    facts = [
        ["run", _run(status)],
        ["driver", _driver(status)],
        ["epochs", _epochs(status)],
        ["pace", _pace(status)],
        ["best", _best(status)],
        *(["flawed", flaw] for flaw in _flaws(status)),
        *(["waits", f"for {wait}"] for wait in status.waits),
        *(["failed", failure] for failure in _failures(status)),
        ["next", _next(status)],
    ]
    parts = [text_table.table([row for row in facts if row[1]], columns)]
    if not status.ledger.ended:
        rows = [["WORKER", "URL", "STATE" if status.driver.alive else "STATE WHEN LAST SEEN"]]
        rows += [
            [str(number), worker.url, _worker(status, worker)]
            for number, worker in status.workers.items()
        ]
        parts.append(text_table.table(rows, columns))
    return "\n\n".join(parts)


def _run(status: RunStatus) -> str:
    plan = status.ledger.the_plan
    states = [model.state for model in status.ledger.models.values()]
    counts = ", ".join(f"{states.count(s)} {s.value}" for s in ModelState if s in states)
    started = time.strftime("%a %Y-%m-%d %H:%M:%S", time.localtime(status.ledger.base_time))
    return (
        f"{one_line(str(status.paths.root))}, started {started}\n"
        f"{count(len(states), 'model')} ({counts}), {len(plan.train_partitions)} train and "
        f"{len(plan.valid_partitions)} valid partitions"
    )


def _driver(status: RunStatus) -> str:
    if status.ledger.ended:
        return f"none, the run has ended, after {duration(status.now)}"
    driver = status.driver
    since = _moment(status, status.ledger.generations[-1].t)
    said = f"{one_line(driver.who)} {driver.how}; it started or resumed the run at {since}"
    if status.interrupted:
        said += f", and stopped: {first_line(status.interrupted)}"
    return said


def _epochs(status: RunStatus) -> str:
    said = f"{count(status.progress.epochs, 'epoch')} of models ended"
    epoch = status.epoch
    if epoch is None:
        return said
    first, last = epoch.first, epoch.last
    which = f"epoch {first}" if first == last else f"epochs {first} to {last}"
    share = f" ({100 * epoch.done // epoch.units} %)" if epoch.units else ""
    return f"{said}; {which} in progress, {epoch.done} of {count(epoch.units, 'unit')} done{share}"


def _pace(status: RunStatus) -> str:
    if status.epoch is None or status.driver.alive is not True:
        return ""
    said = "no unit of this driver is committed yet"
    if status.rate:
        said = f"{60 * status.rate:.3g} units per minute"
    return f"{said}; {status.time_left.text()}" if status.time_left is not None else said


def _best(status: RunStatus) -> str:
    found = status.best()
    if found is None:
        epochs = [epoch for model in status.ledger.models.values() for epoch in model.epochs]
        if epochs and all(epoch.ruined for epoch in epochs):
            return "none: every epoch is ruined"
        return "no model has ended an epoch with a number yet"
    model, epoch = found
    values = hyperparameters(model.mst).items()
    config = ", ".join(one_line(f"{name} {shown(value)}") for name, value in values)
    metric = status.ledger.the_plan.metric
    value = f"{metric_name(metric)} {epoch.metric(metric):.4g}"
    return f"model {model.id}, epoch {epoch.epoch}: {value} ({config})"


def _flaws(status: RunStatus) -> list[str]:
    found = status.ledger.flawed_models()
    said = [f"model {m.id}, epoch {e.epoch}: {e.warning}" for m, e in found[:FAILURES_SHOWN]]
    if len(found) > FAILURES_SHOWN:
        said.append(f"and {len(found) - FAILURES_SHOWN} more: see history.csv or cerebro.load")
    return said


def _failures(status: RunStatus) -> list[str]:
    failed = [model for model in status.ledger.models.values() if model.failure is not None]
    said = [
        f"model {model.id}: {first_line(model.failure.message)} "
        f"(see {os.path.join('logs', status.paths.model_log(model.id).name)})"
        for model in failed[:FAILURES_SHOWN]
        if model.failure is not None
    ]
    if len(failed) > FAILURES_SHOWN:
        said.append(f"and {len(failed) - FAILURES_SHOWN} more: see models.csv or cerebro.load")
    return said


def _next(status: RunStatus) -> str:
    root = status.paths.root.absolute()
    call = f"ckpt_root={str(root.parent)!r}, run_name={root.name!r}, resume=True"
    failed = any(model.failure is not None for model in status.ledger.models.values())
    if status.ledger.ended:
        results = f"cerebro.load({str(root)!r}) gives the results"
        retry = f"; schedule(..., {call}, retry_failed=True) resumes failed models"
        return results + retry if failed else results
    if status.driver.alive:
        return ""
    again = "; with retry_failed=True failed models are resumed as well" if failed else ""
    return f"schedule(..., {call}); what is committed is not trained again{again}"


def _worker(status: RunStatus, worker: WorkerStatus) -> str:
    said = []
    if worker.state in PRESENT:
        said += [_unit(status, attempt) for attempt in reversed(worker.units[-1:])]
        said += [f"saving {a.unit}" for a in worker.units[:-1]]
    if worker.state is None:
        said.append("has not joined")
    elif worker.state is WorkerState.ADDED:
        said.append("listed in workers.json, has not joined")
    elif worker.state is WorkerState.JOINED and not said:
        said.append(f"loading its partitions since {_moment(status, worker.since)}")
    elif worker.state is WorkerState.READY and not said:
        said.append("has no unit")
    elif worker.state is WorkerState.DRAINING:
        said.append(f"draining since {_moment(status, worker.since)}, then leaves")
    elif worker.state in (WorkerState.LOST, WorkerState.LEFT):
        said.append(f"{worker.state.value} at {_moment(status, worker.since)}: {worker.reason}")
    return "\n".join([*said, *worker.notes])


def _unit(status: RunStatus, attempt: AttemptRecord) -> str:
    since = f"since {_moment(status, attempt.start)}"
    if status.driver.alive:
        since += f" ({duration(status.now - attempt.start)})"
    return f"{attempt.unit}, {since}"


def _moment(status: RunStatus, t: float) -> str:
    """Format the time of day, with the date unless it is today."""
    moment = time.localtime(status.unix_time(t))
    today = time.strftime("%F") == time.strftime("%F", moment)
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", moment)
