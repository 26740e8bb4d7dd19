"""One driver's turn at a run: from its claim, through its generation, to letting the run go."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from cerebro import machine
from cerebro.backends.checksum import with_checksum
from cerebro.backends.plain_model import code_digest
from cerebro.driver import admission, decisions
from cerebro.driver.continuation import Continuation, continuation
from cerebro.driver.loop import Driver
from cerebro.driver.replay import Replay
from cerebro.driver.request import RunRequest
from cerebro.driver.search_decisions import Search, totals_planned
from cerebro.driver.signals import interruptible
from cerebro.driver.versions import make_model_folders
from cerebro.driver.worker_connection import Link, Notice, Opening
from cerebro.driver.workers_file import Watch, write_workers
from cerebro.errors import CerebroError, RunHeld, RunInterrupted, StorageError, Superseded
from cerebro.formatting import count
from cerebro.hopper.units import ModelState
from cerebro.journal.identity import original_of
from cerebro.journal.journal import Journal, naming_the_line
from cerebro.journal.ledger import Ledger
from cerebro.journal.log_files import Background, LogWriter, rebuild
from cerebro.journal.ownership import Ownership
from cerebro.journal.paths import RunPaths
from cerebro.journal.provenance import git_commit, write_provenance
from cerebro.journal.records import (
    GenerationRecord,
    Header,
    InterruptedRecord,
    PlanRecord,
    Record,
)
from cerebro.journal.run_plan import RunPlan
from cerebro.progress import Reporter
from cerebro.protocol.messages import DriverInfo, RunOptions
from cerebro.rpc import encode_bytes
from cerebro.storage import make_folder, storage_errors, write_file

LEASE_FACTOR = 2.0
"""A worker gives a run up when it has not heard of its driver for so many heartbeat times."""


@contextlib.contextmanager
def claim(paths: RunPaths, request: RunRequest, progress: Reporter) -> Iterator[RunSession]:
    """Claim the run in `paths` for this driver, as long as the block lasts.

    The claim comes before the journal is read: from then on a driver that was stopped, and wakes,
    deletes nothing, and what it writes is void once the journal has been read.

    A driver that was replaced meanwhile knows nothing of the run that counts, so its errors do not
    either: `Superseded`, which names the other driver, takes the place of what the block raises.
    Raises `RunHeld` if another driver is faster, `JournalDamaged` and `StorageError`.
    """
    with contextlib.ExitStack() as stack:
        journal = Journal(paths)
        stack.callback(journal.close)
        for path in paths.temporary():  # of drivers that were killed
            with contextlib.suppress(OSError):
                path.unlink()
        ownership = Ownership(paths, journal.reach)
        stack.callback(ownership.release)
        session = RunSession(paths, journal, ownership, request, progress)
        try:
            yield session
        except (RunHeld, Superseded):
            raise
        except Exception as error:
            with contextlib.suppress(StorageError):
                _check(ownership, error)
            raise


def _check(ownership: Ownership, error: Exception) -> None:
    """Raise `Superseded` from an error of a driver that has been replaced."""
    try:
        ownership.check()
    except Superseded as superseded:
        raise superseded from error


class RunSession:
    """A run while this driver holds it: paths, journal, ownership, ledger and clock."""

    def __init__(
        self,
        paths: RunPaths,
        journal: Journal,
        ownership: Ownership,
        request: RunRequest,
        progress: Reporter,
    ) -> None:
        self.paths = paths
        self._journal = journal
        self._ownership = ownership
        self._request = request
        self._progress = progress
        self._inherited = journal.inherit()
        with naming_the_line(paths):
            self.ledger = Ledger.from_records(self._inherited)
        self._before = self.ledger.plan
        self._began, self._offset = time.monotonic(), self.ledger.last_t

    def clock(self) -> float:
        """Return the seconds since the run started, by the clocks of its drivers."""
        return self._offset + time.monotonic() - self._began

    def check_ownership(self) -> None:
        """Raise `Superseded` if another driver has taken the run up.

        Where storage refuses to tell, what comes next will say so.
        """
        with contextlib.suppress(StorageError):
            self._ownership.check()

    def run(
        self,
        plan: RunPlan,
        contacts: Sequence[admission.Contact],
        probe: admission.StorageProbe,
        was: str | None,
    ) -> None:
        """Drive the run from where its journal ends to where no model is running.

        `was` is the id that the run had when the journal was read last; None if there was no run.
        Raises `RunHeld` if another driver has started a run here, `RunInterrupted`, and what the
        `Driver` raises. Why the run stops, if it does, is in the journal then.
        """
        first = self._begin(plan, was)
        logs = Background()
        self.ledger.listeners.append(LogWriter(self.paths, logs))
        try:
            self._append(first)
            self._drive(contacts, probe)
        except KeyboardInterrupt:
            self._note("interrupted")
            raise RunInterrupted(
                f"the run in {self.paths.root} was interrupted; to resume it: schedule(..., "
                f"run_name={self.paths.root.name!r}, resume=True)"
            ) from None
        except Exception as error:
            self._note(f"{type(error).__name__}: {error}")
            raise
        finally:
            logs.close()
            with contextlib.suppress(CerebroError):
                if self.ledger.plan and not self._ownership.replaced():
                    write_provenance(self.paths, self.ledger)

    # --- the first records of a generation -------------------------------------------------------

    def _begin(self, plan: RunPlan, was: str | None) -> list[Record]:
        """Start this driver's generation of the journal; returns the records that come next."""
        plan = self._identified(plan, was)
        continues = self._continuation(plan)
        self._journal.begin(self._opening(plan.id))
        inherited, self._inherited = self._inherited, []  # of a long run they are many
        base = time.time() - self._offset if self._before is None else None
        first: list[Record] = [
            PlanRecord(**self._header(), plan=plan, base=base, totals=self._totals(plan))
        ]
        if self._before is not None:
            rebuild(self.paths, inherited)
            continues.tell(self._progress.say)
            first += continues.records(self._header())
        self.ledger.add(self._journal.opening)
        return first

    def _continuation(self, plan: RunPlan) -> Continuation:
        """What the run continues with, by its journal as it is now that the run is claimed."""
        request = self._request
        if self._before is None:
            return Continuation()
        return continuation(
            self.ledger,
            plan,
            request.search,
            request.plan.configs,
            retry_failed=request.retry_failed,
        )

    def _totals(self, plan: RunPlan) -> dict[int, tuple[int, int]] | None:
        """Count the units of each model in the whole run; None where its end is not known."""
        request = self._request
        if request.recording is not None:
            return request.recording.totals()
        return None if request.search is None else totals_planned(request.search, plan)

    def _identified(self, plan: RunPlan, was: str | None) -> RunPlan:
        """The plan with the id and name of the run in this folder."""
        if self._before is None:
            # Should the driver that died here live after all, the workers refuse one of the
            # two, because both know the run by one id.
            if self.ledger.run and original_of(self.paths) is None:
                plan = replace(plan, id=self.ledger.run)
        elif self.ledger.run != was:
            raise RunHeld(f"another driver has just started the run in {self.paths.root}")
        return replace(plan, name=self.paths.root.name)

    def _opening(self, run_id: str) -> GenerationRecord:
        """Return what this driver's generation of the journal starts with."""
        return GenerationRecord(
            **self._header(),
            run=run_id,
            time=time.time(),
            driver=machine.host(),
            versions=machine.versions(),
            git_commit=git_commit(self._request.code_folder),
            folder=str(self.paths.root.absolute()),
        )

    def _header(self) -> Header:
        return {"t": self.clock(), "generation": self._journal.generation}

    def _append(self, records: list[Record]) -> None:
        self._journal.append(records)
        for record in records:
            self.ledger.add(record)

    def _note(self, reason: str) -> None:
        """Say in the journal why the run stops here."""
        with contextlib.suppress(CerebroError):
            self._append([InterruptedRecord(**self._header(), reason=reason[:500])])

    # --- driving ---------------------------------------------------------------------------------

    def _drive(self, contacts: Sequence[admission.Contact], probe: admission.StorageProbe) -> None:
        plan = self.ledger.the_plan
        write_workers(self.paths.workers, plan.workers, self._before)
        write_provenance(self.paths, self.ledger)
        self._store_code(plan)
        make_model_folders(self.paths, self.ledger)
        procedure = self._procedure()
        absent = {c.worker for c in contacts if c.facts is None}
        self._progress.follow(
            self.ledger,
            self.paths.root,
            self.clock,
            absent=absent,
            together=not procedure.per_model,
        )
        self._announce(plan, len(contacts) - len(absent))
        admit = admission.Admission(contacts, probe, plan.backend)
        driver = self._driver(absent, admit, procedure)
        self._ownership.tell(driver.superseded)
        heartbeat = self._request.heartbeat
        watch = Watch(self.paths.workers, plan, heartbeat, driver.listed, self._progress.say)
        try:
            with interruptible(driver):
                driver.run()
        finally:
            watch.close()
        if isinstance(procedure, Replay):
            self._compare(procedure)

    def _store_code(self, plan: RunPlan) -> None:
        """Store the functions for those who read plain models, before there is one.

        What is there already is the same, in what the fingerprints tell.
        """
        if plan.backend != "python":
            return
        path = self.paths.code_file(code_digest(plan.functions))
        with storage_errors("create", path):
            make_folder(self.paths.code)
            is_there = path.exists()
        if not is_there:
            write_file(path, with_checksum(self._request.functions), inside=self.paths.root)

    def _procedure(self) -> decisions.Procedure:
        """What answers when the scheduler asks: the recording, the search, or `eval_fn`."""
        request, root = self._request, self.paths.root
        if request.recording is not None:
            return Replay(request.recording, request.plan.configs)
        stops_here = (
            f"the run in {root} stops here: fix the cause, then resume it with "
            f"run_name={root.name!r}, resume=True"
        )
        if request.search is not None:
            return Search(request.search, self.ledger, f"{stops_here}, allow_changed=['search']")
        assert request.eval_fn is not None
        return decisions.EvalProcedure(request.eval_fn, stops_here)

    def _driver(
        self, absent: set[int], admit: admission.Admission, procedure: decisions.Procedure
    ) -> Driver:
        request, opening = self._request, self._run_opening()

        def make_link(worker: int, url: str, notify: Callable[[Notice], None]) -> Link:
            return Link(worker, url, request.make_client, opening, request.heartbeat, notify, admit)

        return Driver(
            paths=self.paths,
            ledger=self.ledger,
            journal=self._journal,
            make_link=make_link,
            absent=absent,
            procedure=procedure,
            progress=self._progress,
            trust=request.trust,
            clock=self.clock,
        )

    def _run_opening(self) -> Opening:
        """How the run is opened on a worker."""
        plan = self.ledger.the_plan
        return Opening(
            run=plan.id,
            generation=self._journal.generation,
            driver=DriverInfo(**machine.host(), run_dir=str(self.paths.root)),
            functions=encode_bytes(self._request.functions),
            options=RunOptions(
                backend=plan.backend,
                deterministic=plan.deterministic,
                seed=plan.seed,
                keep_data=plan.keep_data,
                unit_timeout=self._request.unit_timeout,
                lease=LEASE_FACTOR * self._request.heartbeat,
                metric_rules=plan.metric_rules,
                global_step=plan.global_step,
                code=code_digest(plan.functions) if plan.backend == "python" else None,
            ),
        )

    # --- what people are told --------------------------------------------------------------------

    def _announce(self, plan: RunPlan, workers: int) -> None:
        """Say what the run is, and how far it has come."""
        ledger = self.ledger
        starts = f"replays {plan.replay}" if plan.replay else "starts"
        models = count(len(ledger.models), "model")
        if plan.search is not None and not ledger.models:
            models = plan.search
        self._progress.say(
            f"run {self.paths.root} {'resumes' if self._before else starts}: "
            f"{models}{_so_far(ledger)}, {len(plan.train_partitions)} train and "
            f"{len(plan.valid_partitions)} valid partitions, {count(workers, 'worker')}"
        )

    def _compare(self, replay: Replay) -> None:
        """Say whether a replay has given what was recorded."""
        recorded = self.ledger.the_plan.replay
        difference = replay.difference(self.ledger)
        if difference is None:
            self._progress.say(f"every metric is that of {recorded}")
        else:
            self._progress.say(
                f"this is not what {recorded} gave: {difference}. Data, functions, "
                "versions, devices or numbers of threads differ"
            )


def _so_far(ledger: Ledger) -> str:
    """How far a run has come that is resumed."""
    running = sum(m.state is ModelState.RUNNING for m in ledger.models.values())
    epochs = sum(not e.inherited for m in ledger.models.values() for e in m.epochs)
    return f" ({running} running, {count(epochs, 'epoch')} finished)" if epochs else ""
