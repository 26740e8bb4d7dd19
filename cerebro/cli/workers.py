"""Show what workers are doing: the current unit and for how long it has run, cached partitions, the
resident memory of daemon and executor, versions, devices, and whose run they hold. With --drain, a
worker finishes the unit that it has started, takes no more, and exits. The exit status is 1 if a
worker is not up, or cannot be drained.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cerebro.cli import output, text_table
from cerebro.errors import CerebroError, InputError, RpcFault
from cerebro.formatting import count, duration, one_line, size
from cerebro.protocol.messages import Method
from cerebro.rpc import Client, load_secret, normalise_url
from cerebro.rpc.secret_file import DEFAULT_PATH, ENVIRONMENT_VARIABLE

SUMMARY = "show what workers are doing, or drain one"

CALL_SECONDS = 10.0
CALLS_AT_ONCE = 32


@dataclass(frozen=True)
class Seen:
    """One worker: what it reports, or why it could not be asked.

    `older` means that it is up, and too old to say more than its versions.
    """

    url: str
    facts: dict[str, Any]
    trouble: str = ""
    older: bool = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("urls", metavar="URL", nargs="*", help="a worker, as http://node1:7777")
    parser.add_argument(
        "--drain",
        metavar="URL",
        action="append",
        default=[],
        help="have this worker finish the unit that it has started, take no more, and exit "
        "(may be given several times)",
    )
    parser.add_argument(
        "--secret-file",
        metavar="FILE",
        help="file with the shared secret (default: $CEREBRO_SECRET_FILE, else ~/.cerebro/secret)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask all workers at once, drain those that are named, and print what they say."""
    drains = list(dict.fromkeys(map(normalise_url, arguments.drain)))
    urls = list(dict.fromkeys([*map(normalise_url, arguments.urls), *drains]))
    if not urls:
        raise InputError("no worker is named: name one, as in cerebro workers http://node1:7777")
    # Naming the default file keeps one from being made: no worker would have it.
    named = arguments.secret_file or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_PATH
    secret = load_secret(named)

    def ask(url: str) -> Seen:
        return look(Client(url, secret.key, secret_path=secret.path))

    def drain(url: str) -> str:
        return drained(Client(url, secret.key, secret_path=secret.path))

    with ThreadPoolExecutor(min(CALLS_AT_ONCE, len(urls))) as pool:
        seen = list(pool.map(ask, urls))
        told = dict(zip(drains, pool.map(drain, drains), strict=True))
    columns = text_table.width()
    output.say(text_table.table(activity(seen, told), columns))
    up = [worker for worker in seen if not worker.trouble]
    if up:
        output.say("\n" + text_table.table(equipment(up), columns))
    for line in runs(up):
        output.say("\n" + one_line(line))
    return 1 if len(up) < len(seen) or any(told.values()) else 0


def look(client: Client) -> Seen:
    """Ask one worker; the client is closed."""
    try:
        try:
            return _checked(Seen(client.url, client.call(Method.INSPECT.value, CALL_SECONDS)))
        except RpcFault as error:
            if not _is_unknown(error):
                raise
            facts = client.call(Method.DESCRIBE.value, CALL_SECONDS)
            return _checked(Seen(client.url, facts, older=True))
    except CerebroError as error:
        return Seen(client.url, {}, str(error))
    finally:
        client.close()


def _checked(seen: Seen) -> Seen:
    """Return what was seen, or that it does not have the form of a worker's answer."""
    try:
        activity([seen], {})
        equipment([seen])
        runs([seen])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        trouble = "what answers there does not describe a worker: see what runs on that port"
        return Seen(seen.url, {}, trouble)
    return seen


def drained(client: Client) -> str:
    """Tell one worker to drain; returns why it does not, empty where it does."""
    try:
        client.call(Method.DRAIN.value, CALL_SECONDS)
    except CerebroError as error:
        if _is_unknown(error):
            return (
                "cannot be drained, its cerebro-dl is too old: end it with SIGTERM (its unit is "
                "run again elsewhere), and upgrade it"
            )
        return f"not drained: {error}"
    finally:
        client.close()
    return ""


def _is_unknown(error: CerebroError) -> bool:
    """Whether a worker does not know a method, because it is of an older version."""
    return isinstance(error, RpcFault) and str(error).startswith("there is no method")


def activity(seen: Sequence[Seen], told: dict[str, str]) -> list[list[str]]:
    """Make one row per worker: what it is doing, and the memory that this takes.

    `told` has the workers that were told to drain, with why they do not.
    """
    rows = [["WORKER", "CACHED", "MEMORY", "STATE"]]
    for worker in seen:
        if worker.trouble:
            rows.append([worker.url, "", "", f"NOT UP: {worker.trouble}"])
            continue
        work = worker.facts.get("work") or {}
        memory = [worker.facts.get("memory"), *([work["executor_memory"]] if work else [])]
        state = _state(worker.facts, work)
        if worker.older:
            memory = []
            state = "up; its cerebro-dl is too old to report what it is doing: upgrade it"
        refusal = told.get(worker.url)
        if refusal:
            state += f"; {refusal}"
        elif worker.facts.get("draining") or refusal is not None:
            state = f"DRAINING: {state}, then exits"
        shown = " + ".join("?" if bytes_ is None else size(bytes_) for bytes_ in memory)
        rows.append([worker.url, str(len(work["cached"])) if work else "", shown, state])
    return rows


def _state(facts: dict[str, Any], work: dict[str, Any]) -> str:
    if not facts.get("held"):
        return "free"
    parts = []
    for unit in work.get("units", []):
        name = f"model {unit['model']}, epoch {unit['epoch']}, {unit['split']} {unit['partition']}"
        since = "" if unit["seconds"] is None else f" for {duration(unit['seconds'])}"
        does = {"runs": "running", "saves": "saving", "waits": "next:"}[unit["state"]]
        parts.append(f"{does} {name}{since}")
    if work.get("loading"):
        parts.append(f"loading {count(work['loading'], 'partition')}")
    return "; ".join(parts) or "waiting for a unit"


def equipment(seen: Sequence[Seen]) -> list[list[str]]:
    """Make one row per worker: its versions and devices."""
    rows = [["WORKER", "CEREBRO", "PYTHON", "TENSORFLOW", "DEVICES"]]
    for worker in seen:
        facts = worker.facts
        devices = [f"GPU {name}" for name in facts.get("devices", [])]
        if not worker.older and not devices:
            devices = ["no GPU"]
        rows.append(
            [
                worker.url,
                str(facts.get("cerebro")),
                str(facts.get("python")),
                str(facts.get("tensorflow") or "none"),
                ", ".join([count(facts.get("threads", 0), "thread"), *devices]),
            ]
        )
    return rows


def runs(seen: Sequence[Seen]) -> list[str]:
    """Make one line per run that is held: its driver, and how many of the workers hold it."""
    held: dict[tuple[Any, ...], int] = {}
    for worker in seen:
        if holder := worker.facts.get("held"):
            key = tuple(holder.get(name) for name in ("run_dir", "pid", "host"))
            held[key] = held.get(key, 0) + 1
    return [
        f"{run_dir}: driven by process {pid} on {host}, held by {count(number, 'worker')}"
        for (run_dir, pid, host), number in held.items()
    ]
