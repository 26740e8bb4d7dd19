"""A worker that lives and dies with the process that started it, for `LocalCluster`.

It listens on a free port of 127.0.0.1, says which on standard output, and ends when its standard
input does: also when its parent was killed. One that was drained ends before.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import signal
import socket
import sys

from cerebro.rpc import Server, load_secret
from cerebro.worker.daemon import Daemon, Resources
from cerebro.worker.daemon_log import log_to_stderr


def main() -> None:
    """Run a worker; the arguments are `--secret-file F --threads N [--gpu G]`."""
    parse = argparse.ArgumentParser()
    parse.add_argument("--secret-file", required=True)
    parse.add_argument("--threads", type=int, required=True)
    parse.add_argument("--gpu", type=int)
    arguments = parse.parse_args()
    log_to_stderr(logging.WARNING, "%(levelname)s worker: %(message)s")
    # A Ctrl-C in the terminal is the driver's to handle; it lets this process go.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wake = socket.socketpair()
    resources = Resources(arguments.threads, arguments.gpu)
    daemon = Daemon(resources, logging.WARNING, lambda: wake.send(b"\0"))
    secret = load_secret(arguments.secret_file)
    server = Server("127.0.0.1", 0, secret.key, daemon.methods())
    server.start()
    print(server.address[1], flush=True)
    drained = _wait_for_an_end(woken)
    daemon.leave()
    server.close()
    if drained:
        return
    # A parent that was killed could not: the secret was for this cluster alone.
    with contextlib.suppress(OSError):
        os.unlink(secret.path)
        os.rmdir(os.path.dirname(secret.path))


def _wait_for_an_end(woken: socket.socket) -> bool:
    """Wait until standard input ends (False) or a byte comes (True)."""
    with contextlib.suppress(OSError):
        while True:
            ready, _, _ = select.select([sys.stdin, woken], [], [])
            if woken in ready:
                return True
            if not os.read(sys.stdin.fileno(), 1024):
                break
    return False
