"""A run from its start, or from where it stood, to its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebro.errors import (
    CerebroError,
    InputError,
    NotARun,
    RunError,
    RunHeld,
    RunInterrupted,
    StorageError,
)
from cerebro.rpc import encode_bytes
from cerebro.run import arguments, connect, procedure
from cerebro.run.driver import Driver, all_failed
from cerebro.run.holder import Holder, check_free, replaced
from cerebro.run.journal import Journal, Record, Tail, has_begun, read_journal
from cerebro.run.ledger import Ledger
from cerebro.run.link import Link, Notice, Opening
from cerebro.run.logs import LogWriter, rebuild
from cerebro.run.paths import RunPaths
from cerebro.run.plan import Plan
from cerebro.run.progress import Progress
from cerebro.run.provenance import git_commit, write_provenance
from cerebro.run.replay import Recording, Replay, check_recording
from cerebro.run.result import Result
from cerebro.run.resume import reopen, same_plan
from cerebro.run.signals import interruptible
from cerebro.run.workers_file import Watch, write_workers
from cerebro.storage import storage_errors
from cerebro.wording import count
from cerebro.worker import machine

LEASE_FACTOR = 2.0
"""A worker gives a run up when it has not heard of its driver for so many heartbeat times."""


@dataclass(frozen=True)
class Start:
    """Everything that a run needs to begin, checked as far as it can be without the workers."""

    plan: Plan
    blob: bytes
    eval_fn: Callable[[dict[int, dict[str, Any]]], Any]
    root: Path
    make_client: connect.MakeClient
    heartbeat: float
    unit_timeout: float | None
    allow_changed: tuple[str, ...]
    retry_failed: bool
    recording: Recording | None
    code_folder: str
    progress: Progress

    def run(self, resume: bool | str) -> Result:
        """Begin or go on, to the end."""
        name = self.plan.name
        if resume is True or (resume == "auto" and has_begun(RunPaths(self.root / name))):
            return self._resume(self.root / name)
        self._check_replay()
        contacts = self._contact(self.plan)
        self._check_held(self.plan, contacts)
        paths = self._create(name)
        probe = connect.StorageProbe(paths.probe, str(self.root))
        try:
            connect.check_storage(contacts, self.make_client, probe)
        except CerebroError:
            _remove_unused(paths)
            raise
        tail, run_id = self._remains(paths)
        plan = replace(self.plan, id=run_id or self.plan.id, name=paths.root.name)
        base = time.time()
        began = time.monotonic()
        journal = Journal(paths, tail, self._opening_record(0.0, plan.id))
        first = [{"kind": "plan", "t": 0.0, "plan": plan.to_json(), "base": base}]
        return self._drive(
            paths, journal, Ledger(), first, lambda: time.monotonic() - began, contacts, probe
        )

    def _resume(self, root: Path) -> Result:
        paths = RunPaths(root)
        if not has_begun(paths):
            raise NotARun(f"{root} holds no run that has begun: start it without resume=True")
        check_free(paths, say=self.progress.say)
        # Not before: up to then its driver may have gone on.
        records, tail = read_journal(paths)
        ledger = Ledger.from_records(records)
        before = ledger.the_plan
        plan = same_plan(before, self.plan, self.allow_changed, self.progress.say)
        self._check_replay()
        reopened = reopen(ledger, plan, retry_failed=self.retry_failed)
        if ledger.ended and not reopened:
            self.progress.say(f"the run in {root} has ended already")
            return self._result(paths)
        contacts = self._contact(plan)
        probe = connect.StorageProbe(paths.probe, str(self.root))
        connect.check_storage(contacts, self.make_client, probe)
        began, offset = time.monotonic(), ledger.last_t

        def clock() -> float:
            return offset + time.monotonic() - began

        journal = Journal(paths, tail, self._opening_record(clock(), plan.id))
        rebuild(paths, records)
        del records  # of a long run they are many
        first = [{"kind": "plan", "t": clock(), "plan": plan.to_json()}]
        for record in reopened:
            self.progress.say(f"models {record['models']} go on: {record['why']}")
            first.append({**record, "t": clock()})
        return self._drive(paths, journal, ledger, first, clock, contacts, probe, before)

    def _check_replay(self) -> None:
        """`ReplayRefused` if what is given is not what the recording was made with."""
        if self.recording is not None:
            check_recording(self.recording, self.plan, self.allow_changed)

    def _opening_record(self, t: float, run_id: str) -> Record:
        """What this driver's generation of the journal begins with."""
        return {
            "t": t,
            "run": run_id,
            "time": time.time(),
            "driver": machine.host(),
            "versions": machine.versions(),
            "git_commit": git_commit(self.code_folder),
        }

    def _remains(self, paths: RunPaths) -> tuple[Tail | None, str]:
        """The end of what a driver left that died before its run began, and that run's id.

        The id is kept: should that driver live after all, the workers refuse one of the two.
        """
        if not paths.generations():
            return None, ""
        check_free(paths, say=self.progress.say)
        if has_begun(paths):
            raise RunHeld(f"another driver has just begun the run in {paths.root}")
        records, tail = read_journal(paths)
        return tail, records[0].get("run", "") if records else ""

    def _contact(self, plan: Plan) -> list[connect.Contact]:
        contacts = connect.contact(
            plan.workers, self.make_client, backend=plan.backend, run=plan.id
        )
        for contact in contacts:
            if contact.facts is None:
                self.progress.say(
                    f"worker {contact.url} does not answer and is left out until it does: "
                    f"{contact.trouble}"
                )
        return contacts

    def _check_held(self, plan: Plan, contacts: list[connect.Contact]) -> None:
        """A new run begins only where each partition has a holder that answers."""
        present = {c.worker for c in contacts if c.facts is not None}
        for split in ("train", "valid"):
            arguments.check_held(
                f"{split}_availability",
                getattr(plan, f"{split}_availability"),
                getattr(plan, f"{split}_partitions"),
                present,
                plan.workers,
            )

    def _create(self, name: str) -> RunPaths:
        """A folder for the run, of a name that is not taken by another that has begun."""
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"ckpt_root={str(self.root)!r} is a file: name a folder")
        with storage_errors("create", self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            stamp = time.strftime("run-%Y%m%d-%H%M%S")
            number = 0
            while True:
                number += 1
                root = self.root / (name or (stamp if number == 1 else f"{stamp}-{number}"))
                try:
                    root.mkdir()
                    break
                except FileExistsError:
                    if name and _never_began(RunPaths(root)):
                        break
                    if name:
                        raise RunError(
                            f"{root} exists already: pass resume=True to go on with that run, or "
                            "another run_name"
                        ) from None
            paths = RunPaths(root)
            try:
                paths.create()
            except OSError:
                _remove_unused(paths)
                raise
        return paths

    def _drive(
        self,
        paths: RunPaths,
        journal: Journal,
        ledger: Ledger,
        first: list[Record],
        clock: Callable[[], float],
        contacts: list[connect.Contact],
        probe: connect.StorageProbe,
        before: Plan | None = None,
    ) -> Result:
        for path in paths.temporary():  # of drivers that were killed; from here on it is our own
            with contextlib.suppress(OSError):
                path.unlink()
        holder = Holder(paths, journal.generation)
        ledger.add(journal.opening)
        ledger.listeners.append(LogWriter(paths))
        try:
            _append(journal, ledger, first)
            plan = ledger.the_plan
            write_workers(paths.workers, plan.workers, before)
            write_provenance(paths, ledger)
            ledger.listeners.append(self.progress)
            self.progress.say(
                f"run {paths.root}: {count(len(ledger.models), 'model')}, "
                f"{len(plan.train_partitions)} train and {len(plan.valid_partitions)} valid "
                "partitions, "
                f"{count(sum(c.facts is not None for c in contacts), 'worker')}"
            )
            how = self._procedure(paths)
            driver = self._driver(paths, journal, ledger, contacts, probe, clock, how)
            watch = Watch(paths.workers, plan, self.heartbeat, driver.listed, self.progress.say)
            try:
                with interruptible(driver):
                    driver.run()
            finally:
                watch.close()
            if isinstance(how, Replay):
                self._compare(how, ledger)
        except KeyboardInterrupt:
            self._note(journal, ledger, clock, "interrupted")
            raise RunInterrupted(
                f"the run in {paths.root} was interrupted; to go on: schedule(..., "
                f"run_name={paths.root.name!r}, resume=True)"
            ) from None
        except Exception as error:
            self._note(journal, ledger, clock, f"{type(error).__name__}: {error}")
            raise
        finally:
            journal.close()
            holder.release()
            with contextlib.suppress(CerebroError):
                if not replaced(paths, journal.generation):
                    write_provenance(paths, ledger)
        failed = all_failed(ledger)
        if failed is not None:
            raise failed
        return self._result(paths)

    def _result(self, paths: RunPaths) -> Result:
        result = Result(paths.root)
        try:
            result.save_tables()
        except StorageError as error:
            self.progress.say(f"{error}: the tables are not written; .save_tables() does it later")
        return result

    def _compare(self, replay: Replay, ledger: Ledger) -> None:
        """Say whether a replay has given what was recorded."""
        difference = replay.difference(ledger)
        if difference is None:
            self.progress.say(f"every metric is that of {self.plan.replay}")
        else:
            self.progress.say(
                f"this is not what {self.plan.replay} gave: {difference}. Data, functions, "
                "versions, devices or numbers of threads are others"
            )

    def _procedure(self, paths: RunPaths) -> procedure.Procedure:
        if self.recording is not None:
            return Replay(self.recording)
        return procedure.EvalProcedure(
            self.eval_fn,
            f"the run in {paths.root} stops here: put it right, then go on with "
            f"run_name={paths.root.name!r}, resume=True",
        )

    def _driver(
        self,
        paths: RunPaths,
        journal: Journal,
        ledger: Ledger,
        contacts: list[connect.Contact],
        probe: connect.StorageProbe,
        clock: Callable[[], float],
        how: procedure.Procedure,
    ) -> Driver:
        plan = ledger.the_plan
        opening = Opening(
            run=plan.id,
            generation=journal.generation,
            driver={**machine.host(), "run_dir": str(paths.root)},
            lease=LEASE_FACTOR * self.heartbeat,
            backend=plan.backend,
            functions=encode_bytes(self.blob),
            deterministic=plan.deterministic,
            seed=plan.seed,
            keep_data=plan.keep_data,
        )

        admit = connect.Admission(contacts, probe, plan.backend)

        def make_link(worker: int, url: str, notify: Callable[[Notice], None]) -> Link:
            return Link(worker, url, self.make_client, opening, self.heartbeat, notify, admit)

        return Driver(
            paths=paths,
            ledger=ledger,
            journal=journal,
            make_link=make_link,
            absent={c.worker for c in contacts if c.facts is None},
            procedure=how,
            progress=self.progress,
            clock=clock,
            unit_timeout=self.unit_timeout,
        )

    def _note(
        self, journal: Journal, ledger: Ledger, clock: Callable[[], float], reason: str
    ) -> None:
        """Say in the journal why the run stops here."""
        with contextlib.suppress(CerebroError):
            _append(
                journal, ledger, [{"kind": "interrupted", "t": clock(), "reason": reason[:500]}]
            )


def _never_began(paths: RunPaths) -> bool:
    """Whether a folder is what a driver left that died before its run began."""
    empty = not any(paths.root.iterdir())
    return empty or (paths.journal.is_dir() and not has_begun(paths))


def _append(journal: Journal, ledger: Ledger, records: list[Record]) -> None:
    records = [{**record, "generation": journal.generation} for record in records]
    journal.append(records)
    for record in records:
        ledger.add(record)


def _remove_unused(paths: RunPaths) -> None:
    """Take back the folders of a run that never began; whatever is in them stays."""
    with contextlib.suppress(OSError):
        for file in paths.probe.iterdir():
            file.unlink()
    for folder in (paths.probe, paths.journal, paths.logs, paths.models, paths.root):
        with contextlib.suppress(OSError):
            folder.rmdir()
