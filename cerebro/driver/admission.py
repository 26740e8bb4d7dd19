"""The workers at start: who answers, whether they fit, and whether storage is shared."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebro import machine
from cerebro.backends import KERAS, TENSORFLOW, is_usable_keras
from cerebro.driver import permissions
from cerebro.driver.permissions import Party
from cerebro.errors import (
    CerebroError,
    InputError,
    NotAWorker,
    RpcFault,
    RpcRejected,
    RpcTimeout,
    RpcUnreachable,
    SecretError,
    StorageError,
    StorageNotShared,
    WorkerBusy,
    WorkerMismatch,
    WorkerUnreachable,
)
from cerebro.formatting import shorten
from cerebro.protocol.bounds import Facts
from cerebro.protocol.messages import HeldRun, Method
from cerebro.protocol.types import fits
from cerebro.rpc import Client
from cerebro.storage import open_file, storage_errors, write_file

CALL_SECONDS = 10.0
PROBE_SECONDS = 30.0
CALLS_AT_ONCE = 32

UNPROVEN: tuple[type[CerebroError], ...] = (SecretError, NotAWorker, RpcRejected)
"""What a call raises where anybody may have answered: such a worker is left out, like one that does
not answer."""
ABSENT: tuple[type[CerebroError], ...] = (RpcUnreachable, RpcTimeout, *UNPROVEN)

MakeClient = Callable[[str], Client]


@dataclass(frozen=True)
class Contact:
    """One worker at start: what it says of itself, or why it could not be asked.

    `unproven` is the kind of the error where something answers that has not shown that it knows
    the secret.
    """

    worker: int
    url: str
    facts: dict[str, Any] | None
    trouble: str = ""
    unproven: type[CerebroError] | None = None

    def without(self, error: CerebroError) -> Contact:
        """The same worker, which takes no part because of an error."""
        unproven = type(error) if isinstance(error, UNPROVEN) else None
        return replace(self, facts=None, trouble=str(error), unproven=unproven)


def contact(
    urls: Sequence[str], make_client: MakeClient, *, backend: str, run: str
) -> list[Contact]:
    """Ask every worker who it is.

    One that does not answer, or has not shown that it knows the secret, is returned with its
    trouble. Raises as `check_present` if no other is there, and `WorkerMismatch`, `WorkerBusy` or
    `InputError` for one that answers and cannot be used.
    """
    ours = machine.versions()

    def ask(number: int) -> Contact:
        url = urls[number]
        client = make_client(url)
        try:
            facts = client.call(Method.DESCRIBE.value, CALL_SECONDS)
            boot_id = client.boot_id
            check_facts(url, facts)
            with contextlib.closing(make_client(url)) as another:
                check_one_worker(client, another, CALL_SECONDS)
        except ABSENT as error:
            return Contact(number, url, None).without(error)
        finally:
            client.close()
        check_versions(url, ours, facts, backend)
        check_holder(url, facts, run)
        return Contact(number, url, {**facts, "boot_id": boot_id})

    with ThreadPoolExecutor(min(CALLS_AT_ONCE, len(urls))) as pool:
        contacts = list(pool.map(ask, range(len(urls))))
    check_distinct(contacts)
    check_present(contacts)
    return contacts


def check_present(contacts: Sequence[Contact]) -> None:
    """`WorkerUnreachable` if no worker answers.

    Where something answers, and no worker has shown that it knows the secret, `NotAWorker` or
    `SecretError`: the kind of the first that has not.
    """
    if any(c.facts for c in contacts):
        return
    # Most messages name the worker themselves.
    details = "; ".join(
        c.trouble if c.url in c.trouble else f"{c.url}: {c.trouble}" for c in contacts
    )
    kinds = [c.unproven for c in contacts if c.unproven is not None]
    if not kinds:
        raise WorkerUnreachable(
            f"no worker answers ({details}): start one on each node with cerebro-standalone-worker"
        )
    kind = NotAWorker if kinds[0] is NotAWorker else SecretError
    raise kind(f"no worker has shown that it knows the secret ({details})")


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


def check_one_worker(first: Client, second: Client, seconds: float) -> None:
    """`InputError` where two clients of one URL have two workers, both of which answer.

    The first has been answered before. A worker that was restarted in between is one.
    """
    boot_id = first.boot_id
    theirs = second.call(Method.DESCRIBE.value, seconds)
    if second.boot_id == boot_id:
        return
    ours = first.call(Method.DESCRIBE.value, seconds)
    if first.boot_id == boot_id:
        who = " and ".join(f"process {f.get('pid')} on {f.get('host')}" for f in (ours, theirs))
        raise InputError(
            f"two workers answer at {first.url}, {who}: name each of them by an address of its "
            "own, not by a load balancer's or a name that several hosts have"
        )


def check_facts(url: str, facts: Any) -> None:
    """`NotAWorker` for what no worker says of itself: the journal could not hold it."""
    if not fits(facts, Facts) or not {"host", "pid"} <= facts.keys():
        raise NotAWorker(
            f"what answers at {url} says of itself {shorten(facts)}, which no worker of this "
            "library does: look at what runs there"
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
    try:
        held = HeldRun.from_json(facts["held"])
    except ValueError as error:
        raise NotAWorker(
            f"what answers at {url} says that it holds a run, and not which ({error}): look at "
            "what runs there"
        ) from None
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

    def check(self, clients: Mapping[str, Client]) -> dict[str, CerebroError]:
        """Probe workers, by URL. Returns the errors of those that are not there any more.

        Raises `StorageForbidden` where users are closed out of each other's files,
        `StorageNotShared`, or `StorageError` for the driver.
        """
        token = uuid.uuid4().hex[:12]
        own = self._folder / f"driver-{token}"
        names = {url: self._folder / f"worker{n}-{token}" for n, url in enumerate(clients)}
        with contextlib.ExitStack() as stack:
            stack.callback(_unlink, own)
            write_file(own, own.name.encode(), inside=self._folder.parent)
            answers, silent = self._ask(clients, names, {url: [own] for url in names}, stack)
            driver = permissions.this_driver()
            parties = {url: permissions.of_worker(url, answers[url]) for url in answers}
            for url, answer in answers.items():
                self._check_worker(parties[url], answer, own, driver)
            for url in answers:
                self._check_seen(url, names[url], parties[url], driver)
            self._check_each_other(clients, names, parties, stack, silent)
            return silent

    def _ask(
        self,
        clients: Mapping[str, Client],
        writes: Mapping[str, Path],
        reads: Mapping[str, Sequence[Path]],
        stack: contextlib.ExitStack,
    ) -> tuple[dict[str, dict[str, Any]], dict[str, CerebroError]]:
        """Have workers write a file and read others, all at once: their answers, and the errors of
        those that do not answer, by URL. `stack` removes what they write.
        """
        for path in writes.values():
            stack.callback(_unlink, path)

        def ask(url: str) -> dict[str, Any] | CerebroError:
            params = {"write": str(writes[url]), "read": [str(path) for path in reads[url]]}
            try:
                answer: dict[str, Any] = clients[url].call(
                    Method.PROBE_STORAGE.value, PROBE_SECONDS, **params
                )
            except RpcFault as error:
                raise StorageNotShared(f"the worker {url}: {error}") from error
            except ABSENT as error:
                return error
            return answer

        with ThreadPoolExecutor(min(CALLS_AT_ONCE, len(writes))) as pool:
            said = dict(zip(writes, pool.map(ask, writes), strict=True))
        answers = {url: answer for url, answer in said.items() if isinstance(answer, dict)}
        return answers, {u: error for u, error in said.items() if isinstance(error, CerebroError)}

    def _check_worker(
        self, worker: Party, answer: dict[str, Any], own: Path, driver: Party
    ) -> None:
        """See whether a worker can write where the driver does, and read what it wrote."""
        closed = answer.get("code") in ("EACCES", "EPERM")
        barred = answer.get("barred")
        if closed and isinstance(barred, str):
            raise permissions.forbidden(worker, "enter", barred, driver, self._folder.parent)
        if closed:
            raise permissions.forbidden(
                worker, "write in", self._folder, driver, self._folder.parent
            )
        if answer["missing"] and str(own) in answer.get("forbidden", ()):
            raise permissions.forbidden(worker, "read", own, driver, self._folder.parent)
        if answer["error"] or answer["missing"]:
            raise StorageNotShared(
                f"{self._root} on {self._host} is not visible to {worker.what}"
                f"{' (' + answer['error'] + ')' if answer['error'] else ''}: "
                "choose as ckpt_root a folder on storage that all hosts share"
            )

    def _check_seen(self, url: str, name: Path, worker: Party, driver: Party) -> None:
        """See whether the driver can read, and delete, what a worker wrote."""
        try:
            for flags in (os.O_RDONLY, os.O_RDWR):
                with storage_errors("open", name):
                    open_file(name, flags, inside=self._folder.parent).close()
        except StorageError as error:
            if isinstance(error.__cause__, PermissionError):
                does = "read, replace and delete"
                raise permissions.forbidden(
                    driver, does, name, worker, self._folder.parent
                ) from error
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise StorageNotShared(
                f"what {url} writes to {self._root} is not visible on {self._host}: "
                "choose as ckpt_root a folder on storage that all hosts share"
            ) from error

    def _check_each_other(
        self,
        clients: Mapping[str, Client],
        names: Mapping[str, Path],
        parties: Mapping[str, Party],
        stack: contextlib.ExitStack,
        silent: dict[str, CerebroError],
    ) -> None:
        """See whether workers of several users can read, and write, what the others have written.

        Those that do not answer are added to `silent`.
        """
        known = {url: party for url, party in parties.items() if party.uid is not None}
        if len({party.uid for party in known.values()}) < 2:
            return
        kinds = {(party.uid, party.umask): url for url, party in known.items()}
        writes = {url: names[url].with_name(f"{names[url].name}-again") for url in known}
        others = {
            url: [names[other] for (uid, _), other in kinds.items() if uid != party.uid]
            for url, party in known.items()
        }
        answers, lost = self._ask(clients, writes, others, stack)
        silent.update(lost)
        makers = {names[url]: known[url] for url in kinds.values()}
        for url, answer in answers.items():
            for path in others[url]:
                if str(path) in answer.get("forbidden", ()):
                    raise permissions.forbidden(
                        known[url], "read and replace", path, makers[path], self._folder.parent
                    )


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def check_storage(
    contacts: Sequence[Contact], make_client: MakeClient, probe: StorageProbe
) -> list[Contact]:
    """Probe all workers that answered at the start; returns the contacts as they are now.

    Raises as `StorageProbe.check`, and as `check_present`.
    """
    with contextlib.ExitStack() as stack:
        clients = {}
        for contact_ in contacts:
            if contact_.facts is not None:
                clients[contact_.url] = make_client(contact_.url)
                stack.callback(clients[contact_.url].close)
        silent = probe.check(clients)
    now = [c.without(silent[c.url]) if c.url in silent else c for c in contacts]
    check_present(now)
    return now


class Admission:
    """Sees whether a worker that joins while the run is in progress can take part.

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
        """Raises `NotAWorker`, `WorkerMismatch`, `StorageNotShared` or `InputError` for one that
        cannot.
        """
        check_facts(url, facts)
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
