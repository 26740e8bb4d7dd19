"""A worker that lives and dies with the process that started it, for `LocalCluster`.

It listens on a free port of 127.0.0.1, says which on standard output, and ends when its standard
input does: also when its parent was killed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys

from cerebro.rpc import Server, load_secret
from cerebro.worker.daemon import Daemon, Resources


def main() -> None:
    """`python -m cerebro.worker.embedded --secret-file F --threads N [--gpu G]`."""
    parse = argparse.ArgumentParser()
    parse.add_argument("--secret-file", required=True)
    parse.add_argument("--threads", type=int, required=True)
    parse.add_argument("--gpu", type=int)
    arguments = parse.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s worker: %(message)s")
    # A Ctrl-C in the terminal is the driver's to handle; it lets this process go.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    daemon = Daemon(Resources(arguments.threads, arguments.gpu), logging.WARNING)
    secret = load_secret(arguments.secret_file)
    server = Server("127.0.0.1", 0, secret.key, daemon.methods())
    server.start()
    print(server.address[1], flush=True)
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 1024):
            pass
    daemon.leave()
    server.close()
    # A parent that was killed could not: the secret was for this cluster alone.
    with contextlib.suppress(OSError):
        os.unlink(secret.path)
        os.rmdir(os.path.dirname(secret.path))


if __name__ == "__main__":
    main()
