"""Asking the model selection procedure, and understanding its answer."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cerebro.backends.checkpoint_files import check_regular
from cerebro.driver.argument_checks import check_configs
from cerebro.errors import (
    ConfigurationError,
    DecisionError,
    InputError,
    StorageError,
    UserFunctionError,
    VersionRefused,
)
from cerebro.formatting import message_of, shorten
from cerebro.hopper.units import ModelState
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths, folder_of, relative_in_run, same_folder
from cerebro.journal.records import NewModelEntry
from cerebro.results.model_export import named_checkpoint
from cerebro.storage import names_in
from cerebro.validation import plain_integer

EvalFunction = Callable[[dict[int, dict[str, Any]]], Any]

EXPECTED = "expected (ids of the models to stop, list of new configurations)"


@dataclass(frozen=True)
class CheckedDecision:
    """A procedure's answer, checked: what the journal's next decision says."""

    asked: tuple[int, ...]
    stop: dict[int, ModelState]
    add: tuple[NewModelEntry, ...]


class Procedure(ABC):
    """What decides which models continue.

    `per_model`: it is asked about each model at the model's own epoch end, instead of about all
    running models when all have ended the epoch. `visit_order` fixes the order in which a model
    visits the train partitions of an epoch, by (model, epoch); `pinned` are versions, as (model,
    number), to be kept until so many new models have started with them; with `copies` the versions
    are kept that models had at the end of their last epoch. `begins_models`: it may start models
    while none runs, so that the run ends when it does not. `asked_as` is what people know it as.
    """

    per_model = False
    begins_models = False
    copies = False
    asked_as = "mst_eval_fn"
    visit_order: Mapping[tuple[int, int], Sequence[int]] = {}
    pinned: Mapping[tuple[int, int], int] = {}

    @abstractmethod
    def ask(self, ledger: Ledger, models: tuple[int, ...]) -> list[CheckedDecision]:
        """What to do, now that these models have ended an epoch; nothing, if that depends on more.

        Raises what stops the run.
        """

    def follow(self, ledger: Ledger) -> list[CheckedDecision]:
        """What else to do, now that something has happened that nobody asks about."""
        return []

    def given_up(self, ledger: Ledger) -> dict[int, str]:
        """Running models that have to end now as failed, and why."""
        return {}


class EvalProcedure(Procedure):
    """The user's `mst_eval_fn`. `stops_here` ends messages: how to continue."""

    def __init__(self, eval_fn: EvalFunction, stops_here: str) -> None:
        self._eval_fn = eval_fn
        self._stops_here = stops_here

    def ask(self, ledger: Ledger, models: tuple[int, ...]) -> list[CheckedDecision]:
        """Raises `DecisionError` for a bad answer, `UserFunctionError` for what it raised."""
        try:
            return [ask(self._eval_fn, ledger, models)]
        except DecisionError as error:
            raise DecisionError(f"{error}; {self._stops_here}", function="mst_eval_fn") from error
        except Exception as error:
            raise UserFunctionError(
                f"mst_eval_fn raised {type(error).__name__}: {message_of(error)}; "
                f"{self._stops_here}",
                function="mst_eval_fn",
            ) from error


def ask(eval_fn: EvalFunction, ledger: Ledger, asked: tuple[int, ...]) -> CheckedDecision:
    """Call `mst_eval_fn` with the state of all models.

    Raises `DecisionError` for an answer that cannot be carried out; what `mst_eval_fn` raises
    passes through.
    """
    answer = eval_fn(ledger.state())
    try:
        stop_ids, new_msts = answer
        stop_list = list(stop_ids)
    except (TypeError, ValueError):
        raise DecisionError(f"mst_eval_fn returned {shorten(answer)}: {EXPECTED}") from None
    named = [_known(number, ledger) for number in stop_list]
    running = [n for n in named if ledger.models[n].state is ModelState.RUNNING]
    stop = dict.fromkeys(running, ModelState.COMPLETED)
    first = ledger.next_model()
    try:
        configs = check_configs(new_msts, "mst_eval_fn's new configurations")
        where = "mst_eval_fn's new configuration"
        add = tuple(begin(mst, n, ledger, where) for n, mst in enumerate(configs, first))
    except ConfigurationError as error:
        raise DecisionError(str(error)) from error
    return CheckedDecision(asked, stop, add)


def _known(number: Any, ledger: Ledger) -> int:
    model = plain_integer(number)
    if model is None:
        raise DecisionError(
            f"mst_eval_fn wants to stop {shorten(number)}: a model's id must be an integer"
        )
    if model not in ledger.models:
        known = f"0 to {ledger.next_model() - 1}"
        raise DecisionError(f"mst_eval_fn wants to stop model {model}: the models' ids are {known}")
    return model


def begin(mst: dict[str, Any], number: int, ledger: Ledger, where: str) -> NewModelEntry:
    """A new model with where it starts: the checkpoint, and the parent whose history it has.

    `where` starts messages. Raises `DecisionError` and `ConfigurationError`.
    """
    parent = mst.get("init_mst_id")
    checkpoint = mst.get("init_ckpt_path")
    if parent is not None:
        parent = _known(parent, ledger)
        if checkpoint is None:
            checkpoint = ledger.models[parent].checkpoint()
        if checkpoint is None:
            raise DecisionError(
                f"{where} begins with model {parent}, which has no "
                "checkpoint yet: leave init_mst_id out, or name a model that has been trained"
            )
    if checkpoint is not None:
        checkpoint = check_checkpoint(checkpoint, where, ledger.the_plan.backend, ledger)
    epoch = len(ledger.models[parent].epochs) if parent is not None else 0
    return NewModelEntry(number, mst, epoch, parent, checkpoint)


def check_checkpoint(path: Any, where: str, backend: str, ledger: Ledger | None = None) -> str:
    """`init_ckpt_path` as an absolute path; `ConfigurationError` if nothing is there to be read.

    A folder that `Result.export` made stands for the checkpoint in it, and a link for the file that
    it leads to now, which is what is recorded. A version of this run is known from the journal and
    not looked for. What the files hold is looked at where they are read.
    """
    found = _absolute(path, where, backend)
    own = None if ledger is None else _own(found, ledger)
    if own is not None:
        return own
    _check_there(found, where)
    return found


def _absolute(path: Any, where: str, backend: str) -> str:
    if not isinstance(path, str):
        raise ConfigurationError(f"{where}: init_ckpt_path is {shorten(path)}: a path is needed")
    try:
        return named_checkpoint(os.path.abspath(path), backend)
    except InputError as error:
        raise ConfigurationError(f"{where}: init_ckpt_path {error}") from None


def _own(path: str, ledger: Ledger) -> str | None:
    """The version of this run that a path leads to, as the ledger names it: another name of the
    run's folder may lead there too.
    """
    relative = relative_in_run(path)
    for model in ledger.models.values() if relative is not None else ():
        for checkpoint in model.checkpoints.values():
            if checkpoint == path:
                return checkpoint
            if relative_in_run(checkpoint) == relative:
                folders = folder_of(checkpoint), folder_of(path)
                return checkpoint if same_folder(*map(str, folders)) else None
    return None


def _check_there(path: str, where: str) -> None:
    try:
        found = os.path.lexists(path) or any(
            name.startswith(os.path.basename(path))
            for name in names_in(os.path.dirname(path) or ".")
        )
    except StorageError as error:
        raise ConfigurationError(f"{where}: init_ckpt_path {path}: {error}") from None
    if not found:
        raise ConfigurationError(
            f"{where}: init_ckpt_path {path} does not exist: name a checkpoint, as in "
            "state[id]['ckpt_path'] or a result's .checkpoint"
        )
    try:
        for name in (path, f"{path}.index"):
            if os.path.lexists(name):
                check_regular(name)
    except VersionRefused as error:
        raise ConfigurationError(f"{where}: init_ckpt_path {error}") from None


def check_initial(configs: list[dict[str, Any]], backend: str) -> None:
    """`ConfigurationError` for an initial configuration that cannot start where it says.

    What they name becomes an absolute path: workers run in other folders. Whether it is there, says
    `check_there`: where a run is resumed, its models do not start again.
    """
    for number, config in enumerate(configs):
        where = f"initial_msts[{number}]"
        if "init_mst_id" in config:
            raise ConfigurationError(
                f"{where} has init_mst_id, which names a model of the same run, and there is none "
                "yet: name a checkpoint with init_ckpt_path instead"
            )
        if "init_ckpt_path" in config:
            config["init_ckpt_path"] = _absolute(config["init_ckpt_path"], where, backend)


def check_there(
    configs: Sequence[dict[str, Any]], name: str, first: int = 0, ledger: Ledger | None = None
) -> None:
    """`ConfigurationError` for a configuration whose `init_ckpt_path` leads nowhere.

    They are those from number `first` on in the list `name`, checked by `check_initial`.
    """
    for number, config in enumerate(configs, first):
        path = config.get("init_ckpt_path")
        if path is not None and (ledger is None or _own(path, ledger) is None):
            _check_there(path, f"{name}[{number}]")


def check_beginnings_there(ledger: Ledger, paths: RunPaths) -> None:
    """`ConfigurationError` for a model without a version whose checkpoint to start with is gone.

    Versions of the run itself are made again if need be.
    """
    for model in ledger.models.values():
        path = model.start_checkpoint
        starts = model.state is ModelState.RUNNING and model.version == 0
        if starts and path is not None and paths.relative(path) is None:
            _check_there(path, f"model {model.id} of the run")
