"""The workers at start: who answers, whether they fit, and whether storage is shared."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebro import machine
from cerebro.backends import KERAS, TENSORFLOW, is_usable_keras
from cerebro.errors import (
    CerebroError,
    InputError,
    RpcError,
    RpcFault,
    RpcTimeout,
    RpcUnreachable,
    StorageNotShared,
    WorkerBusy,
    WorkerMismatch,
    WorkerUnreachable,
)
from cerebro.protocol.messages import HeldRun, Method
from cerebro.rpc import Client
from cerebro.storage import storage_errors, write_file

CALL_SECONDS = 10.0
PROBE_SECONDS = 30.0
CALLS_AT_ONCE = 32

MakeClient = Callable[[str], Client]


@dataclass(frozen=True)
class Contact:
    """One worker at start: what it says of itself, or why it could not be asked."""

    worker: int
    url: str
    facts: dict[str, Any] | None
    trouble: str = ""


def contact(
    urls: Sequence[str], make_client: MakeClient, *, backend: str, run: str
) -> list[Contact]:
    """Ask every worker who it is.

    One that does not answer is returned with its trouble. Raises `WorkerUnreachable` if none
    does, and `WorkerMismatch`, `WorkerBusy`, `SecretError` or `NotAWorker` for one that answers
    and cannot be used.
    """
    ours = machine.versions()

    def ask(number: int) -> Contact:
        url = urls[number]
        client = make_client(url)
        try:
            facts = {**client.call(Method.DESCRIBE.value, CALL_SECONDS), "boot_id": client.boot_id}
        except (RpcUnreachable, RpcTimeout) as error:
            return Contact(number, url, None, str(error))
        finally:
            client.close()
        check_versions(url, ours, facts, backend)
        check_holder(url, facts, run)
        return Contact(number, url, facts)

    with ThreadPoolExecutor(min(CALLS_AT_ONCE, len(urls))) as pool:
        contacts = list(pool.map(ask, range(len(urls))))
    check_distinct(contacts)
    check_present(contacts)
    return contacts


def check_present(contacts: Sequence[Contact]) -> None:
    """`WorkerUnreachable` if no worker answers."""
    if not any(c.facts for c in contacts):
        details = "; ".join(f"{c.url}: {c.trouble}" for c in contacts)
        raise WorkerUnreachable(
            f"no worker answers ({details}): start one on each node with cerebro-standalone-worker"
        )


def check_distinct(contacts: Sequence[Contact]) -> None:
    """`InputError` if two URLs lead to the same worker."""
    seen: dict[str, str] = {}
    for contact_ in contacts:
        if contact_.facts is None:
            continue
        other = seen.setdefault(contact_.facts["boot_id"], contact_.url)
        if other != contact_.url:
            raise InputError(
                f"{other} and {contact_.url} are the same worker (process "
                f"{contact_.facts['pid']} on {contact_.facts['host']}): name each worker once"
            )


def check_versions(url: str, ours: dict[str, Any], theirs: dict[str, Any], backend: str) -> None:
    """`WorkerMismatch` where driver and worker could not understand each other."""
    names = ["protocol", "python"] + (["tensorflow"] if backend in TENSORFLOW else [])
    names += ["keras"] if backend == "keras" else []
    for name in names:
        mine, other = ours[name], theirs.get(name)
        if name == "keras" and not is_usable_keras(other):
            found = f"Keras {other}" if other else "no Keras"
            raise WorkerMismatch(
                f"the worker {url} has {found}: backend='keras' needs {KERAS}, "
                "pip install -U tensorflow keras there"
            )
        if name == "tensorflow" and other is None:
            raise WorkerMismatch(
                f"the worker {url} has no TensorFlow: pip install tensorflow=={mine or '2.*'} there"
            )
        if name in ("tensorflow", "keras") and mine is None:
            continue
        if mine != other:
            label = {"protocol": "cerebro-dl protocol", "python": "Python"}
            raise WorkerMismatch(
                f"the worker {url} runs {label.get(name, name)} {other}, the driver {mine}: "
                "install the same version on both"
            )


def check_holder(url: str, facts: dict[str, Any], run: str) -> None:
    """`WorkerBusy` if a worker holds another run."""
    if not facts.get("held"):
        return
    held = HeldRun.from_json(facts["held"])
    if held.run != run:
        raise WorkerBusy(
            f"the worker {url} holds {held}: wait until that run ends, or end its driver; if that "
            f"is dead, the worker lets go of it in {held.lease_left:.0f} s"
        )


class StorageProbe:
    """Sees whether driver and workers see each other's files below `ckpt_root`.

    Each worker reads what the driver wrote and the driver what each worker wrote; nobody looks for
    a file before it is there.
    """

    def __init__(self, folder: Path, root: str) -> None:
        self._folder = folder
        self._root = root
        self._host = machine.host()["host"]

    def check(self, clients: Mapping[str, Client]) -> dict[str, RpcError]:
        """Probe workers, by URL. Returns the errors of those that do not answer any more.

        Raises `StorageNotShared`, or `StorageError` for the driver.
        """
        token = uuid.uuid4().hex[:12]
        own = self._folder / f"driver-{token}"
        names = {url: self._folder / f"worker{n}-{token}" for n, url in enumerate(clients)}
        with contextlib.ExitStack() as stack:
            for path in (own, *names.values()):
                stack.callback(_unlink, path)
            write_file(own, own.name.encode(), inside=self._folder.parent)
            pool = stack.enter_context(ThreadPoolExecutor(min(CALLS_AT_ONCE, len(names))))
            errors = list(
                pool.map(lambda url: self._write(clients[url], url, names[url], own), names)
            )
            silent = {u: error for u, error in zip(names, errors, strict=True) if error is not None}
            for url in names.keys() - silent.keys():
                name = names[url]
                with storage_errors("read", name):
                    seen = name.exists()
                if not seen:
                    raise StorageNotShared(
                        f"what {url} writes to {self._root} is not visible on {self._host}: "
                        "choose as ckpt_root a folder on storage that all hosts share"
                    )
            return silent

    def _write(self, client: Client, url: str, name: Path, own: Path) -> RpcError | None:
        """Have a worker write a file, and read the driver's; returns why it does not answer."""
        try:
            answer = client.call(
                Method.PROBE_STORAGE.value, PROBE_SECONDS, write=str(name), read=[str(own)]
            )
        except RpcFault as error:
            raise StorageNotShared(f"the worker {url}: {error}") from error
        except (RpcUnreachable, RpcTimeout) as error:
            return error
        if answer["error"] or answer["missing"]:
            raise StorageNotShared(
                f"{self._root} on {self._host} is not visible to {url}"
                f"{' (' + answer['error'] + ')' if answer['error'] else ''}: "
                "choose as ckpt_root a folder on storage that all hosts share"
            )
        return None


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def check_storage(
    contacts: Sequence[Contact], make_client: MakeClient, probe: StorageProbe
) -> list[Contact]:
    """Probe all workers that answered at the start; returns the contacts as they are now.

    Raises as `StorageProbe.check`, and `WorkerUnreachable` if nobody answers any more.
    """
    with contextlib.ExitStack() as stack:
        clients = {}
        for contact_ in contacts:
            if contact_.facts is not None:
                clients[contact_.url] = make_client(contact_.url)
                stack.callback(clients[contact_.url].close)
        silent = probe.check(clients)
    now = [
        replace(c, facts=None, trouble=str(silent[c.url])) if c.url in silent else c
        for c in contacts
    ]
    check_present(now)
    return now


class Admission:
    """Sees whether a worker that joins while the run goes on can take part.

    One of the `contacts` at the start was seen already; a process that is new is looked at like
    those were. Called by the links, from several threads.
    """

    def __init__(self, contacts: Sequence[Contact], probe: StorageProbe, backend: str) -> None:
        self._probe = probe
        self._backend = backend
        self._lock = threading.Lock()
        self._seen = {c.facts["boot_id"]: c.url for c in contacts if c.facts is not None}
        self._admitted = set(self._seen)

    def __call__(self, client: Client, url: str, facts: dict[str, Any]) -> None:
        """Raises `WorkerMismatch`, `StorageNotShared` or `InputError` for one that cannot."""
        boot_id = client.boot_id
        with self._lock:
            other = self._seen.setdefault(boot_id, url)
            if other == url and boot_id in self._admitted:
                return
        if other != url:
            raise InputError(f"{other} and {url} are the same worker: name each worker once")
        try:
            check_versions(url, machine.versions(), facts, self._backend)
            for error in self._probe.check({url: client}).values():
                raise error
        except CerebroError:
            with self._lock:
                del self._seen[boot_id]
            raise
        with self._lock:
            self._admitted.add(boot_id)


def client_maker(key: bytes, secret_path: str) -> MakeClient:
    """A function that makes a client for a URL under one secret."""

    def make(url: str) -> Client:
        return Client(url, key, secret_path=secret_path)

    return make
