"""What a report of a run shows, from what its journal adds up to."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence

from cerebro.errors import UnsafePath
from cerebro.formatting import count, first_line, metric_name
from cerebro.hopper.units import ModelState
from cerebro.journal.best import best_epoch, score
from cerebro.journal.ledger import AttemptRecord, EpochRecord, Ledger, ModelRecord, WorkerRecord
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import GenerationRecord
from cerebro.journal.run_plan import RunPlan, hyperparameters
from cerebro.report.contents import (
    NO_FAILURES,
    Contents,
    Epoch,
    ReportedModel,
    ReportedWorker,
    Trouble,
)
from cerebro.results import methods_paragraph, tables, time_spent
from cerebro.results.worker_timeline import WorkerTimeline
from cerebro.storage import read_bytes

VOID = "void"
FINGERPRINT_SHOWN = 12


def contents(
    paths: RunPaths, ledger: Ledger, timeline: WorkerTimeline, *, with_methods: bool = False
) -> Contents:
    """Return all that a report shows.

    The ledger has kept its attempts, and the timeline was its listener.
    """
    plan, until = ledger.the_plan, ledger.last_t
    by_worker: dict[int, list[AttemptRecord]] = defaultdict(list)
    for attempt in ledger.attempts.values():
        by_worker[attempt.worker].append(attempt)
    models = [_model(model, plan) for model in ledger.models.values()]
    workers = [
        _worker(number, worker, by_worker[number], timeline, until)
        for number, worker in sorted(ledger.workers.items())
    ]
    platform = _platform(paths)
    return Contents(
        name=plan.name,
        run_dir=str(paths.root),
        began=moment(ledger.base_time),
        seconds=until,
        notes=notes(paths, ledger, timeline),
        models=models,
        workers=workers,
        troubles=_troubles(ledger, timeline),
        restarts=timeline.restarts,
        saving=sum(
            attempt.committed.phases.get("save") or 0.0
            for attempt in ledger.attempts.values()
            if attempt.committed is not None
        ),
        provenance=_provenance(paths, ledger, platform),
        methods=methods_paragraph.paragraph(ledger, platform) if with_methods else None,
        metric=plan.metric,
    )


def moment(seconds: float) -> str:
    """Format a Unix time for people, in the time zone of this host."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


def _model(model: ModelRecord, plan: RunPlan) -> ReportedModel:
    best = best_epoch(model, plan)
    value, worth = _ranked_by(model, best, plan)
    return ReportedModel(
        id=model.id,
        config=hyperparameters(model.mst),
        state=model.state.value,
        epochs=[_epoch(epoch) for epoch in model.epochs],
        best=None if best is None else _epoch(best),
        value=value,
        score=worth,
        failure=model.failure.message if model.failure else "",
    )


def _ranked_by(model: ModelRecord, best: EpochRecord | None, plan: RunPlan) -> tuple[float, float]:
    """What a model is ranked by, and what that is worth; without validation it is the lowest error
    in training.
    """
    if best is not None:
        return best.metric(plan.metric), score(best, plan.metric, plan.mode)
    if plan.valid_partitions or not plan.metric.startswith("valid_"):
        return math.nan, math.nan
    own = [score(epoch, "train_error") for epoch in model.epochs if not epoch.inherited]
    lowest = min((error for error in own if math.isfinite(error)), default=math.nan)
    return lowest, lowest


def _epoch(record: EpochRecord) -> Epoch:
    return Epoch(
        record.epoch,
        record.train_loss,
        record.train_error,
        record.valid_loss,
        record.valid_error,
        record.inherited,
        record.flaw,
    )


def _worker(
    number: int,
    worker: WorkerRecord,
    attempts: list[AttemptRecord],
    timeline: WorkerTimeline,
    until: float,
) -> ReportedWorker:
    done = time_spent.bars(attempts, until)
    away, loading = timeline.away(number, until), timeline.loading(number, until)
    return ReportedWorker(
        id=number,
        url=worker.url,
        machine=machine_of(worker),
        bars=[bar for bar, _ in done],
        away=away,
        loading=loading,
        spent=time_spent.seconds_by_part(done, away, loading, until),
    )


def machine_of(worker: WorkerRecord) -> str:
    """Describe the machine that a worker runs on; empty if the worker never answered."""
    facts = worker.facts
    parts = [str(facts["host"])] if facts.get("host") else []
    if facts.get("threads"):
        parts.append(count(facts["threads"], "thread"))
    return ", ".join([*parts, *map(str, facts.get("devices", []))])


def _troubles(ledger: Ledger, timeline: WorkerTimeline) -> list[Trouble]:
    found = [
        Trouble(seconds, worker, f"worker {state}", "", first_line(reason))
        for seconds, worker, state, reason in timeline.troubles
    ]
    for attempt in ledger.attempts.values():
        if attempt.outcome in NO_FAILURES:
            continue
        message = attempt.message
        if attempt.outcome == VOID:
            message = "the version that it made was damaged, and is recomputed"
        elif not message:
            message = "the driver ended before it did"
        end = ledger.last_t if attempt.end is None else attempt.end
        found.append(
            Trouble(end, attempt.worker, attempt.outcome, str(attempt.unit), first_line(message))
        )
    return sorted(found, key=lambda trouble: trouble.seconds)


def notes(paths: RunPaths, ledger: Ledger, timeline: WorkerTimeline) -> list[str]:
    """Say what a reader has to know before the figures, in sentences."""
    said = []
    plan, models = ledger.the_plan, ledger.models.values()
    if not ledger.ended:
        why = f": its driver stopped ({timeline.interrupted})" if timeline.interrupted else ""
        said.append(
            f"This run has not ended{why}. What is shown goes as far as its journal, "
            f"{moment(ledger.base_time + ledger.last_t)}. If nobody drives it any more, "
            f"schedule(..., run_name={paths.root.name!r}, resume=True) resumes it."
        )
    if not any(model.epochs for model in models):
        a_model = len(plan.train_partitions) + len(plan.valid_partitions)
        done = sum(attempt.outcome == "committed" for attempt in ledger.attempts.values())
        said.append(
            f"No model has ended an epoch yet, so there are no curves and no errors: "
            f"{count(done, 'unit')} of the {a_model * len(models)} of a first epoch are done."
        )
    failed = [model.id for model in models if model.state is ModelState.FAILED]
    if failed:
        ids = ", ".join(map(str, failed[:10])) + (", …" if len(failed) > 10 else "")
        said.append(
            f"{count(len(failed), 'model')} failed ({ids}): the table of models says why, "
            f"and {paths.model_log(failed[0])} has the whole message."
        )
    said += _flaws(ledger)
    if not plan.valid_partitions:
        said.append(
            "There were no validation partitions: models are ranked by their error in training."
        )
    return said


def ruined_models(models: Sequence[ModelRecord]) -> str:
    """Say which models have numbers that are not finite, and what follows."""
    ids = ", ".join(str(model.id) for model in models[:10]) + (", …" if len(models) > 10 else "")
    be = "is" if len(models) == 1 else "are"
    return (
        f"{count(len(models), 'model')} {be} ruined ({ids}): an epoch whose training loss or "
        "weights are not finite is never best"
    )


def _flaws(ledger: Ledger) -> list[str]:
    """Say which models are ruined, and which have another flaw."""
    found = ledger.flawed_models()
    ruined = [pair for pair in found if pair[1].ruined]
    others = [pair for pair in found if not pair[1].ruined]
    said = []
    if ruined:
        model, epoch = ruined[0]
        said.append(
            f"{ruined_models([m for m, _ in ruined])}, and no search continues from it. Model "
            f"{model.id}, epoch {epoch.epoch}: {epoch.flaw}."
        )
    if others:
        model, epoch = others[0]
        said.append(
            f"Numbers of {count(len(others), 'model')} are not finite, which ruins none. Model "
            f"{model.id}, epoch {epoch.epoch}: {epoch.flaw}."
        )
    return said


def _platform(paths: RunPaths) -> str:
    """Read the driver's platform, which the journal does not have; empty where it is not known."""
    with contextlib.suppress(OSError, UnsafePath, ValueError, KeyError, TypeError):
        content = json.loads(read_bytes(paths.provenance, inside=paths.root))
        return str(content["versions"]["platform"])
    return ""


def _provenance(paths: RunPaths, ledger: Ledger, platform: str) -> list[tuple[str, list[str]]]:
    plan = ledger.the_plan
    versions = ledger.generations[-1].versions
    rows = {
        "Run": [f"{plan.name}, id {plan.id}"],
        "Folder": [str(paths.root)],
        "Repeats": [plan.replay] if plan.replay else [],
        "Driven by": [_driver(record) for record in ledger.generations],
        "Versions": [f"{name} {version}" for name, version in versions.items() if version],
        "Platform": [platform] if platform else [],
        "Backend": [plan.backend],
        "Seed": [str(plan.seed)],
        "Deterministic": ["yes" if plan.deterministic else "no"],
        "Placement": [plan.placement],
        "Functions": [f"{n} {f[:FINGERPRINT_SHOWN]}" for n, f in plan.functions.items()],
        "Training partitions": _partitions(plan.train_partitions, plan.train_availability),
        "Validation partitions": _partitions(plan.valid_partitions, plan.valid_availability),
        "Means over partitions": [metric_name(metric) for metric in tables.means(ledger)],
        "Workers": [
            f"{number}: {worker.url}, {machine_of(worker) or 'never answered'}"
            for number, worker in sorted(ledger.workers.items())
        ],
        "Faults": [f"{kind}: {number}" for kind, number in sorted(ledger.faults.items())]
        or ["none"],
    }
    return [(name, values) for name, values in rows.items() if values]


def _driver(record: GenerationRecord) -> str:
    driver, commit = record.driver, record.git_commit
    text = f"{driver.get('host', '?')}, process {driver.get('pid', '?')}"
    return f"{text}, from {moment(record.time)}" + (f", git commit {commit}" if commit else "")


def _partitions(paths: list[str], availability: list[list[int]] | None) -> list[str]:
    if availability is None:
        return paths
    holders = [[w for w, row in enumerate(availability) if row[p]] for p in range(len(paths))]
    return [
        f"{path} (worker {', '.join(map(str, own))})"
        for path, own in zip(paths, holders, strict=True)
    ]
