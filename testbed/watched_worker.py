"""A worker that counts, by its peers' addresses, what it parses and which methods it runs.

`python -m testbed.watched_worker REPORT <the worker's command>` runs the worker in this process.
The server names the thread of a connection after its peer, and the thread that accepts reads
connections that have not authenticated one after the other. Every entrance to a parser (XML, JSON,
pickle) and to a remote method is wrapped, and notes for which peer it was called. The counts are
written to REPORT, as JSON, when the worker has been stopped.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
import threading
import xml.parsers.expat
import xmlrpc.client
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cerebro.cli.worker import main as run_worker
from cerebro.rpc.door import Door, Newcomer
from cerebro.worker.daemon import Daemon

XML, EXPAT, JSON, PICKLE = "xmlrpc.client.loads", "expat", "json", "pickle"
PARSERS = (XML, EXPAT, JSON, PICKLE)
CALLED, RETURNED = "called", "returned"

_PEER = re.compile(r"rpc-(.+):\d+")


class Watch:
    """Counts by (address, what)."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._read = threading.local()

    def note(self, what: str) -> None:
        """Something happens on this thread."""
        found = _PEER.fullmatch(threading.current_thread().name)
        address = found[1] if found else getattr(self._read, "address", None)
        if address is not None:
            with self._lock:
                self._counts[address, what] += 1

    def reading(self, read: Callable[[Door, Newcomer], None]) -> Callable[[Door, Newcomer], None]:
        """`Door.read`, with what happens in it noted for the newcomer's address."""

        def wrapper(door: Door, newcomer: Newcomer) -> None:
            self._read.address = newcomer.address
            try:
                read(door, newcomer)
            finally:
                del self._read.address

        return wrapper

    def counted(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, noted whenever it is called."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.note(what)
            return function(*args, **kwargs)

        return wrapper

    def executed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A remote method, noted when it is called and when it returns without raising."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.note(CALLED)
            result = function(*args, **kwargs)
            self.note(RETURNED)
            return result

        return wrapper

    def write(self, path: Path) -> None:
        """Write the counts as [address, what, count]."""
        with self._lock:
            path.write_text(json.dumps([[*key, count] for key, count in self._counts.items()]))


def read_report(path: Path) -> Counter[tuple[str, str]]:
    """The counts that `Watch.write` wrote."""
    return Counter({(peer, what): count for peer, what, count in json.loads(path.read_text())})


def main() -> int:
    """Run the worker whose command follows the report's path."""
    report, _python, _option, _module, *arguments = sys.argv[1:]
    watch = Watch()
    patched: list[tuple[Any, str, str]] = [
        (xmlrpc.client, "loads", XML),
        (xml.parsers.expat, "ParserCreate", EXPAT),
        (json.JSONDecoder, "decode", JSON),
        (pickle, "loads", PICKLE),
        (pickle, "load", PICKLE),
    ]
    for owner, name, what in patched:
        setattr(owner, name, watch.counted(what, getattr(owner, name)))
    setattr(Door, "read", watch.reading(Door.read))  # noqa: B010
    methods = Daemon.methods

    def watched_methods(daemon: Daemon) -> dict[str, Any]:
        return {name: watch.executed(method) for name, method in methods(daemon).items()}

    setattr(Daemon, "methods", watched_methods)  # noqa: B010
    try:
        return run_worker(arguments)
    finally:
        watch.write(Path(report))


if __name__ == "__main__":
    sys.exit(main())
