"""The workers at start: who answers, whether they fit, and whether storage is shared."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebro.errors import (
    InputError,
    RpcFault,
    RpcTimeout,
    RpcUnreachable,
    StorageNotShared,
    WorkerBusy,
    WorkerMismatch,
    WorkerUnreachable,
)
from cerebro.rpc import Client
from cerebro.storage import storage_errors, write_file
from cerebro.worker import machine
from cerebro.worker.protocol import Method

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


def call_once(make_client: MakeClient, url: str, method: str, seconds: float, **params: Any) -> Any:
    """One call on a connection of its own."""
    client = make_client(url)
    try:
        return client.call(method, seconds, **params)
    finally:
        client.close()


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
            facts = {**client.call(Method.DESCRIBE, CALL_SECONDS), "boot_id": client.boot_id}
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
    if not any(c.facts for c in contacts):
        details = "; ".join(f"{c.url}: {c.trouble}" for c in contacts)
        raise WorkerUnreachable(
            f"no worker answers ({details}): start one on each node with cerebro-standalone-worker"
        )
    return contacts


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
    names = ["protocol", "python"] + (["tensorflow"] if backend == "tf" else [])
    for name in names:
        mine, other = ours[name], theirs.get(name)
        if name == "tensorflow" and other is None:
            raise WorkerMismatch(
                f"the worker {url} has no TensorFlow: pip install tensorflow=={mine or '2.*'} there"
            )
        if name == "tensorflow" and mine is None:
            continue
        if mine != other:
            label = {"protocol": "cerebro-dl protocol", "python": "Python", "tensorflow": name}
            raise WorkerMismatch(
                f"the worker {url} runs {label[name]} {other}, the driver {mine}: "
                "install the same version on both"
            )


def check_holder(url: str, facts: dict[str, Any], run: str) -> None:
    """`WorkerBusy` if a worker holds another run."""
    held = facts.get("held")
    if held and held["run"] != run:
        raise WorkerBusy(
            f"the worker {url} holds the run {held.get('run_dir')} of the driver with process "
            f"{held.get('pid')} on {held.get('host')}: wait until that run ends, or end its driver"
        )


def check_storage(
    contacts: Sequence[Contact], make_client: MakeClient, probe: Path, root: str
) -> None:
    """`StorageNotShared` unless driver and workers see each other's files below `ckpt_root`.

    Each worker reads what the driver wrote and the driver what each worker wrote; nobody looks for
    a file before it is there.
    """
    token = uuid.uuid4().hex[:12]
    here = machine.host()["host"]
    own = probe / f"driver-{token}"
    write_file(own, own.name.encode())
    present = [c for c in contacts if c.facts is not None]
    names = {c.worker: probe / f"worker{c.worker}-{token}" for c in present}

    def probe_on(contact: Contact, write: Path, read: list[str]) -> dict[str, Any]:
        try:
            answer = call_once(
                make_client,
                contact.url,
                Method.PROBE_STORAGE,
                PROBE_SECONDS,
                write=str(write),
                read=read,
            )
        except RpcFault as error:
            raise StorageNotShared(f"the worker {contact.url}: {error}") from error
        return dict(answer)

    with contextlib.ExitStack() as stack:
        for path in (own, *names.values()):
            stack.callback(path.unlink, missing_ok=True)
        pool = stack.enter_context(ThreadPoolExecutor(min(CALLS_AT_ONCE, len(present))))
        written = list(pool.map(lambda c: probe_on(c, names[c.worker], [str(own)]), present))
        for contact_, answer in zip(present, written, strict=True):
            if answer["error"] or answer["missing"]:
                raise StorageNotShared(
                    f"{root} on {here} is not visible to {contact_.url}"
                    f"{' (' + answer['error'] + ')' if answer['error'] else ''}: "
                    "choose as ckpt_root a folder on storage that all hosts share"
                )
        for contact_ in present:
            with storage_errors("read", names[contact_.worker]):
                if not names[contact_.worker].exists():
                    raise StorageNotShared(
                        f"what {contact_.url} writes to {root} is not visible on {here}: "
                        "choose as ckpt_root a folder on storage that all hosts share"
                    )


def client_maker(key: bytes, secret_path: str) -> MakeClient:
    """A function that makes a client for a URL under one secret."""

    def make(url: str) -> Client:
        return Client(url, key, secret_path=secret_path)

    return make
