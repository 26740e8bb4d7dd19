"""The shared secret: one file that driver and workers must both hold.

It is looked for in this order: the path given, the environment's CEREBRO_SECRET_FILE, and
`~/.cerebro/secret`, which is created at first use. Hosts with a shared home directory may start
together: the file appears under its name whole and once (a finished temporary file is linked to
it), and whoever comes second reads what the first one made.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from cerebro.errors import InputError, SecretError
from cerebro.users import expanded, named

ENVIRONMENT_VARIABLE = "CEREBRO_SECRET_FILE"
DEFAULT_PATH = "~/.cerebro/secret"
MIN_BYTES = 16
_OPEN_TO_OTHERS = 0o066
_NAME_IT = f"name it by --secret-file, secret_file= or {ENVIRONMENT_VARIABLE}"


@dataclass(frozen=True)
class Secret:
    """The key (the file's bytes without white space around them) and the file it came from."""

    key: bytes = field(repr=False)
    path: str


def load_secret(path: str | None = None) -> Secret:
    """Read the secret from `path`, the environment's file, or the default one.

    Only the default file is created where it is missing. Raises `SecretError` if no home folder is
    known or there, if what is created there is not this user's alone, if a named file does not
    exist, if the file belongs to another user, can be read or written by group or
    others, is not a regular file, or holds fewer than `MIN_BYTES` bytes.
    """
    given = path or os.environ.get(ENVIRONMENT_VARIABLE)
    if given:
        return _read(_expanded(given))
    default = _expanded(DEFAULT_PATH)
    if not os.path.lexists(default):
        _check_home(default)
        with contextlib.suppress(FileExistsError):  # another process or host was first
            _publish(default)
    return _read(default)


def create_secret(path: str) -> Secret:
    """Make a fresh random secret in a new file at `path` (mode 0600; its folder is made, 0700).

    Raises `SecretError` if the file exists already or cannot be written.
    """
    path = _expanded(path)
    try:
        _publish(path)
    except FileExistsError:
        raise SecretError(
            f"the secret file {path} exists already: use it as it is, or choose another path"
        ) from None
    return _read(path)


def _expanded(path: str) -> str:
    try:
        return os.path.abspath(expanded(path))
    except InputError as error:
        raise SecretError(f"the secret file cannot be found: {error}; {_NAME_IT}") from error


def _check_home(default: str) -> None:
    """`SecretError` unless the home folder is there: where it is not mounted, what would be made in
    its place no other host would have.
    """
    home = os.path.dirname(os.path.dirname(default))
    if not os.path.isdir(home):
        raise SecretError(
            f"the secret file {default} cannot be made: the home folder {home} is not there. See "
            f"whether it has to be mounted, or make one elsewhere with `{_make_command('PATH')}`; "
            f"{_NAME_IT}"
        )


def _publish(path: str) -> None:
    """Put a new secret at `path`. `FileExistsError` if the name is taken, also at the last moment.

    Linking a finished file, unlike creating one in place, never shows an empty or half-written
    secret to another host.
    """
    folder = os.path.dirname(path)
    is_new = not os.path.lexists(folder)
    with _storage_errors(path):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        try:
            _link_new(folder, path)
        except SecretError:
            if is_new:
                os.rmdir(folder)
            raise
        _sync_folder(folder)


def _link_new(folder: str, path: str) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=".secret-", dir=folder)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            _check_new(os.fstat(file.fileno()), path)
            file.write(secrets.token_hex(32).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        os.unlink(temporary)


def _check_new(status: os.stat_result, path: str) -> None:
    """`SecretError` unless a file that was just made is this user's, and closed to all others."""
    elsewhere = f"make one on a local disk with `{_make_command('PATH')}`, and {_NAME_IT}"
    if status.st_uid != os.geteuid():
        raise SecretError(
            f"the secret file {path} cannot be made: a new file there belongs to "
            f"{named(status.st_uid)}, not to {named(os.geteuid())} who makes it, as where an NFS "
            "server takes root for nobody (root_squash), or everybody (all_squash): run this as "
            f"the user whose home folder it is, or {elsewhere}"
        )
    if status.st_mode & _OPEN_TO_OTHERS:
        raise SecretError(
            f"the secret file {path} cannot be made: the file system there does not keep modes (a "
            f"new file has {stat.S_IMODE(status.st_mode):04o}): {elsewhere}"
        )


def _squashed() -> str:
    """A hint for root, whom an NFS server may not take for root; empty for others."""
    if os.geteuid() != 0:
        return ""
    return (
        ". An NFS server with root_squash takes root for nobody: run this as the user whose file "
        "it is, or use one on a local disk"
    )


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storage_errors(path: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise SecretError(
            f"the secret file {path} cannot be made ({error.strerror}): make one elsewhere with "
            f"`{_make_command('PATH')}`; {_NAME_IT}"
            f"{_squashed() if isinstance(error, PermissionError) else ''}"
        ) from error


def _read(path: str) -> Secret:
    shown = shlex.quote(path)
    try:
        # Opening a FIFO for reading would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise SecretError(
            f"the secret file {path} does not exist: make one with `{_make_command(shown)}`, or "
            f"copy the one of another host with `scp -p HOST:{shown} {shown}`"
        ) from None
    except OSError as error:
        raise SecretError(
            f"the secret file {path} cannot be read ({error.strerror}): it must belong to the "
            f"user who runs this; `ls -l {shown}` shows whose it is"
            f"{_squashed() if isinstance(error, PermissionError) else ''}"
        ) from error
    try:
        _check_access(os.fstat(descriptor), path)
        with open(descriptor, "rb", closefd=False) as file:
            key = file.read().strip()
    finally:
        os.close(descriptor)
    if len(key) < MIN_BYTES:
        raise SecretError(
            f"the secret file {path} holds {len(key)} bytes, and {MIN_BYTES} are the least: make "
            f"another one with `{_make_command(shown)}` and copy it to all hosts"
        )
    return Secret(key, path)


def _check_access(status: os.stat_result, path: str) -> None:
    shown = shlex.quote(path)
    if not stat.S_ISREG(status.st_mode):
        raise SecretError(
            f"the secret file {path} is not a regular file: make one with `{_make_command('PATH')}`"
        )
    if status.st_uid != os.geteuid():
        raise SecretError(
            f"the secret file {path} belongs to user {status.st_uid}, not to {os.geteuid()} who "
            "runs this. If you have put it there, make it yours with `chown "
            f"{os.geteuid()} {shown}`, or use a copy; if not, that user knows it, and could give "
            f"your workers orders: make one with `{_make_command('PATH')}`, and {_NAME_IT}"
            f"{_squashed()}"
        )
    if status.st_mode & _OPEN_TO_OTHERS:
        raise SecretError(
            f"the secret file {path} can be read or written by others (mode "
            f"{stat.S_IMODE(status.st_mode):04o}): close it with `chmod 600 {shown}`; if others "
            "may have read or changed it, remove it, make another one with "
            f"`{_make_command(shown)}`, and copy that to all hosts"
        )


def _make_command(shown: str) -> str:
    return f"(umask 077; head -c 32 /dev/urandom | base64 > {shown})"
