"""How a run starts or is resumed: the workers are contacted, the run is claimed and driven."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cerebro.backends import TENSORFLOW
from cerebro.driver import admission, argument_checks, decisions, permissions
from cerebro.driver.changes import named
from cerebro.driver.continuation import Continuation, check_search, continuation
from cerebro.driver.remote_errors import all_failed
from cerebro.driver.replay import check_recording
from cerebro.driver.request import RunRequest
from cerebro.driver.resume import check_room, comparable, differs, follow_moved, same_plan
from cerebro.driver.run_session import claim
from cerebro.driver.versions import Versions, check_versions_came_along, left_behind
from cerebro.errors import (
    CerebroError,
    InputError,
    NotARun,
    RunError,
    RunHeld,
    StorageError,
)
from cerebro.formatting import count
from cerebro.hopper.units import Split
from cerebro.journal.entries import check_entries, is_leftover, probes
from cerebro.journal.identity import original_of
from cerebro.journal.journal import has_begun, naming_the_line, read_journal
from cerebro.journal.ledger import Ledger
from cerebro.journal.ownership import check_free
from cerebro.journal.paths import RunPaths, runs_in, same_folder
from cerebro.journal.run_plan import RunPlan, differences
from cerebro.progress import Reporter
from cerebro.progress.displays import display_for
from cerebro.results.result import Result
from cerebro.storage import FOLDER_MODE, is_folder, make_folders, storage_errors


class Launch:
    """Brings a run that is asked for to its result, whether it is a new one or one to resume."""

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._root = request.root
        self._made: Path | None = None  # the run's folder, unless it was there before
        self._progress = Reporter(display_for(request.progress))

    def run(self) -> Result:
        """Start the run or resume it, and return its result at its end."""
        with self._progress:
            resume, root = self._request.resume, self._root / self._request.plan.name
            if resume is True or (resume == "auto" and has_begun(RunPaths(root))):
                return self._resume(root)
            return self._start(self._request.plan)

    def _start(self, plan: RunPlan) -> Result:
        """Start a new run."""
        if self._request.resume:  # else it is known already
            decisions.check_there(plan.configs, "initial_msts")
        self._check_replay()
        recording = self._request.recording
        if recording is not None:  # the others are started by its decisions
            plan = replace(plan, configs=plan.configs[: len(recording.plan.configs)])
        contacts = self._contact(plan)
        self._check_held(plan, contacts)
        paths = self._create(plan.name)
        begun = paths is None and has_begun(RunPaths(self._root / plan.name))
        if begun and self._request.resume == "auto":  # another driver was faster
            return self._resume(self._root / plan.name)
        if paths is None:
            raise RunError(_taken(self._root / plan.name))
        probe = admission.StorageProbe(paths.probe, str(self._root))
        try:
            contacts = self._check_storage(contacts, probe)
            self._check_held(plan, contacts)
        except CerebroError:
            self._remove_unused(paths)
            raise
        self._check_free(paths)  # what a driver left that died before it started
        if self._request.resume == "auto" and has_begun(paths):  # the driver that was waited for
            return self._resume(paths.root)
        return self._drive(paths, plan, contacts, probe, None)

    def _resume(self, root: Path) -> Result:
        """Resume the run in `root`; one that has ended, and stays so, has its result already."""
        paths = RunPaths(root)
        if not has_begun(paths):
            raise NotARun(
                f"{root} holds no run that was started: start one without resume=True"
                f"{_others(self._root)}"
            )
        check_entries(paths)
        self._request.trust.check_run(paths)
        original = original_of(paths)
        self._check_free(paths)
        # Others may have written there while their driver was waited for.
        check_entries(paths)
        self._request.trust.check_run(paths)
        with storage_errors("create", root):
            paths.create()
        records, tail = read_journal(paths)
        with naming_the_line(paths):
            ledger = Ledger.from_records(records)
        del records  # of a long run they are many
        if ledger.plan is None:  # its plan counted a moment ago, before another driver's claim
            raise RunHeld(f"another driver has just taken up the run in {root}")
        given = self._request.plan
        configs = follow_moved(given.configs, ledger.configs, ledger.folders, root)
        self._request = replace(self._request, plan=replace(given, configs=configs))
        plan = self._same_plan(ledger)
        self._request.trust.check_beginnings(ledger)
        self._check_replay()
        continues = self._continuation(ledger, plan)
        if ledger.ended and not continues:
            self._progress.say(
                f"the run in {root} has ended already{_unused(ledger.the_plan, plan)}"
            )
            self._mention_failed(paths, ledger)
            self._tidy(paths, ledger, tail.claimed)
            failed = all_failed(ledger)
            if failed is not None:
                raise failed
            return self._result(paths)
        permissions.check_writable(root)
        appended = self._request.plan.configs[len(ledger.configs) :]
        decisions.check_there(appended, "initial_msts", len(ledger.configs), ledger)
        decisions.check_beginnings_there(ledger, paths)
        check_versions_came_along(paths, ledger)
        check_room(ledger, tail.claimed, root)
        self._tell_whose(root, ledger, original)
        # A copy has an id of its own, so that workers take it for another run than the original.
        plan = replace(plan, id=ledger.run if original is None else self._request.plan.id)
        contacts = self._contact(plan)
        probe = admission.StorageProbe(paths.probe, str(self._root))
        contacts = self._check_storage(contacts, probe)
        return self._drive(paths, plan, contacts, probe, ledger.run)

    def _tidy(self, paths: RunPaths, ledger: Ledger, claimed: int) -> None:
        """Delete what is left of versions that an ended run does not name any more."""
        with contextlib.suppress(StorageError):
            missing = left_behind(paths, ledger.models.values())
            if missing:  # what is there may be all that is left
                self._progress.say(
                    f"{paths.models} holds none of the {missing} versions that the journal names: "
                    "the folder was copied without them"
                )
                return
            versions = Versions(paths, ledger, lambda: claimed, {})
            try:
                versions.sweep()
            finally:
                versions.close()

    def _drive(
        self,
        paths: RunPaths,
        plan: RunPlan,
        contacts: Sequence[admission.Contact],
        probe: admission.StorageProbe,
        was: str | None,
    ) -> Result:
        """Claim the run, drive it to its end, and return its result.

        `was` is the id that the run in the folder had when it was read; None if there was none.
        """
        with claim(paths, self._request, self._progress) as session:
            session.run(plan, contacts, probe, was)
            session.check_ownership()  # who has been replaced knows nothing of results
            self._mention_failed(paths, session.ledger)
            failed = all_failed(session.ledger)
            if failed is not None:
                raise failed
            return self._result(paths)

    def _tell_whose(self, root: Path, ledger: Ledger, original: Path | None) -> None:
        """Say whether the folder was copied or moved since it was driven."""
        before = ledger.folders[-1] if ledger.folders else str(root)
        if original is not None:
            self._progress.say(f"{root} is a copy of {original}: it continues as a run of its own")
        elif before != str(root) and not same_folder(before, root):
            self._progress.say(f"{root} was driven as {before} before, and moved: the run resumes")

    # --- what is given, and what is there --------------------------------------------------------

    def _same_plan(self, ledger: Ledger) -> RunPlan:
        """The plan to resume with; `ResumeRefused` where it is not the one that was started."""
        recorded, request = ledger.the_plan, self._request
        before = replace(recorded, configs=ledger.configs, name=request.plan.name)
        given = comparable(before, request.plan, request.fingerprints)
        if request.recording is not None:  # which starts the others, and is compared with them
            given = replace(
                given, configs=request.recording.as_begun(given.configs, ledger.configs)
            )
            if before.replay in request.recording.folders:  # it was moved since
                before = replace(before, replay=given.replay)
        plan = same_plan(before, given, request.allow_changed, self._progress.say)
        return replace(plan, configs=recorded.configs)

    def _continuation(self, ledger: Ledger, plan: RunPlan) -> Continuation:
        """What the run continues with; `ResumeRefused` and `DecisionError` where it cannot."""
        request, search = self._request, self._request.search
        continues = continuation(
            ledger, plan, search, request.plan.configs, retry_failed=request.retry_failed
        )
        if search is not None and not plan.replay and differs("search", ledger.the_plan, plan):
            root = str(self._root / request.plan.name)
            check_search(ledger, plan, search, continues, root, self._progress.say)
        return continues

    def _check_replay(self) -> None:
        """`ReplayRefused` if what is given is not what the recording was made with."""
        request = self._request
        if request.recording is not None:
            given = comparable(request.recording.plan, request.plan, request.fingerprints)
            check_recording(request.recording, given, request.allow_changed, request.trust)

    def _contact(self, plan: RunPlan) -> list[admission.Contact]:
        with self._progress.doing(f"contacting {count(len(plan.workers), 'worker')}"):
            contacts = admission.contact(
                plan.workers, self._request.make_client, backend=plan.backend, run=plan.id
            )
        self._leave_out([contact for contact in contacts if contact.facts is None])
        return contacts

    def _check_storage(
        self, contacts: list[admission.Contact], probe: admission.StorageProbe
    ) -> list[admission.Contact]:
        with self._progress.doing(f"seeing whether all workers share {self._root}"):
            now = admission.check_storage(contacts, self._request.make_client, probe)
        self._leave_out([new for old, new in zip(contacts, now, strict=True) if new != old])
        return now

    def _leave_out(self, contacts: list[admission.Contact]) -> None:
        for contact in contacts:
            if contact.unproven is not None:
                text = f"worker {contact.trouble}; it is left out until it has"
            else:
                text = (
                    f"worker {contact.url} does not answer and is left out until it does: "
                    f"{contact.trouble}"
                )
            self._progress.say(text)

    def _check_held(self, plan: RunPlan, contacts: list[admission.Contact]) -> None:
        """A new run starts only where each partition has a holder that answers."""
        troubles = {c.worker: c.trouble for c in contacts if c.facts is None}
        for split in Split:
            argument_checks.check_held(
                f"{split.value}_availability",
                plan.availability(split),
                plan.partitions(split),
                troubles,
                plan.workers,
            )

    def _check_free(self, paths: RunPaths) -> None:
        """`RunHeld` if another driver is at work on the run, and is for as long as it may be."""
        check_free(paths, say=self._progress.say, takeover_wait=self._request.takeover_wait)

    def _create(self, name: str) -> RunPaths | None:
        """A folder for the run; None where the name is taken by something else."""
        if not is_folder(self._root) and self._root.exists():
            raise InputError(f"ckpt_root={str(self._root)!r} is a file: name a folder")
        self._request.trust.check_root(self._root)
        with storage_errors("create", self._root):
            make_folders(self._root)
            self._request.trust.check_root(self._root)  # where another may have been faster
            stamp = time.strftime("run-%Y%m%d-%H%M%S")
            number = 0
            while True:
                number += 1
                root = self._root / (name or (stamp if number == 1 else f"{stamp}-{number}"))
                try:
                    os.mkdir(root, FOLDER_MODE)
                    self._made = root
                    break
                except FileExistsError:
                    if name and _never_began(RunPaths(root)):
                        check_entries(RunPaths(root))
                        self._request.trust.check_left(RunPaths(root))
                        break
                    if name:
                        return None
            paths = RunPaths(root)
            try:
                paths.create()
            except OSError:
                self._remove_unused(paths)
                raise
        return paths

    def _remove_unused(self, paths: RunPaths) -> None:
        """Take back the folders of a run that never started; whatever else is in them stays."""
        with contextlib.suppress(OSError, CerebroError):
            if paths.generations():
                return  # another driver has taken them
            for file in probes(paths):
                file.unlink()
        folders = [paths.probe, paths.journal, paths.logs, paths.models]
        for folder in (*folders, *([self._made] if self._made is not None else ())):
            with contextlib.suppress(OSError):
                folder.rmdir()

    # --- results ----------------------------------------------------------------------------------

    def _result(self, paths: RunPaths) -> Result:
        with self._progress.doing("writing the tables"):
            result = Result(paths.root)
            try:
                result.save_tables()
            except StorageError as error:
                self._progress.say(
                    f"{error}: the tables are not written; .save_tables() does it later"
                )
        # TensorFlow takes seconds to load, which this is not worth; a driver of such a run has it
        # loaded as a rule, because it defines the functions. Written at the end, and not while
        # workers wait for the driver.
        if self._request.plan.backend in TENSORFLOW and "tensorflow" in sys.modules:
            with self._progress.doing("writing event files"):
                try:
                    result.tensorboard()
                except Exception as error:  # whatever it is, it must not cost the result
                    self._progress.say(f"no event files: {error}; .tensorboard() writes them later")
        return result

    def _mention_failed(self, paths: RunPaths, ledger: Ledger) -> None:
        failed = [m.id for m in ledger.models.values() if m.failure is not None]
        if failed:
            self._progress.say(
                f"{count(len(failed), 'model')} FAILED, see {paths.model_log(failed[0])}: "
                "resume=True with retry_failed=True resumes failed models; name a function that is "
                "mended for that in allow_changed=, such as allow_changed=['model_fn']"
            )


def _unused(before: RunPlan, now: RunPlan) -> str:
    """What has changed and makes no difference any more, for a message."""
    changed = differences(before, now)
    return f": nothing is trained with the other {named(changed, before, now)}" if changed else ""


def _others(root: Path) -> str:
    """The runs that lie below a `ckpt_root`, for a message."""
    names = runs_in(root)
    return f"; the runs in {root} are {', '.join(names[:10])}" if names else ""


def _taken(root: Path) -> str:
    """Why a new run does not get a folder under a name that is taken."""
    if not has_begun(RunPaths(root)):
        return (
            f"{root} exists already and is not what a run has left: nothing is written there; "
            "choose another run_name"
        )
    return f"{root} exists already: pass resume=True to resume that run, or another run_name"


def _never_began(paths: RunPaths) -> bool:
    """Whether a folder is what a driver left that died before its run started."""
    with storage_errors("read", paths.root):
        return paths.root.is_dir() and is_leftover(paths) and not has_begun(paths)
