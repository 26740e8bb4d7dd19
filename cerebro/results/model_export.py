"""A model's weights with what is needed to use them, in a folder that needs nothing else.

<path>/
  export.json   configuration, metrics, run, versions; `checkpoint` is the checkpoint's name here
  model.index, model.data-00000-of-00001   (backend "tf"),
  model.weights.h5                         (backend "keras"), or
  model.pickle                             (backend "python")
"""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from pathlib import Path
from typing import Any

from cerebro.backends.checkpoint_files import behind_link, listed
from cerebro.backends.checksum import with_checksum
from cerebro.backends.plain_model import code_named, read_whole, self_contained
from cerebro.errors import InputError, RunError, UnsafePath
from cerebro.formatting import shorten
from cerebro.journal.best import best_epoch
from cerebro.journal.ledger import METRICS, EpochRecord, Ledger, ModelRecord
from cerebro.journal.paths import RunPaths, relative_in_run
from cerebro.journal.run_plan import hyperparameters
from cerebro.storage import (
    FOLDER_MODE,
    check_kind,
    check_version,
    make_folders,
    open_file,
    publish_folder,
    remove_folder,
    storage_errors,
    temporary_beside,
    write_file,
)

DESCRIPTION = "export.json"

_INDEX = ".index"

DESCRIPTION_BYTES = 2**26
"""An export's description at most."""


def chosen_epoch(ledger: Ledger, paths: RunPaths, model_id: int, epoch: int | None) -> EpochRecord:
    """Return the epoch of a model to export: its best one with weights (None), or the one named.

    Raises `InputError` for a model or epoch that does not exist, and `RunError` for one without
    weights.
    """
    model = ledger.models.get(model_id)
    if model is None:
        raise InputError(
            f"model {model_id!r} is not known: the ids of the models in {paths.root} are "
            f"0 to {ledger.next_model() - 1}"
        )
    kept = {e.epoch: e for e in model.epochs if e.version and model.checkpoint(e.version)}
    if epoch is None:
        best = best_epoch(model, ledger.the_plan)
        if best is not None and best.epoch in kept:
            return best
        if kept:
            return kept[max(kept)]
        raise RunError(
            f"model {model_id} in {paths.root} has no weights: it is {model.state.value} and has "
            "ended no epoch of its own"
        )
    if epoch in kept:
        return kept[epoch]
    known = ", ".join(map(str, kept)) or "none"
    if epoch in [e.epoch for e in model.epochs]:
        raise RunError(
            f"the weights of model {model_id} after epoch {epoch} are not kept in {paths.root}; "
            f"those of these epochs are: {known}"
        )
    raise InputError(
        f"epoch={epoch!r}: model {model_id} in {paths.root} has ended no such epoch; its weights "
        f"are kept of these: {known}"
    )


def write_export(
    ledger: Ledger, paths: RunPaths, model_id: int, epoch: EpochRecord, path: Path
) -> None:
    """Copy the weights of one model after one epoch, with its description, into a new folder.

    Raises `InputError` if `path` exists, `RunError` if the run has dropped the weights meanwhile,
    and `StorageError`.
    """
    if os.path.lexists(path):
        raise InputError(f"{path} exists already: name a folder that does not")
    model = ledger.models[model_id]
    checkpoint = model.checkpoint(epoch.version)
    assert checkpoint is not None, "an epoch is chosen that has weights"
    # A pickled result says where the run's folder was then.
    relative = relative_in_run(checkpoint)
    source = checkpoint if relative is None else paths.present(relative)
    with storage_errors("read", source):
        check_version(os.path.dirname(source))
    with storage_errors("export to", path):
        make_folders(path.parent)
        temporary = temporary_beside(path)
        os.mkdir(temporary, FOLDER_MODE)
        try:
            names = _copy(paths, source, temporary)
            if ledger.the_plan.backend == "python":
                _include_code(paths, temporary / os.path.basename(source))
            if not names:
                raise RunError(
                    f"the files of {source} are gone; a run that goes on replaces its versions: "
                    "export the model again"
                )
            content = _description(ledger, paths, model, epoch, os.path.basename(source))
            text = json.dumps(content, indent=2)
            write_file(temporary / DESCRIPTION, f"{text}\n".encode())
            publish_folder(temporary, path)
        except BaseException:
            remove_folder(temporary)
            raise


def named_checkpoint(path: str, backend: str) -> str:
    """Find the checkpoint that a user names: a file, a prefix, a folder that `write_export` made.

    A link to a file, or to a prefix's index, stands for what it leads to, except in the folder of a
    version or an export: there are none in what this library makes. Raises as
    `exported_checkpoint`, for a folder.
    """
    if os.path.isdir(path):
        return exported_checkpoint(path, backend)
    full = os.path.abspath(path)
    export = os.path.join(os.path.dirname(full), DESCRIPTION)
    if relative_in_run(full) is not None or os.path.lexists(export):
        return path
    if os.path.lexists(path):
        return behind_link(path)
    index = behind_link(path + _INDEX)
    return index.removesuffix(_INDEX) if index.endswith(_INDEX) else path


def exported_checkpoint(folder: str, backend: str) -> str:
    """Find the checkpoint in a folder that `write_export` made.

    Raises `InputError` for another folder, for one of another backend, and for one whose
    description names what is not in it.
    """
    path = os.path.join(folder, DESCRIPTION)
    try:
        with open_file(path, inside=folder) as file:
            text = file.read(DESCRIPTION_BYTES + 1)
        if len(text) > DESCRIPTION_BYTES:
            raise ValueError(f"it has more than {DESCRIPTION_BYTES} bytes")
        content = json.loads(text)
        name, made_with = content["checkpoint"], content["backend"]
    except FileNotFoundError:
        raise InputError(
            f"{folder} is a folder without {DESCRIPTION}: name a checkpoint, or a folder that "
            "result.export() made"
        ) from None
    except (OSError, UnsafePath, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{folder}: {path} cannot be read: {error}") from error
    if not isinstance(name, str) or name in ("", ".", "..") or os.path.basename(name) != name:
        raise InputError(
            f"{path}: its checkpoint is {shorten(name)}: the name of a file in {folder} is needed, "
            "as result.export() writes it; name the checkpoint itself if you trust it"
        )
    if made_with != backend:
        raise InputError(
            f"{folder} holds a model of backend {shorten(made_with)}: one of {backend!r} is needed "
            "here"
        )
    return os.path.join(folder, name)


def _copy(paths: RunPaths, checkpoint: str, folder: Path) -> list[str]:
    """Copy the files of a checkpoint; returns their names, none if some were gone.

    Raises `UnsafePath` where one is a link, or another thing than a file.
    """
    names = listed(checkpoint)
    try:
        for name in names:
            path = os.path.join(os.path.dirname(checkpoint), name)
            with open_file(path, inside=paths.root) as source:
                new = open_file(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                with new as copy:
                    shutil.copyfileobj(source, copy)
    except FileNotFoundError:
        return []
    return names


def _include_code(paths: RunPaths, copy: Path) -> None:
    """Have a plain model's file hold the code that it needs, so that any program can read it."""
    if not copy.is_file():
        return
    state = read_whole(str(copy))
    digest = code_named(state)
    if digest is not None:
        check_kind(paths.code, stat.S_IFDIR)
        check_kind(paths.code_file(digest), stat.S_IFREG)
        code = read_whole(str(paths.code_file(digest)))
        copy.write_bytes(with_checksum(self_contained(state, code)))


def _description(
    ledger: Ledger, paths: RunPaths, model: ModelRecord, epoch: EpochRecord, checkpoint: str
) -> dict[str, Any]:
    """Return the content of `export.json`; a metric that is not a finite number is null."""
    metrics = {name: epoch.metric(name) for name in (*METRICS, *epoch.metrics)}
    opening = ledger.generations[-1] if ledger.generations else None
    plan = ledger.the_plan
    return {
        "checkpoint": checkpoint,
        "backend": plan.backend,
        "config": hyperparameters(model.mst),
        "model_id": model.id,
        "epoch": epoch.epoch,
        "metrics": {n: value if math.isfinite(value) else None for n, value in metrics.items()},
        **({"flaw": epoch.flaw} if epoch.flaw else {}),
        "run": plan.name,
        "run_dir": os.path.abspath(paths.root),
        "seed": plan.seed,
        "functions": plan.functions,
        "git_commit": None if opening is None else opening.git_commit,
        "versions": {} if opening is None else opening.versions,
    }
