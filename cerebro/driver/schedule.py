"""The public entrance: a search from what the user passes to its result."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cerebro import machine
from cerebro.driver.decisions import EvalFunction
from cerebro.driver.launch import Launch
from cerebro.driver.request import Arguments, checked
from cerebro.errors import RunError
from cerebro.local_cluster import LocalCluster
from cerebro.results.result import Result
from cerebro.search import SearchProcedure

HEARTBEAT_SECONDS = 30.0


def schedule(
    worker_ips: Sequence[str] | LocalCluster,
    train_partitions: Sequence[str | os.PathLike[str]],
    valid_partitions: Sequence[str | os.PathLike[str]],
    train_availability: Sequence[Sequence[int]] | None,
    valid_availability: Sequence[Sequence[int]] | None,
    input_fn: Callable[..., Any],
    model_fn: Callable[..., Any],
    train_fn: Callable[..., Any] | None,
    initial_msts: Sequence[Mapping[str, Any]] | None = None,
    mst_eval_fn: EvalFunction | None = None,
    ckpt_root: str | os.PathLike[str] = "/tmp",
    preload_data_to_mem: bool = True,
    backend: str = "tf",
    *,
    search: SearchProcedure | None = None,
    run_name: str | None = None,
    resume: bool | str = False,
    allow_changed: Sequence[str] = (),
    retry_failed: bool = False,
    trust_folder: bool = False,
    replay: str | os.PathLike[str] | None = None,
    seed: int = 0,
    deterministic: bool = True,
    secret_file: str | None = None,
    heartbeat: float = HEARTBEAT_SECONDS,
    unit_timeout: float | None = None,
    takeover_wait: float = 0,
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

    `input_fn`, `model_fn` and `train_fn` load, build and train, with the tool that `backend` names:
    `"tf"`, `"keras"` or `"python"`. With `backend="keras"` `train_fn` may be None: a unit is then
    one `fit` over the partition, and `error_metric` names the compiled metric of the error, by
    default 1 - accuracy. With `preload_data_to_mem` each worker keeps its partitions in memory.
    Whatever is random is drawn from `seed`, an integer; `deterministic` asks TensorFlow for kernels
    that give the same bits again. `secret_file` is the file with the secret that the workers hold.

    `ckpt_root` is a folder that driver and workers share. The run gets a folder of its own below
    it, called `run_name`, by default after the time. `resume=True` resumes the run of that name,
    `"auto"` resumes or starts it; what is given must be what the run was started
    with, except what `allow_changed` names (`"configs"`, `"partitions"`, `"input_fn"`, …). With
    `retry_failed` models that have failed are resumed, too. If the run has
    ended and `mst_eval_fn` is another one, that is asked again about the models that came furthest,
    so that they may continue; so is a `search` with other parameters, such as more epochs, if
    `allow_changed` names `"search"`. With `"configs"` there may be new configurations behind those
    of the run, which are trained now; none can be replaced, left out or moved. Workers can be
    added during the run: `workers.json` in its folder is read again at every heartbeat.

    With backend `"python"` checkpoints are pickles: who can change one runs code on the workers. So
    such a run is not started where strangers could swap its folder, nor resumed, nor started from a
    checkpoint (`init_ckpt_path`), if another user owns what is read, or somebody outside its own
    group can write it, unless `trust_folder` is true.

    `replay=` names the folder of a run that has ended, whose visit orders and decisions this one
    repeats: with the same data, functions, seed and threads it gives the same weights and metrics,
    bit for bit, whatever failed on the way. `mst_eval_fn` is not asked then.

    `heartbeat` is how long, in seconds, a worker may give no sign of life before its units go to
    others; `unit_timeout`, in seconds, ends a unit that takes longer. `takeover_wait` is how long,
    in seconds, another driver is waited for that is still at work on this run, as the predecessor
    of a job that was requeued may be: with 0, `RunHeld` is raised at once. `placement` says who
    goes where: `"critical"` serves the most loaded worker and the longest chain of units first, by
    the times that were measured; `"oldest"` the model that started its epoch first; `"randomized"`
    is the paper's policy, the first unit that fits in a shuffled queue. By default it is `"oldest"`
    for searches whose models come and go, else `"critical"`. It does not change what counts, and
    may be another one when a run is resumed; a replay keeps to the orders in which partitions were
    visited, whichever policy it has.

    `progress` says how the run is shown meanwhile: `"live"`, a view at the bottom of the terminal;
    `"notebook"`, one output of the cell that is updated in place; `"plain"`, lines on
    standard error; `"off"` or False, not at all. `"auto"` takes the first that there is, lines
    where there is neither notebook nor terminal.

    Returns the `Result`: models, history, units, and the best model.

    Raises an `InputError` for what is wrong with the arguments and a `ClusterError` for what is
    wrong with the workers, both before anything is trained; `NotARun` where there is nothing to
    resume or replay, `ResumeRefused` or `ReplayRefused` for what differs; `UntrustedFolder` for a
    folder of somebody else's, `UnsafePath` for links and devices in a run's folder; `RunHeld` if
    another driver is at work on the run, and `Superseded` if another one has taken it up;
    `RunFailed` if every model failed; `RunInterrupted` on Ctrl-C or SIGTERM; `StorageError` if
    storage refuses. While it refuses to take the journal of a run under way, the run waits and says
    so.
    """
    if machine.inside_executor():
        raise RunError(
            "schedule() was called on a worker, by code that came with a search: put the call "
            'under `if __name__ == "__main__":` in the module that makes it'
        )
    given = Arguments(
        worker_ips=worker_ips,
        train_partitions=train_partitions,
        valid_partitions=valid_partitions,
        train_availability=train_availability,
        valid_availability=valid_availability,
        input_fn=input_fn,
        model_fn=model_fn,
        train_fn=train_fn,
        initial_msts=initial_msts,
        mst_eval_fn=mst_eval_fn,
        ckpt_root=ckpt_root,
        preload_data_to_mem=preload_data_to_mem,
        backend=backend,
        search=search,
        run_name=run_name,
        resume=resume,
        allow_changed=allow_changed,
        retry_failed=retry_failed,
        trust_folder=trust_folder,
        replay=replay,
        seed=seed,
        deterministic=deterministic,
        secret_file=secret_file,
        heartbeat=heartbeat,
        unit_timeout=unit_timeout,
        takeover_wait=takeover_wait,
        placement=placement,
        error_metric=error_metric,
        progress=progress,
    )
    return Launch(checked(given)).run()
