"""Reading a model of backend "python" in any program."""

from __future__ import annotations

import contextlib
import os
import pickle
import stat
from pathlib import Path
from typing import Any

from cerebro import shipping
from cerebro.backends.plain_model import code_named, read_whole
from cerebro.errors import InputError, ShippingError, VersionDamaged
from cerebro.journal.paths import VERSION_NAME, RunPaths
from cerebro.results.model_export import DESCRIPTION, named_checkpoint
from cerebro.storage import check_kind, check_version, names_in, storage_errors
from cerebro.trust import check_trusted, check_way


def load_model(path: str | os.PathLike[str], *, trust_folder: bool = False) -> Any:
    """Load a model of backend "python": the `checkpoint` of a run's model, or an export.

    `path` is the file, in the folder of its run, wherever that has been moved to; or a folder that
    `Result.export` made, or the `model.pickle` in it; or a link to a file that this user, or the
    file's owner, has made. The program need not be the script, nor have its classes, but has the
    same minor version of Python. Loading a model runs its code: do so only with files of people
    whom you trust. One that another user owns, or that strangers can write, is refused unless
    `trust_folder` is true.

    Raises `InputError` for what is no such file, `UntrustedFolder`, `ShippingError` if this is
    another version of Python or a package that the model needs is missing, `VersionDamaged` for a
    damaged file, and `StorageError` if it cannot be read.
    """
    file = named_checkpoint(os.fspath(path), "python")
    if not _is_there(file):
        raise InputError(
            f"{file} does not exist: give the checkpoint of a model, such as "
            "result.best().checkpoint, or what Result.export made"
        )
    if not trust_folder:
        check_model_trusted(
            file, "its code would run here; if you trust who made it, pass trust_folder=True"
        )
    file = _plain_path(file)
    if _is_of_run(file):
        with storage_errors("read", file):
            check_version(os.path.dirname(file) or ".")
    state = read_whole(file)
    if not state.startswith(pickle.PROTO):
        raise InputError(
            f"{file} is not a model of backend 'python', and load_model reads no other: for "
            "backend 'keras' call model_fn(config).load_weights(path), for 'tf' restore it with a "
            "Saver"
        )
    digest = code_named(state)
    if digest is None:
        return _unpickled(file, state)
    paths = RunPaths.of_version(file)
    code = str(paths.code_file(digest))
    try:
        with storage_errors("read", code), contextlib.suppress(FileNotFoundError):
            check_kind(paths.code, stat.S_IFDIR)
            check_kind(code, stat.S_IFREG)
        return shipping.restore(read_whole(code), state)
    except VersionDamaged as error:
        raise VersionDamaged(
            f"the code that {file} needs cannot be read ({error}): a version is read in the folder "
            "of its run; to take it elsewhere, use Result.export"
        ) from error


def check_model_trusted(file: str, remedy: str) -> None:
    """Raise `UntrustedFolder` where strangers own or can write a model, or the code that it names.

    `remedy` ends the message. Raises `StorageError`.
    """
    if os.pardir in Path(file).parts:
        check_way(file, remedy)
    file = _plain_path(file)
    with storage_errors("look at", file):
        _check_model(file, remedy)


def _plain_path(file: str) -> str:
    """The path without `..`, which after a link leads elsewhere than its names say."""
    return os.path.realpath(file) if os.pardir in Path(file).parts else file


def _check_model(file: str, remedy: str) -> None:
    folder = os.path.dirname(os.path.abspath(file))
    if os.path.isdir(file):
        check_trusted(file, [os.path.join(file, name) for name in names_in(file)], remedy)
    elif _is_of_run(file):
        paths, version = RunPaths.of_version(file), Path(folder)
        code = [paths.code, *(paths.code / name for name in names_in(paths.code))]
        loaded = (paths.models, version.parent, version, file, *code)
        check_trusted(paths.root, [str(path) for path in loaded], remedy)
    elif os.path.lexists(os.path.join(folder, DESCRIPTION)):
        check_trusted(folder, [file], remedy)
    else:
        check_trusted(file, (), remedy)


def _is_there(file: str) -> bool:
    """Whether something has this name. Raises `StorageError` where that cannot be seen."""
    with storage_errors("read", file), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(file)
        return True
    return False


def _is_of_run(file: str) -> bool:
    """Whether a file is, by its name, in the folder of a version in a run's folder."""
    version = Path(os.path.abspath(file)).parent
    return VERSION_NAME.fullmatch(version.name) is not None and len(version.parents) > 2


def _unpickled(file: str, state: bytes) -> Any:
    try:
        return pickle.loads(state)
    except (AttributeError, ImportError) as error:
        raise ShippingError(
            f"{file} needs what is not here ({error}), and was saved without its code: load it in "
            "the script that made it"
        ) from error
