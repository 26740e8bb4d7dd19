"""What `schedule` is asked for: its arguments as one object, and what is made of them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebro import shipping
from cerebro.backends import check_backend, check_training
from cerebro.driver import admission, argument_checks, decisions
from cerebro.driver.replay import Recording, read_recording
from cerebro.driver.resume import Fingerprints, follow_moved
from cerebro.driver.trusted import Trust
from cerebro.errors import ConfigurationError, InputError
from cerebro.formatting import shorten
from cerebro.hopper.placement.registry import ONE_BY_ONE, TOGETHER
from cerebro.journal.ledger import METRICS
from cerebro.journal.provenance import code_folder
from cerebro.journal.run_plan import RunPlan
from cerebro.local_cluster import LocalCluster
from cerebro.metrics.rules import EXACT
from cerebro.progress.displays import check_progress
from cerebro.rpc import load_secret
from cerebro.search import SearchProcedure
from cerebro.users import expanded
from cerebro.validation import seconds


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of `schedule`, as they were passed: nothing is known of them yet."""

    worker_ips: Sequence[str] | LocalCluster
    train_partitions: Sequence[str | os.PathLike[str]]
    valid_partitions: Sequence[str | os.PathLike[str]]
    train_availability: Sequence[Sequence[int]] | None
    valid_availability: Sequence[Sequence[int]] | None
    input_fn: Callable[..., Any]
    model_fn: Callable[..., Any]
    train_fn: Callable[..., Any] | None
    initial_msts: Sequence[Mapping[str, Any]] | None
    mst_eval_fn: decisions.EvalFunction | None
    ckpt_root: str | os.PathLike[str]
    preload_data_to_mem: bool
    backend: str
    search: SearchProcedure | None
    run_name: str | None
    resume: bool | str
    allow_changed: Sequence[str]
    retry_failed: bool
    trust_folder: bool
    replay: str | os.PathLike[str] | None
    seed: int
    deterministic: bool
    secret_file: str | None
    heartbeat: float
    unit_timeout: float | None
    takeover_wait: float
    placement: str | None
    error_metric: str | None
    progress: str | bool

    def functions(self) -> dict[str, Any]:
        """The functions that travel to the workers, by role."""
        return {"input_fn": self.input_fn, "model_fn": self.model_fn, "train_fn": self.train_fn}

    def deciding(self) -> dict[str, Any]:
        """What decides, by role: the search procedure or `mst_eval_fn`."""
        if self.search is not None:
            return {"search": self.search}
        return {"mst_eval_fn": self.mst_eval_fn}

    def fingerprints(self, version: int) -> dict[str, str]:
        """The fingerprints of functions and of what decides, by role, by the rules of a version."""
        given = {**self.functions(), **self.deciding()}
        return {role: shipping.fingerprint(thing, version) for role, thing in given.items()}

    def described(self) -> tuple[dict[str, str], dict[str, dict[str, list[str | None]]]]:
        """The fingerprints of the newest version by role, and the parts that each is over."""
        given = {**self.functions(), **self.deciding()}
        found = {role: shipping.fingerprint_and_parts(thing) for role, thing in given.items()}
        prints = {role: digest for role, (digest, _) in found.items()}
        return prints, {role: parts for role, (_, parts) in found.items()}


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A run that is asked for, checked as far as it can be without the workers.

    `functions` are the user's, packed for the workers; `progress` is the name of a display.
    """

    resume: bool | str
    plan: RunPlan
    fingerprints: Fingerprints
    functions: bytes
    eval_fn: decisions.EvalFunction | None
    search: SearchProcedure | None
    root: Path
    make_client: admission.MakeClient
    heartbeat: float
    unit_timeout: float | None
    takeover_wait: float
    allow_changed: tuple[str, ...]
    retry_failed: bool
    trust: Trust
    recording: Recording | None
    code_folder: str
    progress: str


def checked(given: Arguments) -> RunRequest:
    """Check the arguments of `schedule`, and make a request of them. Starts nothing.

    Raises an `InputError` for the first that is wrong, `SecretError` for the secret, and
    `ReplayRefused` or `NotARun` for a recording that cannot be replayed, and `UntrustedFolder` for
    a checkpoint of somebody else's.
    """
    urls, secret_file = _workers(given)
    plan = _plan(given, urls)
    progress = check_progress(given.progress)
    heartbeat = seconds("heartbeat", given.heartbeat, at_least=1)
    unit_timeout = given.unit_timeout
    if unit_timeout is not None:
        unit_timeout = seconds("unit_timeout", unit_timeout, at_least=0)
    takeover_wait = seconds("takeover_wait", given.takeover_wait, at_least=0)
    secret = load_secret(secret_file)
    recording = None if given.replay is None else read_recording(expanded(given.replay))
    if recording is not None:
        plan = replace(
            plan,
            configs=follow_moved(
                plan.configs, recording.configs, recording.folders, recording.run_dir
            ),
            metric_rules=recording.plan.metric_rules,
            global_step=recording.plan.global_step,
        )
    if not given.resume:  # else it depends on what the run has started with
        decisions.check_there(plan.configs, "initial_msts")
    request = RunRequest(
        resume=given.resume,
        plan=plan,
        fingerprints=given.fingerprints,
        functions=shipping.pack({**given.functions(), "error_metric": given.error_metric}),
        eval_fn=given.mst_eval_fn,
        search=given.search,
        root=Path(expanded(given.ckpt_root)).absolute(),
        make_client=admission.client_maker(secret.key, secret.path),
        heartbeat=heartbeat,
        unit_timeout=unit_timeout,
        takeover_wait=takeover_wait,
        allow_changed=argument_checks.check_names("allow_changed", given.allow_changed),
        retry_failed=bool(given.retry_failed),
        trust=Trust(plan.backend == "python", bool(given.trust_folder)),
        recording=recording,
        code_folder=code_folder(given.model_fn),
        progress=progress,
    )
    for config in plan.configs:
        request.trust.check_checkpoint(config.get("init_ckpt_path"))
    return request


def _workers(given: Arguments) -> tuple[list[str], str | None]:
    """The workers' URLs, and the file with their secret."""
    workers = given.worker_ips
    if not isinstance(workers, LocalCluster):
        return argument_checks.check_workers(workers), given.secret_file
    if not workers.urls:
        raise InputError(
            "the LocalCluster has not been started: use it in a with block, "
            "`with LocalCluster(2) as cluster:`"
        )
    return argument_checks.check_workers(workers.urls), given.secret_file or workers.secret_file


def _plan(given: Arguments, urls: list[str]) -> RunPlan:
    train = argument_checks.check_partitions("train_partitions", given.train_partitions, at_least=1)
    valid = argument_checks.check_partitions("valid_partitions", given.valid_partitions, at_least=0)
    backend = check_backend(given.backend)
    check_training(backend, given.train_fn, given.error_metric)
    argument_checks.check_functions(given.functions(), optional=("train_fn",))
    configs = [] if given.search is not None else _initial(given.initial_msts, backend)
    _check_deciding(given, validates=bool(valid))
    run_name = argument_checks.check_run_name(given.run_name)
    seed = argument_checks.check_seed(given.seed)
    _check_resume(given)
    prints, parts = given.described()
    return RunPlan(
        id=uuid.uuid4().hex,
        name=run_name or "",
        workers=urls,
        train_partitions=train,
        valid_partitions=valid,
        train_availability=argument_checks.check_availability(
            "train_availability", given.train_availability, urls, train
        ),
        valid_availability=argument_checks.check_availability(
            "valid_availability", given.valid_availability, urls, valid
        ),
        configs=configs,
        backend=backend,
        seed=seed,
        deterministic=bool(given.deterministic),
        keep_data=bool(given.preload_data_to_mem),
        replay=None if given.replay is None else os.path.abspath(expanded(given.replay)),
        placement=argument_checks.check_placement(given.placement or _suited(given.search)),
        error_metric=given.error_metric,
        functions=prints,
        fingerprint_version=shipping.FINGERPRINT_VERSION,
        parts=parts,
        search=None if given.search is None else given.search.described(),
        **_compared(given.search),
        metric_rules=EXACT,
        global_step=True,
    )


def _compared(search: SearchProcedure | None) -> dict[str, str]:
    """What models are compared by, and how, where a search procedure says so."""
    return {} if search is None else {"metric": search.metric, "mode": search.direction}


def _check_resume(given: Arguments) -> None:
    resume = given.resume
    if not isinstance(resume, bool) and resume != "auto":
        raise InputError(f"resume={shorten(resume)}: choose True, False or 'auto'")
    if resume and given.run_name is None:
        raise InputError(f"resume={resume!r} needs run_name=, the name of the run to resume")
    if given.retry_failed and not resume:
        raise InputError("retry_failed=True resumes a run: pass resume=True as well")


def _suited(search: SearchProcedure | None) -> str:
    """The placement policy for what decides."""
    together = search is None or not search.per_model or search.begins_together()
    return TOGETHER if together else ONE_BY_ONE


def _initial(initial_msts: Any, backend: str) -> list[dict[str, Any]]:
    if initial_msts is None:
        raise ConfigurationError(
            "initial_msts is None: pass a list of dictionaries, and mst_eval_fn; or leave both out "
            "and pass search="
        )
    configs = argument_checks.check_configs(initial_msts)
    if not configs:
        raise ConfigurationError("initial_msts is empty: give at least one configuration")
    decisions.check_initial(configs, backend)
    return configs


def _check_deciding(given: Arguments, *, validates: bool) -> None:
    """`search` decides, or `mst_eval_fn`, and not both."""
    search = given.search
    if search is None:
        argument_checks.check_functions(given.deciding())
        return
    if isinstance(search, type) or not isinstance(search, SearchProcedure):
        raise InputError(
            f"search={shorten(search)}: pass a procedure such as cerebro.search.GridSearch(space, "
            "epochs=10)"
        )
    if given.initial_msts is not None or given.mst_eval_fn is not None:
        raise InputError(
            "search= finds the configurations and decides on them: leave initial_msts and "
            "mst_eval_fn out, or leave search out"
        )
    has_own_metrics = given.backend == "keras" and given.train_fn is None
    if search.metric not in METRICS and not has_own_metrics:
        raise ConfigurationError(
            f"{type(search).__name__} compares models by {search.metric!r}: without "
            f"backend='keras' and its compiled metrics there are {', '.join(METRICS)}"
        )
    if not validates and search.compares and search.metric.startswith("valid_"):
        raise ConfigurationError(
            f"{type(search).__name__} compares models by {search.metric!r}, and there is no "
            "validation partition: name one, or pass metric='train_error'"
        )
