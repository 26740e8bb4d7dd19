"""A run from its start, or from where it stood, to its end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cerebro import machine
from cerebro.backends import TENSORFLOW
from cerebro.driver import admission, arguments, decisions
from cerebro.driver.loop import Driver
from cerebro.driver.remote_errors import all_failed
from cerebro.driver.replay import Recording, Replay, check_recording
from cerebro.driver.resume import Fingerprints, comparable, reopen, same_plan
from cerebro.driver.search_decisions import Search, totals_planned
from cerebro.driver.signals import interruptible
from cerebro.driver.versions import Versions
from cerebro.driver.worker_connection import Link, Notice, Opening
from cerebro.driver.workers_file import Watch, write_workers
from cerebro.errors import (
    CerebroError,
    InputError,
    NotARun,
    RunError,
    RunHeld,
    RunInterrupted,
    StorageError,
)
from cerebro.formatting import count
from cerebro.hopper.units import ModelState
from cerebro.journal.journal import Journal, Record, has_begun, read_journal
from cerebro.journal.ledger import Ledger
from cerebro.journal.log_files import Background, LogWriter, rebuild
from cerebro.journal.ownership import Holder, check_free, replaced
from cerebro.journal.paths import RunPaths, runs_in
from cerebro.journal.provenance import git_commit, write_provenance
from cerebro.journal.run_plan import Plan
from cerebro.progress import Reporter
from cerebro.results.result import Result
from cerebro.rpc import encode_bytes
from cerebro.search import SearchProcedure
from cerebro.storage import storage_errors

LEASE_FACTOR = 2.0
"""A worker gives a run up when it has not heard of its driver for so many heartbeat times."""


@dataclass(frozen=True)
class Start:
    """Everything that a run needs to begin, checked as far as it can be without the workers."""

    plan: Plan
    fingerprints: Fingerprints
    blob: bytes
    eval_fn: decisions.EvalFunction | None
    search: SearchProcedure | None
    root: Path
    make_client: admission.MakeClient
    heartbeat: float
    unit_timeout: float | None
    allow_changed: tuple[str, ...]
    retry_failed: bool
    recording: Recording | None
    code_folder: str
    progress: Reporter

    def run(self, resume: bool | str) -> Result:
        """Begin or go on, to the end."""
        with self.progress:
            return self._run(resume)

    def _run(self, resume: bool | str) -> Result:
        name = self.plan.name
        if resume is True or (resume == "auto" and has_begun(RunPaths(self.root / name))):
            return self._resume(self.root / name)
        self._check_replay()
        contacts = self._contact(self.plan)
        self._check_held(self.plan, contacts)
        paths = self._create(name)
        if paths is None and resume == "auto":  # another driver was faster
            return self._resume(self.root / name)
        if paths is None:
            raise RunError(
                f"{self.root / name} exists already: pass resume=True to go on with that run, or "
                "another run_name"
            )
        probe = admission.StorageProbe(paths.probe, str(self.root))
        try:
            contacts = self._check_storage(contacts, probe)
            self._check_held(self.plan, contacts)
        except CerebroError:
            _remove_unused(paths)
            raise
        check_free(paths, say=self.progress.say)  # what a driver left that died before it began
        return self._take(paths, self.plan, contacts, probe)

    def _resume(self, root: Path) -> Result:
        paths = RunPaths(root)
        if not has_begun(paths):
            raise NotARun(
                f"{root} holds no run that has begun: start it without resume=True"
                f"{_others(self.root)}"
            )
        check_free(paths, say=self.progress.say)
        with storage_errors("create", root):
            paths.create()
        records, tail = read_journal(paths)
        ledger = Ledger.from_records(records)
        del records  # of a long run they are many
        given = comparable(ledger.the_plan, self.plan, self.fingerprints)
        plan = same_plan(ledger.the_plan, given, self.allow_changed, self.progress.say)
        self._check_replay()
        if ledger.ended and not self._reopen(ledger, plan):
            self.progress.say(f"the run in {root} has ended already")
            self._mention_failed(paths, ledger)
            versions = Versions(paths, ledger, lambda: tail.claimed, {})
            with contextlib.suppress(StorageError):
                versions.sweep()
            versions.close()
            return self._result(paths)
        contacts = self._contact(plan)
        probe = admission.StorageProbe(paths.probe, str(self.root))
        contacts = self._check_storage(contacts, probe)
        return self._take(paths, plan, contacts, probe)

    def _take(
        self,
        paths: RunPaths,
        plan: Plan,
        contacts: list[admission.Contact],
        probe: admission.StorageProbe,
    ) -> Result:
        """Claim the run, and drive it from where its journal ends now.

        The claim comes first: from then on a driver that was stopped, and wakes, deletes nothing,
        and what it writes is void once the journal has been read.
        """
        with contextlib.ExitStack() as stack:
            journal = Journal(paths)
            stack.callback(journal.close)
            for path in paths.temporary():  # of drivers that were killed
                with contextlib.suppress(OSError):
                    path.unlink()
            holder = Holder(paths, journal.reach)
            stack.callback(holder.release)
            records = journal.inherit()
            ledger = Ledger.from_records(records)
            before = ledger.plan
            if before is None:
                # Should the driver that died here live after all, the workers refuse one of the
                # two, because both know the run by one id.
                known = next((r["run"] for r in records if "run" in r), plan.id)
                plan = replace(plan, id=known, name=paths.root.name)
            elif before.id != plan.id:
                raise RunHeld(f"another driver has just begun the run in {paths.root}")
            began, offset = time.monotonic(), ledger.last_t

            def clock() -> float:
                return offset + time.monotonic() - began

            journal.begin(self._opening_record(clock(), plan.id))
            first: list[Record] = [{"kind": "plan", "t": clock(), "plan": plan.to_json()}]
            totals = self._totals(plan)
            if totals is not None:
                first[0]["totals"] = totals
            if before is None:
                first[0]["base"] = time.time() - offset
            else:
                rebuild(paths, records)
                for record in self._reopen(ledger, plan):
                    which = f"models {record['models']} go on" if record["models"] else "goes on"
                    self.progress.say(f"{which}: {record['why']}")
                    first.append({**record, "t": clock()})
            del records
            return self._drive(paths, journal, holder, ledger, first, clock, contacts, probe)

    def _reopen(self, ledger: Ledger, plan: Plan) -> list[Record]:
        return reopen(ledger, plan, self.search, retry_failed=self.retry_failed)

    def _totals(self, plan: Plan) -> dict[int, tuple[int, int]] | None:
        """Train and valid units of each model in the whole run; None if nobody knows its end."""
        if self.recording is not None:
            return self.recording.totals()
        return None if self.search is None else totals_planned(self.search, plan)

    def _check_replay(self) -> None:
        """`ReplayRefused` if what is given is not what the recording was made with."""
        if self.recording is not None:
            given = comparable(self.recording.plan, self.plan, self.fingerprints)
            check_recording(self.recording, given, self.allow_changed)

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

    def _contact(self, plan: Plan) -> list[admission.Contact]:
        with self.progress.doing(f"contacting {count(len(plan.workers), 'worker')}"):
            contacts = admission.contact(
                plan.workers, self.make_client, backend=plan.backend, run=plan.id
            )
        self._leave_out([contact for contact in contacts if contact.facts is None])
        return contacts

    def _check_storage(
        self, contacts: list[admission.Contact], probe: admission.StorageProbe
    ) -> list[admission.Contact]:
        with self.progress.doing(f"seeing whether all workers share {self.root}"):
            now = admission.check_storage(contacts, self.make_client, probe)
        self._leave_out([new for old, new in zip(contacts, now, strict=True) if new != old])
        return now

    def _leave_out(self, contacts: list[admission.Contact]) -> None:
        for contact in contacts:
            self.progress.say(
                f"worker {contact.url} does not answer and is left out until it does: "
                f"{contact.trouble}"
            )

    def _check_held(self, plan: Plan, contacts: list[admission.Contact]) -> None:
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

    def _create(self, name: str) -> RunPaths | None:
        """A folder for the run; None where the name is taken by something else."""
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
                        return None
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
        holder: Holder,
        ledger: Ledger,
        first: list[Record],
        clock: Callable[[], float],
        contacts: list[admission.Contact],
        probe: admission.StorageProbe,
    ) -> Result:
        before = ledger.plan
        ledger.add(journal.opening)
        logs = Background()
        ledger.listeners.append(LogWriter(paths, logs))
        try:
            _append(journal, ledger, first)
            plan = ledger.the_plan
            write_workers(paths.workers, plan.workers, before)
            write_provenance(paths, ledger)
            how = self._procedure(paths, ledger)
            absent = {c.worker for c in contacts if c.facts is None}
            self.progress.follow(
                ledger,
                paths.root,
                clock,
                absent=absent,
                together=not how.per_model,
            )
            begins = "goes on" if before else f"replays {plan.replay}" if plan.replay else "begins"
            models = count(len(ledger.models), "model")
            if plan.search is not None and not ledger.models:
                models = plan.search
            self.progress.say(
                f"run {paths.root} {begins}: {models}{_so_far(ledger)}, "
                f"{len(plan.train_partitions)} train and {len(plan.valid_partitions)} valid "
                "partitions, "
                f"{count(len(contacts) - len(absent), 'worker')}"
            )
            driver = self._driver(paths, journal, ledger, contacts, probe, clock, how)
            holder.tell(driver.superseded)
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
            logs.close()
            with contextlib.suppress(CerebroError):
                if not replaced(paths, journal.reach):
                    write_provenance(paths, ledger)
        self._mention_failed(paths, ledger)
        failed = all_failed(ledger)
        if failed is not None:
            raise failed
        return self._result(paths)

    def _result(self, paths: RunPaths) -> Result:
        with self.progress.doing("writing the tables"):
            result = Result(paths.root)
            try:
                result.save_tables()
            except StorageError as error:
                self.progress.say(
                    f"{error}: the tables are not written; .save_tables() does it later"
                )
        # TensorFlow takes seconds to load, which this is not worth; a driver of such a run has it
        # loaded as a rule, because it defines the functions. Written at the end, and not while
        # workers wait for the driver.
        if self.plan.backend in TENSORFLOW and "tensorflow" in sys.modules:
            with self.progress.doing("writing event files"):
                try:
                    result.tensorboard()
                except Exception as error:  # whatever it is, it must not cost the result
                    self.progress.say(f"no event files: {error}; .tensorboard() writes them later")
        return result

    def _mention_failed(self, paths: RunPaths, ledger: Ledger) -> None:
        failed = [m.id for m in ledger.models.values() if m.failure is not None]
        if failed:
            self.progress.say(
                f"{count(len(failed), 'model')} FAILED, see {paths.model_log(failed[0])}: "
                "resume=True with retry_failed=True takes them up again where they stood"
            )

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

    def _procedure(self, paths: RunPaths, ledger: Ledger) -> decisions.Procedure:
        if self.recording is not None:
            return Replay(self.recording)
        stops_here = (
            f"the run in {paths.root} stops here: put it right, then go on with "
            f"run_name={paths.root.name!r}, resume=True"
        )
        if self.search is not None:
            return Search(self.search, ledger, f"{stops_here}, allow_changed=['search']")
        assert self.eval_fn is not None
        return decisions.EvalProcedure(self.eval_fn, stops_here)

    def _driver(
        self,
        paths: RunPaths,
        journal: Journal,
        ledger: Ledger,
        contacts: list[admission.Contact],
        probe: admission.StorageProbe,
        clock: Callable[[], float],
        how: decisions.Procedure,
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
            unit_timeout=self.unit_timeout,
        )

        admit = admission.Admission(contacts, probe, plan.backend)

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
        )

    def _note(
        self, journal: Journal, ledger: Ledger, clock: Callable[[], float], reason: str
    ) -> None:
        """Say in the journal why the run stops here."""
        with contextlib.suppress(CerebroError):
            _append(
                journal, ledger, [{"kind": "interrupted", "t": clock(), "reason": reason[:500]}]
            )


def _so_far(ledger: Ledger) -> str:
    """How far a run has come that goes on."""
    running = sum(m.state is ModelState.RUNNING for m in ledger.models.values())
    epochs = sum(not e.inherited for m in ledger.models.values() for e in m.epochs)
    return f" ({running} running, {count(epochs, 'epoch')} of theirs ended)" if epochs else ""


def _others(root: Path) -> str:
    """The runs that lie below a `ckpt_root`, for a message."""
    names = runs_in(root)
    return f"; the runs in {root} are {', '.join(names[:10])}" if names else ""


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
    if paths.generations():
        return  # another driver has taken them
    with contextlib.suppress(OSError):
        for file in paths.probe.iterdir():
            file.unlink()
    for folder in (paths.probe, paths.journal, paths.logs, paths.models, paths.root):
        with contextlib.suppress(OSError):
            folder.rmdir()
