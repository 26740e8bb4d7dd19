"""Doing again what another run did: its visit orders, its decisions, its failures.

Given the same data, functions, seed and number of threads, a replay gives the same weights and
metrics, bit for bit. What the run recorded is read from its journal.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cerebro.driver.changes import named
from cerebro.driver.decisions import CheckedDecision, Procedure
from cerebro.driver.resume import check_allowed
from cerebro.driver.trusted import Trust
from cerebro.errors import ReplayRefused
from cerebro.hopper.units import ModelState, Split, Unit
from cerebro.journal.journal import naming_the_line, read_journal
from cerebro.journal.ledger import METRICS, EpochRecord, Ledger, owner
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import (
    CommittedRecord,
    DecisionRecord,
    NewModelEntry,
    Record,
    ReopenedRecord,
    VoidRecord,
)
from cerebro.journal.run_plan import START, RunPlan, differences


@dataclass(frozen=True)
class RecordedModel:
    """A model that a decision added. Where it started with a version of the run that is recorded,
    `source` is that one: (model, number).
    """

    added: NewModelEntry
    source: tuple[int, int] | None


@dataclass(frozen=True)
class RecordedDecision:
    """A decision, as far as it was not asked for again."""

    asked: tuple[int, ...]
    stop: dict[int, ModelState]
    add: tuple[RecordedModel, ...]


@dataclass
class Recording:
    """What a run did, as far as another can do it again.

    `visits` are the train partitions of a (model, epoch) in the order of the versions they made.
    `last_versions` are how far each model came, and `failures` why models failed. `configs` are all
    that were given, of which the plan has those that the run started with. `folders` are where the
    run's folder, now `run_dir`, was driven.
    """

    run_dir: str
    plan: RunPlan
    configs: list[dict[str, Any]]
    folders: tuple[str, ...]
    visits: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    decisions: list[RecordedDecision] = field(default_factory=list)
    last_versions: dict[int, int] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    epochs: dict[int, list[EpochRecord]] = field(default_factory=dict)

    def totals(self) -> dict[int, tuple[int, int]]:
        """Count the train and valid units of each model in the whole run."""
        valid = len(self.plan.valid_partitions)
        return {
            model: (versions, valid * sum(not e.inherited for e in self.epochs[model]))
            for model, versions in self.last_versions.items()
        }

    def as_begun(
        self, given: Sequence[dict[str, Any]], begun: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return those of the configurations that a replay has begun with, as `begun` has them.

        Where the recording started with a version of its own, the replay has one of its own.
        """
        new = (added for decision in self.decisions for added in decision.add)
        own = {one.added.place for one in new if one.source is not None}
        configs = list(given[: len(begun)])
        for number, config in enumerate(configs):
            start = config.get(START)
            if number in own and start is not None and start == self.configs[number].get(START):
                configs[number] = {**config, START: begun[number].get(START)}
        return configs


def read_recording(run_dir: str) -> Recording:
    """What the run in a folder did.

    Raises `NotARun`, `JournalDamaged`, and `ReplayRefused` for a run that has not ended.
    """
    paths = RunPaths(os.path.abspath(run_dir))
    records, _ = read_journal(paths)
    units: dict[int, dict[int, Unit]] = {}
    decisions: list[RecordedDecision] = []

    def note(record: Record, ledger: Ledger) -> None:
        if isinstance(record, CommittedRecord):
            attempt = ledger.attempts[record.attempt]
            if attempt.unit.split is Split.TRAIN:
                units.setdefault(attempt.unit.model, {})[attempt.reads + 1] = attempt.unit
        elif isinstance(record, VoidRecord):
            units.get(record.model, {}).pop(record.version, None)
        elif isinstance(record, DecisionRecord):
            add = tuple(RecordedModel(new, _source(new, ledger)) for new in record.add)
            decisions.append(RecordedDecision(record.asked, record.stop, add))
        elif isinstance(record, ReopenedRecord):
            decisions[:] = _undone(decisions, record.models)

    with naming_the_line(paths):
        ledger = Ledger.from_records(records, listeners=[note])
    if not ledger.ended:
        raise ReplayRefused(
            f"the run in {run_dir} has not ended: finish it first, with resume=True"
        )
    recording = Recording(
        str(paths.root), ledger.the_plan, ledger.configs, ledger.folders, decisions=decisions
    )
    for model in ledger.models.values():
        versions = units.get(model.id, {})
        for version in sorted(versions):
            unit = versions[version]
            recording.visits.setdefault((model.id, unit.epoch), []).append(unit.partition)
        recording.last_versions[model.id] = len(versions)
        recording.epochs[model.id] = model.epochs
        if model.failure is not None:
            recording.failures[model.id] = model.failure.message
    return recording


def _source(new: NewModelEntry, ledger: Ledger) -> tuple[int, int] | None:
    return owner(new.checkpoint, ledger) if new.checkpoint else None


def _undone(decisions: list[RecordedDecision], reopened: tuple[int, ...]) -> list[RecordedDecision]:
    """Decisions without those that stopped models which continued: they were asked about again."""
    left = []
    for decision in decisions:
        again = {model for model in reopened if model in decision.stop}
        asked = tuple(model for model in decision.asked if model not in again)
        stop = {m: state for m, state in decision.stop.items() if m not in again}
        if asked or decision.add or stop:
            left.append(RecordedDecision(asked, stop, decision.add))
    return left


class Replay(Procedure):
    """A procedure that decides what was decided in a recording.

    Each decision is given as soon as the models that it was about have ended their epochs, those
    that it stops have come as far as they had, and the versions that new models start with exist.
    A model that failed is ended where its last version was committed. `configs` are those that are
    given, for the models whose configurations were appended.
    """

    per_model = True
    begins_models = True
    asked_as = "the recording"

    def __init__(self, recording: Recording, configs: Sequence[dict[str, Any]]) -> None:
        self._recording = recording
        self._configs = configs
        self._waiting: set[int] = set()
        self.visit_order = recording.visits
        self.pinned = Counter(
            new.source
            for decision in recording.decisions
            for new in decision.add
            if new.source is not None
        )

    def ask(self, ledger: Ledger, models: tuple[int, ...]) -> list[CheckedDecision]:
        """The next decision of the recording, if it is due.

        Raises `ReplayRefused` for one that cannot be carried out, because a model that did not
        fail in the recording has failed here.
        """
        self._waiting.update(models)
        decisions, number = self._recording.decisions, ledger.decisions
        if number == len(decisions) or not self._is_due(decisions[number], ledger):
            return []
        return [self._decision(decisions[number], ledger)]

    def follow(self, ledger: Ledger) -> list[CheckedDecision]:
        return self.ask(ledger, ())

    def given_up(self, ledger: Ledger) -> dict[int, str]:
        return {
            model: f"failed in the run that is replayed: {message}"
            for model, message in self._recording.failures.items()
            if self._runs(model, ledger) and self._is_done(model, ledger)
        }

    def _runs(self, model: int, ledger: Ledger) -> bool:
        return model in ledger.models and ledger.models[model].state is ModelState.RUNNING

    def _is_done(self, model: int, ledger: Ledger) -> bool:
        """Whether a model has come as far as it had: its versions, and the epochs it ended."""
        record, recording = ledger.models[model], self._recording
        epochs = len(recording.epochs[model])
        return record.version >= recording.last_versions[model] and len(record.epochs) >= epochs

    def _is_due(self, decision: RecordedDecision, ledger: Ledger) -> bool:
        asked = [model for model in decision.asked if self._runs(model, ledger)]
        stopped = [model for model in decision.stop if self._runs(model, ledger)]
        return (
            self._waiting.issuperset(asked)
            and all(self._is_done(model, ledger) for model in stopped)
            and all(self._can_begin(new, ledger) for new in decision.add)
        )

    def _can_begin(self, new: RecordedModel, ledger: Ledger) -> bool:
        """Whether what a new model starts with is there: a version, and a parent's history."""
        missing = set[int]()
        added, source = new.added, new.source
        if source is not None and ledger.models[source[0]].version < source[1]:
            missing.add(source[0])
        if added.parent is not None and len(ledger.models[added.parent].epochs) < added.epoch:
            missing.add(added.parent)
        for number in missing:
            if not self._runs(number, ledger):
                state = ledger.models[number].state.value
                raise ReplayRefused(
                    f"model {added.model} of the run in {self._recording.run_dir} began with "
                    f"model {number}, which does not come as far here: it is {state}"
                )
        return not missing

    def _decision(self, decision: RecordedDecision, ledger: Ledger) -> CheckedDecision:
        """A decision as it concerns the models that run here.

        A model that failed in the recording ends by that, not by a stop that came later.
        """
        asked = tuple(model for model in decision.asked if model in self._waiting)
        self._waiting.difference_update(asked)
        stop = {
            model: state
            for model, state in decision.stop.items()
            if self._runs(model, ledger) and model not in self._recording.failures
        }
        return CheckedDecision(
            asked, stop, tuple(_in_this_run(new, self._configs, ledger) for new in decision.add)
        )

    def difference(self, ledger: Ledger) -> str | None:
        """The first metric that is not what was recorded, in words; None if all are."""
        for number, epochs in self._recording.epochs.items():
            ours = ledger.models[number].epochs
            for before, now in zip(epochs, ours, strict=False):
                for metric in (*METRICS, *before.metrics):
                    old, new = before.metric(metric), now.metric(metric)
                    if old != new and not (old != old and new != new):
                        return f"model {number}, epoch {before.epoch}: {metric} {new}, not {old}"
            if len(epochs) != len(ours):
                return f"model {number} has {len(ours)} epochs, not {len(epochs)}"
        return None


def _in_this_run(
    new: RecordedModel, configs: Sequence[dict[str, Any]], ledger: Ledger
) -> NewModelEntry:
    """A new model as this run starts it: from its own copy of the version, if it was one."""
    added, checkpoint = new.added, new.added.checkpoint
    mst = dict(added.mst if added.place is None else configs[added.place])
    if new.source is not None:
        model, version = new.source
        checkpoint = ledger.models[model].checkpoint(version)
        if checkpoint is None:
            raise ReplayRefused(
                f"model {added.model} began with version {version} of model {model}, which is not "
                "kept any more: replay the run from its beginning, under another name"
            )
        if START in mst:
            mst[START] = checkpoint
    return added._replace(mst=mst, checkpoint=checkpoint)


def check_recording(
    recording: Recording, plan: RunPlan, allow_changed: Sequence[str], trust: Trust
) -> None:
    """`ReplayRefused` if a plan is not that of the recording, or a checkpoint is gone.

    Raises `UntrustedFolder` for a checkpoint of somebody else's.
    """
    check_allowed(allow_changed)
    recorded = replace(recording.plan, configs=recording.configs)
    changed = differences(recorded, plan)
    refused = [name for name in changed if name not in allow_changed]
    if refused:
        raise ReplayRefused(
            f"the run in {recording.run_dir} was made with other "
            f"{named(refused, recording.plan, plan)}: replay it with the same, or name what may "
            f"differ in allow_changed={refused!r}"
        )
    for name in ("configs", "train_partitions", "valid_partitions"):
        before, now = len(getattr(recorded, name)), len(getattr(plan, name))
        if before != now:
            raise ReplayRefused(
                f"the run in {recording.run_dir} has {before} {name}, not {now}: their number "
                "cannot be another in a replay"
            )
    for decision in recording.decisions:
        for new in decision.add:
            path = new.added.checkpoint
            if path and new.source is None and not glob.glob(glob.escape(path) + "*"):
                raise ReplayRefused(
                    f"model {new.added.model} of the run in {recording.run_dir} began with {path}, "
                    "which is gone: put it back"
                )
            if new.source is None:
                trust.check_checkpoint(path)
