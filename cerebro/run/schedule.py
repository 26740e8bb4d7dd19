"""The entrance: arguments to a plan, a plan to a run, a run to a result."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebro import shipping
from cerebro.backends import check_backend
from cerebro.errors import (
    CerebroError,
    ConfigurationError,
    DecisionError,
    InputError,
    NotARun,
    ResumeRefused,
    RunError,
    RunHeld,
    RunInterrupted,
    UserFunctionError,
)
from cerebro.rpc import encode_bytes, load_secret
from cerebro.run import arguments, connect, procedure
from cerebro.run.driver import Driver, all_failed
from cerebro.run.holder import Holder, check_free
from cerebro.run.journal import Journal, Record, Tail, has_begun, read_journal
from cerebro.run.ledger import Ledger
from cerebro.run.link import Link, Notice, Opening
from cerebro.run.local_cluster import LocalCluster
from cerebro.run.logs import LogWriter, rebuild
from cerebro.run.paths import RunPaths
from cerebro.run.plan import Plan
from cerebro.run.progress import Progress
from cerebro.run.provenance import code_folder, git_commit, write_provenance
from cerebro.run.result import Result
from cerebro.storage import storage_errors, write_file
from cerebro.wording import count
from cerebro.worker import machine

HEARTBEAT_SECONDS = 30.0
LEASE_FACTOR = 2.0
"""A worker gives a run up when it has not heard of its driver for so many heartbeat times."""


def schedule(
    worker_ips: Sequence[str] | LocalCluster,
    train_partitions: Sequence[str],
    valid_partitions: Sequence[str],
    train_availability: Sequence[Sequence[int]] | None,
    valid_availability: Sequence[Sequence[int]] | None,
    input_fn: Callable[..., Any],
    model_fn: Callable[..., Any],
    train_fn: Callable[..., Any],
    initial_msts: Sequence[Mapping[str, Any]],
    mst_eval_fn: Callable[[dict[int, dict[str, Any]]], Any],
    ckpt_root: str = "/tmp",
    preload_data_to_mem: bool = True,
    backend: str = "tf",
    *,
    run_name: str | None = None,
    resume: bool | str = False,
    allow_changed: Sequence[str] = (),
    seed: int = 0,
    deterministic: bool = True,
    secret_file: str | None = None,
    heartbeat: float = HEARTBEAT_SECONDS,
    unit_timeout: float | None = None,
) -> Result:
    """Train configurations by model hopper parallelism until the procedure has stopped them all.

    `worker_ips` are URLs (`"http://node1:7777"`) or a `LocalCluster`. `train_partitions` and
    `valid_partitions` are paths, each passed to `input_fn` on the workers that may read it:
    `train_availability[w][p]` is 1 where worker `w` may read train partition `p`, and None stands
    for storage that all workers share. `initial_msts` are the configurations; `mst_eval_fn(state)`
    returns the ids to stop and new configurations, after every epoch.

    `ckpt_root` is a folder that driver and workers share. The run gets a folder of its own below
    it, called `run_name`, by default after the time. `resume=True` goes on with the run of that
    name, `"auto"` goes on with it or starts it; what is given must be what the run was started
    with, except what `allow_changed` names (`"configs"`, `"partitions"`, `"input_fn"`, …).
    `heartbeat` is how long, in seconds, a worker may give no sign of life before its units go to
    others; `unit_timeout` ends a unit that takes longer.

    Raises an `InputError` for what is wrong with the arguments and a `ClusterError` for what is
    wrong with the workers, both before anything is trained; `RunFailed` if every model failed;
    `RunInterrupted` on Ctrl-C or SIGTERM.
    """
    if machine.inside_executor():
        raise RunError(
            "schedule() was called on a worker, by code that came with a search: put the call "
            'under `if __name__ == "__main__":` in the module that makes it'
        )
    if isinstance(worker_ips, LocalCluster):
        if not worker_ips.urls:
            raise InputError(
                "the LocalCluster has not been started: use it in a with block, "
                "`with LocalCluster(2) as cluster:`"
            )
        secret_file = secret_file or worker_ips.secret_file
        worker_ips = worker_ips.urls
    urls = arguments.check_workers(worker_ips)
    train = arguments.check_partitions("train_partitions", train_partitions, at_least=1)
    valid = arguments.check_partitions("valid_partitions", valid_partitions, at_least=0)
    functions = {"input_fn": input_fn, "model_fn": model_fn, "train_fn": train_fn}
    arguments.check_functions({**functions, "mst_eval_fn": mst_eval_fn})
    configs = arguments.check_configs(initial_msts)
    if not configs:
        raise ConfigurationError("initial_msts is empty: give at least one configuration")
    procedure.check_initial(configs)
    run_name = arguments.check_run_name(run_name)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"seed={seed!r}: a seed is an integer")
    if resume not in (True, False, "auto"):
        raise InputError(f"resume={resume!r}: choose True, False or 'auto'")
    if resume and run_name is None:
        raise InputError(f"resume={resume!r} needs run_name=, the name of the run to go on with")
    plan = Plan(
        id=uuid.uuid4().hex,
        name=run_name or "",
        workers=urls,
        train_partitions=train,
        valid_partitions=valid,
        train_availability=arguments.check_availability(
            "train_availability", train_availability, urls, train
        ),
        valid_availability=arguments.check_availability(
            "valid_availability", valid_availability, urls, valid
        ),
        configs=configs,
        backend=check_backend(backend),
        seed=seed,
        deterministic=bool(deterministic),
        keep_data=bool(preload_data_to_mem),
        functions={
            name: shipping.fingerprint(function)
            for name, function in {**functions, "mst_eval_fn": mst_eval_fn}.items()
        },
    )
    heartbeat = arguments.check_seconds("heartbeat", heartbeat, at_least=1.0)
    if unit_timeout is not None:
        unit_timeout = arguments.check_seconds("unit_timeout", unit_timeout, at_least=0.0)
    secret = load_secret(secret_file)
    start = _Start(
        plan=plan,
        blob=shipping.pack(functions),
        eval_fn=mst_eval_fn,
        root=Path(ckpt_root).absolute(),
        make_client=connect.client_maker(secret.key, secret.path),
        heartbeat=heartbeat,
        unit_timeout=unit_timeout,
        allow_changed=arguments.check_names("allow_changed", allow_changed),
        code_folder=code_folder(model_fn),
        progress=Progress(),
    )
    return start.run(resume)


@dataclass(frozen=True)
class _Start:
    """Everything that a run needs to begin, checked as far as it can be without the workers."""

    plan: Plan
    blob: bytes
    eval_fn: Callable[[dict[int, dict[str, Any]]], Any]
    root: Path
    make_client: connect.MakeClient
    heartbeat: float
    unit_timeout: float | None
    allow_changed: tuple[str, ...]
    code_folder: str
    progress: Progress

    def run(self, resume: bool | str) -> Result:
        """Begin or go on, to the end."""
        name = self.plan.name
        if resume is True or (resume == "auto" and has_begun(RunPaths(self.root / name))):
            return self._resume(self.root / name)
        contacts = self._contact(self.plan)
        paths = self._create(name)
        try:
            connect.check_storage(contacts, self.make_client, paths.probe, str(self.root))
        except CerebroError:
            _remove_unused(paths)
            raise
        plan = replace(self.plan, name=paths.root.name)
        base = time.time()
        began = time.monotonic()
        journal = Journal(paths, self._remains(paths), self._opening_record(0.0))
        first = [{"kind": "plan", "t": 0.0, "plan": plan.to_json(), "base": base}]
        ledger = Ledger()
        return self._drive(
            paths, journal, ledger, first, lambda: time.monotonic() - began, contacts
        )

    def _resume(self, root: Path) -> Result:
        paths = RunPaths(root)
        if not has_begun(paths):
            raise NotARun(f"{root} holds no run that has begun: start it without resume=True")
        check_free(paths, say=self.progress.say)
        # Not before: up to then its driver may have gone on.
        records, tail = read_journal(paths)
        ledger = Ledger.from_records(records)
        plan = self._same_plan(ledger.the_plan)
        if ledger.ended:
            self.progress.say(f"the run in {root} has ended already")
            result = Result(root)
            result.save_tables()
            return result
        contacts = self._contact(plan)
        connect.check_storage(contacts, self.make_client, paths.probe, str(self.root))
        began, offset = time.monotonic(), ledger.last_t

        def clock() -> float:
            return offset + time.monotonic() - began

        journal = Journal(paths, tail, self._opening_record(clock()))
        rebuild(paths, records)
        del records  # of a long run they are many
        first = [{"kind": "plan", "t": clock(), "plan": plan.to_json()}]
        return self._drive(paths, journal, ledger, first, clock, contacts)

    def _opening_record(self, t: float) -> Record:
        """What this driver's generation of the journal begins with."""
        return {
            "t": t,
            "time": time.time(),
            "driver": machine.host(),
            "versions": machine.versions(),
            "git_commit": git_commit(self.code_folder),
        }

    def _remains(self, paths: RunPaths) -> Tail | None:
        """The end of what a driver left that died before its run began; None for nothing."""
        if not paths.generations():
            return None
        check_free(paths, say=self.progress.say)
        if has_begun(paths):
            raise RunHeld(f"another driver has just begun the run in {paths.root}")
        return read_journal(paths)[1]

    def _same_plan(self, before: Plan) -> Plan:
        """The plan to go on with; `ResumeRefused` where it is not the one that was started."""
        now = replace(self.plan, id=before.id, name=before.name)
        compared = {
            "configs": (before.configs, now.configs),
            "partitions": (
                (before.train_partitions, before.valid_partitions),
                (now.train_partitions, now.valid_partitions),
            ),
            "seed": (before.seed, now.seed),
            "backend": (before.backend, now.backend),
            **{
                name: (before.functions.get(name), now.functions.get(name))
                for name in ("input_fn", "model_fn", "train_fn")
            },
        }
        unknown = [name for name in self.allow_changed if name not in compared]
        if unknown:
            raise InputError(f"allow_changed names {unknown}: choose among {sorted(compared)}")
        changed = [name for name, (old, new) in compared.items() if old != new]
        refused = [name for name in changed if name not in self.allow_changed]
        if refused:
            raise ResumeRefused(
                f"the run {before.name!r} was started with other {', '.join(refused)} (of a "
                "function, its code and the values it uses count): resume it with the same, name "
                f"what may differ in allow_changed={refused!r}, or start another run"
            )
        if "configs" in changed:
            now = replace(now, configs=before.configs)
            self.progress.say("the models of the run keep the configurations they began with")
        for split in ("train_partitions", "valid_partitions"):
            if len(getattr(before, split)) != len(getattr(now, split)):
                raise ResumeRefused(
                    f"the run {before.name!r} has {len(getattr(before, split))} {split}, not "
                    f"{len(getattr(now, split))}: their number cannot change within a run"
                )
        if before.functions.get("mst_eval_fn") != now.functions.get("mst_eval_fn"):
            self.progress.say("mst_eval_fn has changed: decisions from here on are the new one's")
        return now

    def _contact(self, plan: Plan) -> list[connect.Contact]:
        contacts = connect.contact(
            plan.workers, self.make_client, backend=plan.backend, run=plan.id
        )
        present = {c.worker for c in contacts if c.facts is not None}
        for split in ("train", "valid"):
            arguments.check_held(
                f"{split}_availability",
                getattr(plan, f"{split}_availability"),
                getattr(plan, f"{split}_partitions"),
                present,
                plan.workers,
            )
        for contact in contacts:
            if contact.facts is None:
                self.progress.say(
                    f"worker {contact.url} does not answer and is left out until it does: "
                    f"{contact.trouble}"
                )
        return contacts

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
            paths.create()
        return paths

    def _drive(
        self,
        paths: RunPaths,
        journal: Journal,
        ledger: Ledger,
        first: list[Record],
        clock: Callable[[], float],
        contacts: list[connect.Contact],
    ) -> Result:
        holder = Holder(paths, journal.generation)
        ledger.add(journal.opening)
        ledger.listeners.append(LogWriter(paths))
        try:
            _append(journal, ledger, first)
            plan = ledger.the_plan
            write_file(paths.workers, json.dumps(plan.workers, indent=2).encode())
            write_provenance(paths, ledger)
            ledger.listeners.append(self.progress)
            self.progress.say(
                f"run {paths.root}: {count(len(ledger.models), 'model')}, "
                f"{len(plan.train_partitions)} train and {len(plan.valid_partitions)} valid "
                "partitions, "
                f"{count(sum(c.facts is not None for c in contacts), 'worker')}"
            )
            driver = self._driver(paths, journal, ledger, contacts, clock)
            with _interruptible(driver):
                driver.run()
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
                write_provenance(paths, ledger)
        failed = all_failed(ledger)
        if failed is not None:
            raise failed
        result = Result(paths.root)
        result.save_tables()
        return result

    def _driver(
        self,
        paths: RunPaths,
        journal: Journal,
        ledger: Ledger,
        contacts: list[connect.Contact],
        clock: Callable[[], float],
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

        def make_link(worker: int, notify: Callable[[Notice], None]) -> Link:
            url = plan.workers[worker]
            return Link(worker, url, self.make_client, opening, self.heartbeat, notify)

        def decide(ledger: Ledger, models: tuple[int, ...]) -> procedure.Decision:
            try:
                return procedure.ask(self.eval_fn, ledger, models)
            except Exception as error:
                wrong = str(error)
                kind = type(error) if isinstance(error, DecisionError) else UserFunctionError
                if kind is UserFunctionError:
                    wrong = f"mst_eval_fn raised {type(error).__name__}: {error}"
                raise kind(
                    f"{wrong}; the run in {paths.root} stops here: put it right, then go on with "
                    f"run_name={paths.root.name!r}, resume=True",
                    function="mst_eval_fn",
                ) from error

        return Driver(
            paths=paths,
            ledger=ledger,
            journal=journal,
            make_link=make_link,
            workers=[c.worker for c in contacts],
            absent={c.worker for c in contacts if c.facts is None},
            decide=decide,
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


@contextlib.contextmanager
def _interruptible(driver: Driver) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop the run, between two of its rounds, in the main thread.

    Python runs a handler when the main thread next does something, and a signal that another
    thread receives does not end its waiting: so the signal's byte wakes it, through a thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def pass_on() -> None:
        while ours.recv(64):
            driver.wake()

    waker = threading.Thread(target=pass_on, name="signals", daemon=True)
    waker.start()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: driver.interrupt()) for number in numbers]
    descriptor = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        theirs.close()
        waker.join()
        ours.close()
