"""The entrance: arguments to a plan, a plan to a run, a run to a result."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cerebro import machine, shipping
from cerebro.backends import check_backend, check_training
from cerebro.driver import admission, arguments, decisions
from cerebro.driver.launch import Start
from cerebro.driver.replay import read_recording
from cerebro.errors import ConfigurationError, InputError, RunError
from cerebro.formatting import shorten
from cerebro.hopper.placement.policies import ONE_BY_ONE, TOGETHER
from cerebro.journal.ledger import METRICS
from cerebro.journal.provenance import code_folder
from cerebro.journal.run_plan import Plan
from cerebro.local_cluster import LocalCluster
from cerebro.progress import Reporter
from cerebro.progress.displays import check_progress, display_for
from cerebro.results.result import Result
from cerebro.rpc import load_secret
from cerebro.search import SearchProcedure

HEARTBEAT_SECONDS = 30.0


def schedule(
    worker_ips: Sequence[str] | LocalCluster,
    train_partitions: Sequence[str],
    valid_partitions: Sequence[str],
    train_availability: Sequence[Sequence[int]] | None,
    valid_availability: Sequence[Sequence[int]] | None,
    input_fn: Callable[..., Any],
    model_fn: Callable[..., Any],
    train_fn: Callable[..., Any] | None,
    initial_msts: Sequence[Mapping[str, Any]] | None = None,
    mst_eval_fn: decisions.EvalFunction | None = None,
    ckpt_root: str = "/tmp",
    preload_data_to_mem: bool = True,
    backend: str = "tf",
    *,
    search: SearchProcedure | None = None,
    run_name: str | None = None,
    resume: bool | str = False,
    allow_changed: Sequence[str] = (),
    retry_failed: bool = False,
    replay: str | os.PathLike[str] | None = None,
    seed: int = 0,
    deterministic: bool = True,
    secret_file: str | None = None,
    heartbeat: float = HEARTBEAT_SECONDS,
    unit_timeout: float | None = None,
    placement: str | None = None,
    error_metric: str | None = None,
    progress: str | bool = "auto",
) -> Result:
    """Train configurations by model hopper parallelism until the procedure has stopped them all.

    `worker_ips` are URLs (`"http://node1:7777"`) or a `LocalCluster`. `train_partitions` and
    `valid_partitions` are paths, each passed to `input_fn` on the workers that may read it:
    `train_availability[w][p]` is 1 where worker `w` may read train partition `p`, and None stands
    for storage that all workers share. `initial_msts` are the configurations; `mst_eval_fn(state)`
    returns the ids to stop and new configurations, after every epoch. `search` takes the place of
    both: a procedure of `cerebro.search`, such as `ASHA(space, max_epochs=27, n=64)`, or one of
    your own, which says what is trained and for how long.

    `ckpt_root` is a folder that driver and workers share. The run gets a folder of its own below
    it, called `run_name`, by default after the time. `resume=True` goes on with the run of that
    name, `"auto"` goes on with it or starts it; what is given must be what the run was started
    with, except what `allow_changed` names (`"configs"`, `"partitions"`, `"input_fn"`, …). With
    `retry_failed` models that have failed are taken up again where they stood. If the run has
    ended and `mst_eval_fn` is another one, that is asked again about the models that came furthest,
    so that they may go on; so is a `search` with other parameters, such as more epochs, if
    `allow_changed` names `"search"`. Workers can be added while the run goes on: `workers.json` in
    its folder is read again at every heartbeat.

    `replay=` names the folder of a run that has ended, whose visit orders and decisions this one
    repeats: with the same data, functions, seed and threads it gives the same weights and metrics,
    bit for bit, whatever failed on the way. `mst_eval_fn` is not asked then.

    `heartbeat` is how long, in seconds, a worker may give no sign of life before its units go to
    others; `unit_timeout` ends a unit that takes longer. `placement` says who goes where:
    `"critical"` serves the most loaded worker and the longest chain of units first, by the times
    that were measured; `"oldest"` the model that began its epoch first; `"randomized"` is the
    paper's policy, the first unit that fits in a shuffled queue. By default it is `"oldest"` for
    searches whose models come and go, else `"critical"`. It does not change what counts, and may be
    another one when a run is resumed; a replay keeps to the orders in which partitions were
    visited, whichever policy it has.

    With `backend="keras"` `train_fn` may be None: a unit is then one `fit` over the partition, and
    `error_metric` names the compiled metric that is the error, by default 1 - accuracy.

    `progress` says how the run is shown while it goes on: `"live"`, a view at the bottom of the
    terminal; `"notebook"`, one output of the cell that is updated in place; `"plain"`, lines on
    standard error; `"off"` or False, not at all. `"auto"` takes the first that there is, lines
    where there is neither notebook nor terminal.

    Raises an `InputError` for what is wrong with the arguments and a `ClusterError` for what is
    wrong with the workers, both before anything is trained; `ResumeRefused` or `ReplayRefused` for
    what differs; `RunFailed` if every model failed; `RunInterrupted` on Ctrl-C or SIGTERM. While
    storage refuses to take the journal the run waits and says so.
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
    check_training(check_backend(backend), train_fn, error_metric)
    arguments.check_functions(functions, optional=("train_fn",))
    configs = [] if search is not None else _check_initial(initial_msts, backend)
    decides = _check_decides(
        search, initial_msts, mst_eval_fn, valid, backend == "keras" and train_fn is None
    )
    run_name = arguments.check_run_name(run_name)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"seed={seed!r}: a seed is an integer")
    if resume not in (True, False, "auto"):
        raise InputError(f"resume={resume!r}: choose True, False or 'auto'")
    if resume and run_name is None:
        raise InputError(f"resume={resume!r} needs run_name=, the name of the run to go on with")
    if retry_failed and not resume:
        raise InputError("retry_failed=True goes on with a run: pass resume=True as well")

    def fingerprints(version: int) -> dict[str, str]:
        given = {**functions, **decides}
        return {name: shipping.fingerprint(thing, version) for name, thing in given.items()}

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
        replay=None if replay is None else os.path.abspath(replay),
        placement=arguments.check_placement(placement or _suited(search)),
        error_metric=error_metric,
        functions=fingerprints(shipping.FINGERPRINT_VERSION),
        fingerprint_version=shipping.FINGERPRINT_VERSION,
        search=None if search is None else search.described(),
    )
    progress = check_progress(progress)
    heartbeat = arguments.check_seconds("heartbeat", heartbeat, at_least=1.0)
    if unit_timeout is not None:
        unit_timeout = arguments.check_seconds("unit_timeout", unit_timeout, at_least=0.0)
    recording = None if replay is None else read_recording(os.fspath(replay))
    secret = load_secret(secret_file)
    start = Start(
        plan=plan,
        fingerprints=fingerprints,
        blob=shipping.pack({**functions, "error_metric": error_metric}),
        eval_fn=mst_eval_fn,
        search=search,
        root=Path(ckpt_root).absolute(),
        make_client=admission.client_maker(secret.key, secret.path),
        heartbeat=heartbeat,
        unit_timeout=unit_timeout,
        allow_changed=arguments.check_names("allow_changed", allow_changed),
        retry_failed=bool(retry_failed),
        recording=recording,
        code_folder=code_folder(model_fn),
        progress=Reporter(display_for(progress)),
    )
    return start.run(resume)


def _suited(search: SearchProcedure | None) -> str:
    """The placement policy for what decides."""
    together = search is None or not search.per_model or search.begins_together()
    return TOGETHER if together else ONE_BY_ONE


def _check_initial(initial_msts: Any, backend: str) -> list[dict[str, Any]]:
    if initial_msts is None:
        raise ConfigurationError(
            "initial_msts is None: pass a list of dictionaries, and mst_eval_fn; or leave both out "
            "and pass search="
        )
    configs = arguments.check_configs(initial_msts)
    if not configs:
        raise ConfigurationError("initial_msts is empty: give at least one configuration")
    decisions.check_initial(configs, backend)
    return configs


def _check_decides(
    search: Any,
    initial_msts: Any,
    mst_eval_fn: Any,
    valid: list[str],
    has_own_metrics: bool,
) -> dict[str, Any]:
    """What decides, by its role: `search`, or `mst_eval_fn`, and not both."""
    if search is None:
        arguments.check_functions({"mst_eval_fn": mst_eval_fn})
        return {"mst_eval_fn": mst_eval_fn}
    if isinstance(search, type) or not isinstance(search, SearchProcedure):
        raise InputError(
            f"search={shorten(search)}: pass a procedure such as cerebro.search.GridSearch(space, "
            "epochs=10)"
        )
    if initial_msts is not None or mst_eval_fn is not None:
        raise InputError(
            "search= finds the configurations and decides on them: leave initial_msts and "
            "mst_eval_fn out, or leave search out"
        )
    if search.metric not in METRICS and not has_own_metrics:
        raise ConfigurationError(
            f"{type(search).__name__} compares models by {search.metric!r}: without "
            f"backend='keras' and its compiled metrics there are {', '.join(METRICS)}"
        )
    if not valid and search.compares and search.metric.startswith("valid_"):
        raise ConfigurationError(
            f"{type(search).__name__} compares models by {search.metric!r}, and there is no "
            "validation partition: name one, or pass metric='train_error'"
        )
    return {"search": search}
