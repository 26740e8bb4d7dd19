"""Doing again what another run did: its visit orders, its decisions, its failures.

Given the same data, functions, seed and number of threads, a replay gives the same weights and
metrics, bit for bit. What the run recorded is read from its journal.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebro.driver.decisions import Decision, Procedure
from cerebro.driver.resume import check_allowed, named
from cerebro.errors import ReplayRefused
from cerebro.hopper.units import ModelState, Split, Unit
from cerebro.journal.journal import Record, read_journal
from cerebro.journal.ledger import METRICS, EpochRecord, Ledger, owner
from cerebro.journal.paths import RunPaths
from cerebro.journal.run_plan import Plan, differences


@dataclass
class Recording:
    """What a run did, as far as another can do it again.

    `visits` are the train partitions of a (model, epoch) in the order of the versions they made.
    A decision that begins a model with a version of the run has it as `source`: (model, number).
    `last_versions` are how far each model came, and `failures` why models failed.
    """

    run_dir: str
    plan: Plan
    visits: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    decisions: list[Record] = field(default_factory=list)
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


def read_recording(run_dir: str) -> Recording:
    """What the run in a folder did.

    Raises `NotARun`, `JournalDamaged`, and `ReplayRefused` for a run that has not ended.
    """
    paths = RunPaths(os.path.abspath(run_dir))
    records, _ = read_journal(paths)
    ledger = Ledger()
    units: dict[int, dict[int, Unit]] = {}
    decisions: list[Record] = []
    for record in records:
        kind = record["kind"]
        if kind == "committed":
            attempt = ledger.attempts[record["attempt"]]
            if attempt.unit.split is Split.TRAIN:
                units.setdefault(attempt.unit.model, {})[attempt.reads + 1] = attempt.unit
        elif kind == "void":
            del units[record["model"]][record["version"]]
        elif kind == "decision":
            decisions.append(
                {**record, "add": [_with_source(new, ledger) for new in record["add"]]}
            )
        elif kind == "reopened":
            decisions = _undone(decisions, record["models"])
        ledger.add(record)
    if not ledger.ended:
        raise ReplayRefused(
            f"the run in {run_dir} has not ended: go on with it first, with resume=True"
        )
    recording = Recording(str(paths.root), ledger.the_plan, decisions=decisions)
    for model in ledger.models.values():
        versions = units.get(model.id, {})
        for version in sorted(versions):
            unit = versions[version]
            recording.visits.setdefault((model.id, unit.epoch), []).append(unit.partition)
        recording.last_versions[model.id] = len(versions)
        recording.epochs[model.id] = model.epochs
        if model.failure is not None:
            recording.failures[model.id] = model.failure["message"]
    return recording


def _with_source(new: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    return {**new, "source": owner(new["checkpoint"], ledger) if new["checkpoint"] else None}


def _undone(decisions: list[Record], reopened: list[int]) -> list[Record]:
    """Decisions without those that stopped models which went on: they were asked about again."""
    left = []
    for record in decisions:
        again = {model for model in reopened if str(model) in record["stop"]}
        asked = [model for model in record["asked"] if model not in again]
        stop = {m: state for m, state in record["stop"].items() if int(m) not in again}
        if asked or record["add"] or stop:
            left.append({**record, "asked": asked, "stop": stop})
    return left


class Replay(Procedure):
    """A procedure that decides what was decided in a recording.

    Each decision is given as soon as the models that it was about have ended their epochs, those
    that it stops have come as far as they had, and the versions that new models begin with exist.
    A model that failed is ended where its last version was committed.
    """

    per_model = True
    begins_models = True
    asked_as = "the recording"

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._waiting: set[int] = set()
        self.visit_order = recording.visits
        self.pinned = Counter(
            tuple(new["source"])
            for decision in recording.decisions
            for new in decision["add"]
            if new["source"]
        )

    def ask(self, ledger: Ledger, models: tuple[int, ...]) -> list[Decision]:
        """The next decision of the recording, if it is due.

        Raises `ReplayRefused` for one that cannot be carried out, because a model that did not
        fail in the recording has failed here.
        """
        self._waiting.update(models)
        decisions, number = self._recording.decisions, ledger.decisions
        if number == len(decisions) or not self._is_due(decisions[number], ledger):
            return []
        return [self._decision(decisions[number], ledger)]

    def follow(self, ledger: Ledger) -> list[Decision]:
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

    def _is_due(self, record: Record, ledger: Ledger) -> bool:
        asked = [model for model in record["asked"] if self._runs(model, ledger)]
        stopped = [int(model) for model in record["stop"] if self._runs(int(model), ledger)]
        return (
            self._waiting.issuperset(asked)
            and all(self._is_done(model, ledger) for model in stopped)
            and all(self._can_begin(new, ledger) for new in record["add"])
        )

    def _can_begin(self, new: dict[str, Any], ledger: Ledger) -> bool:
        """Whether what a new model begins with is there: a version, and a parent's history."""
        missing = set[int]()
        if new["source"] and ledger.models[new["source"][0]].version < new["source"][1]:
            missing.add(new["source"][0])
        if new["parent"] is not None and len(ledger.models[new["parent"]].epochs) < new["epoch"]:
            missing.add(new["parent"])
        for number in missing:
            if not self._runs(number, ledger):
                state = ledger.models[number].state.value
                raise ReplayRefused(
                    f"model {new['model']} of the run in {self._recording.run_dir} began with "
                    f"model {number}, which does not come as far here: it is {state}"
                )
        return not missing

    def _decision(self, record: Record, ledger: Ledger) -> Decision:
        """A decision as it concerns the models that run here.

        A model that failed in the recording ends by that, not by a stop that came later.
        """
        asked = tuple(model for model in record["asked"] if model in self._waiting)
        self._waiting.difference_update(asked)
        stop = {
            int(model): ModelState(state)
            for model, state in record["stop"].items()
            if self._runs(int(model), ledger) and int(model) not in self._recording.failures
        }
        return Decision(asked, stop, [_in_this_run(new, ledger) for new in record["add"]])

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


def _in_this_run(new: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    """A new model as this run begins it: from its own copy of the version, if it was one."""
    source, mst, checkpoint = new["source"], dict(new["mst"]), new["checkpoint"]
    if source:
        model, version = source
        checkpoint = ledger.models[model].checkpoint(version)
        if checkpoint is None:
            raise ReplayRefused(
                f"model {new['model']} began with version {version} of model {model}, which is not "
                "kept any more: replay the run from its beginning, under another name"
            )
        if "init_ckpt_path" in mst:
            mst["init_ckpt_path"] = checkpoint
    fields = {key: value for key, value in new.items() if key != "source"}
    return {**fields, "mst": mst, "checkpoint": checkpoint}


def check_recording(recording: Recording, plan: Plan, allow_changed: Sequence[str]) -> None:
    """`ReplayRefused` if a plan is not that of the recording, or a checkpoint is gone."""
    check_allowed(allow_changed)
    changed = differences(recording.plan, plan)
    refused = [name for name in changed if name not in allow_changed]
    if refused:
        raise ReplayRefused(
            f"the run in {recording.run_dir} was made with other {named(refused)}: replay it with "
            f"the same, or name what may differ in allow_changed={refused!r}"
        )
    for name in ("configs", "train_partitions", "valid_partitions"):
        before, now = len(getattr(recording.plan, name)), len(getattr(plan, name))
        if before != now:
            raise ReplayRefused(
                f"the run in {recording.run_dir} has {before} {name}, not {now}: their number "
                "cannot be another in a replay"
            )
    for decision in recording.decisions:
        for new in decision["add"]:
            path = new["checkpoint"]
            if path and not new["source"] and not glob.glob(glob.escape(path) + "*"):
                raise ReplayRefused(
                    f"model {new['model']} of the run in {recording.run_dir} began with {path}, "
                    "which is gone: put it back"
                )
